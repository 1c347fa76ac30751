"""The garbage collector: objects whose owners are gone go as well; foreground deletion waits for them, orphaning frees
them.

In: the metadata of every object of every kind that the server serves, custom resources included. Out: deletions,
`ownerReferences` without owners that are gone, and the finalizers `foregroundDeletion` and `orphan` taken off when
their work is done. An owner counts as gone only when the server itself says so: caches may be behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from meltem import errors
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import CRDS, EVENTS, ResourceType
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import (
    Json,
    JsonObject,
    bool_at,
    name_of,
    namespace_of,
    objects_at,
    str_at,
    strings_at,
    uid_of,
)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
_REFRESH_SECONDS = 30.0

log = structlog.stdlib.get_logger(__name__)


class Owner(msgspec.Struct, frozen=True):
    """One owner reference."""

    uid: str
    api_version: str
    kind: str
    name: str
    blocks: bool


class Node(msgspec.Struct, frozen=True):
    """What the collector knows of one object."""

    rt: ResourceType
    namespace: str
    name: str
    uid: str
    owners: tuple[Owner, ...]
    deleting: bool
    finalizers: tuple[str, ...]


class Graph:
    """Who owns whom, by uid."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._dependents: dict[str, dict[str, None]] = {}

    def put(self, node: Node) -> None:
        self.remove(node.uid)
        self.nodes[node.uid] = node
        for owner in node.owners:
            self._dependents.setdefault(owner.uid, {})[node.uid] = None

    def remove(self, uid: str) -> Node | None:
        node = self.nodes.pop(uid, None)
        for owner in node.owners if node else ():
            known = self._dependents.get(owner.uid)
            if known is not None:
                known.pop(uid, None)
                if not known:
                    del self._dependents[owner.uid]
        return node

    def dependents(self, uid: str) -> list[Node]:
        return [self.nodes[u] for u in self._dependents.get(uid, ()) if u in self.nodes]


class _Sink:
    """Feeds one kind into the graph."""

    def __init__(self, collector: GarbageCollector, rt: ResourceType) -> None:
        self._collector = collector
        self._rt = rt
        self._uids: set[str] = set()

    def replace(self, items: Sequence[JsonObject]) -> None:
        gone = self._uids - {uid_of(item) for item in items}
        for item in items:
            self.upsert(item)
        for uid in gone:
            self._gone(uid)

    def upsert(self, obj: JsonObject) -> None:
        self._uids.add(uid_of(obj))
        self._collector.seen(node_of(self._rt, obj))

    def delete(self, obj: JsonObject) -> None:
        self._gone(uid_of(obj))

    def _gone(self, uid: str) -> None:
        self._uids.discard(uid)
        self._collector.gone(uid)


class GarbageCollector:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._crds = ctx.cache(CRDS)
        self.graph = Graph()
        self._queue: WorkQueue[str] = WorkQueue("garbage")
        self._watched: dict[ResourceType, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._absent: dict[str, None] = {}

    async def run(self) -> None:
        self._crds.on_change(lambda _old, _new: self._look.set())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_all(group), name="garbage kinds")
            group.create_task(self._queue.run(self._sync), name="garbage")

    async def _watch_all(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._look.clear()
            try:
                served = await self._ctx.client.resource_types()
            except (errors.ApiError, errors.Unreachable):
                await self._ctx.clock.sleep(1.0)
                continue
            wanted = {rt for rt in served if rt != EVENTS and rt.plural != "events"}
            for rt in wanted - self._watched.keys():
                reflector = Reflector(self._ctx.client, rt, _Sink(self, rt), clock=self._ctx.clock)
                self._watched[rt] = group.create_task(reflector.run(), name=f"garbage {rt.full_name}")
            for rt in self._watched.keys() - wanted:
                self._watched.pop(rt).cancel()
                for node in [n for n in self.graph.nodes.values() if n.rt == rt]:
                    self.gone(node.uid)
            try:
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._look.wait()
                await self._ctx.clock.sleep(0.3)  # a new CRD is served a moment after it appears
            except TimeoutError:
                pass

    def seen(self, node: Node) -> None:
        """An object is there, as described."""
        before = self.graph.nodes.get(node.uid)
        if before == node:
            return
        self.graph.put(node)
        if node.owners or FOREGROUND in node.finalizers or ORPHAN in node.finalizers:
            self._queue.add(node.uid)
        # An owner in foreground deletion waits for changes of what it owns, whatever they are.
        for owner in node.owners:
            waiting = self.graph.nodes.get(owner.uid)
            if waiting is not None and waiting.deleting:
                self._queue.add(owner.uid)

    def gone(self, uid: str) -> None:
        """An object is no more."""
        node = self.graph.remove(uid)
        self._absent[uid] = None
        if len(self._absent) > 2000:
            self._absent.pop(next(iter(self._absent)))
        for dependent in self.graph.dependents(uid):
            self._queue.add(dependent.uid)
        for owner in node.owners if node else ():
            if owner.uid in self.graph.nodes:
                self._queue.add(owner.uid)

    async def _sync(self, uid: str) -> None:
        node = self.graph.nodes.get(uid)
        if node is None:
            return
        if node.deleting and ORPHAN in node.finalizers:
            await self._orphan(node)
            return
        if node.deleting and FOREGROUND in node.finalizers:
            await self._foreground(node)
            return
        if node.deleting or not node.owners:
            return
        present: list[Owner] = []
        absent: list[Owner] = []
        for owner in node.owners:
            (present if await self._exists(node, owner) else absent).append(owner)
        blocked = [o for o in present if self._in_foreground(o.uid)]
        solid = [o for o in present if o not in blocked]
        if solid:
            if absent or blocked:
                await self._drop_owners(node, {o.uid for o in [*absent, *blocked]})
        elif blocked:
            deeper = any(d for d in self.graph.dependents(uid))
            await self._delete(node, "Foreground" if deeper else "Background")
        elif absent:
            orphan = ORPHAN in node.finalizers
            foreground = FOREGROUND in node.finalizers
            await self._delete(node, "Orphan" if orphan else "Foreground" if foreground else "Background")

    def _in_foreground(self, uid: str) -> bool:
        node = self.graph.nodes.get(uid)
        return node is not None and node.deleting and FOREGROUND in node.finalizers

    async def _foreground(self, node: Node) -> None:
        """Deletes what is owned; lets the owner go once nothing that blocks it is left."""
        dependents = self.graph.dependents(node.uid)
        blocking = [d for d in dependents if any(o.uid == node.uid and o.blocks for o in d.owners)]
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)
        for dependent in dependents:
            if not dependent.deleting:
                self._queue.add(dependent.uid)

    async def _orphan(self, node: Node) -> None:
        for dependent in self.graph.dependents(node.uid):
            await self._drop_owners(dependent, {node.uid})
        await self._drop_finalizer(node, ORPHAN)

    async def _exists(self, node: Node, owner: Owner) -> bool:
        known = self.graph.nodes.get(owner.uid)
        if known is not None:
            # A reference to another namespace's object, or under a wrong name, refers to nothing.
            return known.name == owner.name and known.namespace in ("", node.namespace)
        if owner.uid in self._absent:
            return False
        try:
            rt = await self._ctx.client.resource_type(owner.api_version, owner.kind)
        except errors.NotFound:
            log.warning("an owner has a kind that is not served; its dependents stay", owner=owner.kind, name=node.name)
            return True
        if rt.namespaced and not node.namespace:
            return True  # invalid: leave it to a person
        try:
            found = await self._ctx.client.get(rt, owner.name, node.namespace)
        except errors.NotFound:
            return False
        return uid_of(found) == owner.uid

    async def _delete(self, node: Node, propagation: str) -> None:
        try:
            await self._ctx.client.delete(node.rt, node.name, node.namespace, uid=node.uid, propagation=propagation)
        except (errors.NotFound, errors.Conflict):
            return
        except errors.MethodNotAllowed:
            return

    async def _drop_owners(self, node: Node, uids: set[str]) -> None:
        try:
            obj = await self._ctx.client.get(node.rt, node.name, node.namespace)
            if uid_of(obj) != node.uid:
                return
            kept: list[Json] = [
                r for r in objects_at(obj, "metadata", "ownerReferences") if str_at(r, "uid") not in uids
            ]
            patch: JsonObject = {
                "metadata": {
                    "uid": node.uid,
                    "resourceVersion": str_at(obj, "metadata", "resourceVersion"),
                    "ownerReferences": kept,
                }
            }
            await self._ctx.client.patch(node.rt, node.name, node.namespace, patch)
        except errors.NotFound:
            return

    async def _drop_finalizer(self, node: Node, finalizer: str) -> None:
        try:
            obj = await self._ctx.client.get(node.rt, node.name, node.namespace)
            if uid_of(obj) != node.uid:
                return
            kept: list[Json] = [f for f in strings_at(obj, "metadata", "finalizers") if f != finalizer]
            version = str_at(obj, "metadata", "resourceVersion")
            patch: JsonObject = {"metadata": {"uid": node.uid, "resourceVersion": version, "finalizers": kept}}
            await self._ctx.client.patch(node.rt, node.name, node.namespace, patch)
        except errors.NotFound:
            return


def node_of(rt: ResourceType, obj: JsonObject) -> Node:
    return Node(
        rt=rt,
        namespace=namespace_of(obj),
        name=name_of(obj),
        uid=uid_of(obj),
        owners=tuple(
            Owner(
                uid=str_at(r, "uid"),
                api_version=str_at(r, "apiVersion"),
                kind=str_at(r, "kind"),
                name=str_at(r, "name"),
                blocks=bool_at(r, "blockOwnerDeletion"),
            )
            for r in objects_at(obj, "metadata", "ownerReferences")
        ),
        deleting=is_deleting(obj),
        finalizers=tuple(strings_at(obj, "metadata", "finalizers")),
    )
