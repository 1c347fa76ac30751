"""The OpenAPI documents that clients download: version 3 a group-version (kubectl), version 2 whole (older clients).

In: the served kinds and the CustomResourceDefinition objects. Out: the index as JSON, documents as encoded JSON. They
carry what clients read: every schema with its descriptions, merge keys and list types; and for each resource its
paths with the kind they serve and the query parameters they take. What a document depends on is in its URL's hash, so
that clients may keep it for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import msgspec

from meltem.errors import NotFound
from meltem.local.apiserver.schema import definitions as d
from meltem.local.apiserver.schema.kinds import KindInfo
from meltem.objects import Json, JsonObject, bool_at, object_at, objects_at, str_at, strings_at

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_ALWAYS = (f"{_META}DeleteOptions", f"{_META}Status", f"{_META}APIResourceList", f"{_META}WatchEvent")
_V3_PREFIX, _V2_PREFIX = "#/components/schemas/", "#/definitions/"
_FORMAT = "1"  # raise it when the documents' form changes, so that clients read them anew
_NOT_IN_V2 = ("oneOf", "anyOf", "allOf", "not", "nullable", "x-kubernetes-validations")


class _Document:
    """The schemas and paths of one document, while it is put together."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.v2 = prefix == _V2_PREFIX
        self.schemas: JsonObject = {}
        self.paths: JsonObject = {}

    def need(self, name: str) -> None:
        """Adds a definition and all that it refers to."""
        pending = [name]
        while pending:
            current = pending.pop()
            if current in self.schemas or current not in d.definitions():
                continue
            raw = d.definition(current)
            self.schemas[current] = self._top(current, raw)
            pending.extend(_references(raw))

    def _top(self, name: str, raw: JsonObject) -> JsonObject:
        if name == _INT_OR_STRING and not self.v2:
            return {
                "description": str_at(raw, "description"),
                "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}],
            }
        if "oneOf" in raw:
            if self.v2:
                form: JsonObject = {"format": "int-or-string"} if name == _INT_OR_STRING else {}
                return {"type": "string", "description": str_at(raw, "description"), **form}
            choices = [{"type": d.plain_type(choice)} for choice in objects_at(raw, "oneOf")]
            return {**self._convert(raw), "oneOf": cast(list[Json], choices)}
        return self._convert(raw)

    def _convert(self, raw: JsonObject) -> JsonObject:
        out: JsonObject = {}
        for key, value in raw.items():
            match key:
                case "$ref":
                    ref = self.prefix + d.reference(raw)
                    if self.v2 or len(raw) == 1:
                        out["$ref"] = ref
                    else:
                        out["allOf"] = [{"$ref": ref}]
                case "type":
                    out["type"] = d.plain_type(raw)
                case "properties":
                    out[key] = {n: self._convert(c) for n, c in object_at(raw, key).items() if isinstance(c, dict)}
                case "items" | "additionalProperties" if isinstance(value, dict):
                    out[key] = self._convert(value)
                case "oneOf":
                    pass
                case _:
                    out[key] = value
        return out

    def custom(self, crd: JsonObject, version: JsonObject) -> None:
        """Adds one version of a custom resource: its schema and its list's."""
        group, kind = str_at(crd, "spec", "group"), str_at(crd, "spec", "names", "kind")
        list_kind = str_at(crd, "spec", "names", "listKind", default=f"{kind}List")
        number = str_at(version, "name")
        prefix = ".".join([*reversed(group.split(".")), number])
        raw = object_at(version, "schema", "openAPIV3Schema")
        schema = self._custom_schema(raw) if self.v2 else dict(raw)
        properties = dict(object_at(schema, "properties"))
        self.need(f"{_META}ObjectMeta")
        self.need(f"{_META}ListMeta")
        api, name = object_at(d.definition(f"{_META}APIResourceList"), "properties"), f"{prefix}.{kind}"
        common: JsonObject = {k: self._convert(object_at(api, k)) for k in ("apiVersion", "kind")}
        metadata = self._convert(
            {"$ref": f"{d.REF_PREFIX}{_META}ObjectMeta", "description": "Standard object's metadata."}
        )
        properties.update({**common, "metadata": metadata})
        if not bool_at(raw, "x-kubernetes-preserve-unknown-fields") or object_at(raw, "properties"):
            schema["properties"] = properties
        schema["x-kubernetes-group-version-kind"] = [{"group": group, "kind": kind, "version": number}]
        self.schemas[name] = schema
        self.schemas[f"{prefix}.{list_kind}"] = {
            "description": f"{list_kind} is a list of {kind}",
            "type": "object",
            "required": ["items"],
            "properties": {
                **common,
                "metadata": self._convert(
                    {"$ref": f"{d.REF_PREFIX}{_META}ListMeta", "description": "Standard list metadata."}
                ),
                "items": {"type": "array", "items": {"$ref": self.prefix + name}},
            },
            "x-kubernetes-group-version-kind": [{"group": group, "kind": list_kind, "version": number}],
        }

    def _custom_schema(self, raw: JsonObject) -> JsonObject:
        """A CRD's schema in the words of version 2, which knows less: what it cannot say is left open."""
        if raw.get("x-kubernetes-preserve-unknown-fields") is True:
            return {k: raw[k] for k in ("description", "x-kubernetes-preserve-unknown-fields") if k in raw}
        out: JsonObject = {}
        for key, value in raw.items():
            if key in _NOT_IN_V2 or (key in ("type", "items") and raw.get("nullable") is True):
                continue
            if key == "properties":
                out[key] = {n: self._custom_schema(c) for n, c in object_at(raw, key).items() if isinstance(c, dict)}
            elif key in ("items", "additionalProperties") and isinstance(value, dict):
                out[key] = self._custom_schema(value)
            else:
                out[key] = value
        return out

    def resource(self, kind: KindInfo) -> None:
        """Adds the paths of a kind."""
        root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        base = f"{root}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"
        verbs = set(kind.verbs)
        self._path(base, kind, {"get": "list", "post": "create", "delete": "deletecollection"}, verbs)
        if kind.namespaced:
            self._path(f"{root}/{kind.plural}", kind, {"get": "list"}, verbs)
        single = {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}
        if verbs & set(single.values()):
            self._path(f"{base}/{{name}}", kind, single, verbs)
        if "status" in kind.subresources:
            self._path(f"{base}/{{name}}/status", kind, {k: v for k, v in single.items() if v != "delete"}, verbs)

    def _path(self, path: str, kind: KindInfo, methods: dict[str, str], verbs: set[str]) -> None:
        operations: JsonObject = {}
        for method, verb in methods.items():
            if verb in verbs:
                operations[method] = self._operation(path, kind, method, verb)
        if operations:
            names = [n for n in ("namespace", "name") if f"{{{n}}}" in path]
            operations["parameters"] = [
                {"name": n, "in": "path", "required": True, **self._string_type()} for n in names
            ]
            self.paths[path] = operations

    def _string_type(self) -> JsonObject:
        return {"type": "string"} if self.v2 else {"schema": {"type": "string"}}

    def _operation(self, path: str, kind: KindInfo, method: str, verb: str) -> JsonObject:
        name = _definition_name(kind)
        ok: JsonObject = {"description": "OK"}
        ref: JsonObject = {"$ref": self.prefix + name}
        if self.v2:
            ok["schema"] = ref
        else:
            ok["content"] = {"application/json": {"schema": ref}}
        write = verb in ("create", "update", "patch")
        queries = ["pretty", "dryRun", "fieldManager", "fieldValidation"] if write else ["pretty"]
        if verb == "patch":
            queries.append("force")
        if verb in ("delete", "deletecollection"):
            queries += ["dryRun", "gracePeriodSeconds", "propagationPolicy"]
        if verb in ("list", "deletecollection"):
            queries += ["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"]
        group_part = "".join(p.capitalize() for p in (kind.group or "core").removesuffix(".k8s.io").split("."))
        marker = "".join(c for c in path.title() if c.isalnum())
        return {
            "operationId": f"{verb}{group_part}{marker}",
            "parameters": [{"name": q, "in": "query", "uniqueItems": True, **self._string_type()} for q in queries],
            "responses": {"200": ok},
            "x-kubernetes-action": {"create": "post", "update": "put"}.get(verb, verb),
            "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        }


def _references(raw: Json) -> Iterator[str]:
    if isinstance(raw, dict):
        if ref := d.reference(raw):
            yield ref
        for value in raw.values():
            yield from _references(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _references(value)


def _definition_name(kind: KindInfo) -> str:
    known = d.by_kind().get((kind.group, kind.version, kind.kind))
    return known or ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


def _versions(crds: Iterable[JsonObject], group: str, version: str) -> Iterator[tuple[JsonObject, JsonObject]]:
    for crd in crds:
        if group and str_at(crd, "spec", "group") != group:
            continue
        for entry in objects_at(crd, "spec", "versions"):
            if bool_at(entry, "served") and (not version or str_at(entry, "name") == version):
                yield crd, entry


def _custom_kind(crd: JsonObject, version: JsonObject) -> KindInfo:
    names = object_at(crd, "spec", "names")
    return KindInfo(
        group=str_at(crd, "spec", "group"),
        version=str_at(version, "name"),
        kind=str_at(names, "kind"),
        plural=str_at(names, "plural"),
        singular=str_at(names, "singular"),
        namespaced=str_at(crd, "spec", "scope") == "Namespaced",
        short_names=tuple(strings_at(names, "shortNames")),
        categories=tuple(strings_at(names, "categories")),
        subresources=frozenset(object_at(version, "subresources")),
        list_kind=str_at(names, "listKind"),
    )


def _path_of(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def openapi_v3_index(kinds: Sequence[KindInfo], crds: Sequence[JsonObject]) -> JsonObject:
    """What `/openapi/v3` answers: for each group-version the URL of its document, with a hash of what it depends on."""
    groups: dict[tuple[str, str], hashlib._Hash] = {}  # pyright: ignore[reportPrivateUsage]
    for kind in kinds:
        seed = groups.setdefault((kind.group, kind.version), hashlib.sha256(_FORMAT.encode()))
        seed.update(msgspec.json.encode([kind.kind, kind.plural, sorted(kind.subresources), kind.verbs]))
    for crd, version in _versions(crds, "", ""):
        key = (str_at(crd, "spec", "group"), str_at(version, "name"))
        seed = groups.setdefault(key, hashlib.sha256(_FORMAT.encode()))
        parts = [object_at(crd, "spec", "names"), str_at(crd, "spec", "scope"), version]
        seed.update(msgspec.json.encode(parts, order="deterministic"))
    paths: JsonObject = {}
    for (group, version), digest in sorted(groups.items(), key=lambda kv: _path_of(*kv[0])):
        path = _path_of(group, version)
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest.hexdigest().upper()}"}
    return {"paths": paths}


def openapi_v3(group: str, version: str, kinds: Sequence[KindInfo], crds: Sequence[JsonObject]) -> bytes:
    """The document of one group-version, encoded; NotFound for one that is not served."""
    document = _Document(_V3_PREFIX)
    _fill(document, [k for k in kinds if (k.group, k.version) == (group, version)], crds, group, version)
    if not document.paths:
        raise NotFound("the server could not find the requested resource")
    return msgspec.json.encode(
        {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "unversioned"},
            "paths": document.paths,
            "components": {"schemas": document.schemas},
        }
    )


def openapi_v2(kinds: Sequence[KindInfo], crds: Sequence[JsonObject]) -> bytes:
    """The document of everything that is served, encoded."""
    document = _Document(_V2_PREFIX)
    _fill(document, kinds, crds, "", "")
    return msgspec.json.encode(
        {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": document.paths,
            "definitions": document.schemas,
        }
    )


def _fill(document: _Document, kinds: Iterable[KindInfo], crds: Iterable[JsonObject], group: str, version: str) -> None:
    for kind in kinds:
        name = d.by_kind().get((kind.group, kind.version, kind.kind))
        if name is None:
            continue  # a custom kind: its schema comes with its CRD below
        document.need(name)
        document.need(f"{name}List")
        document.resource(kind)
    for crd, entry in _versions(crds, group, version):
        document.custom(crd, entry)
        document.resource(_custom_kind(crd, entry))
    if document.paths:
        for name in _ALWAYS:
            document.need(name)
