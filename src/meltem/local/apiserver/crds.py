"""CustomResourceDefinitions: names accepted, versions served, conversion, and the end of their instances.

In: every change of a CRD in the store. Out: the registry serves what the CRDs say, their conditions say so, and when
a CRD is deleted its instances go first (its finalizer holds it for as long). Conversion webhooks are asked here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import cache

from meltem.clock import Clock, rfc3339
from meltem.errors import ApiError, MeltemError, ServerError
from meltem.local.apiserver.registry import CRD_STORAGE, Registry, Resource
from meltem.local.apiserver.schema.kinds import KindInfo
from meltem.local.apiserver.schema.types import Schema, crd_schema
from meltem.local.apiserver.storage import Change, Key, Store
from meltem.local.apiserver.upstream import CallFailed, Upstream
from meltem.local.apiserver.watch import Hub
from meltem.objects import (
    Json,
    JsonObject,
    bool_at,
    copy_object,
    ensure_object,
    list_at,
    name_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
    uid_of,
)

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_CONVERT_SECONDS = 30.0
_log = logging.getLogger("meltem.apiserver")


class CrdManager:
    """`load` once the store is read, then `run` in a task; `convert` is the registry's webhook converter."""

    def __init__(self, store: Store, hub: Hub, registry: Registry, clock: Clock, upstream: Upstream) -> None:
        self._store = store
        self._hub = hub
        self._registry = registry
        self._clock = clock
        self._upstream = upstream
        self._wake = asyncio.Event()
        self._dirty: set[str] = set()
        store.listen(self._changed)

    def load(self) -> None:
        """Serves what the stored CRDs define."""
        for entry in self._store.entries(CRD_STORAGE):
            self._dirty.add(entry.key.name)
            if _established(entry.object):
                self._serve(entry.object)
        self._wake.set()

    def _changed(self, change: Change) -> None:
        """Called for every committed change, before anybody is told of it: what is established is served by then."""
        if change.entry.key.resource == CRD_STORAGE:
            name = change.entry.key.name
            if change.kind == "DELETED":
                self._registry.replace_custom(name, ())
                self._hub.end(name)
            else:
                if _established(change.entry.object):
                    self._serve(change.entry.object)
                self._dirty.add(name)
                self._wake.set()
        elif "." in change.entry.key.resource and change.kind == "DELETED" and self._store_has_crd(change):
            self._dirty.add(change.entry.key.resource)
            self._wake.set()

    def _store_has_crd(self, change: Change) -> bool:
        crd = self._store.get(Key(CRD_STORAGE, "", change.entry.key.resource))
        return crd is not None and "deletionTimestamp" in object_at(crd.object, "metadata")

    def _serve(self, crd: JsonObject) -> None:
        storage = name_of(crd)
        try:
            resources = resources_of(crd)
        except (
            ApiError,
            MeltemError,
        ) as error:  # validated at admission: only a database of an older version gets here
            _log.error("%s cannot be served: %s", storage, error)
            return
        before = {r.api_version for r in self._registry.versions_of(storage)}
        self._registry.replace_custom(storage, resources)
        if before - {r.api_version for r in resources}:
            self._hub.end(storage)

    async def run(self) -> None:
        """Reconciles CRDs one after the other, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._dirty = sorted(self._dirty), set()
            for name in names:
                try:
                    await self._reconcile(name)
                except (ApiError, MeltemError) as error:
                    _log.error("%s was not reconciled: %s", name, error)

    async def _reconcile(self, name: str) -> None:
        entry = self._store.head(Key(CRD_STORAGE, "", name))
        if entry is None:
            return
        crd = copy_object(entry.object)
        if "deletionTimestamp" in object_at(crd, "metadata"):
            await self._finish(name, crd)
            return
        changed = self._ensure_finalizer(crd)
        changed = self._accept(crd) or changed
        if changed and self._store.head(entry.key) is entry:
            await self._store.stage(entry.key, crd)
        elif changed:
            self._dirty.add(name)
            self._wake.set()

    def _ensure_finalizer(self, crd: JsonObject) -> bool:
        meta = ensure_object(crd, "metadata")
        finalizers = strings_at(meta, "finalizers")
        if CLEANUP in finalizers:
            return False
        meta["finalizers"] = [*finalizers, CLEANUP]
        return True

    def _accept(self, crd: JsonObject) -> bool:
        """Names and conditions in the status; is it changed?"""
        before = copy_object(object_at(crd, "status"))
        status = ensure_object(crd, "status")
        conflict = self._name_conflict(crd)
        names = copy_object(object_at(crd, "spec", "names"))
        if not conflict:
            status["acceptedNames"] = names
        else:
            status.setdefault("acceptedNames", {"kind": "", "plural": ""})
        stored = strings_at(status, "storedVersions")
        storage = next((str_at(v, "name") for v in objects_at(crd, "spec", "versions") if bool_at(v, "storage")), "")
        if storage and storage not in stored:
            stored.append(storage)
        status["storedVersions"] = [*stored]
        if conflict:
            self._condition(status, "NamesAccepted", "False", conflict[0], conflict[1])
            if not _condition_is(status, "Established", "True"):
                self._condition(status, "Established", "False", "NotAccepted", "not all names are accepted")
        else:
            self._condition(status, "NamesAccepted", "True", "NoConflicts", "no conflicts found")
            self._condition(
                status, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted"
            )
        return status != before

    def _name_conflict(self, crd: JsonObject) -> tuple[str, str] | None:
        """Another CRD of the group that holds one of the names, if any: (reason, message)."""
        names = object_at(crd, "spec", "names")
        own = {str_at(names, "plural"), str_at(names, "singular"), *strings_at(names, "shortNames")} - {""}
        for entry in self._store.entries(CRD_STORAGE):
            other = entry.object
            if uid_of(other) == uid_of(crd) or str_at(other, "spec", "group") != str_at(crd, "spec", "group"):
                continue
            held = object_at(other, "status", "acceptedNames")
            taken = {str_at(held, "plural"), str_at(held, "singular"), *strings_at(held, "shortNames")} - {""}
            if own & taken:
                name = sorted(own & taken)[0]
                return "ResourceNamesConflict", f'"{name}" is already in use'
            if str_at(held, "kind") and str_at(held, "kind") == str_at(names, "kind"):
                return "KindConflict", f'"{str_at(names, "kind")}" is already in use'
        return None

    def _condition(self, status: JsonObject, kind: str, value: str, reason: str, message: str) -> None:
        conditions = [*list_at(status, "conditions")]
        found = next((c for c in conditions if isinstance(c, dict) and c.get("type") == kind), None)
        if found is not None and found.get("status") == value:
            return
        condition: JsonObject = {
            "type": kind,
            "status": value,
            "lastTransitionTime": rfc3339(self._clock.now()),
            "reason": reason,
            "message": message,
        }
        rest: list[Json] = [c for c in conditions if c is not found]
        status["conditions"] = [*rest, condition]

    async def _finish(self, name: str, crd: JsonObject) -> None:
        """Deletes the instances; when none is left, lets the CRD go."""
        if CLEANUP not in strings_at(crd, "metadata", "finalizers"):
            return
        now = rfc3339(self._clock.now())
        status = ensure_object(crd, "status")
        for entry in self._store.heads(name):
            obj = copy_object(entry.object)
            meta = ensure_object(obj, "metadata")
            if not list_at(meta, "finalizers"):
                await self._store.stage(entry.key, None)
            elif "deletionTimestamp" not in meta:
                meta["deletionTimestamp"] = now
                meta["deletionGracePeriodSeconds"] = 0
                await self._store.stage(entry.key, obj)
        key = Key(CRD_STORAGE, "", name)
        if self._store.heads(name):
            before = copy_object(status)
            self._condition(status, "Terminating", "True", "InstanceDeletionInProgress", "instances are being deleted")
            if status != before:
                await self._store.stage(key, crd)
            return
        current = self._store.head(key)
        if current is None:
            return
        last = copy_object(current.object)
        meta = ensure_object(last, "metadata")
        finalizers: list[Json] = [f for f in strings_at(meta, "finalizers") if f != CLEANUP]
        if finalizers:
            meta["finalizers"] = finalizers
            await self._store.stage(key, last)
        else:
            await self._store.stage(key, None)

    async def convert(self, crd: JsonObject, api_version: str, objects: Sequence[JsonObject]) -> list[JsonObject]:
        """Asks the CRD's conversion webhook; raises ServerError when it does not answer properly."""
        config = object_at(crd, "spec", "conversion", "webhook", "clientConfig")
        uid = f"{name_of(crd)}-{id(objects):x}"
        review: JsonObject = {
            "kind": "ConversionReview",
            "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": [*objects]},
        }
        said = f"conversion webhook for {name_of(crd)} failed"
        try:
            answer = await self._upstream.post(config, review, _CONVERT_SECONDS)
        except CallFailed as error:
            raise ServerError(f"{said}: {error}") from None
        response = object_at(answer, "response")
        if str_at(response, "result", "status") != "Success":
            raise ServerError(f"{said}: {str_at(response, 'result', 'message') or 'no success was reported'}")
        converted = objects_at(response, "convertedObjects")
        if str_at(response, "uid") != uid or len(converted) != len(objects):
            raise ServerError(f"{said}: it answered {len(converted)} objects for {len(objects)}")
        for before, after in zip(objects, converted, strict=True):
            if str_at(after, "apiVersion") != api_version or uid_of(after) != uid_of(before):
                raise ServerError(f"{said}: it changed what it may not, or answered in {str_at(after, 'apiVersion')}")
        return converted


def _condition_is(status: JsonObject, kind: str, value: str) -> bool:
    return any(str_at(c, "type") == kind and str_at(c, "status") == value for c in objects_at(status, "conditions"))


def _established(crd: JsonObject) -> bool:
    return _condition_is(object_at(crd, "status"), "Established", "True")


def resources_of(crd: JsonObject) -> list[Resource]:
    """The served versions of an established CRD, as resources; raises Invalid for a schema that cannot be used."""
    spec = object_at(crd, "spec")
    versions = objects_at(spec, "versions")
    group = str_at(spec, "group")
    storage_version = next((str_at(v, "name") for v in versions if bool_at(v, "storage")), "")
    return [
        Resource(
            info=_kind_info(crd, version),
            storage=name_of(crd),
            storage_version=f"{group}/{storage_version}",
            load_schema=_schema_loader(version),
            crd=crd,
            crd_version=version,
        )
        for version in versions
        if bool_at(version, "served")
    ]


def _schema_loader(version: JsonObject) -> Callable[[], Schema]:
    raw = object_at(version, "schema", "openAPIV3Schema")

    @cache
    def load() -> Schema:
        return crd_schema(raw)

    return load


def _kind_info(crd: JsonObject, version: JsonObject) -> KindInfo:
    names = object_at(crd, "status", "acceptedNames") or object_at(crd, "spec", "names")
    kind = str_at(names, "kind")
    subresources = frozenset(k for k in ("status", "scale") if k in object_at(version, "subresources"))
    return KindInfo(
        group=str_at(crd, "spec", "group"),
        version=str_at(version, "name"),
        kind=kind,
        plural=str_at(names, "plural"),
        singular=str_at(names, "singular") or kind.lower(),
        namespaced=str_at(crd, "spec", "scope") == "Namespaced",
        short_names=tuple(strings_at(names, "shortNames")),
        categories=tuple(strings_at(names, "categories")),
        subresources=subresources,
        list_kind=str_at(names, "listKind") or f"{kind}List",
    )
