"""CronJobs: a Job at every time that the schedule names.

In: CronJobs, their Jobs, the clock. Out: Jobs (named after their scheduled minute, so that a restart makes none
twice), old ones deleted past the history limits, `status`.
"""

from __future__ import annotations

from datetime import tzinfo

from meltem import errors
from meltem.clock import rfc3339
from meltem.kube.resource_types import CRON_JOBS, JOBS
from meltem.kube.store import Key
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.job import finished
from meltem.local.controllers.runtime import (
    OWNER_INDEX,
    Context,
    enqueue_owner,
    enqueue_self,
    is_deleting,
    owner_reference,
)
from meltem.local.controllers.schedule import Schedule, parse_schedule, time_zone
from meltem.objects import (
    JsonObject,
    annotations_of,
    at,
    bool_at,
    copy_object,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    str_at,
    uid_of,
)

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_MOST_MISSED = 100


class CronJobController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._crons = ctx.cache(CRON_JOBS)
        self._jobs = ctx.cache(JOBS)
        self._queue: WorkQueue[Key] = WorkQueue("cronjobs")

    async def run(self) -> None:
        enqueue_self(self._crons, self._queue)
        enqueue_owner(self._jobs, self._queue, "CronJob", "batch")
        await self._queue.run(self._sync)

    async def _sync(self, key: Key) -> None:
        cron = self._crons.get(key[1], key[0])
        if cron is None or is_deleting(cron):
            return
        jobs = self._jobs.by_index(OWNER_INDEX, uid_of(cron))
        await self._forget_old(cron, jobs)
        try:
            schedule = parse_schedule(str_at(cron, "spec", "schedule"))
            zone = time_zone(str_at(cron, "spec", "timeZone"))
        except errors.InvalidResource as error:
            self._ctx.events.event(cron, "Warning", "UnparseableSchedule", str(error))
            await self._write_status(cron, jobs, None)
            return
        now = self._ctx.clock.now()
        last = podlib.moment(str_at(cron, "status", "lastScheduleTime")) or podlib.moment(
            str_at(cron, "metadata", "creationTimestamp")
        )
        due: float | None = None
        if not bool_at(cron, "spec", "suspend"):
            due = _due(cron, schedule, zone, last or now, now)
        started = due if due is not None and await self._start(cron, jobs, due) else None
        await self._write_status(cron, self._jobs.by_index(OWNER_INDEX, uid_of(cron)), started)
        following = schedule.next_after(now, zone)
        if following is not None:
            self._queue.add_after(key, min(following - now + 0.05, 3600.0))

    async def _start(self, cron: JsonObject, jobs: list[JsonObject], due: float) -> bool:
        """Makes the Job of that minute; whether the minute is dealt with."""
        active = [j for j in jobs if not finished(j) and not is_deleting(j)]
        policy = str_at(cron, "spec", "concurrencyPolicy", default="Allow")
        if policy == "Forbid" and active:
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._ctx.events.event(cron, "Normal", "JobAlreadyActive", message)
            return False
        if policy == "Replace":
            for job in active:
                await self._ctx.delete(JOBS, job)
        template = object_at(cron, "spec", "jobTemplate")
        job: JsonObject = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": f"{name_of(cron)[:52]}-{int(due) // 60}",
                "namespace": namespace_of(cron),
                "labels": {**labels_of(template)},
                "annotations": {**annotations_of(template), SCHEDULED: rfc3339(due)},
                "ownerReferences": [owner_reference(CRON_JOBS, cron)],
            },
            "spec": copy_object(object_at(template, "spec")),
        }
        try:
            made = await self._ctx.create(JOBS, job)
        except errors.AlreadyExists:
            return True
        except errors.ApiError as error:
            self._ctx.events.event(cron, "Warning", "FailedCreate", f"Error creating job: {error}")
            raise
        self._ctx.events.event(cron, "Normal", "SuccessfulCreate", f"Created job {name_of(made)}")
        return True

    async def _forget_old(self, cron: JsonObject, jobs: list[JsonObject]) -> None:
        for kind, field, default in (
            ("Complete", "successfulJobsHistoryLimit", 3),
            ("Failed", "failedJobsHistoryLimit", 1),
        ):
            keep = int_at(cron, "spec", field, default=default)
            done = [j for j in jobs if str_at(podlib.condition(j, kind), "status") == "True" and not is_deleting(j)]
            done.sort(key=lambda j: str_at(j, "status", "startTime"))
            for job in done[: max(0, len(done) - keep)]:
                await self._ctx.delete(JOBS, job)

    async def _write_status(self, cron: JsonObject, jobs: list[JsonObject], started: float | None) -> None:
        status = copy_object(object_at(cron, "status"))
        if started is not None:
            status["lastScheduleTime"] = rfc3339(started)
        active = [j for j in jobs if not finished(j) and not is_deleting(j)]
        status.pop("active", None)
        if active:
            status["active"] = [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": name_of(j),
                    "namespace": namespace_of(j),
                    "uid": uid_of(j),
                    "resourceVersion": str_at(j, "metadata", "resourceVersion"),
                }
                for j in active
            ]
        ends = [str_at(j, "status", "completionTime") for j in jobs]
        newest = max((e for e in ends if e), default="")
        if newest and newest > str_at(status, "lastSuccessfulTime"):
            status["lastSuccessfulTime"] = newest
        await self._ctx.update_status(CRON_JOBS, cron, status)


def _due(cron: JsonObject, schedule: Schedule, zone: tzinfo, last: float, now: float) -> float | None:
    """The latest time that has come since the last run, unless it is too late for it."""
    due: float | None = None
    moment = last
    for _ in range(_MOST_MISSED):
        following = schedule.next_after(moment, zone)
        if following is None or following > now:
            break
        due = moment = following
    deadline = at(cron, "spec", "startingDeadlineSeconds")
    if due is not None and isinstance(deadline, int) and now - due > deadline:
        return None
    return due
