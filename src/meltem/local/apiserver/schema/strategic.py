"""Kubernetes' strategic merge patch: merge by the keys that a kind's schema names.

In: the kind's schema, the object, the patch. Out: the new object. Directives: `$patch` (merge, replace, delete),
`$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`, `$retainKeys`. Custom resources have no such schema;
the API server refuses this patch type for them before it gets here.
"""

from __future__ import annotations

from meltem.errors import BadRequest
from meltem.local.apiserver.schema.types import Schema
from meltem.objects import Json, JsonObject, copy_json, copy_object

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(schema: Schema, obj: JsonObject, patch: JsonObject) -> JsonObject:
    """The object after the patch; BadRequest for a patch whose directives do not fit."""
    return _object(schema, copy_object(obj), patch)


def _object(schema: Schema | None, target: JsonObject, patch: JsonObject) -> JsonObject:
    match patch.get(_DIRECTIVE):
        case None | "merge":
            pass
        case "replace":
            return {k: copy_json(v) for k, v in patch.items() if k != _DIRECTIVE}
        case "delete":
            return {}
        case other:
            raise BadRequest(f"unknown patch type found: {other} in map")
    _retain(target, patch)
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN):
            continue
        if key.startswith(_DELETE_FROM):
            field = key.removeprefix(_DELETE_FROM)
            _delete_primitives(target, field, value)
        elif key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            if field not in patch and _known(schema, field):
                _reorder_field(schema, target, field, value)
        else:
            _field(schema, target, patch, key, value)
    return target


def _known(schema: Schema | None, field: str) -> bool:
    return schema is not None and schema.field(field) is not None


def _retain(target: JsonObject, patch: JsonObject) -> None:
    keep = patch.get(_RETAIN)
    if keep is None:
        return
    if not isinstance(keep, list):
        raise BadRequest("invalid patch format of retainKeys")
    allowed = {k for k in keep if isinstance(k, str)}
    extra = [k for k, v in patch.items() if k not in allowed and not k.startswith("$") and v is not None]
    if extra:
        raise BadRequest(f"$retainKeys does not name every field that the patch sets: {', '.join(extra)}")
    for key in list(target):
        if key not in allowed:
            del target[key]


def _field(schema: Schema | None, target: JsonObject, patch: JsonObject, key: str, value: Json) -> None:
    child = schema.field(key) if schema is not None else None
    if value is None:
        target.pop(key, None)
        return
    current = target.get(key)
    strategies = child.patch_strategies if child is not None else frozenset[str]()
    if isinstance(value, dict):
        if isinstance(current, dict) and "replace" not in strategies:
            merged = _object(child, current, value)
            if value.get(_DIRECTIVE) == "delete":
                target.pop(key, None)
            else:
                target[key] = merged
        elif value.get(_DIRECTIVE) == "delete":
            target.pop(key, None)
        else:
            target[key] = _object(child, {}, {k: v for k, v in value.items() if k != _RETAIN})
    elif isinstance(value, list):
        order = patch.get(_ORDER + key)
        if "merge" in strategies and child is not None:
            base = current if isinstance(current, list) else []
            target[key] = _list(child, base, value, order)
        else:
            target[key] = [
                _plain(v) for v in value if not (isinstance(v, dict) and v.get(_DIRECTIVE) == "replace" and len(v) == 1)
            ]
    else:
        target[key] = value


def _plain(value: Json) -> Json:
    """A value that a patch adds whole: without nulls that would have removed and without directives."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None and not k.startswith("$")}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _list(schema: Schema, current: list[Json], patch: list[Json], order: Json) -> list[Json]:
    key = schema.merge_key
    if key and all(isinstance(v, dict) for v in (*current, *patch)):
        merged = _map_list(schema, key, current, patch)
        identities = [v.get(key) if isinstance(v, dict) else v for v in merged]
        wanted = [o.get(key) if isinstance(o, dict) else o for o in order] if isinstance(order, list) else None
    else:
        if any(isinstance(v, dict) for v in patch):
            raise BadRequest(
                f"a list in the patch has objects, but its schema names no merge key: {schema.name or 'list'}"
            )
        merged = [*current, *(v for v in patch if v not in current)]
        identities = merged
        wanted = order if isinstance(order, list) else None
    if wanted is None:
        return merged
    return _ordered(merged, identities, wanted, current, key)


def _is(item: Json, key: str, value: Json) -> bool:
    return isinstance(item, dict) and item.get(key) == value


def _map_list(schema: Schema, key: str, current: list[Json], patch: list[Json]) -> list[Json]:
    items = [v for v in patch if isinstance(v, dict)]
    directives = [v.get(_DIRECTIVE) for v in items]
    if "replace" in directives:
        return [_plain(v) for v in items if v.get(_DIRECTIVE) != "replace"]
    merged: list[Json] = list(current)
    for item, directive in zip(items, directives, strict=True):
        if key not in item:
            raise BadRequest(
                f"map: map[{' '.join(f'{k}:{v}' for k, v in item.items())}] does not contain declared merge key: {key}"
            )
        if directive == "delete":
            merged = [m for m in merged if not _is(m, key, item[key])]
            continue
        if directive not in (None, "merge"):
            raise BadRequest(f"unknown patch type found: {directive} in list")
        at = next((i for i, m in enumerate(merged) if _is(m, key, item[key])), None)
        base = merged[at] if at is not None else None
        result = _object(schema.items, base if isinstance(base, dict) else {}, item)
        if at is None:
            merged.append(result)
        else:
            merged[at] = result
    return merged


def _ordered(
    merged: list[Json], identities: list[Json], wanted: list[Json], current: list[Json], key: str
) -> list[Json]:
    """Items that the patch orders stand in its order; the server's own keep their place among them."""
    rank = {_hashable(w): i for i, w in enumerate(wanted)}
    listed = sorted(
        (i for i in range(len(merged)) if _hashable(identities[i]) in rank),
        key=lambda i: rank[_hashable(identities[i])],
    )
    others = [i for i in range(len(merged)) if _hashable(identities[i]) not in rank]
    place = {_hashable(c.get(key) if key and isinstance(c, dict) else c): i for i, c in enumerate(current)}
    out: list[Json] = []
    a = b = 0
    while a < len(listed) and b < len(others):
        here = place.get(_hashable(identities[listed[a]]))
        other = place.get(_hashable(identities[others[b]]))
        if here is None or other is None or here < other:
            out.append(merged[listed[a]])
            a += 1
        else:
            out.append(merged[others[b]])
            b += 1
    out.extend(merged[i] for i in listed[a:])
    out.extend(merged[i] for i in others[b:])
    return out


def _hashable(value: Json) -> tuple[bool, str | int | float | bool | None]:
    return (isinstance(value, bool), value if not isinstance(value, dict | list) else str(value))


def _delete_primitives(target: JsonObject, field: str, removed: Json) -> None:
    if not isinstance(removed, list):
        raise BadRequest("invalid patch format of primitive list")
    current = target.get(field)
    if isinstance(current, list):
        target[field] = [v for v in current if v not in removed]


def _reorder_field(schema: Schema | None, target: JsonObject, field: str, order: Json) -> None:
    current = target.get(field)
    child = schema.field(field) if schema is not None else None
    if child is None or not isinstance(current, list) or not isinstance(order, list):
        return
    key = child.merge_key
    identities = [v.get(key) if key and isinstance(v, dict) else v for v in current]
    wanted = [o.get(key) if key and isinstance(o, dict) else o for o in order]
    target[field] = _ordered(current, identities, wanted, current, key)
