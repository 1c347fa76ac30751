"""HorizontalPodAutoscalers: refused honestly. There is no metrics server here, so none of them can scale.

In: HorizontalPodAutoscalers. Out: the conditions and event that a cluster without a metrics server gives; nothing is
scaled.
"""

from __future__ import annotations

from meltem.clock import rfc3339
from meltem.kube.resource_types import HORIZONTAL_POD_AUTOSCALERS
from meltem.kube.store import Key
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, enqueue_self, is_deleting
from meltem.objects import JsonObject, int_at, object_at, str_at

_MESSAGE = (
    "the HPA was unable to compute the replica count: failed to get resource metric: unable to fetch metrics from "
    "resource metrics API: a local cluster has no metrics server"
)


class AutoscalerController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._scalers = ctx.cache(HORIZONTAL_POD_AUTOSCALERS)
        self._queue: WorkQueue[Key] = WorkQueue("autoscalers")

    async def run(self) -> None:
        enqueue_self(self._scalers, self._queue)
        await self._queue.run(self._sync)

    async def _sync(self, key: Key) -> None:
        scaler = self._scalers.get(key[1], key[0])
        if scaler is None or is_deleting(scaler):
            return
        known = podlib.condition(scaler, "ScalingActive")
        if str_at(known, "reason") == "FailedGetResourceMetric":
            return
        now = rfc3339(self._ctx.clock.now())
        conditions = podlib.list_conditions(scaler)
        for kind, value, reason, message in (
            ("AbleToScale", "True", "SucceededGetScale", "the target's current scale can be read"),
            ("ScalingActive", "False", "FailedGetResourceMetric", _MESSAGE),
        ):
            conditions = podlib.set_condition(
                conditions,
                {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now},
            )
        status: JsonObject = {**object_at(scaler, "status"), "conditions": conditions}
        status.setdefault("currentReplicas", 0)
        status.setdefault("desiredReplicas", int_at(scaler, "status", "desiredReplicas"))
        await self._ctx.update_status(HORIZONTAL_POD_AUTOSCALERS, scaler, status)
        self._ctx.events.event(scaler, "Warning", "FailedGetResourceMetric", _MESSAGE)
