"""Is it ready yet? Readiness of Deployments, DaemonSets, StatefulSets, Jobs, Pods, CRDs and load balancers; waiting.

In: objects as JSON. Out: `readiness(obj)`, and `wait_ready`, which watches until all are ready or time is up, and then
says which are not and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from meltem import errors
from meltem.clock import Clock, SystemClock
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at

_LOOK_SECONDS = 0.5


class Readiness(msgspec.Struct, frozen=True):
    """`failed`: it will not become ready by waiting."""

    ready: bool
    message: str = ""
    failed: bool = False


def readiness(obj: JsonObject) -> Readiness:
    """Ready by its kind's own rules; kinds without any are ready when they exist."""
    match str_at(obj, "kind"):
        case "Deployment":
            return _deployment(obj)
        case "DaemonSet":
            return _daemon_set(obj)
        case "StatefulSet":
            return _stateful_set(obj)
        case "Job":
            return _job(obj)
        case "Pod":
            ready = _condition(obj, "Ready") == "True" or str_at(obj, "status", "phase") == "Succeeded"
            return Readiness(ready, f"the pod is {str_at(obj, 'status', 'phase') or 'Pending'}")
        case "CustomResourceDefinition":
            accepted = _condition(obj, "NamesAccepted") != "False"
            return Readiness(_condition(obj, "Established") == "True" and accepted, "its names are not established")
        case "Service":
            waits = str_at(obj, "spec", "type") == "LoadBalancer"
            return Readiness(
                not waits or bool(objects_at(obj, "status", "loadBalancer", "ingress")), "it has no address yet"
            )
        case "Namespace":
            return Readiness(str_at(obj, "status", "phase", default="Active") == "Active", "it is being deleted")
        case _:
            return Readiness(True)


def _deployment(obj: JsonObject) -> Readiness:
    if _behind(obj):
        return Readiness(False, "its controller has not seen the newest change")
    for condition in objects_at(obj, "status", "conditions"):
        if str_at(condition, "reason") == "ProgressDeadlineExceeded":
            return Readiness(False, str_at(condition, "message"), failed=True)
    wanted = int_at(obj, "spec", "replicas", default=1)
    updated = int_at(obj, "status", "updatedReplicas")
    if updated < wanted:
        return Readiness(False, f"{updated} of {wanted} new replicas are there")
    if int_at(obj, "status", "replicas") > updated:
        return Readiness(False, "old replicas are still terminating")
    available = int_at(obj, "status", "availableReplicas")
    return Readiness(available >= wanted, f"{available} of {wanted} replicas are available")


def _daemon_set(obj: JsonObject) -> Readiness:
    if _behind(obj):
        return Readiness(False, "its controller has not seen the newest change")
    wanted = int_at(obj, "status", "desiredNumberScheduled")
    updated, available = int_at(obj, "status", "updatedNumberScheduled"), int_at(obj, "status", "numberAvailable")
    least = min(updated, available)
    return Readiness(least >= wanted, f"{least} of {wanted} pods are updated and available")


def _stateful_set(obj: JsonObject) -> Readiness:
    if _behind(obj):
        return Readiness(False, "its controller has not seen the newest change")
    wanted = int_at(obj, "spec", "replicas", default=1)
    ready = int_at(obj, "status", "readyReplicas")
    if ready < wanted:
        return Readiness(False, f"{ready} of {wanted} pods are ready")
    partition = int_at(obj, "spec", "updateStrategy", "rollingUpdate", "partition")
    updated = int_at(obj, "status", "updatedReplicas")
    moving = str_at(obj, "status", "currentRevision") != str_at(obj, "status", "updateRevision")
    done = not moving or updated >= wanted - partition
    if str_at(obj, "spec", "updateStrategy", "type") == "OnDelete":
        done = True
    return Readiness(done, f"{updated} of {wanted - partition} pods are updated")


def _job(obj: JsonObject) -> Readiness:
    for condition in objects_at(obj, "status", "conditions"):
        if str_at(condition, "status") == "True":
            if str_at(condition, "type") == "Complete":
                return Readiness(True)
            if str_at(condition, "type") == "Failed":
                return Readiness(False, str_at(condition, "message"), failed=True)
    return Readiness(False, f"{int_at(obj, 'status', 'succeeded')} pods have succeeded")


def _behind(obj: JsonObject) -> bool:
    return int_at(obj, "status", "observedGeneration") < int_at(obj, "metadata", "generation")


def _condition(obj: JsonObject, kind: str) -> str:
    for condition in objects_at(obj, "status", "conditions"):
        if str_at(condition, "type") == kind:
            return str_at(condition, "status")
    return ""


async def wait_ready(
    client: KubeClient,
    objects: Iterable[tuple[ResourceType, str, str]],
    *,
    seconds: float,
    progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> None:
    """Waits for (kind, namespace, name) objects. Raises MeltemError naming each that is not ready in time, or
    as soon as one has failed for good. `progress` is told when an object's state changes."""
    clock = clock or SystemClock()
    end = clock.monotonic() + seconds
    pending = dict.fromkeys(objects, "it does not exist")
    while pending:
        looks = await asyncio.gather(*(_look(client, *target) for target in pending))
        for target, state in zip(list(pending), looks, strict=True):
            title = _title(*target)
            if state.ready:
                del pending[target]
                if progress is not None:
                    progress(f"{title} is ready")
            elif state.failed:
                raise errors.MeltemError(state.message, where=title, remedy=_remedy(*target))
            else:
                if progress is not None and pending[target] != state.message:
                    progress(f"{title}: {state.message}")
                pending[target] = state.message
        if pending and clock.monotonic() >= end:
            lines = "; ".join(f"{_title(*target)}: {message}" for target, message in pending.items())
            raise errors.MeltemError(f"not ready after {seconds:.0f} s: {lines}", remedy=_remedy(*next(iter(pending))))
        if pending:
            await clock.sleep(_LOOK_SECONDS)


async def _look(client: KubeClient, rt: ResourceType, namespace: str, name: str) -> Readiness:
    try:
        obj = await client.get(rt, name, namespace)
    except errors.NotFound:
        return Readiness(False, "it does not exist")
    except errors.Unreachable as error:
        return Readiness(False, error.what)
    obj.setdefault("kind", rt.kind)
    return readiness(obj)


def _title(rt: ResourceType, namespace: str, name: str) -> str:
    return f"{rt.kind} {namespace}/{name}" if namespace else f"{rt.kind} {name}"


def _remedy(rt: ResourceType, namespace: str, name: str) -> str:
    scope = f" -n {namespace}" if namespace else ""
    return f"See `kubectl describe {rt.full_name} {name}{scope}`."


def target_of(rt: ResourceType, obj: JsonObject) -> tuple[ResourceType, str, str]:
    """The triple that `wait_ready` takes."""
    return rt, namespace_of(obj), name_of(obj)
