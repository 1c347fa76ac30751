"""Strategic merge of a partial pod over a pod, as Kubernetes merges patches of that type.

In: two JSON objects. Out: a new one; neither is changed. Lists of objects with a merge key (containers by name, ports
by containerPort, mounts by mountPath …) are merged by it; other lists are replaced; `null` takes a key away; the
directives `$patch: delete|replace` are understood.
"""

from __future__ import annotations

from meltem.objects import Json, JsonObject, copy_json

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "env": "name",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "ownerReferences": "uid",
}
MERGED_PRIMITIVES = frozenset({"finalizers"})


def overlay(base: JsonObject, over: JsonObject) -> JsonObject:
    """`over` on `base`."""
    directive = over.get("$patch")
    if directive == "replace":
        return {k: copy_json(v) for k, v in over.items() if k != "$patch"}
    merged: JsonObject = {k: copy_json(v) for k, v in base.items()}
    for key, value in over.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
            continue
        mine = merged.get(key)
        if isinstance(value, dict):
            if value.get("$patch") == "delete":
                merged.pop(key, None)
            else:
                merged[key] = overlay(mine if isinstance(mine, dict) else {}, value)
        elif isinstance(value, list):
            merged[key] = _list(key, mine if isinstance(mine, list) else [], value)
        else:
            merged[key] = value
    return merged


def _list(name: str, base: list[Json], over: list[Json]) -> list[Json]:
    if name in MERGED_PRIMITIVES:
        return [*base, *(v for v in over if v not in base)]
    key = MERGE_KEYS.get(name)
    if key is None or not all(isinstance(v, dict) and (key in v or "$patch" in v) for v in over):
        return [_without_nulls(v) for v in over]
    if any(isinstance(v, dict) and v.get("$patch") == "replace" and key not in v for v in over):
        return [_without_nulls(v) for v in over if isinstance(v, dict) and "$patch" not in v]
    by_key = {_key(v, key): v for v in base if isinstance(v, dict)}
    patched = [v for v in over if isinstance(v, dict)]
    deleted = {_key(v, key) for v in patched if v.get("$patch") == "delete"}
    changed = {_key(v, key): v for v in patched if _key(v, key) not in deleted}
    # What only the patch has comes first, then everything in the order of the base: as the API server sorts them.
    result: list[Json] = [overlay({}, v) for k, v in changed.items() if k not in by_key]
    for item in base:
        found = _key(item, key)
        if found in deleted:
            continue
        if isinstance(item, dict) and found in changed:
            result.append(overlay(item, changed[found]))
        else:
            result.append(copy_json(item))
    return result


def _key(item: Json, key: str) -> str:
    found = item.get(key) if isinstance(item, dict) else None
    return f"{type(found).__name__}:{found}"


def _without_nulls(value: Json) -> Json:
    return overlay({}, value) if isinstance(value, dict) else copy_json(value)
