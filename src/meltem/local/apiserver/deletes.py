"""delete and deletecollection: grace periods, finalizers, preconditions, propagation.

An object without finalizers and without a grace period goes at once; else it gets a deletionTimestamp and goes when its
last finalizer is removed and its grace period is over (the node deletes pods with grace 0 once their processes ended).
"""

from __future__ import annotations

import math

import msgspec
from aiohttp import web

from meltem.clock import rfc3339
from meltem.errors import BadRequest, NotFound
from meltem.local.apiserver.answers import respond, respond_value
from meltem.local.apiserver.core import Attributes, Call, Core
from meltem.local.apiserver.negotiate import parse_body, require_object
from meltem.local.apiserver.reads import selection
from meltem.local.apiserver.request import number
from meltem.local.apiserver.status import conflict, not_found, success
from meltem.local.apiserver.storage import Entry, encode
from meltem.objects import (
    Json,
    JsonObject,
    copy_object,
    ensure_object,
    int_at,
    list_at,
    object_at,
    str_at,
    strings_at,
    uid_of,
)

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_RETURNS_OBJECT = frozenset({"pods", "services", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims"})
_ATTEMPTS = 8


class DeleteOptions(msgspec.Struct, frozen=True, kw_only=True):
    grace: int | None = None
    propagation: str = ""
    uid: str = ""
    rv: str = ""
    dry_run: bool = False
    raw: JsonObject = {}


def delete_options(call: Call) -> DeleteOptions:
    """From the body (DeleteOptions) or the query; raises BadRequest."""
    body: JsonObject = {}
    if call.body.strip():
        body = require_object(parse_body(call.body, call.content_type))
        kind = str_at(body, "kind")
        if kind not in ("", "DeleteOptions"):
            raise BadRequest(f"the body of a deletion must be DeleteOptions, not {kind}")
    grace = body.get("gracePeriodSeconds")
    if grace is None:
        grace = number(call.query, "gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise BadRequest("gracePeriodSeconds must be a whole number")
    propagation = str_at(body, "propagationPolicy") or call.query.get("propagationPolicy", "")
    orphan = body.get("orphanDependents")
    if orphan is None and "orphanDependents" in call.query:
        orphan = call.query["orphanDependents"] == "true"
    if isinstance(orphan, bool) and not propagation:
        propagation = "Orphan" if orphan else "Background"
    if propagation not in ("", "Foreground", "Background", "Orphan"):
        raise BadRequest(
            f'propagationPolicy: Invalid value: "{propagation}": must be one of Background, Foreground, Orphan'
        )
    dry_run = strings_at(body, "dryRun") or [v for v in (call.query.get("dryRun", ""),) if v]
    if any(v != "All" for v in dry_run):
        raise BadRequest(f"the dryRun value {dry_run} is not supported: it must be All")
    return DeleteOptions(
        grace=grace,
        propagation=propagation,
        uid=str_at(body, "preconditions", "uid"),
        rv=str_at(body, "preconditions", "resourceVersion"),
        dry_run=bool(dry_run),
        raw={**body, "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"},
    )


async def delete(core: Core, call: Call) -> web.StreamResponse:
    options = delete_options(call)
    entry = core.store.head(call.key)
    if entry is None:
        raise not_found(call.resource.storage, call.info.name)
    obj, gone = await delete_entry(core, call, entry, options)
    if gone and call.resource.storage not in _RETURNS_OBJECT:
        info = call.resource.info
        body = encode(success(call.info.name, info.group, info.plural, uid_of(obj)))
        return respond(body, warnings=call.warnings)
    return await respond_value(core, call, obj)


async def delete_entry(core: Core, call: Call, entry: Entry, options: DeleteOptions) -> tuple[JsonObject, bool]:
    """Deletes one object, or marks it; (its last state, is it gone?). Raises Conflict for unmet preconditions."""
    for _ in range(_ATTEMPTS):
        _check_preconditions(call, entry, options)
        attributes = _attributes(call, entry, options)
        await core.admission.mutate(attributes, call.warnings)
        await core.admission.validate(attributes, call.warnings)
        current = core.store.head(entry.key)
        if current is not entry:
            if current is None:
                raise not_found(call.resource.storage, entry.key.name)
            entry = current
            continue
        obj = mark(core, call, entry, options)
        gone = obj is None or finished_deleting(obj)
        if options.dry_run:
            return obj or entry.object, gone
        if obj is None:
            removed = await core.store.stage(entry.key, None)
            return removed.object, True
        if obj == entry.object:
            return entry.object, False
        changed = await core.store.stage(entry.key, obj)
        if gone:
            changed = await core.store.stage(entry.key, None)
        return changed.object, gone
    raise conflict(call.resource.storage, entry.key.name)


def _attributes(call: Call, entry: Entry, options: DeleteOptions) -> Attributes:
    return Attributes(
        operation="DELETE",
        resource=call.resource,
        subresource="",
        namespace=entry.key.namespace,
        name=entry.key.name,
        user=call.user,
        object=None,
        old=entry.object,
        options=options.raw,
        dry_run=options.dry_run,
    )


def _check_preconditions(call: Call, entry: Entry, options: DeleteOptions) -> None:
    storage, name = call.resource.storage, entry.key.name
    uid = uid_of(entry.object)
    if options.uid and options.uid != uid:
        raise conflict(
            storage, name, f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {uid}"
        )
    if options.rv and options.rv != str(entry.rv):
        asked, found = f"ResourceVersion in precondition: {options.rv}", f"ResourceVersion in object meta: {entry.rv}"
        why = f"Precondition failed: {asked}, {found}"
        raise conflict(storage, name, why)


def mark(core: Core, call: Call, entry: Entry, options: DeleteOptions) -> JsonObject | None:
    """The object with its deletion marked, or None when it can go at once."""
    obj = copy_object(entry.object)
    meta = ensure_object(obj, "metadata")
    finalizers = _finalizers(meta, options)
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)
    grace = _grace(entry, options)
    held = bool(finalizers) or (entry.key.resource == "namespaces" and bool(list_at(obj, "spec", "finalizers")))
    if not held and grace == 0:
        return None
    now = core.clock.now()
    if "deletionTimestamp" not in meta:
        meta["deletionTimestamp"] = rfc3339(now + grace)
        meta["deletionGracePeriodSeconds"] = grace
        if "generation" in meta:
            meta["generation"] = int_at(meta, "generation") + 1
    elif grace < int_at(meta, "deletionGracePeriodSeconds"):
        meta["deletionTimestamp"] = rfc3339(now + grace)
        meta["deletionGracePeriodSeconds"] = grace
    if entry.key.resource == "namespaces":
        ensure_object(obj, "status")["phase"] = "Terminating"
    return obj


def _finalizers(meta: JsonObject, options: DeleteOptions) -> list[Json]:
    finalizers: list[Json] = [*list_at(meta, "finalizers")]
    if options.propagation:
        finalizers = [f for f in finalizers if f not in (FOREGROUND, ORPHAN)]
        if options.propagation == "Foreground":
            finalizers.append(FOREGROUND)
        elif options.propagation == "Orphan":
            finalizers.append(ORPHAN)
    return finalizers


def _grace(entry: Entry, options: DeleteOptions) -> int:
    """Seconds that the object keeps running; only pods that run somewhere have any."""
    if entry.key.resource != "pods":
        return 0
    obj = entry.object
    grace = options.grace
    if grace is None:
        grace = int_at(obj, "spec", "terminationGracePeriodSeconds", default=30)
    if grace < 0:
        grace = 1
    if not str_at(obj, "spec", "nodeName") or str_at(obj, "status", "phase") in ("Succeeded", "Failed"):
        return 0
    return grace


def finished_deleting(obj: JsonObject) -> bool:
    """Is it marked, without finalizers, and without grace period left?"""
    meta = object_at(obj, "metadata")
    if "deletionTimestamp" not in meta or list_at(meta, "finalizers"):
        return False
    if str_at(obj, "kind") == "Namespace" and list_at(obj, "spec", "finalizers"):
        return False
    return int_at(meta, "deletionGracePeriodSeconds") == 0


async def delete_collection(core: Core, call: Call) -> web.StreamResponse:
    """Deletes what the selectors match, one after the other; answers with the list of what it deleted."""
    options = delete_options(call)
    matches, name = selection(call)
    namespace = call.info.namespace if call.resource.info.namespaced else ""
    if call.resource.info.namespaced and not namespace:
        raise NotFound("the server could not find the requested resource")
    limit = number(call.query, "limit") or math.inf
    deleted: list[bytes] = []
    for entry in core.store.entries(call.resource.storage, namespace):
        current = core.store.head(entry.key)
        if current is None or (name and entry.key.name != name) or (matches and not matches(current.object)):
            continue
        if len(deleted) >= limit:
            break
        try:
            obj, _ = await delete_entry(core, call, current, options)
        except NotFound:
            continue
        deleted.append(encode(obj))
    info = call.resource.info
    head = encode(
        {"kind": info.list_kind, "apiVersion": info.api_version, "metadata": {"resourceVersion": str(core.store.rv)}}
    )
    return respond(head[:-1] + b',"items":[' + b",".join(deleted) + b"]}", warnings=call.warnings)
