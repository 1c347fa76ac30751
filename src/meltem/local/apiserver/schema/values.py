"""Checking an object against its schema: the rules that OpenAPI itself can say.

In: a `Schema`, the object, the object before the change. Out: `FieldError`s in the API server's words. The rules that
belong to a kind (names, ports, selectors, what may change) stand in `rules_*`; `process.validate` joins the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema import regex
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.formats import QUANTITY_MESSAGE, format_checks, is_quantity
from meltem.local.apiserver.schema.types import Schema
from meltem.objects import Json, JsonObject, objects_at

_MAX_DEPTH = 200
_TYPE_NAMES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}


def type_name(value: Json) -> str:
    return _TYPE_NAMES.get(type(value), "object")


def check(
    schema: Schema, value: Json, path: str, *, depth: int = 0, strict_required: bool = True
) -> Iterator[FieldError]:
    """Every way in which `value` at `path` breaks the schema, except for what compares it with its old value."""
    if depth > _MAX_DEPTH:
        yield f.bad_value(path, None, f"nested more than {_MAX_DEPTH} levels deep")
        return
    if value is None:
        if not schema.nullable and not schema.builtin and not schema.open and not schema.junctor:
            yield _wrong_type(schema, value, path)
        return
    if schema.int_or_string:
        yield from _int_or_string(schema, value, path)
    elif isinstance(value, dict):
        if schema.type not in ("object", ""):
            yield _wrong_type(schema, value, path)
            return
        yield from _object(schema, value, path, depth, strict_required)
    elif isinstance(value, list):
        if schema.type not in ("array", ""):
            yield _wrong_type(schema, value, path)
            return
        yield from _array(schema, value, path, depth, strict_required)
    else:
        yield from _scalar(schema, value, path)
    if not schema.builtin:
        yield from _keywords(schema, value, path, depth)


def _wrong_type(schema: Schema, value: Json, path: str) -> FieldError:
    wanted = schema.type or "integer,string"
    found = type_name(value)
    return f.bad_type(
        path, found if not isinstance(value, str) else value, f'{path} in body must be of type {wanted}: "{found}"'
    )


def _int_or_string(schema: Schema, value: Json, path: str) -> Iterator[FieldError]:
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        yield _wrong_type(schema, value, path)
    elif schema.format == "quantity" and isinstance(value, str) and not is_quantity(value):
        yield f.bad_value(path, value, QUANTITY_MESSAGE)
    elif not schema.builtin:
        if isinstance(value, str):
            yield from _string(schema, value, path)
        else:
            yield from _bounds(schema, value, path)


def _object(schema: Schema, value: JsonObject, path: str, depth: int, strict: bool) -> Iterator[FieldError]:
    if strict:
        for name in schema.required:
            if value.get(name) is None and not (name in value and _nullable(schema, name)):
                yield f.missing(f"{path}.{name}" if path else name)
    properties = schema.properties
    additional = schema.additional
    for key, item in value.items():
        child = properties.get(key) or additional
        if child is None:
            continue
        here = f"{path}.{key}" if path else key
        yield from check(
            child,
            item,
            here,
            depth=depth + 1,
            strict_required=strict and not (schema.builtin and depth == 0 and key == "status"),
        )
    least, most = schema.integer("minProperties"), schema.integer("maxProperties")
    if least is not None and len(value) < least:
        yield f.bad_value(path, len(value), f"{path} in body should have at least {least} properties")
    if most is not None and len(value) > most:
        yield FieldError(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items")


def _nullable(schema: Schema, name: str) -> bool:
    child = schema.field(name)
    return child is not None and child.nullable


def _array(schema: Schema, value: list[Json], path: str, depth: int, strict: bool) -> Iterator[FieldError]:
    least, most = schema.integer("minItems"), schema.integer("maxItems")
    if most is not None and len(value) > most:
        yield f.too_many(path, len(value), most)
        return
    if least is not None and len(value) < least:
        yield f.bad_value(path, len(value), f"{path} in body should have at least {least} items")
    items = schema.items
    if items is not None:
        for index, item in enumerate(value):
            if item is None and schema.builtin:
                continue
            yield from check(items, item, f"{path}[{index}]", depth=depth + 1, strict_required=strict)
    if schema.builtin:
        return
    if schema.list_type == "set":
        yield from _duplicates([canonical(v) for v in value], value, path)
    elif schema.list_type == "map":
        keys = [map_key(schema, v) for v in value]
        yield from _duplicates([canonical(k) for k in keys], list[Json](keys), path)


def map_key(schema: Schema, item: Json) -> JsonObject:
    """The identity of an item in a list of type map: its keys with their values, defaults filled in."""
    if not isinstance(item, dict):
        return {}
    found: JsonObject = {}
    for key in schema.map_keys:
        value = item.get(key)
        if value is None and schema.items is not None:
            child = schema.items.properties.get(key)
            if child is not None and child.has_default:
                value = child.default
            elif child is not None and schema.builtin and key in schema.items.required:
                value = "" if child.type == "string" else 0  # the zero value of the Go type
        if value is not None:
            found[key] = value
    return found


def canonical(value: Json) -> object:
    """A hashable form of JSON, equal for equal values."""
    if isinstance(value, dict):
        return ("object", tuple(sorted(((k, canonical(v)) for k, v in value.items()), key=lambda kv: kv[0])))
    if isinstance(value, list):
        return ("array", tuple(canonical(v) for v in value))
    return (isinstance(value, bool), value)


def _duplicates(keys: list[object], shown: list[Json], path: str) -> Iterator[FieldError]:
    seen: set[object] = set()
    for index, key in enumerate(keys):
        if key in seen:
            yield f.duplicate(f"{path}[{index}]", shown[index])
        seen.add(key)


def _scalar(schema: Schema, value: str | bool | int | float, path: str) -> Iterator[FieldError]:
    match schema.type:
        case "string":
            fits = isinstance(value, str)
        case "boolean":
            fits = isinstance(value, bool)
        case "integer":
            fits = not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            )
        case "number":
            fits = not isinstance(value, bool) and isinstance(value, int | float)
        case "":
            fits = True
        case _:
            fits = False
    if not fits:
        yield _wrong_type(schema, value, path)
    elif isinstance(value, str):
        yield from _string(schema, value, path)
    elif not isinstance(value, bool):
        yield from _bounds(schema, value, path)


def _string(schema: Schema, value: str, path: str) -> Iterator[FieldError]:
    raw = schema.raw
    least, most = schema.integer("minLength"), schema.integer("maxLength")
    if least is not None and len(value) < least:
        yield f.bad_value(path, value, f"{path} in body should be at least {least} chars long")
    if most is not None and len(value) > most:
        yield f.too_long(path, most)
    if isinstance(pattern := raw.get("pattern"), str) and not regex.matches(pattern, value):
        yield f.bad_value(path, value, f"{path} in body should match '{pattern}'")
    if schema.format and not schema.int_or_string:
        fits = format_checks().get(schema.format)
        if fits is not None and not fits(value):
            yield f.bad_value(path, value, f"{path} in body must be of type {schema.format}: {f.shown(value)}")


def _bounds(schema: Schema, value: float | int, path: str) -> Iterator[FieldError]:
    if schema.builtin:
        return
    least, most, step = schema.number("minimum"), schema.number("maximum"), schema.number("multipleOf")
    if least is not None:
        exclusive = schema.raw.get("exclusiveMinimum") is True
        if value < least or (exclusive and value == least):
            relation = "greater than" if exclusive else "greater than or equal to"
            yield f.bad_value(path, value, f"{path} in body should be {relation} {least}")
    if most is not None:
        exclusive = schema.raw.get("exclusiveMaximum") is True
        if value > most or (exclusive and value == most):
            relation = "less than" if exclusive else "less than or equal to"
            yield f.bad_value(path, value, f"{path} in body should be {relation} {most}")
    if step and not math.isclose(math.remainder(value, step), 0, abs_tol=1e-9):
        yield f.bad_value(path, value, f"{path} in body should be a multiple of {step}")
    bits = {"int32": 31, "int64": 63}.get(schema.format)
    if bits and not -(1 << bits) <= value < (1 << bits):
        yield f.bad_value(path, value, f"{path} in body must be of type {schema.format}: {f.shown(value)}")


def _keywords(schema: Schema, value: Json, path: str, depth: int) -> Iterator[FieldError]:
    raw = schema.raw
    enum = raw.get("enum")
    if isinstance(enum, list) and not any(canonical(value) == canonical(choice) for choice in enum):
        listed = ", ".join(f.shown(choice) for choice in enum)
        yield FieldError(
            path, "FieldValueNotSupported", f"Unsupported value: {f.shown(value)}: supported values: {listed}"
        )
    for child in objects_at(raw, "allOf"):
        yield from check(_junctor(schema, child), value, path, depth=depth + 1)
    shown = type_name(value) if isinstance(value, dict | list) else value
    any_of = objects_at(raw, "anyOf")
    if any_of and not any(_passes(_junctor(schema, c), value, path, depth) for c in any_of):
        yield f.bad_value(path, shown, f'"{path}" must validate at least one schema (anyOf)')
    one_of = objects_at(raw, "oneOf")
    if one_of:
        passed = sum(_passes(_junctor(schema, c), value, path, depth) for c in one_of)
        if passed != 1:
            found = "Found none valid" if passed == 0 else f"Found {passed} valid alternatives"
            yield f.bad_value(path, shown, f'"{path}" must validate one and only one schema (oneOf). {found}')
    negated = raw.get("not")
    if isinstance(negated, dict) and _passes(_junctor(schema, negated), value, path, depth):
        yield f.bad_value(path, shown, f'"{path}" must not validate the schema (not)')


def _junctor(owner: Schema, raw: JsonObject) -> Schema:
    """The schema of one alternative, kept with its owner so that it is made once."""
    kept: dict[int, Schema] = owner.__dict__.setdefault("junctors", {})
    found = kept.get(id(raw))
    if found is None:
        found = kept[id(raw)] = Schema(raw, builtin=False, junctor=True)
    return found


def _passes(schema: Schema, value: Json, path: str, depth: int) -> bool:
    return next(check(schema, value, path, depth=depth + 1), None) is None
