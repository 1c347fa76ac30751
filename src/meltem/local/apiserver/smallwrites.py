"""Subresources that are one field of the whole object: namespaces/finalize, certificatesigningrequests/approval,
pods/resize."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from meltem.errors import BadRequest
from meltem.local.apiserver.answers import respond_entry, respond_value
from meltem.local.apiserver.core import Call, Core
from meltem.local.apiserver.negotiate import parse_body, require_object
from meltem.local.apiserver.patching import patch_maker
from meltem.local.apiserver.reads import get
from meltem.local.apiserver.status import verb_not_allowed
from meltem.local.apiserver.storage import Entry
from meltem.local.apiserver.writes import Maker, WriteOptions, check_type, write
from meltem.objects import (
    JsonObject,
    copy_json,
    copy_object,
    ensure_object,
    list_at,
    name_of,
    object_at,
    objects_at,
    str_at,
)

Change = Callable[[JsonObject, JsonObject], None]


async def finalize(core: Core, call: Call) -> web.StreamResponse:
    """PUT namespaces/<name>/finalize: sets `spec.finalizers`; the last one gone lets the namespace go."""

    def change(live: JsonObject, wanted: JsonObject) -> None:
        ensure_object(live, "spec")["finalizers"] = copy_json(list_at(wanted, "spec", "finalizers"))

    return await _write_part(core, call, change)


async def approval(core: Core, call: Call) -> web.StreamResponse:
    """PUT certificatesigningrequests/<name>/approval: sets the conditions."""

    def change(live: JsonObject, wanted: JsonObject) -> None:
        ensure_object(live, "status")["conditions"] = copy_json(list_at(wanted, "status", "conditions"))

    if call.info.verb == "get":
        return await get(core, call)
    return await _write_part(core, call, change)


async def resize(core: Core, call: Call) -> web.StreamResponse:
    """PATCH pods/<name>/resize: the containers' resources and nothing else."""

    def change(live: JsonObject, wanted: JsonObject) -> None:
        for field in ("containers", "initContainers"):
            resources = {str_at(c, "name"): object_at(c, "resources") for c in objects_at(wanted, "spec", field)}
            for container in objects_at(live, "spec", field):
                container["resources"] = copy_json(resources.get(str_at(container, "name"), {}))

    if call.info.verb == "get":
        return await get(core, call)
    return await _write_part(core, call, change)


async def _write_part(core: Core, call: Call, change: Change) -> web.StreamResponse:
    """Takes one part of the wanted object into the live one, and stores that."""
    if call.info.verb not in ("update", "patch"):
        raise verb_not_allowed()
    options = WriteOptions(call)
    wants = _wants(core, call, options)

    async def make(live: JsonObject | None) -> JsonObject:
        assert live is not None
        wanted = await wants(copy_object(live))
        changed = copy_object(live)
        change(changed, wanted)
        rv = str_at(wanted, "metadata", "resourceVersion")
        if rv:
            ensure_object(changed, "metadata")["resourceVersion"] = rv
        return changed

    result, _ = await write(core, call, make, options)
    if isinstance(result, Entry):
        return await respond_entry(core, call, result)
    return await respond_value(core, call, result)


def _wants(core: Core, call: Call, options: WriteOptions) -> Maker:
    if call.info.verb == "patch":
        return patch_maker(core, call, options.manager, options.validation).make
    body = require_object(parse_body(call.body, call.content_type))
    check_type(call, body)
    if name_of(body) and name_of(body) != call.info.name:
        raise BadRequest(
            f"the name of the object ({name_of(body)}) does not match the name on the URL ({call.info.name})"
        )

    async def sent(live: JsonObject | None) -> JsonObject:
        return body

    return sent
