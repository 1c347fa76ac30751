"""A schema as one tree of nodes, the same for built-in kinds and for custom resources.

In: a kind's (group, version, kind), or a CRD's `openAPIV3Schema`. Out: `Schema`, whose children are made when first
asked for and kept, so that a process pays for the parts of Kubernetes that it meets, once.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TypeAlias

from meltem.errors import Invalid, NotFound
from meltem.local.apiserver.schema import definitions as d
from meltem.local.apiserver.schema.structural import structural_problems
from meltem.objects import Json, JsonObject, at, int_at, object_at, str_at, strings_at

GroupVersionKind: TypeAlias = tuple[str, str, str]

_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_ANYTHING = frozenset(
    {
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        "io.k8s.apimachinery.pkg.runtime.RawExtension",
    }
)


class Schema:
    """One node. What the API server asks often is an attribute; the rest is in `raw`.

    `type`: object, array, string, integer, number, boolean, or empty where anything goes. `properties` are the known
    fields, `additional` is the schema of a map's values, `items` of a list's. `list_type`: atomic, set, map, or
    empty.
    """

    def __init__(
        self, raw: JsonObject, *, builtin: bool, root: bool = False, name: str = "", junctor: bool = False
    ) -> None:
        self.raw = raw
        self.builtin = builtin
        self.root = root
        self.junctor = junctor
        self.name = name
        self.type = d.plain_type(raw)
        self.format = str_at(raw, "format")
        self.int_or_string = raw.get("x-kubernetes-int-or-string") is True
        self.preserve = raw.get("x-kubernetes-preserve-unknown-fields") is True
        self.embedded = raw.get("x-kubernetes-embedded-resource") is True
        self.nullable = raw.get("nullable") is True
        self.required = tuple(strings_at(raw, "required"))
        self.list_type = str_at(raw, "x-kubernetes-list-type")
        self.map_type = str_at(raw, "x-kubernetes-map-type")
        self.map_keys = tuple(strings_at(raw, "x-kubernetes-list-map-keys"))
        self.merge_key = str_at(raw, "x-kubernetes-patch-merge-key")
        strategy = str_at(raw, "x-kubernetes-patch-strategy")
        self.patch_strategies = frozenset(strategy.split(",")) if strategy else frozenset[str]()
        self.has_default = "default" in raw
        self.gvk: GroupVersionKind = ("", "", "")

    @cached_property
    def default(self) -> Json:
        return self.raw.get("default")

    @cached_property
    def properties(self) -> dict[str, Schema]:
        children = {
            name: self._child(child, name)
            for name, child in object_at(self.raw, "properties").items()
            if isinstance(child, dict)
        }
        if not self.builtin and (self.root or self.embedded):
            children.setdefault("apiVersion", _string())
            children.setdefault("kind", _string())
            children["metadata"] = object_meta()
        return children

    @cached_property
    def additional(self) -> Schema | None:
        found = self.raw.get("additionalProperties")
        if found is True:
            return _anything()
        return self._child(found, "") if isinstance(found, dict) else None

    @cached_property
    def items(self) -> Schema | None:
        found = self.raw.get("items")
        return self._child(found, "") if isinstance(found, dict) else None

    @cached_property
    def open(self) -> bool:
        """Whether fields that no property names are kept as they are."""
        if self.preserve or (not self.type and not self.int_or_string and not self.properties):
            return True
        return self.builtin and self.type == "object" and "properties" not in self.raw and self.additional is None

    def field(self, key: str) -> Schema | None:
        """The schema of field or map key `key`; None where the schema knows none."""
        return self.properties.get(key) or self.additional

    def number(self, keyword: str) -> float | int | None:
        value = self.raw.get(keyword)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def integer(self, keyword: str) -> int | None:
        return int_at(self.raw, keyword) if keyword in self.raw else None

    def _child(self, raw: JsonObject, name: str) -> Schema:
        if self.builtin:
            return _builtin_node(raw, self.name, name)
        return Schema(raw, builtin=False, junctor=self.junctor)


def _builtin_node(raw: JsonObject, parent: str, field: str) -> Schema:
    ref = d.reference(raw)
    overlay = {k: v for k, v in raw.items() if k not in ("$ref", "description")}
    if (parent, field) in d.KEY_DEFAULTS:
        overlay["default"] = d.KEY_DEFAULTS[parent, field]
    if not ref:
        return Schema(overlay, builtin=True)
    return Schema({**named(ref).raw, **overlay}, builtin=True, name=ref) if overlay else named(ref)


@cache
def named(name: str) -> Schema:
    """The schema of one of Kubernetes' definitions, by its full name."""
    if name == _QUANTITY:
        return Schema({"x-kubernetes-int-or-string": True, "format": "quantity"}, builtin=True, name=name)
    if name == _INT_OR_STRING:
        return Schema({"x-kubernetes-int-or-string": True, "format": "int-or-string"}, builtin=True, name=name)
    if name in _ANYTHING:
        return Schema({"x-kubernetes-preserve-unknown-fields": True}, builtin=True, name=name)
    return Schema(d.definition(name), builtin=True, name=name)


@cache
def _string() -> Schema:
    return Schema({"type": "string"}, builtin=True)


@cache
def _anything() -> Schema:
    return Schema({"x-kubernetes-preserve-unknown-fields": True}, builtin=True)


@cache
def object_meta() -> Schema:
    """The schema of `metadata`."""
    return named(_OBJECT_META)


@cache
def builtin_schema(group: str, version: str, kind: str) -> Schema:
    """The schema of a built-in kind; raises NotFound for a kind that Kubernetes 1.36 does not have."""
    name = d.by_kind().get((group, version, kind))
    if name is None:
        raise NotFound(f'no kind "{kind}" is registered for version "{group + "/" if group else ""}{version}"')
    schema = Schema(d.definition(name), builtin=True, root=True, name=name)
    schema.gvk = (group, version, kind)
    return schema


def crd_schema(open_api_v3: JsonObject) -> Schema:
    """A custom resource's schema. Raises Invalid, with one cause a field, for one that is not structural."""
    problems = structural_problems(open_api_v3, "openAPIV3Schema")
    if problems:
        raise Invalid(
            "; ".join(f"{p.path}: {p.message}" for p in problems),
            details={"causes": [{"reason": p.reason, "message": p.message, "field": p.path} for p in problems]},
        )
    return Schema(open_api_v3, builtin=False, root=True)


def metadata_name_schema(schema: Schema) -> Schema | None:
    """What a CRD itself says of `metadata` (only name and generateName may be restricted)."""
    raw = at(schema.raw, "properties", "metadata")
    return Schema(raw, builtin=False) if not schema.builtin and isinstance(raw, dict) else None
