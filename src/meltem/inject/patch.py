"""The JSON patch (RFC 6902) that turns one JSON value into another.

In: old and new. Out: operations in an order in which they can be applied. Applying them to old gives new, always; that
it is the shortest patch is not promised.
"""

from __future__ import annotations

from meltem.objects import Json, JsonObject


def create(old: Json, new: Json, path: str = "") -> list[JsonObject]:
    if isinstance(old, dict) and isinstance(new, dict):
        return _objects(old, new, path)
    if isinstance(old, list) and isinstance(new, list):
        return _lists(old, new, path)
    return [] if same(old, new) else [{"op": "replace", "path": path, "value": new}]


def same(old: Json, new: Json) -> bool:
    """Equality of JSON: unlike Python's, `true` is not 1."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(same(v, new[k]) for k, v in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    return type(old) is type(new) and old == new


def _objects(old: JsonObject, new: JsonObject, path: str) -> list[JsonObject]:
    operations: list[JsonObject] = []
    for key in old:
        if key not in new:
            operations.append({"op": "remove", "path": f"{path}/{_escaped(key)}"})
    for key, value in new.items():
        place = f"{path}/{_escaped(key)}"
        if key not in old:
            operations.append({"op": "add", "path": place, "value": value})
        else:
            operations += create(old[key], value, place)
    return operations


def _lists(old: list[Json], new: list[Json], path: str) -> list[JsonObject]:
    """Same head and same tail stay; what lies between is changed in place, then added or removed."""
    shorter = min(len(old), len(new))
    head = 0
    while head < shorter and same(old[head], new[head]):
        head += 1
    tail = 0
    while tail < shorter - head and same(old[-1 - tail], new[-1 - tail]):
        tail += 1
    old_end, new_end = len(old) - tail, len(new) - tail
    operations: list[JsonObject] = []
    common = min(old_end, new_end)
    for index in range(head, common):
        operations += create(old[index], new[index], f"{path}/{index}")
    for index in range(old_end - 1, common - 1, -1):
        operations.append({"op": "remove", "path": f"{path}/{index}"})
    for index in range(common, new_end):
        operations.append({"op": "add", "path": f"{path}/{index}", "value": new[index]})
    return operations


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
