"""What every controller works with: shared caches, a queue, the API client, an event recorder.

In: a client and the cluster's configuration. Out: `Context`; `Context.cache(rt)` gives the one shared store of a kind.
Controllers read from caches, write through `Context`, which shows their own writes to the caches at once, so that the
next look does not repeat them. Nothing is kept anywhere else: a controller killed at any moment starts again from what
the API server has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from meltem import errors
from meltem.clock import Clock, rfc3339
from meltem.kube.client import KubeClient
from meltem.kube.events import EventRecorder
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import ResourceType
from meltem.kube.store import IndexFunction, Key, Store, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.config import ClusterConfig
from meltem.objects import (
    JsonObject,
    at,
    bool_at,
    copy_object,
    name_of,
    namespace_of,
    objects_at,
    str_at,
    uid_of,
)

OWNER_INDEX = "owner"


class Controller(Protocol):
    async def run(self) -> None:
        """Works until cancelled; called after the caches have synced."""
        ...


class Context:
    """Shared by all controllers of one process."""

    def __init__(self, client: KubeClient, config: ClusterConfig, events: EventRecorder, clock: Clock) -> None:
        self.client = client
        self.config = config
        self.events = events
        self.clock = clock
        self._caches: dict[ResourceType, tuple[Store, Reflector]] = {}

    def cache(self, rt: ResourceType, indexes: Mapping[str, IndexFunction] | None = None) -> Store:
        """The shared store of a kind. Ask in a controller's constructor: caches are filled before controllers run."""
        known = self._caches.get(rt)
        if known is None:
            store = Store({OWNER_INDEX: controller_uids, **(indexes or {})})
            known = (store, Reflector(self.client, rt, store, clock=self.clock))
            self._caches[rt] = known
        return known[0]

    async def run(self, controllers: Iterable[Controller]) -> None:
        """Fills the caches, then runs every controller."""
        reflectors = [reflector for _, reflector in self._caches.values()]
        async with asyncio.TaskGroup() as group:
            group.create_task(self.events.run(), name="events")
            for reflector in reflectors:
                group.create_task(reflector.run(), name=f"reflector {reflector.rt.full_name}")
            for reflector in reflectors:
                await reflector.synced.wait()
            for controller in controllers:
                group.create_task(controller.run(), name=type(controller).__name__)

    # Writes that the caches see at once

    async def create(self, rt: ResourceType, obj: JsonObject, namespace: str = "") -> JsonObject:
        try:
            made = await self.client.create(rt, obj, namespace)
        except errors.Forbidden as error:
            if "being terminated" in error.message:  # the namespace is going: nothing can be or need be done
                raise errors.NotFound(error.message) from None
            raise
        self._observe(rt, made)
        return made

    async def update(self, rt: ResourceType, obj: JsonObject) -> JsonObject:
        made = await self.client.replace(rt, obj)
        self._observe(rt, made)
        return made

    async def patch(self, rt: ResourceType, obj: JsonObject, patch: JsonObject) -> JsonObject:
        """A merge patch of exactly this object (by uid: a new one of the same name is left alone)."""
        guarded: JsonObject = {**patch, "metadata": {**_metadata(patch), "uid": uid_of(obj)}}
        made = await self.client.patch(rt, name_of(obj), namespace_of(obj), guarded)
        self._observe(rt, made)
        return made

    async def update_status(self, rt: ResourceType, obj: JsonObject, status: JsonObject) -> JsonObject:
        """Writes `status` when it differs from what `obj` has."""
        if at(obj, "status") == status:
            return obj
        changed = copy_object(obj)
        changed["status"] = status
        changed.setdefault("apiVersion", rt.api_version)
        changed.setdefault("kind", rt.kind)
        made = await self.client.replace(rt, changed, subresource="status")
        self._observe(rt, made)
        return made

    async def delete(self, rt: ResourceType, obj: JsonObject, *, propagation: str = "Background") -> None:
        """Deletes exactly this object; one that is gone already is fine."""
        try:
            await self.client.delete(rt, name_of(obj), namespace_of(obj), uid=uid_of(obj), propagation=propagation)
        except (errors.NotFound, errors.Conflict):
            return  # gone, or replaced by a new one of that name
        if rt in self._caches:
            self._caches[rt][0].observe_deleting(obj, rfc3339(self.clock.now()))

    def _observe(self, rt: ResourceType, obj: JsonObject) -> None:
        if rt in self._caches:
            obj.setdefault("apiVersion", rt.api_version)
            obj.setdefault("kind", rt.kind)
            self._caches[rt][0].observe(obj)


def enqueue_self(store: Store, queue: WorkQueue[Key]) -> None:
    """Every change of an object queues its own key."""
    store.on_change(lambda old, new: queue.add(key_of(new or old or {})))


def enqueue_owner(store: Store, queue: WorkQueue[Key], kind: str, group: str = "apps") -> None:
    """Every change of an object queues its controlling owner, before and after the change."""

    def changed(old: JsonObject | None, new: JsonObject | None) -> None:
        for obj in (old, new):
            owner = controller_of(obj) if obj is not None else None
            if obj is not None and owner is not None and str_at(owner, "kind") == kind:
                owner_group = str_at(owner, "apiVersion").rpartition("/")[0]
                if owner_group == group:
                    queue.add((namespace_of(obj), str_at(owner, "name")))

    store.on_change(changed)


def controller_of(obj: JsonObject) -> JsonObject | None:
    """The owner reference with `controller: true`."""
    for reference in objects_at(obj, "metadata", "ownerReferences"):
        if bool_at(reference, "controller"):
            return reference
    return None


def controller_uids(obj: JsonObject) -> list[str]:
    """Index by controlling owner's uid; objects without one are under the empty string."""
    owner = controller_of(obj)
    return [str_at(owner, "uid") if owner is not None else ""]


def owner_reference(rt: ResourceType, owner: JsonObject) -> JsonObject:
    return {
        "apiVersion": rt.api_version,
        "kind": rt.kind,
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_deleting(obj: JsonObject) -> bool:
    return bool(str_at(obj, "metadata", "deletionTimestamp"))


def _metadata(obj: JsonObject) -> JsonObject:
    found = obj.get("metadata")
    return found if isinstance(found, dict) else {}
