"""Plain JSON objects, as Kubernetes serves them, read safely.

Code that must carry any Kubernetes object (the API server, controllers, the node, the injector, the installer) keeps it
as `JsonObject` and reads it with these functions; nothing here raises on a shape that is not as expected: a missing or
wrongly typed part reads as empty. Typed models of what the mesh itself reads live in `meltem.resources`.

>>> str_at({"metadata": {"name": "a"}}, "metadata", "name")
'a'
"""

from __future__ import annotations

from typing import TypeAlias, cast

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]
Step: TypeAlias = str | int


def at(value: Json, *path: Step) -> Json:
    """The value at `path` (keys and list indices), or None."""
    for step in path:
        if isinstance(step, str):
            if not isinstance(value, dict):
                return None
            value = value.get(step)
        else:
            if not isinstance(value, list) or not -len(value) <= step < len(value):
                return None
            value = value[step]
    return value


def object_at(value: Json, *path: Step) -> JsonObject:
    """The object at `path`, or a new empty one (not inserted)."""
    found = at(value, *path)
    return found if isinstance(found, dict) else {}


def list_at(value: Json, *path: Step) -> list[Json]:
    found = at(value, *path)
    return found if isinstance(found, list) else []


def objects_at(value: Json, *path: Step) -> list[JsonObject]:
    """The objects of the list at `path`; items that are no objects are left out."""
    return [item for item in list_at(value, *path) if isinstance(item, dict)]


def str_at(value: Json, *path: Step, default: str = "") -> str:
    found = at(value, *path)
    return found if isinstance(found, str) else default


def int_at(value: Json, *path: Step, default: int = 0) -> int:
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else default


def bool_at(value: Json, *path: Step, default: bool = False) -> bool:
    found = at(value, *path)
    return found if isinstance(found, bool) else default


def strings_at(value: Json, *path: Step) -> list[str]:
    return [item for item in list_at(value, *path) if isinstance(item, str)]


def string_map_at(value: Json, *path: Step) -> dict[str, str]:
    """The string-to-string map at `path` (labels, annotations, selectors)."""
    return {k: v for k, v in object_at(value, *path).items() if isinstance(v, str)}


def ensure_object(parent: JsonObject, key: str) -> JsonObject:
    """`parent[key]` as an object, put there when missing."""
    found = parent.get(key)
    if not isinstance(found, dict):
        found = {}
        parent[key] = found
    return found


def copy_json(value: Json) -> Json:
    """A deep copy: faster than copy.deepcopy, for JSON only."""
    if isinstance(value, dict):
        return {k: copy_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [copy_json(v) for v in value]
    return value


def copy_object(value: JsonObject) -> JsonObject:
    return cast(JsonObject, copy_json(value))


def name_of(obj: JsonObject) -> str:
    return str_at(obj, "metadata", "name")


def namespace_of(obj: JsonObject) -> str:
    return str_at(obj, "metadata", "namespace")


def uid_of(obj: JsonObject) -> str:
    return str_at(obj, "metadata", "uid")


def labels_of(obj: JsonObject) -> dict[str, str]:
    return string_map_at(obj, "metadata", "labels")


def annotations_of(obj: JsonObject) -> dict[str, str]:
    return string_map_at(obj, "metadata", "annotations")


def api_group(api_version: str) -> str:
    """`apps/v1` → `apps`; `v1` → ``."""
    return api_version.rpartition("/")[0]
