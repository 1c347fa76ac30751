"""PodDisruptionBudgets: how many pods may be evicted now.

In: budgets, pods, the workloads that own them. Out: `status` of the budgets; the API server's eviction subresource
reads `disruptionsAllowed`.
"""

from __future__ import annotations

from meltem.clock import rfc3339
from meltem.kube.resource_types import (
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    STATEFUL_SETS,
)
from meltem.kube.selectors import selects
from meltem.kube.store import Key, Store, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers import rollout
from meltem.local.controllers.runtime import Context, controller_of, enqueue_self, is_deleting
from meltem.objects import (
    JsonObject,
    at,
    copy_object,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    str_at,
    string_map_at,
    uid_of,
)

_EVICTION_SECONDS = 120.0  # an eviction that was allowed but never happened is forgotten after this


class DisruptionController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._budgets = ctx.cache(POD_DISRUPTION_BUDGETS)
        self._pods = ctx.cache(PODS)
        self._owners: dict[str, Store] = {
            rt.kind: ctx.cache(rt) for rt in (DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, REPLICATION_CONTROLLERS)
        }
        self._queue: WorkQueue[Key] = WorkQueue("disruption-budgets")

    async def run(self) -> None:
        enqueue_self(self._budgets, self._queue)
        self._pods.on_change(self._pod_changed)
        await self._queue.run(self._sync)

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        pods = [p for p in (old, new) if p is not None]
        for budget in self._budgets.in_namespace(namespace_of(pods[0])):
            if any(selects(at(budget, "spec", "selector"), labels_of(p)) for p in pods):
                self._queue.add(key_of(budget))

    async def _sync(self, key: Key) -> None:
        budget = self._budgets.get(key[1], key[0])
        if budget is None or is_deleting(budget):
            return
        pods = [
            p
            for p in self._pods.in_namespace(key[0])
            if selects(at(budget, "spec", "selector"), labels_of(p)) and not podlib.is_finished(p)
        ]
        expected, desired = self._desired(budget, pods)
        disrupted, soonest = self._disrupted(budget, pods)
        healthy = sum(podlib.is_ready(p) and not is_deleting(p) and name_of(p) not in disrupted for p in pods)
        allowed = max(0, healthy - desired) if expected else 0
        enough = allowed > 0
        status = copy_object(object_at(budget, "status"))
        status |= {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": allowed,
            "observedGeneration": int_at(budget, "metadata", "generation"),
            "conditions": podlib.set_condition(
                podlib.list_conditions(budget),
                {
                    "type": "DisruptionAllowed",
                    "status": "True" if enough else "False",
                    "reason": "SufficientPods" if enough else "InsufficientPods",
                    "message": "",
                    "observedGeneration": int_at(budget, "metadata", "generation"),
                    "lastTransitionTime": rfc3339(self._ctx.clock.now()),
                },
            ),
        }
        status.pop("disruptedPods", None)
        if disrupted:
            status["disruptedPods"] = {**disrupted}
        await self._ctx.update_status(POD_DISRUPTION_BUDGETS, budget, status)
        if soonest is not None:
            self._queue.add_after(key, soonest)

    def _desired(self, budget: JsonObject, pods: list[JsonObject]) -> tuple[int, int]:
        """(pods expected, pods that must stay healthy)."""
        least, most = at(budget, "spec", "minAvailable"), at(budget, "spec", "maxUnavailable")
        if isinstance(least, int):
            return len(pods), least
        expected = self._expected(pods)
        if most is not None:
            return expected, max(0, expected - rollout.share(most, expected, default="0", up=True))
        return expected, rollout.share(least, expected, default="1", up=True)

    def _expected(self, pods: list[JsonObject]) -> int:
        """What the pods' workloads want in all; bare pods count one each."""
        total = 0
        seen: set[str] = set()
        for pod in pods:
            scale = self._scale_of(pod)
            if scale is None:
                total += 1
            elif uid_of(scale) not in seen:
                seen.add(uid_of(scale))
                total += int_at(scale, "spec", "replicas", default=1)
        return total

    def _scale_of(self, obj: JsonObject) -> JsonObject | None:
        reference = controller_of(obj)
        store = self._owners.get(str_at(reference or {}, "kind"))
        owner = store.get(str_at(reference, "name"), namespace_of(obj)) if store is not None and reference else None
        return (self._scale_of(owner) or owner) if owner is not None else None

    def _disrupted(self, budget: JsonObject, pods: list[JsonObject]) -> tuple[dict[str, str], float | None]:
        """Pods whose eviction was granted but is not seen yet, and when to look again."""
        now = self._ctx.clock.now()
        living = {name_of(p) for p in pods if not is_deleting(p)}
        kept: dict[str, str] = {}
        soonest: float | None = None
        for name, text in string_map_at(budget, "status", "disruptedPods").items():
            left = (podlib.moment(text) or 0.0) + _EVICTION_SECONDS - now
            if name in living and left > 0:
                kept[name] = text
                soonest = left if soonest is None else min(soonest, left)
        return kept, soonest
