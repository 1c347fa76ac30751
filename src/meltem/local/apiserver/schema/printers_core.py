"""The cells of pods, nodes, services, endpoints, ingresses, volumes and events.

Row functions take the object and the time in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable

from meltem.local.apiserver.schema import printers as p
from meltem.objects import (
    Json,
    JsonObject,
    at,
    bool_at,
    int_at,
    labels_of,
    list_at,
    name_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
)

_ROLE_PREFIX = "node-role.kubernetes.io/"


def printers() -> dict[tuple[str, str], tuple[str, Callable[[JsonObject, float], list[Json]]]]:
    """(group, kind) → the columns' specification and the row function."""
    events = "Last_Seen Type Reason Object +Subobject +Source Message +First_Seen +Count +Name"
    claims = "Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age +VolumeMode"
    volumes = (
        "Name Capacity Access_Modes Reclaim_Policy Status Claim StorageClass VolumeAttributesClass Reason Age "
        "+VolumeMode"
    )
    nodes = "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime"
    return {
        ("", "Pod"): ("Name Ready Status Restarts Age +IP +Node +Nominated_Node +Readiness_Gates", _pod),
        ("", "Node"): (nodes, _node),
        ("", "Service"): ("Name Type Cluster-IP External-IP Port(s) Age +Selector", _service),
        ("", "Endpoints"): ("Name Endpoints Age", _endpoints),
        ("discovery.k8s.io", "EndpointSlice"): ("Name AddressType Ports Endpoints Age", _endpoint_slice),
        ("networking.k8s.io", "Ingress"): ("Name Class Hosts Address Ports Age", _ingress),
        ("networking.k8s.io", "IngressClass"): ("Name Controller Parameters Age", _ingress_class),
        ("networking.k8s.io", "NetworkPolicy"): ("Name Pod-Selector Age", _network_policy),
        ("", "PersistentVolume"): (volumes, _volume),
        ("", "PersistentVolumeClaim"): (claims, _claim),
        ("", "Event"): (events, _event),
        ("events.k8s.io", "Event"): (events, _event),
        ("", "ResourceQuota"): ("Name Request Limit Age", _quota),
    }


def _container_reason(state: JsonObject) -> str:
    """Why a container is not running; empty when it runs or says nothing."""
    waiting, ended = object_at(state, "waiting"), object_at(state, "terminated")
    if waiting.get("reason"):
        return str_at(waiting, "reason")
    if "terminated" not in state:
        return ""
    if ended.get("reason"):
        return str_at(ended, "reason")
    signal = int_at(ended, "signal")
    return f"Signal:{signal}" if signal else f"ExitCode:{int_at(ended, 'exitCode')}"


def _condition(obj: JsonObject, kind: str) -> str:
    found = next((c for c in objects_at(obj, "status", "conditions") if c.get("type") == kind), None)
    return str_at(found, "status")


class _PodState:
    """Ready containers, restarts and the one word that says how a pod is."""

    def __init__(self, obj: JsonObject) -> None:
        self.obj = obj
        self.sidecars = {
            str_at(c, "name") for c in objects_at(obj, "spec", "initContainers") if c.get("restartPolicy") == "Always"
        }
        self.total = len(list_at(obj, "spec", "containers")) + len(self.sidecars)
        self.ready = 0
        self.restarts = 0
        self.last = ""
        self.reason = str_at(obj, "status", "reason") or str_at(obj, "status", "phase")

    def _count(self, status: JsonObject) -> None:
        self.restarts += int_at(status, "restartCount")
        self.last = max(self.last, str_at(status, "lastState", "terminated", "finishedAt"))

    def read(self) -> None:
        gated = next(
            (c for c in objects_at(self.obj, "status", "conditions") if c.get("type") == "PodScheduled"), JsonObject()
        )
        if gated.get("reason") == "SchedulingGated":
            self.reason = "SchedulingGated"
        initializing = self._init()
        if not initializing or _condition(self.obj, "Initialized") == "True":
            self._main()
        if str_at(self.obj, "metadata", "deletionTimestamp"):
            phase = str_at(self.obj, "status", "phase")
            if str_at(self.obj, "status", "reason") == "NodeLost":
                self.reason = "Unknown"
            elif phase not in ("Failed", "Succeeded"):
                self.reason = "Terminating"

    def _init(self) -> bool:
        count = len(list_at(self.obj, "spec", "initContainers"))
        for index, status in enumerate(objects_at(self.obj, "status", "initContainerStatuses")):
            self._count(status)
            state = object_at(status, "state")
            ended = object_at(state, "terminated")
            if "terminated" in state and int_at(ended, "exitCode") == 0:
                continue
            if str_at(status, "name") in self.sidecars and bool_at(status, "started"):
                self.ready += bool_at(status, "ready")
                continue
            reason = _container_reason(state)
            if reason and reason != "PodInitializing":
                self.reason = f"Init:{reason}"
            else:
                self.reason = f"Init:{index}/{count}"
            return True
        return False

    def _main(self) -> None:
        statuses = objects_at(self.obj, "status", "initContainerStatuses")
        self.restarts, self.last = 0, ""
        for status in statuses:
            if str_at(status, "name") in self.sidecars:
                self._count(status)
        running = False
        for status in reversed(objects_at(self.obj, "status", "containerStatuses")):
            self._count(status)
            state = object_at(status, "state")
            if reason := _container_reason(state):
                self.reason = reason
            elif bool_at(status, "ready") and "running" in state:
                running = True
                self.ready += 1
        if self.reason == "Completed" and running:
            self.reason = "Running" if _condition(self.obj, "Ready") == "True" else "NotReady"


def _pod(obj: JsonObject, now: float) -> list[Json]:
    state = _PodState(obj)
    state.read()
    restarts = str(state.restarts)
    if state.restarts and state.last:
        restarts = f"{state.restarts} ({p.since(state.last, now)} ago)"
    gates = objects_at(obj, "spec", "readinessGates")
    passed = sum(_condition(obj, str_at(g, "conditionType")) == "True" for g in gates)
    return [
        name_of(obj),
        f"{state.ready}/{state.total}",
        state.reason,
        restarts,
        p.age(obj, now),
        str_at(obj, "status", "podIP") or p.NONE,
        str_at(obj, "spec", "nodeName") or p.NONE,
        str_at(obj, "status", "nominatedNodeName") or p.NONE,
        f"{passed}/{len(gates)}" if gates else p.NONE,
    ]


def _node(obj: JsonObject, now: float) -> list[Json]:
    state = {"True": "Ready", "False": "NotReady"}.get(_condition(obj, "Ready"))
    if state is None:
        state = "NotReady" if _condition(obj, "Ready") else "Unknown"
    if bool_at(obj, "spec", "unschedulable"):
        state += ",SchedulingDisabled"
    labels = labels_of(obj)
    roles = sorted(k.removeprefix(_ROLE_PREFIX) for k in labels if k.startswith(_ROLE_PREFIX))
    addresses = {str_at(a, "type"): str_at(a, "address") for a in reversed(objects_at(obj, "status", "addresses"))}
    info = object_at(obj, "status", "nodeInfo")
    return [
        name_of(obj),
        state,
        ",".join(r for r in roles if r) or p.NONE,
        p.age(obj, now),
        str_at(info, "kubeletVersion"),
        addresses.get("InternalIP") or p.NONE,
        addresses.get("ExternalIP") or p.NONE,
        str_at(info, "osImage") or p.UNKNOWN,
        str_at(info, "kernelVersion") or p.UNKNOWN,
        str_at(info, "containerRuntimeVersion") or p.UNKNOWN,
    ]


def _service(obj: JsonObject, now: float) -> list[Json]:
    kind = str_at(obj, "spec", "type")
    addresses = strings_at(obj, "spec", "clusterIPs")
    address = addresses[0] if addresses else str_at(obj, "spec", "clusterIP")
    ports: list[str] = []
    for port in objects_at(obj, "spec", "ports"):
        node = int_at(port, "nodePort")
        number = f"{int_at(port, 'port')}:{node}" if node else str(int_at(port, "port"))
        ports.append(f"{number}/{str_at(port, 'protocol')}")
    selector = p.labels_text(string_map_at(obj, "spec", "selector"))
    shown = ",".join(ports) or p.NONE
    return [name_of(obj), kind, address or p.NONE, _external(obj, kind), shown, p.age(obj, now), selector]


def _external(obj: JsonObject, kind: str) -> str:
    given = strings_at(obj, "spec", "externalIPs")
    if kind == "ExternalName":
        return str_at(obj, "spec", "externalName")
    if kind == "LoadBalancer":
        found = [str_at(i, "ip") or str_at(i, "hostname") for i in objects_at(obj, "status", "loadBalancer", "ingress")]
        return ",".join([*found, *given]) or "<pending>"
    return ",".join(given) or p.NONE


def _endpoints(obj: JsonObject, now: float) -> list[Json]:
    shown: list[str] = []
    for subset in objects_at(obj, "subsets"):
        hosts = [str_at(a, "ip") for a in objects_at(subset, "addresses")]
        ports = objects_at(subset, "ports")
        if not ports:
            shown.extend(hosts)
        for port in ports:
            shown.extend(f"[{h}]:{port.get('port')}" if ":" in h else f"{h}:{port.get('port')}" for h in hosts)
    return [name_of(obj), _first(shown, p.NONE), p.age(obj, now)]


def _first(items: list[str], empty: str, limit: int = 3) -> str:
    if not items:
        return empty
    return ",".join(items[:limit]) + (f" + {len(items) - limit} more..." if len(items) > limit else "")


def _endpoint_slice(obj: JsonObject, now: float) -> list[Json]:
    ports = [str(x["port"]) if x.get("port") is not None else "*" for x in objects_at(obj, "ports")]
    hosts = [a for e in objects_at(obj, "endpoints") for a in strings_at(e, "addresses")]
    return [
        name_of(obj),
        str_at(obj, "addressType"),
        _first(ports, "<unset>"),
        _first(hosts, "<unset>"),
        p.age(obj, now),
    ]


def _ingress(obj: JsonObject, now: float) -> list[Json]:
    hosts = [h for r in objects_at(obj, "spec", "rules") if (h := str_at(r, "host"))]
    found = [str_at(i, "ip") or str_at(i, "hostname") for i in objects_at(obj, "status", "loadBalancer", "ingress")]
    return [
        name_of(obj),
        str_at(obj, "spec", "ingressClassName") or p.NONE,
        _first(hosts, "*"),
        ",".join(found),
        "80, 443" if list_at(obj, "spec", "tls") else "80",
        p.age(obj, now),
    ]


def _ingress_class(obj: JsonObject, now: float) -> list[Json]:
    given = object_at(obj, "spec", "parameters")
    group = str_at(given, "apiGroup")
    kind = str_at(given, "kind")
    shown = f"{kind}.{group}/{str_at(given, 'name')}" if group else f"{kind}/{str_at(given, 'name')}"
    return [name_of(obj), str_at(obj, "spec", "controller"), shown if given else p.NONE, p.age(obj, now)]


def _network_policy(obj: JsonObject, now: float) -> list[Json]:
    return [name_of(obj), p.selector_text(object_at(obj, "spec", "podSelector")), p.age(obj, now)]


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: list[str]) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in modes)


def _terminating(obj: JsonObject) -> str:
    return "Terminating" if str_at(obj, "metadata", "deletionTimestamp") else str_at(obj, "status", "phase")


def _volume(obj: JsonObject, now: float) -> list[Json]:
    claim = object_at(obj, "spec", "claimRef")
    return [
        name_of(obj),
        str_at(obj, "spec", "capacity", "storage"),
        _modes(strings_at(obj, "spec", "accessModes")),
        str_at(obj, "spec", "persistentVolumeReclaimPolicy"),
        _terminating(obj),
        f"{str_at(claim, 'namespace')}/{str_at(claim, 'name')}" if claim else "",
        str_at(obj, "spec", "storageClassName"),
        str_at(obj, "spec", "volumeAttributesClassName") or "<unset>",
        str_at(obj, "status", "reason"),
        p.age(obj, now),
        str_at(obj, "spec", "volumeMode") or "<unset>",
    ]


def _claim(obj: JsonObject, now: float) -> list[Json]:
    volume = str_at(obj, "spec", "volumeName")
    return [
        name_of(obj),
        _terminating(obj),
        volume,
        str_at(obj, "status", "capacity", "storage") if volume else "",
        _modes(strings_at(obj, "status", "accessModes")) if volume else "",
        str_at(obj, "spec", "storageClassName"),
        str_at(obj, "spec", "volumeAttributesClassName") or "<unset>",
        p.age(obj, now),
        str_at(obj, "spec", "volumeMode") or "<unset>",
    ]


def _event(obj: JsonObject, now: float) -> list[Json]:
    newer = object_at(obj, "series")
    first = str_at(obj, "firstTimestamp") or str_at(obj, "deprecatedFirstTimestamp") or str_at(obj, "eventTime")
    last = (
        str_at(newer, "lastObservedTime")
        or str_at(obj, "lastTimestamp")
        or str_at(obj, "deprecatedLastTimestamp")
        or first
    )
    count = int_at(newer, "count") or int_at(obj, "count") or int_at(obj, "deprecatedCount") or 1
    about = object_at(obj, "involvedObject") or object_at(obj, "regarding")
    target = str_at(about, "kind").lower()
    if name := str_at(about, "name"):
        target += f"/{name}"
    old_source = object_at(obj, "source") or object_at(obj, "deprecatedSource")
    source = str_at(old_source, "component") or str_at(obj, "reportingComponent") or str_at(obj, "reportingController")
    host = str_at(old_source, "host") or str_at(obj, "reportingInstance")
    message = str_at(obj, "message") or str_at(obj, "note")
    return [
        p.since(last, now),
        str_at(obj, "type"),
        str_at(obj, "reason"),
        target,
        str_at(about, "fieldPath"),
        f"{source}, {host}" if source and host else source,
        message.strip(),
        p.since(first, now),
        count,
        name_of(obj),
    ]


def _quota(obj: JsonObject, now: float) -> list[Json]:
    hard, used = object_at(obj, "status", "hard"), object_at(obj, "status", "used")
    requests: list[str] = []
    limits: list[str] = []
    for name in sorted(hard):
        shown = f"{name}: {used.get(name, 0)}/{at(hard, name)}"
        (limits if name.startswith("limits") else requests).append(shown)
    return [name_of(obj), ", ".join(requests), ", ".join(limits), p.age(obj, now)]
