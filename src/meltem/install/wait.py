"""Waiting until what was applied works, and saying why it does not.

`unready(client, obj)` is None for an object that is ready, else one sentence. `until_ready` asks until all are, or the
time is over; then it raises `NotReady` with the reasons, down to the container that does not start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from meltem.clock import Clock
from meltem.errors import ApiError, MeltemError, NotFound
from meltem.install.render import describe
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import EVENTS, PODS
from meltem.kube.wait import readiness
from meltem.objects import (
    JsonObject,
    bool_at,
    int_at,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)

_INTERVAL = 0.1
_AWAITED = frozenset(("Deployment", "DaemonSet", "StatefulSet", "Namespace", "CustomResourceDefinition", "Job"))


class NotReady(MeltemError):
    """Something that was installed does not work in time; the message has each object and why."""


def awaited(obj: JsonObject) -> bool:
    return str_at(obj, "kind") in _AWAITED


def problem(obj: JsonObject) -> str | None:
    """Why the object is not ready, judged by its own status; None when it is. A load balancer's address is not waited
    for: many clusters have nothing that gives one."""
    if not awaited(obj):
        return None
    state = readiness(obj)
    return None if state.ready else state.message


async def unready(client: KubeClient, obj: JsonObject) -> str | None:
    """Why `obj` is not ready now, read from the server."""
    try:
        rt = await client.resource_type(str_at(obj, "apiVersion"), str_at(obj, "kind"))
        current = await client.get(rt, name_of(obj), namespace_of(obj))
    except NotFound:
        return "it does not exist"
    current.setdefault("kind", obj.get("kind"))
    return problem(current)


async def _look(client: KubeClient, obj: JsonObject) -> str | None:
    try:
        return await unready(client, obj)
    except ApiError as error:
        return str(error)


async def until_ready(
    client: KubeClient,
    objects: Iterable[JsonObject],
    *,
    clock: Clock,
    timeout: float,
    report: Callable[[str], None] | None = None,
) -> None:
    """Returns when all are ready; raises NotReady after `timeout` seconds. `report` is told what is waited for."""
    waiting = [o for o in objects if awaited(o)]
    deadline = clock.monotonic() + timeout
    while True:
        looks = await asyncio.gather(*(_look(client, obj) for obj in waiting))
        reasons = {index: reason for index, reason in enumerate(looks) if reason is not None}
        waiting = [waiting[i] for i in reasons]
        if not waiting:
            return
        if report is not None:
            report("Waiting for " + ", ".join(describe(o) for o in waiting))
        if clock.monotonic() >= deadline:
            lines = [
                f"  {describe(o)}: {reason}{await _details(client, o)}"
                for o, reason in zip(waiting, reasons.values(), strict=True)
            ]
            raise NotReady(f"not ready after {_seconds(timeout)}:\n" + "\n".join(lines))
        await clock.sleep(_INTERVAL)


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


async def _details(client: KubeClient, obj: JsonObject) -> str:
    """The pods of a workload that are not ready and why, each on its line; for a CRD and others nothing."""
    selector = string_map_at(obj, "spec", "selector", "matchLabels")
    if not selector:
        return ""
    try:
        pods = await client.list(
            PODS, namespace_of(obj), label_selector=",".join(f"{k}={v}" for k, v in selector.items())
        )
        events = await client.list(EVENTS, namespace_of(obj))
    except ApiError:
        return ""
    lines: list[str] = []
    for pod in pods.items:
        reason = pod_problem(pod)
        if reason:
            lines.append(f"\n    pod {name_of(pod)}: {reason}")
    if not pods.items:
        lines += [f"\n    {m}" for m in _warnings(events.items, obj)]
    return "".join(lines)


def pod_problem(pod: JsonObject) -> str:
    """Why a pod is not ready, or nothing: the container, its state and message, or what the scheduler says."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for status in objects_at(pod, "status", kind):
            state = object_at(status, "state")
            waiting, ended = object_at(state, "waiting"), object_at(state, "terminated")
            if waiting and str_at(waiting, "reason") not in ("PodInitializing", "ContainerCreating"):
                message = str_at(waiting, "message")
                said = f"container {str_at(status, 'name')}: {str_at(waiting, 'reason')}"
                return f"{said}: {message}" if message else said
            if ended and int_at(ended, "exitCode"):
                return f"container {str_at(status, 'name')} ended with code {int_at(ended, 'exitCode')}"
            if kind == "containerStatuses" and object_at(state, "running") and not bool_at(status, "ready"):
                return f"container {str_at(status, 'name')} runs and is not ready"
    for condition in objects_at(pod, "status", "conditions"):
        if str_at(condition, "status") == "False" and str_at(condition, "message"):
            return str_at(condition, "message")
    return "" if str_at(pod, "status", "phase") in ("Running", "Succeeded") else "it has not started"


def _warnings(events: list[JsonObject], obj: JsonObject) -> list[str]:
    """Messages of the last warnings about the object or what it owns (its replica sets carry its name)."""
    found = [
        str_at(e, "message") or str_at(e, "note")
        for e in events
        if str_at(e, "type") == "Warning"
        and (str_at(e, "involvedObject", "name") or str_at(e, "regarding", "name")).startswith(name_of(obj))
    ]
    return list(dict.fromkeys(found))[-3:]
