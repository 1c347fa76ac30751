"""create, update and patch: from a body to a committed object.

The order is Kubernetes': decode and check against the path, drop unknown fields (fieldValidation says how loudly),
default, mutating admission, prepare (system metadata, generation, status), validate, allocate, validating admission,
store. A write builds on the newest staged state; when somebody else's write comes between, the whole is tried again.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import web

from meltem.clock import rfc3339
from meltem.errors import BadRequest, Conflict, MeltemError, NotFound
from meltem.local.apiserver import prepare
from meltem.local.apiserver.answers import respond_entry, respond_value
from meltem.local.apiserver.conversion import convert
from meltem.local.apiserver.core import Attributes, Call, Core
from meltem.local.apiserver.deletes import finished_deleting
from meltem.local.apiserver.negotiate import parse_body, require_object
from meltem.local.apiserver.patching import patch_maker
from meltem.local.apiserver.schema.apply import track_update
from meltem.local.apiserver.schema.fielderrors import FieldError, invalid
from meltem.local.apiserver.schema.process import decode_problem, default, prune, validate
from meltem.local.apiserver.status import already_exists, conflict, not_found
from meltem.local.apiserver.storage import Entry, Key
from meltem.objects import JsonObject, copy_object, ensure_object, name_of, namespace_of, str_at, uid_of

ATTEMPTS = 6
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

Maker = Callable[[JsonObject | None], Awaitable[JsonObject]]
"""From the live object (None: there is none) to the wanted one; both in the version of the request."""


class WriteOptions:
    """The query's part of a write; raises BadRequest for values that are unknown."""

    def __init__(self, call: Call) -> None:
        dry_run = call.query.get("dryRun", "")
        if dry_run not in ("", "All"):
            raise BadRequest(f'the dryRun value "{dry_run}" is not supported: it must be All')
        self.dry_run = dry_run == "All"
        self.validation = call.query.get("fieldValidation", "") or "Warn"
        if self.validation not in ("Ignore", "Warn", "Strict"):
            raise BadRequest(
                f'fieldValidation: Unsupported value: "{self.validation}": supported values: "Ignore", "Strict", "Warn"'
            )
        self.manager = call.query.get("fieldManager", "")
        if len(self.manager) > 128 or not self.manager.isprintable():
            raise BadRequest("fieldManager must be printable and at most 128 characters long")
        self.manager_or_agent = self.manager or _agent(call)

    def as_object(self, kind: str) -> JsonObject:
        """CreateOptions, UpdateOptions or PatchOptions, as admission webhooks see them."""
        options: JsonObject = {"kind": kind, "apiVersion": "meta.k8s.io/v1"}
        if self.dry_run:
            options["dryRun"] = ["All"]
        if self.manager:
            options["fieldManager"] = self.manager
        options["fieldValidation"] = self.validation
        return options


def _agent(call: Call) -> str:
    """The default field manager: the program's name from the User-Agent."""
    agent = call.request.headers.get("User-Agent", "unknown")
    return "".join(c for c in agent.split("/")[0] if c.isprintable())[:128] or "unknown"


async def create(core: Core, call: Call) -> web.StreamResponse:
    options = WriteOptions(call)
    obj = require_object(parse_body(call.body, call.content_type))
    check_type(call, obj)
    obj = pruned(call, obj, options.validation)
    entry = await create_object(core, call, obj, options, manager=options.manager_or_agent)
    if isinstance(entry, Entry):
        return await respond_entry(core, call, entry, status=201)
    return await respond_value(core, call, entry, status=201)


async def create_object(
    core: Core, call: Call, obj: JsonObject, options: WriteOptions, *, manager: str = "", tracked: bool = False
) -> Entry | JsonObject:
    """Creates `obj` (pruned, in the request's version); the committed entry, or the object for a dry run."""
    generated = not name_of(obj) and bool(str_at(obj, "metadata", "generateName"))
    for attempt in range(ATTEMPTS):
        try:
            return await _create_once(core, call, copy_object(obj), options, manager, tracked)
        except Conflict as error:
            if not generated or error.status_reason != "AlreadyExists" or attempt == ATTEMPTS - 1:
                raise
    raise conflict(call.resource.storage, name_of(obj))


async def _create_once(
    core: Core, call: Call, obj: JsonObject, options: WriteOptions, manager: str, tracked: bool
) -> Entry | JsonObject:
    resource = call.resource
    meta = fill_names(call, obj)
    now = rfc3339(core.clock.now())
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now
    for name in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"):
        meta.pop(name, None)
    key = Key(resource.storage, namespace_of(obj), name_of(obj))
    if not tracked:
        api_version = resource.api_version
        obj = track_update(
            resource.schema, None, obj, manager=manager, operation="Update", api_version=api_version, now=now
        )
    obj = default(resource.schema, obj)
    attributes = Attributes(
        operation="CREATE",
        resource=resource,
        subresource="",
        namespace=key.namespace,
        name=key.name,
        user=call.user,
        object=obj,
        old=None,
        options=options.as_object("CreateOptions"),
        dry_run=options.dry_run,
    )
    mutated = await core.admission.mutate(attributes, call.warnings)
    if mutated is not None:
        # What a webhook made is read like any body: unknown fields go, quantities take their canonical form.
        obj = prune(resource.schema, mutated)[0]
    obj = default(resource.schema, obj)
    prepare.for_create(resource, obj, now, call.user)
    core.allocator.prepare(obj, None)
    refuse_invalid(call, obj, None)
    await core.admission.validate(_with(attributes, obj, None), call.warnings)
    stored = await convert(resource, obj, resource.storage_version, core.converter)
    if core.store.head(key) is not None:
        raise already_exists(resource.storage, key.name)
    core.allocator.prepare(stored, None)
    return stored if options.dry_run else await core.store.stage(key, copy_object(stored))


def _with(attributes: Attributes, obj: JsonObject | None, old: JsonObject | None) -> Attributes:
    return Attributes(
        operation=attributes.operation,
        resource=attributes.resource,
        subresource=attributes.subresource,
        namespace=attributes.namespace,
        name=attributes.name,
        user=attributes.user,
        object=obj,
        old=old,
        options=attributes.options,
        dry_run=attributes.dry_run,
        kind=attributes.kind,
    )


async def update(core: Core, call: Call) -> web.StreamResponse:
    options = WriteOptions(call)
    obj = require_object(parse_body(call.body, call.content_type))
    check_type(call, obj)
    obj = pruned(call, obj, options.validation)
    fill_names(call, obj)
    if name_of(obj) != call.info.name:
        raise BadRequest(
            f"the name of the object ({name_of(obj)}) does not match the name on the URL ({call.info.name})"
        )

    async def make(live: JsonObject | None) -> JsonObject:
        return copy_object(obj)

    rv = str_at(obj, "metadata", "resourceVersion")
    entry, _ = await write(core, call, make, options, fixed_version=bool(rv))
    if isinstance(entry, Entry):
        return await respond_entry(core, call, entry)
    return await respond_value(core, call, entry)


async def patch(core: Core, call: Call) -> web.StreamResponse:
    options = WriteOptions(call)
    maker = patch_maker(core, call, options.manager, options.validation)
    entry, created = await write(
        core, call, maker.make, options, fixed_version=maker.fixed_version, upsert=maker.applies, tracked=maker.applies
    )
    status = 201 if created else 200
    if isinstance(entry, Entry):
        return await respond_entry(core, call, entry, status=status)
    return await respond_value(core, call, entry, status=status)


async def write(
    core: Core,
    call: Call,
    make: Maker,
    options: WriteOptions,
    *,
    fixed_version: bool = False,
    upsert: bool = False,
    tracked: bool = False,
) -> tuple[Entry | JsonObject, bool]:
    """Changes the object that the call names; (entry, or object for a dry run; created?).

    `fixed_version`: the maker carries a resourceVersion, so a lost race is the client's to solve. `upsert`: create when
    there is none. `tracked`: the maker has set managedFields itself.
    """
    for attempt in range(ATTEMPTS):
        live = core.store.head(call.key)
        if live is None:
            if not upsert or call.info.subresource:
                raise not_found(call.resource.storage, call.info.name)
            if call.resource.crd is None and not namespace_exists(core, call):
                raise not_found("namespaces", call.info.namespace)
            obj = await make(None)
            try:
                return await create_object(core, call, obj, options, tracked=True), True
            except Conflict as error:
                if error.status_reason != "AlreadyExists" or attempt == ATTEMPTS - 1:
                    raise
                continue
        try:
            written = await _update_once(core, call, live, make, options, tracked)
        except _Lost:
            if fixed_version:
                break
            continue
        return written, False
    raise conflict(call.resource.storage, call.info.name)


def namespace_exists(core: Core, call: Call) -> bool:
    namespace = call.info.namespace
    return not call.resource.info.namespaced or core.store.head(Key("namespaces", "", namespace)) is not None


class _Lost(MeltemError):
    """Somebody else's write came between; nobody but `write` sees this."""


async def _update_once(
    core: Core, call: Call, live: Entry, make: Maker, options: WriteOptions, tracked: bool
) -> Entry | JsonObject:
    resource = call.resource
    old = await convert(resource, live.object, resource.api_version, core.converter)
    obj = await make(copy_object(old))
    check_versions(call, obj, live)
    now = rfc3339(core.clock.now())
    obj = default(resource.schema, obj)
    prepare.system_metadata(obj, old)
    prepare.for_update(resource, obj, old, call.info.subresource)
    if not tracked:
        obj = _tracked(call, obj, old, options, now)
    attributes = Attributes(
        operation="UPDATE",
        resource=resource,
        subresource=call.info.subresource,
        namespace=live.key.namespace,
        name=live.key.name,
        user=call.user,
        object=obj,
        old=old,
        options=options.as_object("PatchOptions" if call.info.verb == "patch" else "UpdateOptions"),
        dry_run=options.dry_run,
    )
    mutated = await core.admission.mutate(attributes, call.warnings)
    if mutated is not None and mutated is not obj:
        obj = default(resource.schema, prune(resource.schema, mutated)[0])
        prepare.system_metadata(obj, old)
        prepare.for_update(resource, obj, old, call.info.subresource)
    prepare.generation(resource, obj, old)
    core.allocator.prepare(obj, old)
    refuse_invalid(call, obj, old)
    await core.admission.validate(_with(attributes, obj, old), call.warnings)
    stored = await convert(resource, obj, resource.storage_version, core.converter)
    return await _store(core, live, stored, options.dry_run)


def _tracked(call: Call, obj: JsonObject, old: JsonObject, options: WriteOptions, now: str) -> JsonObject:
    return track_update(
        call.resource.schema,
        old,
        obj,
        manager=options.manager_or_agent,
        operation="Update",
        api_version=call.resource.api_version,
        now=now,
        subresource=call.info.subresource,
    )


async def _store(core: Core, live: Entry, stored: JsonObject, dry_run: bool) -> Entry | JsonObject:
    """Stages the result, unless it equals what is there or somebody was faster (`_Lost`)."""
    if core.store.head(live.key) is not live:
        raise _Lost("the object has changed")
    before = live.object
    if prepare.same(stored, before):
        return live
    stored = copy_object(stored)
    ensure_object(stored, "metadata")["resourceVersion"] = str(live.rv)
    if dry_run:
        return stored
    if finished_deleting(stored):
        await core.store.stage(live.key, stored)
        if core.store.head(live.key) is not None:
            await core.store.stage(live.key, None)
        return stored
    return await core.store.stage(live.key, stored)


# Checks


def check_type(call: Call, obj: JsonObject) -> None:
    """apiVersion and kind must be those of the path; raises BadRequest."""
    info = call.resource.info
    kind, api_version = str_at(obj, "kind"), str_at(obj, "apiVersion")
    if not kind and not api_version:
        obj["kind"], obj["apiVersion"] = info.kind, info.api_version
        return
    if not kind:
        raise BadRequest("Object 'Kind' is missing in the body of the request")
    if api_version != info.api_version or kind != info.kind:
        if kind == info.kind:
            raise BadRequest(
                f"the API version in the data ({api_version}) does not match the expected API version"
                f" ({info.api_version})"
            )
        raise BadRequest(
            f"{kind} in version {api_version.rpartition('/')[2]!r} cannot be handled as a {info.kind}: the kind in the"
            f" data ({kind}) does not match the expected kind ({info.kind})"
        )


def pruned(call: Call, obj: JsonObject, validation: str) -> JsonObject:
    """Without unknown fields; raises BadRequest for Strict and for values of the wrong type, warns for Warn."""
    info = call.resource.info
    problem = decode_problem(call.resource.schema, obj)
    if problem:
        raise BadRequest(f'{info.kind} in version "{info.version}" cannot be handled as a {info.kind}: {problem}')
    known, unknown = prune(call.resource.schema, obj)
    if unknown and validation == "Strict":
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise BadRequest(f"strict decoding error: {listed}")
    if unknown and validation == "Warn":
        call.warnings.extend(f'unknown field "{path}"' for path in unknown)
    return known


def fill_names(call: Call, obj: JsonObject) -> JsonObject:
    """Namespace and name from the path and generateName; raises BadRequest where they disagree."""
    meta = ensure_object(obj, "metadata")
    if call.resource.info.namespaced:
        given = str_at(meta, "namespace")
        if given and given != call.info.namespace:
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        if not call.info.namespace:
            raise NotFound("the server could not find the requested resource")
        meta["namespace"] = call.info.namespace
    else:
        meta.pop("namespace", None)
    base = str_at(meta, "generateName")
    if not str_at(meta, "name"):
        if call.info.name:
            meta["name"] = call.info.name
        elif base:
            suffix = "".join(secrets.choice(_NAME_LETTERS) for _ in range(5))
            meta["name"] = base[: 63 - len(suffix)] + suffix
    return meta


def check_versions(call: Call, obj: JsonObject, live: Entry) -> None:
    """resourceVersion and uid, where given, must be those of the live object; raises Conflict."""
    storage, name = call.resource.storage, call.info.name
    uid = uid_of(obj)
    if uid and uid != uid_of(live.object):
        raise conflict(
            storage, name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {uid_of(live.object)}"
        )
    rv = str_at(obj, "metadata", "resourceVersion")
    if rv and rv != "0" and rv != str(live.rv):
        raise conflict(storage, name)


def refuse_invalid(call: Call, obj: JsonObject, old: JsonObject | None) -> None:
    info = call.resource.info
    errors = validate(call.resource.schema, obj, old)
    added = prepare.new_finalizers(obj, old)
    if added:
        why = f"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {added}"
        errors.append(FieldError("metadata.finalizers", "FieldValueForbidden", why))
    if errors:
        raise invalid(info.group, info.kind, name_of(obj), errors)
