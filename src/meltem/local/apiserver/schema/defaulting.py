"""Filling in what an object leaves out: a CRD's `default`s, and what Kubernetes itself fills in for its built-in kinds.

In: a schema and an object. Out: a new object.
"""

from __future__ import annotations

from meltem.local.apiserver.schema.builtin_defaults import default_builtin
from meltem.local.apiserver.schema.types import Schema
from meltem.objects import Json, JsonObject, copy_json, copy_object

_MAX_DEPTH = 200


def default(schema: Schema, obj: JsonObject) -> JsonObject:
    """The object with its defaults."""
    filled = copy_object(obj)
    if schema.builtin:
        default_builtin(schema.gvk, filled)
        _status(schema, filled)
        return filled
    _fill(schema, filled, 0)
    return filled


def _status(schema: Schema, obj: JsonObject) -> None:
    """Kubernetes' types always have a status, with its counts at zero."""
    status = schema.properties.get("status")
    if status is None or schema.gvk[2] in ("Node", "Endpoints"):
        return
    found = obj.setdefault("status", {})
    if isinstance(found, dict):
        for name in status.required:
            if name not in found and status.properties[name].type == "integer":
                found[name] = 0


def _fill(schema: Schema, value: Json, depth: int) -> None:
    if depth > _MAX_DEPTH or schema.builtin:
        return
    if isinstance(value, dict):
        for name, child in schema.properties.items():
            if value.get(name) is not None or (name in value and child.nullable):
                continue
            if child.has_default:
                value[name] = copy_json(child.default)
            elif name in value and not child.open:
                del value[name]  # Kubernetes prunes a null that the schema does not allow
        for name, item in value.items():
            child = schema.field(name)
            if child is not None and isinstance(item, dict | list):
                _fill(child, item, depth + 1)
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            _fill(schema.items, item, depth + 1)
