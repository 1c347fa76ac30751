"""Objects as trees of fields with owners: which paths an object has, merging two, comparing two, taking paths away.

In: a schema and plain JSON. Out: `FieldSet`s and new objects. Lists of type map and set are merged item by item, maps
and structs field by field; atomic lists and maps, and what no schema describes but lists, are one value each.
"""

from __future__ import annotations

import msgspec

from meltem.errors import ServerError
from meltem.local.apiserver.schema import fieldset as fs
from meltem.local.apiserver.schema.fieldset import FieldSet
from meltem.local.apiserver.schema.merge import same
from meltem.local.apiserver.schema.types import Schema
from meltem.local.apiserver.schema.values import map_key
from meltem.objects import Json, JsonObject


class Comparison(msgspec.Struct, frozen=True):
    """What differs between two objects, as sets of paths."""

    added: FieldSet
    modified: FieldSet
    removed: FieldSet


def _child(schema: Schema | None, key: str) -> tuple[Schema | None, bool]:
    """The schema of a field, and whether it is a declared field (as opposed to a key of a map)."""
    if schema is None:
        return None, False
    declared = schema.properties.get(key)
    return (declared, True) if declared is not None else (schema.additional, False)


def _granular_list(schema: Schema | None) -> bool:
    return schema is not None and schema.list_type in ("map", "set")


def _atomic_map(schema: Schema | None) -> bool:
    return schema is not None and schema.map_type == "atomic"


def _item(schema: Schema, value: Json) -> str:
    return fs.item_key(map_key(schema, value)) if schema.list_type == "map" else fs.value_key(value)


def to_set(schema: Schema | None, obj: JsonObject) -> FieldSet:
    """The paths that applying the object claims."""
    claimed: FieldSet = {}
    for key, value in obj.items():
        child, declared = _child(schema, key)
        node = _claims(child, value)
        if node is None:
            if isinstance(value, list):
                continue  # an empty list of items claims nothing
            node = {}
        elif not declared and node:
            node = {".": {}, **node}
        claimed[f"f:{key}"] = node
    return claimed


def _claims(schema: Schema | None, value: Json) -> FieldSet | None:
    if isinstance(value, dict) and not _atomic_map(schema):
        return to_set(schema, value) or None
    if isinstance(value, list) and schema is not None and _granular_list(schema):
        claimed: FieldSet = {}
        for item in value:
            inner = to_set(schema.items, item) if isinstance(item, dict) and schema.list_type == "map" else {}
            claimed[_item(schema, item)] = {".": {}, **inner} if inner else {}
        return claimed or None
    return {}


def merge(schema: Schema | None, live: Json, applied: Json) -> Json:
    """What `applied` makes of `live`: its fields win, the others stay."""
    if isinstance(applied, dict) and isinstance(live, dict) and not _atomic_map(schema):
        merged = dict(live)
        for key, value in applied.items():
            child, _ = _child(schema, key)
            if key not in live:
                merged[key] = value
            elif value is None and isinstance(live[key], dict | list):
                if not isinstance(live[key], dict) and not _granular_list(child):
                    merged[key] = None
            else:
                merged[key] = merge(child, live[key], value)
        return merged
    if isinstance(applied, list) and isinstance(live, list) and schema is not None and _granular_list(schema):
        return _merge_lists(schema, live, applied)
    return applied


def _merge_lists(schema: Schema, live: list[Json], applied: list[Json]) -> list[Json]:
    left, right = [_item(schema, v) for v in live], [_item(schema, v) for v in applied]
    mine = dict(zip(left, live, strict=True))
    wanted = set(right)
    shared = [key for key in right if key in mine]
    merged: list[Json] = []
    a = b = s = 0
    while a < len(left) or b < len(right):
        if a < len(left) and not (b < len(right) and left[a] == right[b]):
            key = left[a]
            if key not in wanted:
                merged.append(live[a])
                a += 1
                continue
            if s >= len(shared) or shared[s] != key:
                a += 1
                continue
        if b < len(right):
            key = right[b]
            merged.append(merge(schema.items, mine[key], applied[b]) if key in mine else applied[b])
            a += a < len(left) and left[a] == key
            s += key in mine
            b += 1
    return merged


def compare(schema: Schema | None, old: JsonObject, new: JsonObject) -> Comparison:
    """Which paths `new` has more, less, or with other values."""
    out = Comparison({}, {}, {})
    _compare_maps(schema, old, new, out)
    return out


def _compare_maps(schema: Schema | None, old: JsonObject, new: JsonObject, out: Comparison) -> None:
    for key in old.keys() | new.keys():
        if key in old and key in new and old[key] is new[key]:
            continue
        child, _ = _child(schema, key)
        _compare_at(child, f"f:{key}", old, new, key, out)


def _compare_at(
    schema: Schema | None, element: str, old: dict[str, Json], new: dict[str, Json], key: str, out: Comparison
) -> None:
    if key not in old:
        out.added[element] = everything(schema, new[key])
        return
    if key not in new:
        out.removed[element] = everything(schema, old[key])
        return
    before, after = old[key], new[key]
    inner = Comparison({}, {}, {})
    if isinstance(before, dict) and isinstance(after, dict) and (before or after) and not _atomic_map(schema):
        _compare_maps(schema, before, after, inner)
    elif (
        _granular_list(schema)
        and isinstance(before, list | None)
        and isinstance(after, list | None)
        and (before or after)
    ):
        assert schema is not None
        _compare_lists(schema, before or [], after or [], inner)
    elif (
        isinstance(before, dict | None)
        and isinstance(after, dict | None)
        and (before or after)
        and not _atomic_map(schema)
    ):
        _compare_maps(schema, before or {}, after or {}, inner)
    else:
        if not same(before, after):
            out.modified[element] = {}
        return
    if inner.added:
        out.added[element] = inner.added
    if inner.modified:
        out.modified[element] = inner.modified
    if inner.removed:
        out.removed[element] = inner.removed


def _compare_lists(schema: Schema, old: list[Json], new: list[Json], out: Comparison) -> None:
    left = {_item(schema, v): v for v in old}
    right = {_item(schema, v): v for v in new}
    for key in left.keys() | right.keys():
        _compare_at(schema.items, key, left, right, key, out)


def everything(schema: Schema | None, value: Json) -> FieldSet:
    """Every path at and below a value, as a non-root node: what appears when it is added."""
    inner: FieldSet = {}
    if isinstance(value, dict) and not _atomic_map(schema):
        for key, item in value.items():
            inner[f"f:{key}"] = everything(_child(schema, key)[0], item)
    elif isinstance(value, list) and schema is not None and _granular_list(schema):
        for item in value:
            inner[_item(schema, item)] = everything(schema.items, item)
    return {".": {}, **inner} if inner else {}


def without(schema: Schema | None, value: JsonObject, gone: FieldSet, kept_by: FieldSet) -> JsonObject:
    """The object without the paths; a map or list that their removal empties goes too, unless `kept_by` has it."""
    kept: JsonObject = {}
    for key, item in value.items():
        node = gone.get(f"f:{key}")
        if node is None:
            kept[key] = item
        elif not fs.holds(node):
            owner = kept_by.get(f"f:{key}")
            left = _without(_child(schema, key)[0], item, fs.below(node), owner)
            if left is not None:
                kept[key] = left
    return kept


def _without(schema: Schema | None, value: Json, gone: FieldSet, owner: FieldSet | None) -> Json:
    mine = fs.below(owner) if owner is not None else {}
    wanted = owner is not None and fs.holds(owner)
    if isinstance(value, dict):
        left_over = without(schema, value, gone, mine)
        return left_over if left_over or wanted else None
    if isinstance(value, list) and schema is not None and _granular_list(schema):
        kept: list[Json] = []
        for item in value:
            node = gone.get(_item(schema, item))
            if node is None:
                kept.append(item)
            elif not fs.holds(node):
                left = _without(schema.items, item, fs.below(node), mine.get(_item(schema, item)))
                if left is not None:
                    kept.append(left)
        return kept if kept or wanted else None
    return value


def check_applied(schema: Schema, obj: JsonObject, what: str) -> None:
    """Raises for an applied object whose lists have no identity: no keys, one item twice, or unknown fields."""
    problems: list[str] = []
    _problems(schema, obj, "", problems)
    if problems:
        text = problems[0] if len(problems) == 1 else "errors:\n" + "\n".join(f"  {p}" for p in problems)
        raise ServerError(f"failed to create typed patch object ({what}): {text}", reason="")


def _problems(schema: Schema | None, value: Json, path: str, out: list[str]) -> None:
    if schema is None:
        return
    if isinstance(value, dict):
        if schema.type not in ("object", "") or schema.int_or_string:
            out.append(f"{path}: expected {_expected(schema)}, got &value.valueUnstructured{{…}}")
            return
        for key, item in value.items():
            child, _ = _child(schema, key)
            if child is None and not schema.open:
                out.append(f"{path}.{key}: field not declared in schema")
            else:
                _problems(child, item, f"{path}.{key}", out)
    elif isinstance(value, list):
        if schema.type not in ("array", ""):
            out.append(f"{path}: expected {_expected(schema)}, got list")
            return
        _list_problems(schema, value, path, out)
    elif value is not None and schema.type in ("object", "array"):
        out.append(f"{path}: expected {'map' if schema.type == 'object' else 'list'}, got {value!r}")


def _expected(schema: Schema) -> str:
    return {"object": "map", "array": "list"}.get(schema.type, schema.type or "scalar")


def _list_problems(schema: Schema, values: list[Json], path: str, out: list[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        here = f"{path}[{index}]"
        if schema.list_type == "map":
            keys = map_key(schema, value)
            missing = next((k for k in schema.map_keys if k not in keys), "")
            if missing:
                out.append(
                    f"{path}: element {index}: associative list with keys has an element that omits key field "
                    f'"{missing}" (and doesn\'t have default value)'
                )
                continue
        if _granular_list(schema):
            element = _item(schema, value)
            shown = next(fs.paths({element: {}}))
            here = path + shown
            if element in seen:
                out.append(f"{path}: duplicate entries for key {shown}")
            seen.add(element)
        _problems(schema.items, value, here, out)
