"""DaemonSets: one pod on every node that suits, which here is one pod or none.

In: DaemonSets, their pods, the Node, ControllerRevisions. Out: the pod, replaced when the template changes (old
first, or new first with `maxSurge`), and `status`.
"""

from __future__ import annotations

from meltem.kube.resource_types import CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.config import NODE_NAME
from meltem.local.controllers import pods as podlib
from meltem.local.controllers import revisions, rollout
from meltem.local.controllers.binding import why_not
from meltem.local.controllers.runtime import OWNER_INDEX, Context, enqueue_owner, enqueue_self, is_deleting
from meltem.objects import (
    Json,
    JsonObject,
    at,
    ensure_object,
    int_at,
    labels_of,
    name_of,
    object_at,
    objects_at,
    str_at,
    uid_of,
)

_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


class DaemonSetController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._sets = ctx.cache(DAEMON_SETS)
        self._pods = ctx.cache(PODS)
        self._nodes = ctx.cache(NODES)
        self._revisions = ctx.cache(CONTROLLER_REVISIONS)
        self._queue: WorkQueue[Key] = WorkQueue("daemonsets")

    async def run(self) -> None:
        enqueue_self(self._sets, self._queue)
        enqueue_owner(self._pods, self._queue, "DaemonSet")
        self._nodes.on_change(self._node_changed)
        await self._queue.run(self._sync)

    def _node_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if old is None or new is None or labels_of(old) != labels_of(new) or at(old, "spec") != at(new, "spec"):
            for item in self._sets:
                self._queue.add(key_of(item))

    async def _sync(self, key: Key) -> None:
        owner = self._sets.get(key[1], key[0])
        if owner is None:
            return
        pods = await podlib.claim(self._ctx, DAEMON_SETS, owner, PODS, self._pods, at(owner, "spec", "selector"))
        revision = await revisions.current_revision(self._ctx, DAEMON_SETS, owner, self._revisions)
        digest = labels_of(revision).get(podlib.REVISION_HASH_LABEL, "")
        node = self._nodes.get(NODE_NAME)
        wanted = node is not None and not why_not(self._pod(owner, digest), node)
        if not is_deleting(owner):
            await self._step(owner, pods, digest, wanted=wanted)
        pods = self._pods.by_index(OWNER_INDEX, uid_of(owner))
        await self._write_status(owner, pods, digest, wanted=wanted)
        used = {f"{name_of(owner)}-{labels_of(p).get(podlib.REVISION_HASH_LABEL, '')}" for p in pods}
        await revisions.prune_revisions(self._ctx, owner, self._revisions, used | {name_of(revision)})

    async def _step(self, owner: JsonObject, pods: list[JsonObject], digest: str, *, wanted: bool) -> None:
        living: list[JsonObject] = []
        for pod in pods:
            if is_deleting(pod):
                continue
            if podlib.is_finished(pod) or not wanted:
                await podlib.delete_pod(self._ctx, pod, owner)
            else:
                living.append(pod)
        if not wanted:
            return
        new = [p for p in living if labels_of(p).get(podlib.REVISION_HASH_LABEL) == digest]
        old = [p for p in living if p not in new]
        for extra in sorted(new, key=podlib.deletion_rank)[:-1]:
            await podlib.delete_pod(self._ctx, extra, owner)
        if not living:
            if not any(is_deleting(p) for p in pods):
                await podlib.create_pod(self._ctx, self._pod(owner, digest), owner)
            return
        if not old or str_at(owner, "spec", "updateStrategy", "type") == "OnDelete":
            return
        surge = rollout.share(at(owner, "spec", "updateStrategy", "rollingUpdate", "maxSurge"), 1, default="0", up=True)
        if surge and not new:
            await podlib.create_pod(self._ctx, self._pod(owner, digest), owner)
            return
        if surge and not self._available(owner, new[0]):
            return
        for pod in old:
            await podlib.delete_pod(self._ctx, pod, owner)

    def _available(self, owner: JsonObject, pod: JsonObject) -> bool:
        wait = podlib.available_in(pod, int_at(owner, "spec", "minReadySeconds"), self._ctx.clock.now())
        if wait:
            self._queue.add_after(key_of(owner), wait)
        return wait == 0

    def _pod(self, owner: JsonObject, digest: str) -> JsonObject:
        """The daemon's pod: tied to the node, and not driven off by its troubles."""
        template = podlib.with_label(object_at(owner, "spec", "template"), podlib.REVISION_HASH_LABEL, digest)
        generation = str(int_at(owner, "metadata", "generation"))
        template = podlib.with_label(template, "pod-template-generation", generation)
        pod = podlib.pod_from_template(template, DAEMON_SETS, owner)
        spec = object_at(pod, "spec")
        tolerations: list[Json] = [*objects_at(spec, "tolerations")]
        for key, effect in _TOLERATED:
            tolerations.append({"key": key, "operator": "Exists", "effect": effect})
        spec["tolerations"] = tolerations
        affinity = ensure_object(ensure_object(spec, "affinity"), "nodeAffinity")
        required = ensure_object(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
        field: JsonObject = {"key": "metadata.name", "operator": "In", "values": [NODE_NAME]}
        terms = objects_at(required, "nodeSelectorTerms") or [{}]
        required["nodeSelectorTerms"] = [{**term, "matchFields": [field]} for term in terms]
        return pod

    async def _write_status(self, owner: JsonObject, pods: list[JsonObject], digest: str, *, wanted: bool) -> None:
        living = [p for p in pods if podlib.is_active(p)]
        ready = sum(podlib.is_ready(p) for p in living) > 0
        available = any(self._available(owner, p) for p in living)
        updated = any(labels_of(p).get(podlib.REVISION_HASH_LABEL) == digest for p in living)
        desired = int(wanted)
        status: JsonObject = {
            "currentNumberScheduled": int(bool(living) and wanted),
            "desiredNumberScheduled": desired,
            "numberMisscheduled": int(bool(living) and not wanted),
            "numberReady": int(ready and wanted),
            "observedGeneration": int_at(owner, "metadata", "generation"),
        }
        counts: dict[str, int] = {
            "updatedNumberScheduled": int(updated and wanted),
            "numberAvailable": int(available and wanted),
            "numberUnavailable": int(wanted and not available),
            "collisionCount": int_at(owner, "status", "collisionCount"),
        }
        status |= {k: v for k, v in counts.items() if v}
        await self._ctx.update_status(DAEMON_SETS, owner, status)
