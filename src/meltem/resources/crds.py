"""CustomResourceDefinitions of Istio's kinds, made from the structs.

In: `meltem.resources.kinds.ISTIO_KINDS`; annotations give types and constraints, docstrings give descriptions. Out: the
CRD objects. `python -m meltem.resources.crds` writes them to the base chart; `--check` only says whether it is up
to date.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Annotated, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from meltem import yamlio
from meltem.objects import Json, JsonObject
from meltem.resources.base import Duration, Message, Schema
from meltem.resources.common import IstioStatus
from meltem.resources.kinds import ISTIO_KINDS, KindInfo

CHART_FILE = Path(__file__).parent.parent / "install" / "charts" / "base" / "files" / "crds.yaml"
_LABELS: dict[str, Json] = {"app": "istio-pilot", "chart": "istio", "heritage": "Tiller", "release": "istio"}
_SCALARS: dict[object, JsonObject] = {
    str: {"type": "string"},
    Duration: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
}
_FIELD_LINE = re.compile(r"^(\w+): (.+)$")


def all_crds() -> list[JsonObject]:
    """Every CRD that the base chart installs, ordered by name."""
    made = [crd(info) for info in ISTIO_KINDS] + [_operator()]
    return sorted(made, key=lambda c: str(cast(JsonObject, c["metadata"])["name"]))


def crd(info: KindInfo) -> JsonObject:
    """The CRD of one kind; all its versions share one schema."""
    schema = kind_schema(info)
    return _definition(info, [_version(info, version, schema) for version in info.versions])


def kind_schema(info: KindInfo) -> JsonObject:
    """OpenAPI v3 schema of a whole object: `spec` and `status`."""
    hints = get_type_hints(info.struct, include_extras=True)
    known = hints["status"]
    # Istio's own definitions have the general status everywhere; what a kind has more is kept as an unknown field.
    status = struct_schema(IstioStatus if issubclass(known, IstioStatus) else known)
    status["x-kubernetes-preserve-unknown-fields"] = True
    schema: JsonObject = {
        "type": "object",
        "description": _docs(info.struct)[""],
        "properties": {"spec": struct_schema(hints["spec"]), "status": status},
    }
    if info.spec_required:
        schema["required"] = ["spec"]
    return schema


def struct_schema(struct: type[Message]) -> JsonObject:
    """Schema of a struct: fields, required ones, exclusive groups and CEL rules."""
    hints = get_type_hints(struct, include_extras=True)
    docs = _docs(struct)
    properties: dict[str, Json] = {}
    required: list[Json] = []
    for info in sorted(msgspec.structs.fields(struct), key=lambda f: f.encode_name):
        field = _schema(hints[info.name])
        if docs.get(info.name):
            field["description"] = docs[info.name]
        properties[info.encode_name] = field
        if info.required:
            required.append(info.encode_name)
    out: JsonObject = {"type": "object", "description": docs[""], "properties": properties}
    if required:
        out["required"] = required
    if struct.one_of:
        groups = [_exclusive(group) for group in struct.one_of]
        out.update(groups[0] if len(groups) == 1 else {"allOf": list(groups)})
    if struct.cel_rules:
        out["x-kubernetes-validations"] = [{"message": m, "rule": r} for m, r in struct.cel_rules]
    return out


def _schema(annotation: object) -> JsonObject:
    origin, args = get_origin(annotation), cast("tuple[object, ...]", get_args(annotation))
    if origin is Annotated:
        out = _schema(args[0])
        for mark in args[1:]:
            if isinstance(mark, Schema):
                out.update(mark.keywords)
        return out
    if origin in (types.UnionType, Union):
        rest = [a for a in args if a is not type(None)]
        if len(rest) == 1:
            return _schema(rest[0])
        return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0])}
    if origin is dict and args[1] is object:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    if origin is Literal:
        return {"type": "string", "enum": list(cast("tuple[str, ...]", args))}
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return struct_schema(annotation)
    return dict(_SCALARS[annotation])


def _exclusive(group: tuple[str, ...]) -> JsonObject:
    """At most one of the fields: none of them, or exactly one."""
    each: list[Json] = [{"required": [name]} for name in group]
    return {"oneOf": [{"not": {"anyOf": list(each)}}, *each]}


def _docs(struct: type[Message]) -> dict[str, str]:
    """Descriptions by field name; the struct's own under the empty name. A base struct's fields keep their text."""
    out: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if not issubclass(base, Message) or base is Message:
            continue
        lines = [line.strip() for line in (base.__doc__ or "").strip().splitlines()]
        head = lines.index("") if "" in lines else len(lines)
        out[""] = " ".join(lines[:head])
        found = (_FIELD_LINE.match(line) for line in lines[head:])
        out.update({m.group(1): m.group(2) for m in found if m})
    return out


def _version(info: KindInfo, version: str, schema: JsonObject) -> JsonObject:
    out: JsonObject = {
        "name": version,
        "served": True,
        "storage": version == info.versions[0],
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    if info.columns:
        out["additionalPrinterColumns"] = [
            {"name": c.name, "jsonPath": c.json_path, "type": c.type, "description": c.description}
            for c in info.columns
        ]
    return out


def _definition(info: KindInfo, versions: list[JsonObject]) -> JsonObject:
    names: JsonObject = {
        "kind": info.kind,
        "listKind": f"{info.kind}List",
        "plural": info.plural,
        "singular": info.singular,
        "categories": list(info.categories),
    }
    if info.short_names:
        names["shortNames"] = list(info.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{info.plural}.{info.group}",
            "labels": _labels(info),
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {"group": info.group, "names": names, "scope": "Namespaced", "versions": list(versions)},
    }


def _labels(info: KindInfo) -> JsonObject:
    area = info.group.split(".")[0]
    return {**_LABELS, "istio": area} if area in ("security", "telemetry") else dict(_LABELS)


def _operator() -> JsonObject:
    """IstioOperator: a file format, and what the in-cluster operator watches; the installer checks its contents."""
    free: JsonObject = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    columns: list[tuple[str, str, str, str]] = [
        ("Revision", ".spec.revision", "string", "Revision of the control plane"),
        ("Status", ".status.status", "string", "State of the installation"),
        ("Age", ".metadata.creationTimestamp", "date", "When the object was created; set by the API server."),
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "istiooperators.install.istio.io",
            "labels": {"release": "istio"},
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": "install.istio.io",
            "names": {
                "kind": "IstioOperator",
                "listKind": "IstioOperatorList",
                "plural": "istiooperators",
                "singular": "istiooperator",
                "shortNames": ["iop", "io"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": n, "jsonPath": p, "type": t, "description": d} for n, p, t, d in columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "An installation of the mesh.",
                            "properties": {"spec": dict(free), "status": dict(free)},
                            "x-kubernetes-preserve-unknown-fields": True,
                        }
                    },
                }
            ],
        },
    }


def render() -> str:
    """The chart's file: every CRD as YAML, with a line that says where it comes from."""
    return "# Made from src/meltem/resources by `python -m meltem.resources.crds`; do not edit.\n" + yamlio.dump_all(
        cast("list[Json]", all_crds())
    )


def main(arguments: list[str]) -> int:
    text = render()
    if "--check" in arguments:
        current = CHART_FILE.read_text() if CHART_FILE.exists() else ""
        if current != text:
            print(f"{CHART_FILE.name} is out of date: run `python -m meltem.resources.crds`", file=sys.stderr)
            return 1
        return 0
    CHART_FILE.parent.mkdir(parents=True, exist_ok=True)
    CHART_FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
