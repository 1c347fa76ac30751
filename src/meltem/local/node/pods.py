"""All pods of this node: a sink for the watch of pods, one `PodWorker` for each.

In: pods whose spec.nodeName is this node, as the API server lists and changes them. Out: workers in a TaskGroup. A
worker whose task fails is logged and started again: one bad pod costs only itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from meltem.clock import Clock
from meltem.local.config import NODE_NAME
from meltem.local.node.pod_context import NodeServices
from meltem.local.node.pod_worker import PodWorker
from meltem.objects import JsonObject, int_at, name_of, namespace_of, str_at, uid_of

log = structlog.stdlib.get_logger(__name__)

_RESTART = 2.0


class Pods:
    """Give it to a Reflector of pods; `run` owns the workers."""

    def __init__(self, node: NodeServices) -> None:
        self._node = node
        self._clock: Clock = node.clock
        self._workers: dict[str, PodWorker] = {}
        self._new: asyncio.Queue[PodWorker] = asyncio.Queue()
        node.sources.on_change(self._source_changed)

    # ---- the sink ----

    def replace(self, items: Sequence[JsonObject]) -> None:
        there = {uid_of(p) for p in items}
        for pod in items:
            self.upsert(pod)
        for uid, worker in list(self._workers.items()):
            if uid not in there:
                self._lost(worker)

    def upsert(self, obj: JsonObject) -> None:
        if str_at(obj, "spec", "nodeName") != NODE_NAME or not uid_of(obj):
            return
        worker = self._workers.get(uid_of(obj))
        if worker is not None:
            worker.update(obj)
            return
        worker = PodWorker(self._node, obj)
        self._workers[uid_of(obj)] = worker
        self._new.put_nowait(worker)

    def delete(self, obj: JsonObject) -> None:
        worker = self._workers.get(uid_of(obj))
        if worker is not None:
            worker.update(obj)
            self._lost(worker)

    # ---- lookups for the node's API ----

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The pod of that name; the newest, where an older one is still ending."""
        found = [w for w in self._workers.values() if name_of(w.pod) == name and namespace_of(w.pod) == namespace]
        return max(found, key=lambda w: str_at(w.pod, "metadata", "creationTimestamp"), default=None)

    def all(self) -> list[PodWorker]:
        return list(self._workers.values())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._keep(await self._new.get()))

    async def _keep(self, worker: PodWorker) -> None:
        """Runs a worker; one that fails by an error of ours begins again with what is on disk."""
        while True:
            try:
                await worker.run()
                break
            except Exception:
                log.exception("pod failed unexpectedly, trying again", pod=worker.context.title)
            await self._clock.sleep(_RESTART)
            worker = PodWorker(self._node, worker.pod)
            self._workers[uid_of(worker.pod)] = worker
        self._workers.pop(uid_of(worker.pod), None)

    def _lost(self, worker: PodWorker) -> None:
        """Gone at the API server: force-deleted. Its containers still get their grace, but nobody waits for it."""
        grace = int_at(worker.pod, "metadata", "deletionGracePeriodSeconds", default=-1)
        if grace < 0:
            grace = int_at(worker.pod, "spec", "terminationGracePeriodSeconds", default=30)
        worker.stop(float(grace), gone=True)

    def _source_changed(self, kind: str, namespace: str, name: str) -> None:
        for worker in self._workers.values():
            worker.source_changed(kind, namespace, name)
