"""`scale`: one small object that reads and writes the replica count of deployments, sets, controllers and custom
resources."""

from __future__ import annotations

from aiohttp import web

from meltem.clock import rfc3339
from meltem.errors import BadRequest
from meltem.local.apiserver.answers import respond
from meltem.local.apiserver.core import Call, Core
from meltem.local.apiserver.negotiate import media_type, parse_body, parse_json, parse_yaml, require_object
from meltem.local.apiserver.schema.apply import track_update
from meltem.local.apiserver.schema.fielderrors import FieldError, invalid
from meltem.local.apiserver.schema.merge import json_patch, merged_object
from meltem.local.apiserver.status import not_found, verb_not_allowed
from meltem.local.apiserver.storage import Entry, encode
from meltem.local.apiserver.writes import WriteOptions, write
from meltem.objects import Json, JsonObject, at, int_at, object_at, objects_at, str_at, string_map_at, strings_at

_SYSTEM = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


class _Paths:
    """Where a resource keeps its replicas: paths as lists of keys."""

    def __init__(self, call: Call) -> None:
        version = call.resource.crd_version
        scale = object_at(version, "subresources", "scale") if version else {}

        def path(name: str, default: str) -> list[str]:
            return (str_at(scale, name) or ("" if version else default)).strip(".").split(".")

        self.spec = path("specReplicasPath", ".spec.replicas")
        self.status = path("statusReplicasPath", ".status.replicas")
        self.selector = path("labelSelectorPath", "")


async def scale(core: Core, call: Call) -> web.StreamResponse:
    """get, update and patch of the Scale."""
    paths = _Paths(call)
    if call.info.verb == "get":
        entry = core.store.get(call.key)
        if entry is None:
            raise not_found(call.resource.storage, call.info.name)
        return respond(encode(scale_of(entry.object, paths)))
    if call.info.verb not in ("update", "patch"):
        raise verb_not_allowed()
    options = WriteOptions(call)

    async def make(live: JsonObject | None) -> JsonObject:
        assert live is not None
        wanted = _wanted(call, scale_of(live, paths))
        replicas = _replicas(call, wanted)
        changed = _set(live, paths.spec, replicas)
        rv = str_at(wanted, "metadata", "resourceVersion")
        meta: JsonObject = {**object_at(changed, "metadata"), "resourceVersion": rv or None}
        changed["metadata"] = {k: v for k, v in meta.items() if v is not None}
        return _tracked(core, call, live, changed, options)

    fixed = call.info.verb == "update" and bool(at(_body(call), "metadata", "resourceVersion"))
    result, _ = await write(core, call, make, options, fixed_version=fixed, tracked=True)
    obj = result.object if isinstance(result, Entry) else result
    return respond(encode(scale_of(obj, paths)), warnings=call.warnings)


def _tracked(core: Core, call: Call, live: JsonObject, changed: JsonObject, options: WriteOptions) -> JsonObject:
    return track_update(
        call.resource.schema,
        live,
        changed,
        manager=options.manager_or_agent,
        operation="Update",
        api_version=call.resource.api_version,
        now=rfc3339(core.clock.now()),
        subresource="scale",
    )


def _body(call: Call) -> Json:
    return parse_body(call.body, call.content_type)


def _wanted(call: Call, current: JsonObject) -> JsonObject:
    """The Scale that the request wants."""
    if call.info.verb == "update":
        return require_object(_body(call))
    match media_type(call.content_type):
        case "application/json-patch+json":
            return require_object(json_patch(current, parse_json(call.body)))
        case "application/apply-patch+yaml":
            return merged_object(current, parse_yaml(call.body))
        case _:
            return merged_object(current, parse_json(call.body))


def _replicas(call: Call, wanted: JsonObject) -> int:
    kind = str_at(wanted, "kind") or "Scale"
    if kind != "Scale":
        raise BadRequest(f"the body must be a Scale, not {kind}")
    value = at(wanted, "spec", "replicas")
    if value is None:
        value = 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest("spec.replicas must be a whole number")
    if value < 0:
        text = f"Invalid value: {value}: must be greater than or equal to 0"
        raise invalid("autoscaling", "Scale", call.info.name, [FieldError("spec.replicas", "FieldValueInvalid", text)])
    return value


def _set(live: JsonObject, path: list[str], value: int) -> JsonObject:
    changed = dict(live)
    inner = changed
    for step in path[:-1]:
        child = dict(object_at(inner, step))
        inner[step] = child
        inner = child
    inner[path[-1]] = value
    return changed


def scale_of(obj: JsonObject, paths: _Paths) -> JsonObject:
    meta = object_at(obj, "metadata")
    status: JsonObject = {"replicas": int_at(obj, *paths.status)}
    selector = str_at(obj, *paths.selector) if paths.selector != [""] else selector_text(at(obj, "spec", "selector"))
    if selector:
        status["selector"] = selector
    replicas = int_at(obj, *paths.spec)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: meta[k] for k in _SYSTEM if k in meta},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def selector_text(selector: Json) -> str:
    """A selector object as the text that queries use."""
    if not isinstance(selector, dict):
        return ""
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return ",".join(f"{k}={v}" for k, v in sorted(string_map_at(selector).items()))
    terms = [f"{k}={v}" for k, v in sorted(string_map_at(selector, "matchLabels").items())]
    for item in objects_at(selector, "matchExpressions"):
        key, values = str_at(item, "key"), ",".join(sorted(strings_at(item, "values")))
        match str_at(item, "operator"):
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(key)
            case _:
                terms.append(f"!{key}")
    return ",".join(terms)
