"""A pod's status as the kubelet reports it, computed from its records.

In: a `PodContext`. Out: `pod_status`, the object for a strategic merge patch of the `status` subresource (conditions of
other owners are left alone; fields that must go are null). Transition times move only when a condition's status does.
"""

from __future__ import annotations

from meltem.clock import rfc3339
from meltem.local.node.container_runner import Kind, kind_of
from meltem.local.node.pod_context import PodContext
from meltem.local.node.records import ContainerRecord, Termination
from meltem.objects import Json, JsonObject, object_at, objects_at, str_at

_OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def pod_status(context: PodContext) -> JsonObject:
    pod, record = context.pod, context.sandbox_record
    inits = objects_at(pod, "spec", "initContainers")
    containers = objects_at(pod, "spec", "containers")
    phase = _phase(context, inits, containers)
    now = rfc3339(context.node.clock.now())
    host_ips = context.node.config.node_ips
    status: JsonObject = {
        "phase": phase,
        "conditions": _conditions(context, phase, inits, containers, now),
        "hostIP": host_ips[0],
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "startTime": rfc3339(record.started),
        "qosClass": quality(pod),
        "containerStatuses": [_container(context, c, Kind.APP) for c in containers],
        "reason": record.reason or None,
        "message": record.message or None,
    }
    if inits:
        status["initContainerStatuses"] = [_container(context, c, kind_of(c, init=True)) for c in inits]
    guests = objects_at(pod, "spec", "ephemeralContainers")
    if guests:
        status["ephemeralContainerStatuses"] = [_container(context, c, Kind.EPHEMERAL) for c in guests]
    if record.ip:
        status["podIP"] = record.ip
        # A list that is merged by address: without this a pod that was started anew would keep its former ones.
        status["podIPs"] = [{"$patch": "replace"}, *({"ip": ip} for ip in context.ips)]
    return status


def _phase(context: PodContext, inits: list[JsonObject], containers: list[JsonObject]) -> str:
    record = context.sandbox_record
    if record.finished:
        over = all(context.record(str_at(c, "name")).terminated or not _ran(context, c) for c in containers)
        if over:
            return record.finished
    if not _initialized(context, inits):
        return "Pending"
    records = [context.record(str_at(c, "name")) for c in containers]
    if any(r.running or r.terminated or r.last for r in records):
        waiting = [r for r in records if not (r.running or r.terminated or r.last)]
        return "Pending" if waiting else "Running"
    return "Pending"


def _ran(context: PodContext, container: JsonObject) -> bool:
    return bool(context.record(str_at(container, "name")).id)


def _initialized(context: PodContext, inits: list[JsonObject]) -> bool:
    for container in inits:
        record = context.record(str_at(container, "name"))
        if kind_of(container, init=True) is Kind.SIDECAR:
            if not (record.started or record.terminated or record.last):
                return False
        elif not (record.terminated and record.terminated.exit_code == 0):
            return False
    return True


def _conditions(
    context: PodContext, phase: str, inits: list[JsonObject], containers: list[JsonObject], now: str
) -> list[Json]:
    ended = phase in ("Succeeded", "Failed")
    initialized = _initialized(context, inits)
    incomplete = [
        str_at(c, "name") for c in inits
        if not _initialized(context, [c])
    ]  # fmt: skip
    long_running = [c for c in inits if kind_of(c, init=True) is Kind.SIDECAR] + containers
    unready = [str_at(c, "name") for c in long_running if not context.record(str_at(c, "name")).ready]
    result: list[JsonObject] = [
        {"type": "PodReadyToStartContainers", "status": _truth(context.sandbox_ready)},
        {"type": "Initialized", "status": _truth(initialized)},
        {"type": "Ready", "status": "True"},
        {"type": "ContainersReady", "status": _truth(not unready)},
        {"type": "PodScheduled", "status": "True"},
    ]
    if not initialized:
        result[1] |= {
            "reason": "ContainersNotInitialized",
            "message": f"containers with incomplete status: [{' '.join(incomplete)}]",
        }
    elif phase == "Succeeded":
        result[1] |= {"reason": "PodCompleted"}
    if ended:
        why: JsonObject = {"status": "False", "reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
        result[2] |= why
        result[3] |= why
    elif unready:
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
        result[2] |= {"status": "False", **why}
        result[3] |= why
    else:
        missing = _gates_missing(context.pod)
        if missing:
            text = "; ".join(
                f'corresponding condition of pod readiness gate "{g}" does not exist or is not True' for g in missing
            )
            result[2] |= {"status": "False", "reason": "ReadinessGatesNotReady", "message": text}
    known = {str_at(c, "type"): c for c in objects_at(context.pod, "status", "conditions")}
    for condition in result:
        old = known.get(str_at(condition, "type"), {})
        same = str_at(old, "status") == condition["status"] and str_at(old, "lastTransitionTime")
        memory = context.transitions.get(str_at(condition, "type"))
        if memory is not None and memory[0] == condition["status"]:
            condition["lastTransitionTime"] = memory[1]
        else:
            condition["lastTransitionTime"] = str_at(old, "lastTransitionTime") if same and memory is None else now
        context.transitions[str_at(condition, "type")] = (
            str_at(condition, "status"), str_at(condition, "lastTransitionTime"),
        )  # fmt: skip
        condition.setdefault("reason", None)
        condition.setdefault("message", None)
        condition["lastProbeTime"] = None
    return list(result)


def _gates_missing(pod: JsonObject) -> list[str]:
    true = {str_at(c, "type") for c in objects_at(pod, "status", "conditions") if str_at(c, "status") == "True"}
    gates = [str_at(g, "conditionType") for g in objects_at(pod, "spec", "readinessGates")]
    return [g for g in gates if g not in true]


def _container(context: PodContext, container: JsonObject, kind: Kind) -> JsonObject:
    record = context.record(str_at(container, "name"))
    image = str_at(container, "image")
    status: JsonObject = {
        "name": record.name,
        "image": image,
        "imageID": record.image_id,
        "restartCount": record.restarts,
        "ready": record.ready,
        "started": record.started,
        "state": _state(record, context),
        "lastState": {"terminated": _terminated(record.last)} if record.last else {},
    }
    if record.id:
        status["containerID"] = f"meltem://{record.id}"
    mounts = _mounts(container)
    if mounts:
        status["volumeMounts"] = mounts
    resources = object_at(container, "resources")
    if resources and kind is not Kind.INIT:
        status["resources"] = dict(resources)
    requests = object_at(container, "resources", "requests")
    if requests and kind is not Kind.INIT:
        status["allocatedResources"] = dict(requests)
    return status


def _state(record: ContainerRecord, context: PodContext) -> JsonObject:
    if record.terminated is not None:
        return {"terminated": _terminated(record.terminated)}
    if record.started_at:
        return {"running": {"startedAt": rfc3339(record.started_at)}}
    waiting: JsonObject = {"reason": record.waiting_reason or "ContainerCreating"}
    if record.waiting_message:
        waiting["message"] = record.waiting_message
    return {"waiting": waiting}


def _terminated(end: Termination | None) -> JsonObject:
    if end is None:
        return {}
    result: JsonObject = {"exitCode": end.exit_code, "reason": end.reason}
    if end.message:
        result["message"] = end.message
    if end.signal:
        result["signal"] = end.signal
    result["startedAt"] = rfc3339(end.started)
    result["finishedAt"] = rfc3339(end.finished)
    if end.container_id:
        result["containerID"] = f"meltem://{end.container_id}"
    return result


def _mounts(container: JsonObject) -> list[Json]:
    result: list[Json] = []
    for mount in objects_at(container, "volumeMounts"):
        item: JsonObject = {"name": str_at(mount, "name"), "mountPath": str_at(mount, "mountPath")}
        if mount.get("readOnly") is True:
            item |= {"readOnly": True, "recursiveReadOnly": "Disabled"}
        result.append(item)
    return result


def quality(pod: JsonObject) -> str:
    """The quality-of-service class: Guaranteed, Burstable or BestEffort."""
    guaranteed, anything = True, False
    for container in objects_at(pod, "spec", "containers") + objects_at(pod, "spec", "initContainers"):
        limits = object_at(container, "resources", "limits")
        requests = object_at(container, "resources", "requests")
        anything = anything or any(k in part for part in (limits, requests) for k in ("cpu", "memory"))
        for resource in ("cpu", "memory"):
            if resource not in limits or requests.get(resource, limits[resource]) != limits[resource]:
                guaranteed = False
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _truth(value: bool) -> str:
    return "True" if value else "False"
