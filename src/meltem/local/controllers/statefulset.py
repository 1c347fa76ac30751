"""StatefulSets: pods with lasting names, made and removed in order, each with its own volume claims.

In: StatefulSets, their pods, ControllerRevisions, claims. Out: pods `<name>-<ordinal>`, claims `<template>-<pod>`,
`status`. Ordered management does one pod at a time and waits for it; Parallel does not wait. A rolling update goes
from the highest ordinal down to `partition`.
"""

from __future__ import annotations

from meltem import errors
from meltem.kube.resource_types import (
    CONTROLLER_REVISIONS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    STATEFUL_SETS,
)
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers import revisions
from meltem.local.controllers.runtime import Context, enqueue_owner, enqueue_self, is_deleting, owner_reference
from meltem.objects import (
    Json,
    JsonObject,
    at,
    copy_object,
    ensure_object,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
)

_POD_NAME = "statefulset.kubernetes.io/pod-name"
_POD_INDEX = "apps.kubernetes.io/pod-index"


class StatefulSetController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._sets = ctx.cache(STATEFUL_SETS)
        self._pods = ctx.cache(PODS)
        self._revisions = ctx.cache(CONTROLLER_REVISIONS)
        self._claims = ctx.cache(PERSISTENT_VOLUME_CLAIMS)
        self._queue: WorkQueue[Key] = WorkQueue("statefulsets")

    async def run(self) -> None:
        enqueue_self(self._sets, self._queue)
        enqueue_owner(self._pods, self._queue, "StatefulSet")
        await self._queue.run(self._sync)

    async def _sync(self, key: Key) -> None:
        owner = self._sets.get(key[1], key[0])
        if owner is None:
            return
        selector = at(owner, "spec", "selector")
        pods = await podlib.claim(self._ctx, STATEFUL_SETS, owner, PODS, self._pods, selector)
        by_ordinal = {o: p for p in pods for o in [ordinal(owner, p)] if o is not None}
        update = await revisions.current_revision(self._ctx, STATEFUL_SETS, owner, self._revisions)
        current = self._current(owner, update)
        if not is_deleting(owner):
            await self._step(owner, by_ordinal, current, update)
        latest = [
            p for p in self._pods.by_index("owner", str_at(owner, "metadata", "uid")) if ordinal(owner, p) is not None
        ]
        await self._write_status(owner, latest, current, update)
        used = {labels_of(p).get(podlib.REVISION_HASH_LABEL, "") for p in latest}
        await revisions.prune_revisions(self._ctx, owner, self._revisions, used | {name_of(current), name_of(update)})

    def _current(self, owner: JsonObject, update: JsonObject) -> JsonObject:
        name = str_at(owner, "status", "currentRevision")
        for revision in revisions.revisions_of(self._revisions, owner):
            if name_of(revision) == name:
                return revision
        return update

    async def _step(
        self, owner: JsonObject, pods: dict[int, JsonObject], current: JsonObject, update: JsonObject
    ) -> None:
        """Brings the pods nearer to what is wanted; ordered sets do one thing, then wait to be called again."""
        parallel = str_at(owner, "spec", "podManagementPolicy") == "Parallel"
        start = int_at(owner, "spec", "ordinals", "start")
        wanted = range(start, start + int_at(owner, "spec", "replicas", default=1))
        for number in wanted:
            pod = pods.get(number)
            if pod is not None and podlib.is_finished(pod) and not is_deleting(pod):
                await podlib.delete_pod(self._ctx, pod, owner)
                pods[number] = {**pod, "metadata": {**object_at(pod, "metadata"), "deletionTimestamp": "now"}}
            elif pod is None:
                revision = update if number >= start + _partition(owner) else current
                await self._create(owner, number, revision)
                if not parallel:
                    return
                continue
            pod = pods[number]
            if not parallel and (is_deleting(pod) or self._waits(owner, pod)):
                return
        surplus = sorted((n for n in pods if n not in wanted), reverse=True)
        for number in surplus:
            if not is_deleting(pods[number]):
                await podlib.delete_pod(self._ctx, pods[number], owner)
                if str_at(owner, "spec", "persistentVolumeClaimRetentionPolicy", "whenScaled") == "Delete":
                    await self._delete_claims(owner, pods[number])
            if not parallel:
                return
        if str_at(owner, "spec", "updateStrategy", "type") == "OnDelete":
            return
        for number in reversed(wanted):
            if number < start + _partition(owner):
                return
            pod = pods.get(number)
            if pod is None:
                return
            if labels_of(pod).get(podlib.REVISION_HASH_LABEL) != name_of(update):
                if not is_deleting(pod):
                    await podlib.delete_pod(self._ctx, pod, owner)
                return
            if is_deleting(pod) or self._waits(owner, pod):
                return

    def _waits(self, owner: JsonObject, pod: JsonObject) -> bool:
        """Whether the next pod has to wait for this one."""
        wait = podlib.available_in(pod, int_at(owner, "spec", "minReadySeconds"), self._ctx.clock.now())
        if wait:
            self._queue.add_after(key_of(owner), wait)
        return wait != 0

    async def _create(self, owner: JsonObject, number: int, revision: JsonObject) -> None:
        name = f"{name_of(owner)}-{number}"
        pod = podlib.pod_from_template(revisions.template_of(revision), STATEFUL_SETS, owner)
        metadata = object_at(pod, "metadata")
        del metadata["generateName"]
        metadata["name"] = name
        labels = ensure_object(metadata, "labels")
        labels |= {
            podlib.REVISION_HASH_LABEL: name_of(revision),
            _POD_NAME: name,
            _POD_INDEX: str(number),
        }
        spec = object_at(pod, "spec")
        spec["hostname"] = name
        if str_at(owner, "spec", "serviceName"):
            spec["subdomain"] = str_at(owner, "spec", "serviceName")
        volumes: list[Json] = []
        templates = objects_at(owner, "spec", "volumeClaimTemplates")
        for template in templates:
            claim = f"{name_of(template)}-{name}"
            await self._ensure_claim(owner, template, claim)
            volumes.append({"name": name_of(template), "persistentVolumeClaim": {"claimName": claim}})
        ours = {name_of(t) for t in templates}
        spec["volumes"] = [*(v for v in objects_at(spec, "volumes") if str_at(v, "name") not in ours), *volumes]
        try:
            await podlib.create_pod(self._ctx, pod, owner)
        except errors.AlreadyExists:
            return  # ours but not seen yet, or a stranger's: the next look tells

    async def _ensure_claim(self, owner: JsonObject, template: JsonObject, name: str) -> None:
        if self._claims.get(name, namespace_of(owner)) is not None:
            return
        claim = copy_object(template)
        claim.pop("status", None)
        metadata = ensure_object(claim, "metadata")
        metadata["name"] = name
        metadata["namespace"] = namespace_of(owner)
        matching: JsonObject = {**object_at(owner, "spec", "selector", "matchLabels")}
        metadata["labels"] = {**labels_of(template), **matching}
        if str_at(owner, "spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted") == "Delete":
            reference = owner_reference(STATEFUL_SETS, owner)
            metadata["ownerReferences"] = [{**reference, "controller": False, "blockOwnerDeletion": True}]
        claim["apiVersion"] = "v1"
        claim["kind"] = "PersistentVolumeClaim"
        try:
            await self._ctx.create(PERSISTENT_VOLUME_CLAIMS, claim)
        except errors.AlreadyExists:
            return

    async def _delete_claims(self, owner: JsonObject, pod: JsonObject) -> None:
        for template in objects_at(owner, "spec", "volumeClaimTemplates"):
            claim = self._claims.get(f"{name_of(template)}-{name_of(pod)}", namespace_of(owner))
            if claim is not None and not is_deleting(claim):
                await self._ctx.delete(PERSISTENT_VOLUME_CLAIMS, claim)

    async def _write_status(
        self, owner: JsonObject, pods: list[JsonObject], current: JsonObject, update: JsonObject
    ) -> None:
        now = self._ctx.clock.now()
        min_ready = int_at(owner, "spec", "minReadySeconds")
        living = [p for p in pods if podlib.is_active(p)]

        def at_revision(revision: JsonObject) -> int:
            return sum(labels_of(p).get(podlib.REVISION_HASH_LABEL) == name_of(revision) for p in living)

        ready = [p for p in living if podlib.is_ready(p)]
        replicas = int_at(owner, "spec", "replicas", default=1)
        updated = at_revision(update)
        done = updated == len(living) == replicas and len(ready) == replicas and _partition(owner) == 0
        counts: dict[str, int] = {
            "observedGeneration": int_at(owner, "metadata", "generation"),
            "readyReplicas": len(ready),
            "currentReplicas": updated if done else at_revision(current),
            "updatedReplicas": updated,
            "collisionCount": int_at(owner, "status", "collisionCount"),
        }
        status: JsonObject = {k: v for k, v in counts.items() if v or k == "collisionCount"}
        status["replicas"] = len(living)
        status["availableReplicas"] = sum(podlib.available_in(p, min_ready, now) == 0 for p in living)
        status["currentRevision"] = name_of(update if done else current)
        status["updateRevision"] = name_of(update)
        await self._ctx.update_status(STATEFUL_SETS, owner, status)


def ordinal(owner: JsonObject, pod: JsonObject) -> int | None:
    """The pod's number, or None when its name is not one of the set's."""
    prefix, _, number = name_of(pod).rpartition("-")
    return int(number) if prefix == name_of(owner) and number.isdigit() else None


def _partition(owner: JsonObject) -> int:
    return int_at(owner, "spec", "updateStrategy", "rollingUpdate", "partition")
