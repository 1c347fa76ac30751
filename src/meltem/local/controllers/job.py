"""Jobs: pods that run to their end, so many at a time, until enough have succeeded or too many have failed.

In: Jobs and their pods. Out: pods, counts in `status`, the conditions Complete or Failed, and (past
`ttlSecondsAfterFinished`) the Job's deletion. A finished pod is counted exactly once: a finalizer holds it until its
uid is in `status.uncountedTerminatedPods`.
"""

from __future__ import annotations

from meltem import errors
from meltem.clock import rfc3339
from meltem.kube.resource_types import JOBS, PODS
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.indexes import compress, expand
from meltem.local.controllers.runtime import OWNER_INDEX, Context, enqueue_owner, enqueue_self, is_deleting
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    at,
    bool_at,
    copy_object,
    ensure_object,
    int_at,
    list_at,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
    uid_of,
)

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
_FIRST_DELAY = 10.0
_LONGEST_DELAY = 360.0


class JobController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._jobs = ctx.cache(JOBS)
        self._pods = ctx.cache(PODS)
        self._queue: WorkQueue[Key] = WorkQueue("jobs")
        self._released: set[str] = set()
        """Uids of pods whose finalizer we took away: the cache may still show it, and they must not count twice."""

    async def run(self) -> None:
        enqueue_self(self._jobs, self._queue)
        enqueue_owner(self._pods, self._queue, "Job", "batch")
        await self._queue.run(self._sync)

    async def _sync(self, key: Key) -> None:
        job = self._jobs.get(key[1], key[0])
        if job is None:
            return
        pods = self._pods.by_index(OWNER_INDEX, uid_of(job))
        if is_deleting(job) or finished(job):
            await self._let_go(pods)
            if finished(job) and not is_deleting(job):
                await self._expire(job)
            return
        job = await self._count(job, pods)
        pods = self._pods.by_index(OWNER_INDEX, uid_of(job))
        active = [p for p in pods if podlib.is_active(p)]
        terminating = [p for p in pods if is_deleting(p) and TRACKING in strings_at(p, "metadata", "finalizers")]
        verdict = self._verdict(job, active)
        if verdict is not None:
            for pod in active:
                await podlib.delete_pod(self._ctx, pod, job)
            if not active and not terminating:
                await self._finish(job, *verdict)
            return
        if bool_at(job, "spec", "suspend"):
            await self._remove(job, active)
            active = []
        else:
            active = await self._scale(job, pods, active)
        await self._write_status(job, active)

    # Counting

    async def _count(self, job: JsonObject, pods: list[JsonObject]) -> JsonObject:
        """Moves finished pods into the counts, in steps that may be cut off anywhere."""
        status = copy_object(object_at(job, "status"))
        status.setdefault("startTime", rfc3339(self._ctx.clock.now()))
        uncounted = object_at(status, "uncountedTerminatedPods")
        known = {
            kind: {u: None for u in list_at(uncounted, kind) if isinstance(u, str)} for kind in ("succeeded", "failed")
        }
        for pod in pods:
            outcome = _outcome(pod)
            held_back = TRACKING in strings_at(pod, "metadata", "finalizers")
            if not held_back:
                self._released.discard(uid_of(pod))
            elif outcome and uid_of(pod) not in self._released:
                known[outcome][uid_of(pod)] = None
        if known["succeeded"] or known["failed"]:
            status["uncountedTerminatedPods"] = {k: [*v] for k, v in known.items() if v}
            job = await self._ctx.update_status(JOBS, job, _with_indexes(job, status, pods))
            held = [p for p in pods if uid_of(p) in known["succeeded"] or uid_of(p) in known["failed"]]
            await self._let_go(held)
            status = copy_object(object_at(job, "status"))
            for kind, uids in known.items():
                if uids:
                    status[kind] = int_at(status, kind) + len(uids)
            if str_at(job, "spec", "completionMode") == "Indexed":
                done = len(expand(str_at(status, "completedIndexes")))
                status |= {"succeeded": done} if done else {}
            status["uncountedTerminatedPods"] = {}
            return await self._ctx.update_status(JOBS, job, status)
        return job

    async def _let_go(self, pods: list[JsonObject]) -> None:
        for pod in pods:
            finalizers = strings_at(pod, "metadata", "finalizers")
            if TRACKING not in finalizers:
                continue
            kept: list[Json] = [f for f in finalizers if f != TRACKING]
            if uid_of(pod) in self._released:
                continue
            try:
                await self._ctx.patch(PODS, pod, {"metadata": {"finalizers": kept}})
                self._released.add(uid_of(pod))
            except (errors.NotFound, errors.Conflict, errors.Invalid):
                continue

    async def _remove(self, job: JsonObject, pods: list[JsonObject]) -> None:
        """Deletes pods that are not wanted for now; they do not count as failed."""
        await self._let_go(pods)
        for pod in pods:
            await podlib.delete_pod(self._ctx, pod, job)

    # Deciding

    def _verdict(self, job: JsonObject, active: list[JsonObject]) -> tuple[str, str, str] | None:
        """(condition, reason, message) when the Job is over."""
        status = object_at(job, "status")
        succeeded, failed = int_at(status, "succeeded"), int_at(status, "failed")
        completions = at(job, "spec", "completions")
        if isinstance(completions, int):
            if succeeded >= completions:
                return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
        elif succeeded and not active:
            return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
        limit = int_at(job, "spec", "backoffLimit", default=6)
        restarts = 0
        if str_at(job, "spec", "template", "spec", "restartPolicy") == "OnFailure":
            restarts = sum(
                int_at(c, "restartCount")
                for p in active
                for c in [
                    *objects_at(p, "status", "containerStatuses"),
                    *objects_at(p, "status", "initContainerStatuses"),
                ]
            )
        if failed > limit or (restarts and restarts >= max(limit, 1)):
            return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        deadline = at(job, "spec", "activeDeadlineSeconds")
        started = podlib.moment(str_at(status, "startTime"))
        if isinstance(deadline, int) and started is not None and not bool_at(job, "spec", "suspend"):
            left = started + deadline - self._ctx.clock.now()
            if left <= 0:
                return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
            self._queue.add_after(key_of(job), left)
        return None

    async def _finish(self, job: JsonObject, kind: str, reason: str, message: str) -> None:
        now = rfc3339(self._ctx.clock.now())
        status = copy_object(object_at(job, "status"))
        conditions = list_at(status, "conditions")
        before = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
        for name in (before, kind):
            conditions = podlib.set_condition(
                conditions,
                {
                    "type": name,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastProbeTime": now,
                    "lastTransitionTime": now,
                },
            )
        status["conditions"] = conditions
        if kind == "Complete":
            status["completionTime"] = now
        for name in ("active", "ready"):
            status.pop(name, None)
        status["ready"] = 0
        status["terminating"] = 0
        await self._ctx.update_status(JOBS, job, status)
        if kind == "Complete":
            self._ctx.events.event(job, "Normal", "Completed", "Job completed")
        else:
            self._ctx.events.event(job, "Warning", reason, message)

    async def _expire(self, job: JsonObject) -> None:
        ttl = at(job, "spec", "ttlSecondsAfterFinished")
        ended = podlib.moment(str_at(job, "status", "completionTime")) or podlib.moment(
            str_at(podlib.condition(job, "Failed"), "lastTransitionTime")
        )
        if not isinstance(ttl, int) or ended is None:
            return
        left = ended + ttl - self._ctx.clock.now()
        if left > 0:
            self._queue.add_after(key_of(job), left)
        else:
            await self._ctx.delete(JOBS, job, propagation="Foreground")

    # Acting

    async def _scale(self, job: JsonObject, pods: list[JsonObject], active: list[JsonObject]) -> list[JsonObject]:
        completions = at(job, "spec", "completions")
        succeeded = int_at(job, "status", "succeeded")
        wanted = int_at(job, "spec", "parallelism", default=1)
        if isinstance(completions, int):
            wanted = min(wanted, completions - succeeded)
        elif succeeded:
            wanted = min(wanted, len(active))  # one has said that the work is done: start no more
        if len(active) > wanted:
            victims = sorted(active, key=podlib.deletion_rank)[: len(active) - wanted]
            await self._remove(job, victims)
            return [p for p in active if p not in victims]
        if any(_outcome(p) and TRACKING in strings_at(p, "metadata", "finalizers") for p in pods):
            self._queue.add(key_of(job))  # finished since we counted: count first, or it would be made again
            return active
        if len(active) >= wanted:
            return active
        delay = self._backoff(job, pods)
        if delay > 0:
            self._queue.add_after(key_of(job), delay)
            return active
        made: list[JsonObject] = []
        if str_at(job, "spec", "completionMode") == "Indexed":
            for index in self._free_indexes(job, pods, wanted - len(active)):
                made.append(await podlib.create_pod(self._ctx, _pod(job, index), job))
        else:
            for _ in range(wanted - len(active)):
                made.append(await podlib.create_pod(self._ctx, _pod(job, None), job))
        return [*active, *made]

    @staticmethod
    def _free_indexes(job: JsonObject, pods: list[JsonObject], count: int) -> list[int]:
        done = expand(str_at(job, "status", "completedIndexes"))
        busy = {annotations_of(p).get(INDEX, "") for p in pods if podlib.is_active(p)}
        total = int_at(job, "spec", "completions")
        return [i for i in range(total) if i not in done and str(i) not in busy][:count]

    def _backoff(self, job: JsonObject, pods: list[JsonObject]) -> float:
        """Seconds until a new pod may start, after failures."""
        failed = [p for p in pods if _outcome(p) == "failed"]
        if not failed or not int_at(job, "status", "failed"):
            return 0.0
        last = max(_ended(p) for p in failed)
        newest = max((_ended(p) for p in pods if _outcome(p) == "succeeded"), default=0.0)
        if newest > last:
            return 0.0
        delay = min(_FIRST_DELAY * 2 ** (int_at(job, "status", "failed") - 1), _LONGEST_DELAY)
        return last + delay - self._ctx.clock.now()

    async def _write_status(self, job: JsonObject, active: list[JsonObject]) -> None:
        job = self._jobs.get(name_of(job), namespace_of(job)) or job
        status = copy_object(object_at(job, "status"))
        status.setdefault("startTime", rfc3339(self._ctx.clock.now()))
        status["uncountedTerminatedPods"] = {}
        status["terminating"] = 0
        status["ready"] = sum(podlib.is_ready(p) for p in active)
        if active:
            status["active"] = len(active)
        else:
            status.pop("active", None)
        suspended = bool_at(job, "spec", "suspend")
        if suspended or podlib.condition(job, "Suspended"):
            now = rfc3339(self._ctx.clock.now())
            if suspended:
                status.pop("startTime", None)
            new: JsonObject = {
                "type": "Suspended",
                "status": "True" if suspended else "False",
                "reason": "JobSuspended" if suspended else "JobResumed",
                "message": "Job suspended" if suspended else "Job resumed",
                "lastProbeTime": now,
                "lastTransitionTime": now,
            }
            status["conditions"] = podlib.set_condition(podlib.list_conditions(job), new)
        await self._ctx.update_status(JOBS, job, status)


def finished(job: JsonObject) -> bool:
    return any(
        str_at(c, "type") in ("Complete", "Failed") and str_at(c, "status") == "True"
        for c in objects_at(job, "status", "conditions")
    )


def _outcome(pod: JsonObject) -> str:
    phase = str_at(pod, "status", "phase")
    if phase == "Succeeded":
        return "succeeded"
    return "failed" if phase == "Failed" or is_deleting(pod) else ""


def _ended(pod: JsonObject) -> float:
    times = [
        podlib.moment(str_at(c, "state", "terminated", "finishedAt")) or 0.0
        for c in objects_at(pod, "status", "containerStatuses")
    ]
    return max([*times, podlib.moment(str_at(pod, "metadata", "creationTimestamp")) or 0.0])


def _with_indexes(job: JsonObject, status: JsonObject, pods: list[JsonObject]) -> JsonObject:
    if str_at(job, "spec", "completionMode") == "Indexed":
        done = expand(str_at(status, "completedIndexes"))
        for pod in pods:
            index = annotations_of(pod).get(INDEX, "")
            if _outcome(pod) == "succeeded" and index.isdigit():
                done.add(int(index))
        status["completedIndexes"] = compress(done)
    return status


def _pod(job: JsonObject, index: int | None) -> JsonObject:
    pod = podlib.pod_from_template(object_at(job, "spec", "template"), JOBS, job)
    metadata = object_at(pod, "metadata")
    metadata["finalizers"] = [*strings_at(metadata, "finalizers"), TRACKING]
    labels = ensure_object(metadata, "labels")
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}job-name"] = name_of(job)
        labels[f"{prefix}controller-uid"] = uid_of(job)
    if index is not None:
        metadata["generateName"] = f"{name_of(job)[:50]}-{index}-"
        ensure_object(metadata, "annotations")[INDEX] = str(index)
        labels[INDEX] = str(index)
        spec = object_at(pod, "spec")
        spec["hostname"] = f"{name_of(job)}-{index}"
        source: JsonObject = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
        variable: JsonObject = {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}
        for container in [*objects_at(spec, "initContainers"), *objects_at(spec, "containers")]:
            container["env"] = [*list_at(container, "env"), variable]
    return pod
