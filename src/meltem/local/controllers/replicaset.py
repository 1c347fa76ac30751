"""ReplicaSets and ReplicationControllers: as many pods of one template as `spec.replicas` says.

In: the objects and their pods. Out: pods created and deleted, `status`. A ReplicationController is the same thing
with a plain selector map.
"""

from __future__ import annotations

import asyncio

from meltem import errors
from meltem.clock import rfc3339
from meltem.kube.resource_types import PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, ResourceType
from meltem.kube.store import Key
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, enqueue_owner, enqueue_self, is_deleting
from meltem.objects import Json, JsonObject, at, int_at, labels_of, object_at, str_at, string_map_at

_BURST = 500  # pods created or deleted in one go
_FIRST_BATCH = 4  # creations double from here, so that a template nobody accepts costs few requests


class ReplicaSetController:
    """One instance for ReplicaSets, one for ReplicationControllers."""

    def __init__(self, ctx: Context, rt: ResourceType = REPLICA_SETS) -> None:
        self._ctx = ctx
        self._rt = rt
        self._sets = ctx.cache(rt)
        self._pods = ctx.cache(PODS)
        self._queue: WorkQueue[Key] = WorkQueue(rt.plural)

    async def run(self) -> None:
        enqueue_self(self._sets, self._queue)
        enqueue_owner(self._pods, self._queue, self._rt.kind, self._rt.group)
        self._pods.on_change(self._orphan_changed)
        await self._queue.run(self._sync)

    def _orphan_changed(self, _old: JsonObject | None, new: JsonObject | None) -> None:
        """A pod without owner may be one that a set wants."""
        if new is None or podlib.controller_of(new) is not None or is_deleting(new):
            return
        for owner in self._sets.in_namespace(str_at(new, "metadata", "namespace")):
            if podlib.selects(self._selector(owner), labels_of(new)):
                self._queue.add((str_at(owner, "metadata", "namespace"), str_at(owner, "metadata", "name")))

    def _selector(self, owner: JsonObject) -> Json:
        if self._rt == REPLICATION_CONTROLLERS:
            return {"matchLabels": dict(string_map_at(owner, "spec", "selector"))}
        return at(owner, "spec", "selector")

    async def _sync(self, key: Key) -> None:
        namespace, name = key
        owner = self._sets.get(name, namespace)
        if owner is None:
            return
        claimed = await podlib.claim(self._ctx, self._rt, owner, PODS, self._pods, self._selector(owner))
        active = [p for p in claimed if podlib.is_active(p)]
        failure: errors.ApiError | None = None
        if not is_deleting(owner):
            try:
                active = await self._scale(owner, active)
            except errors.ApiError as error:
                failure = error
                active = [
                    p for p in self._pods.by_index("owner", str_at(owner, "metadata", "uid")) if podlib.is_active(p)
                ]
        await self._write_status(owner, active, failure)
        if failure is not None:
            raise failure

    async def _scale(self, owner: JsonObject, active: list[JsonObject]) -> list[JsonObject]:
        wanted = int_at(owner, "spec", "replicas", default=1)
        missing = wanted - len(active)
        if missing > 0:
            made: list[JsonObject] = []
            missing, batch = min(missing, _BURST), _FIRST_BATCH
            template = object_at(owner, "spec", "template")
            while len(made) < missing:
                new = [
                    podlib.create_pod(self._ctx, podlib.pod_from_template(template, self._rt, owner), owner)
                    for _ in range(min(batch, missing - len(made)))
                ]
                for result in await asyncio.gather(*new, return_exceptions=True):
                    if isinstance(result, BaseException):
                        raise result
                    made.append(result)
                batch *= 2
            return [*active, *made]
        if missing < 0:
            victims = sorted(active, key=podlib.deletion_rank)[: min(-missing, _BURST)]
            await asyncio.gather(*(podlib.delete_pod(self._ctx, pod, owner) for pod in victims))
            gone = {id(v) for v in victims}
            return [p for p in active if id(p) not in gone]
        return active

    async def _write_status(self, owner: JsonObject, active: list[JsonObject], failure: errors.ApiError | None) -> None:
        now = self._ctx.clock.now()
        min_ready = int_at(owner, "spec", "minReadySeconds")
        waits = [podlib.available_in(pod, min_ready, now) for pod in active]
        labels = string_map_at(owner, "spec", "template", "metadata", "labels").items()
        status: JsonObject = {
            "replicas": len(active),
            "fullyLabeledReplicas": sum(labels <= labels_of(pod).items() for pod in active),
            "readyReplicas": sum(podlib.is_ready(pod) for pod in active),
            "availableReplicas": sum(wait == 0 for wait in waits),
            "observedGeneration": int_at(owner, "metadata", "generation"),
        }
        if failure is not None:
            status["conditions"] = podlib.set_condition(
                podlib.list_conditions(owner),
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": str(failure),
                    "lastTransitionTime": rfc3339(now),
                },
            )
        # Kubernetes leaves zero counts out of what it stores, all but `replicas`.
        trimmed: JsonObject = {k: v for k, v in status.items() if v or k == "replicas"}
        await self._ctx.update_status(self._rt, owner, trimmed)
        soonest = min((w for w in waits if w), default=None)
        if soonest is not None:
            self._queue.add_after((str_at(owner, "metadata", "namespace"), str_at(owner, "metadata", "name")), soonest)
