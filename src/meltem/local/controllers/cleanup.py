"""Housekeeping: events older than an hour, pods that nobody will finish.

In: events, pods, nodes. Out: deletions. Finished pods past the threshold go oldest first; pods on a node that does not
exist, and terminating pods that never had a node, are removed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from meltem import errors
from meltem.kube.resource_types import EVENTS, NODES, PODS
from meltem.kube.store import Callback
from meltem.local.config import NODE_NAME
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import JsonObject, name_of, namespace_of, str_at, uid_of

_EVENT_SECONDS = 3600.0
_EVENT_ROUND = 300.0
_POD_ROUND = 20.0
_FINISHED_PODS = 500


class CleanupController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._pods = ctx.cache(PODS)
        self._nodes = ctx.cache(NODES)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._events, _EVENT_ROUND), name="event expiry")
            group.create_task(self._repeat(self._orphans, _POD_ROUND), name="pod cleanup")
            self._pods.on_change(self._pod_changed(group))

    def _pod_changed(self, group: asyncio.TaskGroup) -> Callback:
        def changed(_old: JsonObject | None, new: JsonObject | None) -> None:
            if new is not None and is_deleting(new) and not str_at(new, "spec", "nodeName"):
                group.create_task(self._remove(new))

        return changed

    async def _repeat(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            with contextlib.suppress(errors.ApiError, errors.Unreachable):  # next round
                await work()
            await self._ctx.clock.sleep(seconds)

    async def _events(self) -> None:
        now = self._ctx.clock.now()
        for event in (await self._ctx.client.list(EVENTS)).items:
            last = (
                podlib.moment(str_at(event, "lastTimestamp"))
                or podlib.moment(str_at(event, "series", "lastObservedTime"))
                or podlib.moment(str_at(event, "eventTime"))
                or podlib.moment(str_at(event, "metadata", "creationTimestamp"))
                or now
            )
            if now - last > _EVENT_SECONDS:
                await self._ctx.delete(EVENTS, event)

    async def _orphans(self) -> None:
        finished = [p for p in self._pods if podlib.is_finished(p) and not is_deleting(p)]
        finished.sort(key=lambda p: str_at(p, "metadata", "creationTimestamp"))
        for pod in finished[: max(0, len(finished) - _FINISHED_PODS)]:
            await self._remove(pod)
        known = {name_of(n) for n in self._nodes} | {NODE_NAME}
        for pod in self._pods:
            node = str_at(pod, "spec", "nodeName")
            if (node and node not in known) or (not node and is_deleting(pod)):
                await self._remove(pod)

    async def _remove(self, pod: JsonObject) -> None:
        try:
            await self._ctx.client.delete(PODS, name_of(pod), namespace_of(pod), grace_seconds=0, uid=uid_of(pod))
        except (errors.ApiError, errors.Unreachable):
            return  # gone already, or the next round finds it
