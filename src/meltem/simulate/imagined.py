"""What files leave to the cluster, imagined: pods of workloads, addresses of services, endpoints, the ingress gateway.

In: objects of files. Out: the same with the missing objects added, so that a mesh can be simulated from its manifests
alone. Addresses are of ranges that no mesh uses (198.18.0.0/15), given out by place, so that a file gives the same ones
each time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from meltem.objects import (
    Json,
    JsonObject,
    copy_object,
    ensure_object,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
)
from meltem.simulate.origin import Origin, Placed

_PODS = ipaddress.ip_address("198.18.0.1")
_SERVICES = ipaddress.ip_address("198.19.0.1")
_WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
_INGRESS_PORTS = ((80, 8080), (443, 8443), (15021, 15021))


def complete(placed: Sequence[Placed], *, gateways: bool = True) -> list[Placed]:
    """The objects and what a cluster would make of them. Objects that are there already are not made again.
    `gateways`: also workloads for selectors of Gateways that the files have none for."""
    objects = [*placed, *(_gateways(placed) if gateways else ())]
    objects += _pods(objects)
    objects = [_with_address(p, i) if str_at(p.obj, "kind") == "Service" else p for i, p in enumerate(objects)]
    return [*objects, *_slices(objects), *_namespaces(objects)]


def _of(placed: Iterable[Placed], kind: str) -> list[Placed]:
    return [p for p in placed if str_at(p.obj, "kind") == kind]


def _gateways(placed: Sequence[Placed]) -> list[Placed]:
    """A gateway workload and its Service for each selector of a Gateway that nothing in the files has."""
    templates = [string_map_at(p.obj, "spec", "template", "metadata", "labels") for p in placed]
    templates += [labels_of(p.obj) for p in _of(placed, "Pod")]
    out: list[Placed] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for one in _of(placed, "Gateway"):
        selector = string_map_at(one.obj, "spec", "selector")
        key = tuple(sorted(selector.items()))
        if not selector or key in seen or any(selector.items() <= t.items() for t in templates):
            continue
        seen.add(key)
        name = f"istio-{selector.get('istio', 'gateway')}"
        ports: list[Json] = [
            {"name": f"port-{number}", "port": number, "targetPort": target} for number, target in _INGRESS_PORTS
        ]
        meta: JsonObject = {"name": name, "namespace": "istio-system"}
        labels: dict[str, Json] = {**selector, "app": selector.get("app", name)}
        pod: JsonObject = {"containers": [{"name": "istio-proxy", "args": ["proxy", "router"]}]}
        out.append(Placed({"apiVersion": "v1", "kind": "Service", "metadata": meta,
                           "spec": {"type": "LoadBalancer", "selector": labels, "ports": ports}}))  # fmt: skip
        out.append(Placed({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**meta},
                           "spec": {"selector": {"matchLabels": labels},
                                    "template": {"metadata": {"labels": labels}, "spec": pod}}}))  # fmt: skip
    return out


def _pods(placed: Sequence[Placed]) -> list[Placed]:
    """One running pod, with a proxy, for each workload that has none."""
    out: list[Placed] = []
    workloads = [p for p in placed if str_at(p.obj, "kind") in _WORKLOADS]
    taken = [(namespace_of(p.obj), labels_of(p.obj)) for p in _of(placed, "Pod")]
    for index, one in enumerate(workloads):
        template = object_at(one.obj, "spec", "template")
        labels = labels_of(template)
        if any(ns == namespace_of(one.obj) and labels.items() <= have.items() for ns, have in taken):
            continue
        out.append(Placed(_pod(one.obj, copy_object(template), str(_PODS + index)), one.origin))
    return out


def _pod(workload: JsonObject, template: JsonObject, address: str) -> JsonObject:
    metadata = object_at(template, "metadata")
    spec = ensure_object(template, "spec")
    containers = objects_at(spec, "containers")
    labels: dict[str, Json] = {**labels_of(template)}
    injected = str_at(labels, "sidecar.istio.io/inject") != "false"
    if injected:
        if not any(str_at(c, "name") == "istio-proxy" for c in containers):
            proxy: JsonObject = {"name": "istio-proxy", "args": ["proxy", "sidecar"]}
            spec["containers"] = [*containers, proxy]
        if not any("router" in strings_at(c, "args") for c in containers):  # a gateway is not sent mutual TLS unasked
            labels["security.istio.io/tlsMode"] = "istio"
    spec.setdefault("serviceAccountName", "default")
    owner: JsonObject = {
        "apiVersion": "apps/v1", "kind": str_at(workload, "kind"), "name": name_of(workload), "controller": True,
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **metadata,
            "name": f"{name_of(workload)}-0",
            "namespace": namespace_of(workload),
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": spec,
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _with_address(placed: Placed, index: int) -> Placed:
    obj = placed.obj
    if str_at(obj, "spec", "clusterIP") or str_at(obj, "spec", "type") == "ExternalName":
        return placed
    made = copy_object(obj)
    address = str(_SERVICES + index)
    ensure_object(made, "spec").update({"clusterIP": address, "clusterIPs": [address]})
    return Placed(made, placed.origin)


def _slices(placed: Sequence[Placed]) -> list[Placed]:
    known = {
        (namespace_of(p.obj), labels_of(p.obj).get("kubernetes.io/service-name", ""))
        for p in _of(placed, "EndpointSlice")
    }
    out: list[Placed] = []
    pods: dict[str, list[tuple[JsonObject, dict[str, str]]]] = {}
    for pod in _of(placed, "Pod"):
        pods.setdefault(namespace_of(pod.obj), []).append((pod.obj, labels_of(pod.obj)))
    for one in _of(placed, "Service"):
        selector = string_map_at(one.obj, "spec", "selector")
        namespace, name = namespace_of(one.obj), name_of(one.obj)
        if not selector or (namespace, name) in known:
            continue
        mine = [p for p, labels in pods.get(namespace, ()) if selector.items() <= labels.items()]
        if mine:
            out.append(Placed(_slice(one.obj, mine), Origin()))
    return out


def _slice(service: JsonObject, pods: Sequence[JsonObject]) -> JsonObject:
    namespace, name = namespace_of(service), name_of(service)
    ports: list[Json] = [
        {"name": str_at(p, "name"), "port": _target(p, pods[0]), "protocol": str_at(p, "protocol") or "TCP"}
        for p in objects_at(service, "spec", "ports")
    ]
    endpoints: list[Json] = [
        {
            "addresses": [str_at(p, "status", "podIP")],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "name": name_of(p), "namespace": namespace},
        }
        for p in pods
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-0", "namespace": namespace, "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    }  # fmt: skip


def _target(port: JsonObject, pod: JsonObject) -> int:
    target = port.get("targetPort", port.get("port"))
    if isinstance(target, int):
        return target
    for container in objects_at(pod, "spec", "containers"):
        for one in objects_at(container, "ports"):
            number = one.get("containerPort")
            if one.get("name") == target and isinstance(number, int):
                return number
    number = port.get("port")
    return number if isinstance(number, int) else 0


def _namespaces(placed: Sequence[Placed]) -> list[Placed]:
    there = {name_of(p.obj) for p in _of(placed, "Namespace")}
    used = {namespace_of(p.obj) for p in placed if namespace_of(p.obj)}
    return [Placed(_namespace(n)) for n in sorted(used - there)]


def _namespace(name: str) -> JsonObject:
    labels: Mapping[str, Json] = {"kubernetes.io/metadata.name": name}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**labels}}}
