"""Dropping what a schema does not know, as decoding into Kubernetes' types does (built-in kinds) or pruning (custom
ones).

Built-in kinds also lose what their Go types would not write back: nulls, and empty lists and maps of optional fields.
Custom resources keep both, as Kubernetes does.
"""

from __future__ import annotations

from meltem.errors import InvalidResource
from meltem.local.apiserver.schema.formats import QUANTITY_MESSAGE, is_quantity
from meltem.local.apiserver.schema.quantity import canonical
from meltem.local.apiserver.schema.types import Schema
from meltem.objects import Json, JsonObject

_MAX_DEPTH = 200
# Fields whose Go type has no pointer and is omitted when empty; an empty string in them says nothing.
_EMPTY_STRINGS = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": frozenset(
        ("name", "namespace", "generateName", "resourceVersion", "uid", "selfLink")
    ),
    "io.k8s.api.core.v1.EnvVar": frozenset(("value",)),
    "io.k8s.api.core.v1.PodSpec": frozenset(
        ("nodeName", "hostname", "subdomain", "serviceAccountName", "serviceAccount")
    ),
    "io.k8s.api.core.v1.EmptyDirVolumeSource": frozenset(("medium",)),
    "io.k8s.api.rbac.v1.Subject": frozenset(("apiGroup", "namespace")),
}
_NONE: frozenset[str] = frozenset()


def prune(schema: Schema, obj: JsonObject) -> tuple[JsonObject, list[str]]:
    """A new object without the fields that the schema does not know, and their paths (`spec.containers[0].foo`)."""
    unknown: list[str] = []
    return _object(schema, obj, "", unknown, 0), unknown


def _object(schema: Schema, obj: JsonObject, path: str, unknown: list[str], depth: int) -> JsonObject:
    if depth > _MAX_DEPTH:
        return {}
    builtin = schema.builtin
    properties = schema.properties
    additional = schema.additional
    keep = schema.open
    if not properties and additional is None and keep:
        return obj
    droppable = _EMPTY_STRINGS.get(schema.name, _NONE) if builtin else _NONE
    pruned: JsonObject = {}
    for key, value in obj.items():
        child = properties.get(key) or additional
        if child is None:
            if keep:
                pruned[key] = value
            else:
                unknown.append(f"{path}.{key}" if path else key)
            continue
        if value is None:
            if child.builtin and not (additional is None and child.open):
                if additional is not None and child.type == "string":
                    pruned[key] = ""
                continue
        elif isinstance(value, dict):
            value = _object(child, value, f"{path}.{key}" if path else key, unknown, depth + 1)
            if builtin and not value and key not in schema.required and child.additional is not None:
                continue
        elif isinstance(value, list):
            if not value and builtin and key not in schema.required and child.type == "array" and additional is None:
                continue
            value = _array(child, value, f"{path}.{key}" if path else key, unknown, depth + 1)
        elif child.int_or_string:
            if builtin and child.format == "quantity":
                value = _quantity(value)
        elif value == "" and key in droppable:
            continue
        pruned[key] = value
    return pruned


def _quantity(value: str | int | float | bool) -> Json:
    if isinstance(value, bool):
        return value
    try:
        return canonical(str(value))
    except InvalidResource:
        return value


def _array(schema: Schema, values: list[Json], path: str, unknown: list[str], depth: int) -> list[Json]:
    items = schema.items
    if items is None or (items.type and items.type not in ("object", "array")):
        return values
    out: list[Json] = []
    for index, value in enumerate(values):
        if isinstance(value, dict):
            out.append(_object(items, value, f"{path}[{index}]", unknown, depth + 1))
        elif isinstance(value, list):
            out.append(_array(items, value, f"{path}[{index}]", unknown, depth + 1))
        else:
            out.append(value)
    return out


def decode_problem(schema: Schema, obj: JsonObject) -> str:
    """The first value of the wrong JSON type in a built-in kind, in the words of the API server's decoder; empty when
    none.

    A server answers it with 400: `Deployment in version "v1" cannot be handled as a Deployment: ` and this text.
    """
    return _decode(schema, obj, "", schema.gvk[2], 0)


def _base64_problem(text: str) -> int:
    """Where the text stops being base64; -1 where it does not."""
    plain = text.replace("\n", "").replace("\r", "")
    for at, char in enumerate(plain):
        if char not in _BASE64 and not (char == "=" and at >= len(plain) - 2 and len(plain) % 4 == 0):
            return at
    return -1 if len(plain) % 4 == 0 else len(plain) - len(plain) % 4


_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_GO_NAMES = {"object": "object", "array": "array", "string": "string", "boolean": "bool"}


def _decode(schema: Schema, value: Json, path: str, struct: str, depth: int) -> str:
    if value is None or not schema.builtin or depth > _MAX_DEPTH:
        return ""
    kind = schema.type
    if kind == "object":
        if not isinstance(value, dict):
            return _mismatch(schema, value, path, struct)
        inner = schema.name.rpartition(".")[2] or struct
        for key, item in value.items():
            declared = schema.properties.get(key)
            child = declared or schema.additional
            if child is None:
                continue
            where = path if declared is None else f"{path}.{key}" if path else key
            if found := _decode(child, item, where, inner, depth + 1):
                return found
        return ""
    if kind == "array":
        if not isinstance(value, list):
            return _mismatch(schema, value, path, struct)
        if schema.items is not None:
            for item in value:
                if found := _decode(schema.items, item, path, struct, depth + 1):
                    return found
        return ""
    if isinstance(value, str) and schema.format == "quantity" and not is_quantity(value):
        return QUANTITY_MESSAGE
    if isinstance(value, str) and schema.format == "byte" and (at := _base64_problem(value)) >= 0:
        return f"illegal base64 data at input byte {at}"
    return "" if _scalar_fits(schema, value) else _mismatch(schema, value, path, struct)


def _scalar_fits(schema: Schema, value: Json) -> bool:
    match schema.type:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            if isinstance(value, float):
                return value.is_integer()
            limit = 1 << (31 if schema.format == "int32" else 63)
            return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            if not schema.int_or_string:
                return True
            return isinstance(value, str | int | float) and not isinstance(value, bool)


def _go_type(schema: Schema) -> str:
    return ".".join(schema.name.split(".")[-2:])


def _mismatch(schema: Schema, value: Json, path: str, struct: str) -> str:
    if isinstance(value, bool):
        found = "bool"
    elif isinstance(value, dict | list | str):
        found = {dict: "object", list: "array", str: "string"}[type(value)]
    else:
        found = f"number {value}" if isinstance(value, float) and schema.type == "integer" else "number"
    wanted = (
        _GO_NAMES.get(schema.type) or schema.format or {"number": "float64", "integer": "int64"}.get(schema.type, "")
    )
    if schema.type == "object":
        wanted = _go_type(schema) or "map[string]string"
    elif schema.type == "array":
        item = schema.items
        wanted = f"[]{(_go_type(item) or item.type) if item else 'object'}"
    return f"json: cannot unmarshal {found} into Go struct field {struct}.{path} of type {wanted}"
