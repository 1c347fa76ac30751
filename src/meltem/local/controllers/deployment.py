"""Deployments: one ReplicaSet a template, replaced step by step within `maxSurge` and `maxUnavailable`.

In: Deployments, their ReplicaSets and pods. Out: ReplicaSets created, scaled and (past `revisionHistoryLimit`) deleted;
revisions as annotations, so that `kubectl rollout history|undo` work; `status` with the conditions that `kubectl
rollout status` reads. One pass makes one step; the change that it makes brings the next pass.
"""

from __future__ import annotations

from collections.abc import Callable

from meltem import errors
from meltem.clock import rfc3339
from meltem.kube.resource_types import DEPLOYMENTS, PODS, REPLICA_SETS
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers import rollout
from meltem.local.controllers.runtime import (
    OWNER_INDEX,
    Context,
    controller_of,
    enqueue_owner,
    enqueue_self,
    is_deleting,
    owner_reference,
)
from meltem.objects import (
    JsonObject,
    annotations_of,
    at,
    bool_at,
    copy_json,
    copy_object,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    str_at,
    uid_of,
)

REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
_NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    rollout.DESIRED_ANNOTATION,
    rollout.MAX_ANNOTATION,
    "deprecated.deployment.rollback.to",
}


class DeploymentController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._deployments = ctx.cache(DEPLOYMENTS)
        self._sets = ctx.cache(REPLICA_SETS)
        self._pods = ctx.cache(PODS)
        self._queue: WorkQueue[Key] = WorkQueue("deployments")

    async def run(self) -> None:
        enqueue_self(self._deployments, self._queue)
        enqueue_owner(self._sets, self._queue, "Deployment")
        self._sets.on_change(self._orphan_changed)
        self._pods.on_change(self._pod_changed)
        await self._queue.run(self._sync)

    def _orphan_changed(self, _old: JsonObject | None, new: JsonObject | None) -> None:
        if new is None or controller_of(new) is not None or is_deleting(new):
            return
        for owner in self._deployments.in_namespace(namespace_of(new)):
            if podlib.selects(at(owner, "spec", "selector"), labels_of(new)):
                self._queue.add(key_of(owner))

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        """Recreate waits for the last old pod to be gone."""
        if new is not None or old is None:
            return
        reference = controller_of(old)
        owner_set = self._sets.get(str_at(reference, "name"), namespace_of(old)) if reference else None
        owner = controller_of(owner_set) if owner_set else None
        if owner is not None:
            self._queue.add((namespace_of(old), str_at(owner, "name")))

    async def _sync(self, key: Key) -> None:
        deployment = self._deployments.get(key[1], key[0])
        if deployment is None:
            return
        selector = at(deployment, "spec", "selector")
        sets = await podlib.claim(self._ctx, DEPLOYMENTS, deployment, REPLICA_SETS, self._sets, selector)
        sets.sort(key=lambda s: (str_at(s, "metadata", "creationTimestamp"), name_of(s)))
        new = _current(deployment, sets)
        if is_deleting(deployment):
            await self._write_status(deployment, sets, new)
            return
        changed = await self._step(deployment, sets, new)
        if not changed:
            old = [s for s in sets if s is not new]
            if _complete(deployment, new, sets):
                await self._forget_old(deployment, old)
        latest = [self._sets.get(name_of(s), namespace_of(s)) or s for s in sets]
        refreshed = self._deployments.get(key[1], key[0]) or deployment
        await self._write_status(refreshed, latest, _current(refreshed, latest))

    async def _step(self, deployment: JsonObject, sets: list[JsonObject], new: JsonObject | None) -> bool:
        """One step towards what is wanted; whether there was anything to do."""
        limits = rollout.bounds(deployment)
        active = [s for s in sets if rollout.size(s) > 0]
        if bool_at(deployment, "spec", "paused") or self._scaled(limits, active):
            if await self._rescale(deployment, limits, sets, new):
                return True
            if bool_at(deployment, "spec", "paused"):
                return False
        old = [s for s in sets if s is not new]
        if str_at(deployment, "spec", "strategy", "type") == "Recreate":
            running = False
            for item in old:
                if rollout.size(item) > 0:
                    await self._scale(deployment, item, 0, limits)
                    running = True
            if running or any(self._has_pods(item) for item in old):
                return True
            return await self._ensure_new(deployment, sets, new, limits)
        if await self._ensure_new(deployment, sets, new, limits):
            return True
        if new is None:
            return False
        wanted = rollout.grow_new(limits, new, old)
        if wanted != rollout.size(new):
            return await self._scale(deployment, new, wanted, limits)
        stepped = False
        by_name = {name_of(s): s for s in old}
        for name, replicas in rollout.shrink_old(limits, new, [s for s in old if rollout.size(s) > 0]).items():
            stepped |= await self._scale(deployment, by_name[name], replicas, limits)
        return stepped

    def _has_pods(self, replica_set: JsonObject) -> bool:
        return any(not podlib.is_finished(p) for p in self._pods.by_index(OWNER_INDEX, uid_of(replica_set)))

    @staticmethod
    def _scaled(limits: rollout.Bounds, active: list[JsonObject]) -> bool:
        """Whether `spec.replicas` was changed since the sets were last sized."""
        for item in active:
            annotated = annotations_of(item).get(rollout.DESIRED_ANNOTATION, "")
            if annotated.isdigit() and int(annotated) != limits.replicas:
                return True
        return False

    async def _rescale(
        self, deployment: JsonObject, limits: rollout.Bounds, sets: list[JsonObject], new: JsonObject | None
    ) -> bool:
        active = [s for s in sets if rollout.size(s) > 0]
        if len(active) <= 1:
            only = active[0] if active else new or (sets[-1] if sets else None)
            return only is not None and await self._scale(deployment, only, limits.replicas, limits)
        if new is not None and rollout.available(new) >= limits.replicas == rollout.size(new):
            results = [await self._scale(deployment, s, 0, limits) for s in active if s is not new]
            return any(results)
        if str_at(deployment, "spec", "strategy", "type") == "Recreate" or not self._scaled(limits, active):
            return False
        sizes = rollout.proportional(limits, active)
        results = [await self._scale(deployment, s, sizes[name_of(s)], limits) for s in active]
        return any(results)

    async def _scale(
        self, deployment: JsonObject, replica_set: JsonObject, replicas: int, limits: rollout.Bounds
    ) -> bool:
        annotations = annotations_of(replica_set)
        wanted = {rollout.DESIRED_ANNOTATION: str(limits.replicas), rollout.MAX_ANNOTATION: str(limits.most)}
        before = rollout.size(replica_set)
        if before == replicas and all(annotations.get(k) == v for k, v in wanted.items()):
            return False
        patch: JsonObject = {"metadata": {"annotations": {**wanted}}, "spec": {"replicas": replicas}}
        await self._ctx.patch(REPLICA_SETS, replica_set, patch)
        if before != replicas:
            how = "up" if replicas > before else "down"
            self._ctx.events.event(
                deployment,
                "Normal",
                "ScalingReplicaSet",
                f"Scaled {how} replica set {name_of(replica_set)} from {before} to {replicas}",
            )
        return True

    async def _ensure_new(
        self, deployment: JsonObject, sets: list[JsonObject], new: JsonObject | None, limits: rollout.Bounds
    ) -> bool:
        """The ReplicaSet of the current template exists, is fully sized for Recreate, and has the newest revision."""
        newest = max((_revision(s) for s in sets if s is not new), default=0) + 1
        if new is None:
            await self._create(deployment, sets, newest, limits)
            return True
        annotations = annotations_of(new)
        wanted = _annotations(deployment)
        if _revision(new) < newest:
            wanted[REVISION] = str(newest)
            past = annotations.get(HISTORY, "")
            if _revision(new):
                wanted[HISTORY] = f"{past},{_revision(new)}" if past else str(_revision(new))
        spec: JsonObject = {}
        min_ready = int_at(deployment, "spec", "minReadySeconds")
        if int_at(new, "spec", "minReadySeconds") != min_ready:
            spec["minReadySeconds"] = min_ready
        changed = False
        if spec or any(annotations.get(k) != v for k, v in wanted.items()):
            patch: JsonObject = {"metadata": {"annotations": {**wanted}}, "spec": spec}
            new = await self._ctx.patch(REPLICA_SETS, new, patch)
            changed = True
        revision = annotations_of(new).get(REVISION, "")
        if annotations_of(deployment).get(REVISION) != revision:
            await self._ctx.patch(DEPLOYMENTS, deployment, {"metadata": {"annotations": {REVISION: revision}}})
            changed = True
        recreate = str_at(deployment, "spec", "strategy", "type") == "Recreate"
        if recreate and rollout.size(new) != limits.replicas:
            changed |= await self._scale(deployment, new, limits.replicas, limits)
        return changed

    async def _create(
        self, deployment: JsonObject, sets: list[JsonObject], revision: int, limits: rollout.Bounds
    ) -> None:
        template = object_at(deployment, "spec", "template")
        collisions = int_at(deployment, "status", "collisionCount")
        digest = podlib.template_hash(template, collisions)
        selector = copy_object(object_at(deployment, "spec", "selector"))
        selector["matchLabels"] = {**object_at(selector, "matchLabels"), podlib.HASH_LABEL: digest}
        template = podlib.with_label(template, podlib.HASH_LABEL, digest)
        room = limits.most - sum(rollout.size(s) for s in sets)
        replicas = max(0, min(room, limits.replicas))
        annotations: JsonObject = {
            **_annotations(deployment),
            REVISION: str(revision),
            rollout.DESIRED_ANNOTATION: str(limits.replicas),
            rollout.MAX_ANNOTATION: str(limits.most),
        }
        spec: JsonObject = {"replicas": replicas, "selector": selector, "template": template}
        if int_at(deployment, "spec", "minReadySeconds"):
            spec["minReadySeconds"] = int_at(deployment, "spec", "minReadySeconds")
        made: JsonObject = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{name_of(deployment)}-{digest}",
                "namespace": namespace_of(deployment),
                "labels": {**labels_of({"metadata": template["metadata"]})},
                "annotations": annotations,
                "ownerReferences": [owner_reference(DEPLOYMENTS, deployment)],
            },
            "spec": spec,
        }
        try:
            created = await self._ctx.create(REPLICA_SETS, made)
        except errors.AlreadyExists:
            existing = await self._ctx.client.get(
                REPLICA_SETS, f"{name_of(deployment)}-{digest}", key_of(deployment)[0]
            )
            if not podlib.controlled_by(existing, deployment):
                status = copy_object(object_at(deployment, "status"))
                status["collisionCount"] = collisions + 1
                await self._ctx.update_status(DEPLOYMENTS, deployment, status)
            raise
        if replicas:
            message = f"Scaled up replica set {name_of(created)} from 0 to {replicas}"
            self._ctx.events.event(deployment, "Normal", "ScalingReplicaSet", message)

    async def _forget_old(self, deployment: JsonObject, old: list[JsonObject]) -> None:
        keep = int_at(deployment, "spec", "revisionHistoryLimit", default=10)
        idle = [s for s in old if rollout.size(s) == 0 and not int_at(s, "status", "replicas") and not is_deleting(s)]
        idle.sort(key=_revision)
        for item in idle[: max(0, len(idle) - keep)]:
            await self._ctx.delete(REPLICA_SETS, item)

    async def _write_status(self, deployment: JsonObject, sets: list[JsonObject], new: JsonObject | None) -> None:
        status = _status(deployment, sets, new)
        wait = _conditions(deployment, status, sets, new, self._ctx.clock.now())
        await self._ctx.update_status(DEPLOYMENTS, deployment, status)
        if wait is not None:
            self._queue.add_after(key_of(deployment), wait)


def _current(deployment: JsonObject, sets: list[JsonObject]) -> JsonObject | None:
    """The (oldest) set whose template is the Deployment's."""
    wanted = podlib.without_label(object_at(deployment, "spec", "template"), podlib.HASH_LABEL)
    for item in sets:
        if podlib.without_label(object_at(item, "spec", "template"), podlib.HASH_LABEL) == wanted:
            return item
    return None


def _revision(replica_set: JsonObject) -> int:
    text = annotations_of(replica_set).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def _annotations(deployment: JsonObject) -> dict[str, str]:
    return {k: v for k, v in annotations_of(deployment).items() if k not in _NOT_COPIED}


def _status(deployment: JsonObject, sets: list[JsonObject], new: JsonObject | None) -> JsonObject:
    replicas = sum(int_at(s, "status", "replicas") for s in sets)
    ready = sum(int_at(s, "status", "readyReplicas") for s in sets)
    available = sum(rollout.available(s) for s in sets)
    counts: dict[str, int] = {
        "observedGeneration": int_at(deployment, "metadata", "generation"),
        "replicas": replicas,
        "updatedReplicas": int_at(new or {}, "status", "replicas"),
        "readyReplicas": ready,
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(rollout.size(s) for s in sets) - available),
        "collisionCount": int_at(deployment, "status", "collisionCount"),
    }
    status: JsonObject = {k: v for k, v in counts.items() if v}
    status["conditions"] = podlib.list_conditions(deployment)
    return status


def _complete(deployment: JsonObject, new: JsonObject | None, sets: list[JsonObject]) -> bool:
    """Everything runs the current template and is available."""
    wanted = int_at(deployment, "spec", "replicas", default=1)
    total = sum(int_at(s, "status", "replicas") for s in sets)
    return (
        new is not None
        and int_at(new, "status", "replicas") == wanted == total
        and rollout.available(new) >= wanted
        and rollout.size(new) == wanted
        and int_at(new, "status", "observedGeneration") == int_at(new, "metadata", "generation")
    )


def _conditions(
    deployment: JsonObject, status: JsonObject, sets: list[JsonObject], new: JsonObject | None, now: float
) -> float | None:
    """Puts the conditions into `status`; returns the seconds after which the progress deadline must be looked at."""
    conditions = [copy_json(c) for c in podlib.list_conditions(deployment)]

    def put(kind: str, value: str, reason: str, message: str) -> None:
        nonlocal conditions
        new_condition: JsonObject = {
            "type": kind,
            "status": value,
            "lastUpdateTime": rfc3339(now),
            "lastTransitionTime": rfc3339(now),
            "reason": reason,
            "message": message,
        }
        conditions = podlib.set_condition(conditions, new_condition)
        if reason == "ReplicaSetUpdated":  # said only when something moved: the deadline counts from here
            for item in conditions:
                if isinstance(item, dict) and str_at(item, "type") == kind:
                    item["lastUpdateTime"] = rfc3339(now)

    limits = rollout.bounds(deployment)
    if int_at(status, "availableReplicas") >= limits.least_available:
        put("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        put("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    failures = [f for s in sets for f in [podlib.condition(s, "ReplicaFailure")] if f]
    if failures:
        put("ReplicaFailure", "True", str_at(failures[0], "reason"), str_at(failures[0], "message"))
    else:
        conditions = [c for c in conditions if str_at(c, "type") != "ReplicaFailure"]
    wait = _progress(deployment, status, sets, new, now, put)
    status["conditions"] = conditions
    return wait


def _progress(
    deployment: JsonObject,
    status: JsonObject,
    sets: list[JsonObject],
    new: JsonObject | None,
    now: float,
    put: Callable[[str, str, str, str], None],
) -> float | None:
    """The Progressing condition; returns when (in seconds) the deadline has to be looked at."""
    deadline = at(deployment, "spec", "progressDeadlineSeconds")
    known = podlib.condition(deployment, "Progressing")
    name = name_of(new) if new is not None else ""
    if bool_at(deployment, "spec", "paused"):
        put("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
        return None
    if _complete(deployment, new, sets):
        message = f'ReplicaSet "{name}" has successfully progressed.'
        put("Progressing", "True", "NewReplicaSetAvailable", message)
        return None
    counts = ("updatedReplicas", "readyReplicas", "availableReplicas", "replicas")
    moved = any(int_at(status, c) != int_at(deployment, "status", c) for c in counts)
    started = int_at(deployment, "metadata", "generation") != int_at(deployment, "status", "observedGeneration")
    was_done = str_at(known, "reason") in ("NewReplicaSetAvailable", "DeploymentPaused", "")
    if moved or started or was_done:
        reason = "ReplicaSetUpdated" if known else "NewReplicaSetCreated"
        what = "is progressing." if known else "was created."
        put("Progressing", "True", reason, f'ReplicaSet "{name}" {what}' if name else "Deployment is progressing.")
        return float(deadline) if isinstance(deadline, int) else None
    if not isinstance(deadline, int) or str_at(known, "reason") == "ProgressDeadlineExceeded":
        return None
    since = podlib.moment(str_at(known, "lastUpdateTime")) or now
    if now - since >= deadline:
        message = f'ReplicaSet "{name}" has timed out progressing.'
        put("Progressing", "False", "ProgressDeadlineExceeded", message)
        return None
    return since + deadline - now + 0.5
