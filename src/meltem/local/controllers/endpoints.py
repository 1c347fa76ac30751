"""EndpointSlices and Endpoints: which pods are behind a Service, and whether they are ready.

In: Services with a selector, pods, nodes. Out: EndpointSlices of at most 100 endpoints each (by address family and
target ports) and the older Endpoints object. A Service without a selector is left to its author; Endpoints that a
person wrote for one are mirrored into slices. A slice is patched only when it differs.
"""

from __future__ import annotations

import ipaddress

import msgspec

from meltem.clock import rfc3339
from meltem.kube.resource_types import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES
from meltem.kube.selectors import map_selects
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, enqueue_self, is_deleting
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    at,
    bool_at,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
    uid_of,
)

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
MANAGED_BY_LEGACY = "endpoints.kubernetes.io/managed-by"
OURS = "endpointslice-controller.k8s.io"
MIRRORED = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
_MOST = 100
_MOST_LEGACY = 1000


class EndpointsController:
    """Both kinds, for Services with a selector."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._services = ctx.cache(SERVICES)
        self._pods = ctx.cache(PODS)
        self._slices = ctx.cache(ENDPOINT_SLICES)
        self._endpoints = ctx.cache(ENDPOINTS)
        self._queue: WorkQueue[Key] = WorkQueue("endpoints")

    async def run(self) -> None:
        enqueue_self(self._services, self._queue)
        self._pods.on_change(self._pod_changed)
        self._slices.on_change(self._slice_changed)
        self._endpoints.on_change(lambda old, new: self._queue.add(key_of(new or old or {})))
        await self._queue.run(self._sync)

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if old is not None and new is not None and _matters(old) == _matters(new):
            return
        pod = new or old or {}
        known = [labels_of(p) for p in (old, new) if p is not None]
        for service in self._services.in_namespace(namespace_of(pod)):
            selector = string_map_at(service, "spec", "selector")
            if any(map_selects(selector, labels) for labels in known):
                self._queue.add(key_of(service))

    def _slice_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        for item in (old, new):
            if item is not None and labels_of(item).get(SERVICE_NAME):
                self._queue.add((namespace_of(item), labels_of(item)[SERVICE_NAME]))

    async def _sync(self, key: Key) -> None:
        service = self._services.get(key[1], key[0])
        existing = [
            s
            for s in self._slices.in_namespace(key[0])
            if labels_of(s).get(SERVICE_NAME) == key[1] and not is_deleting(s)
        ]
        own = [s for s in existing if labels_of(s).get(MANAGED_BY) == OURS]
        selector = string_map_at(service or {}, "spec", "selector")
        if service is None or is_deleting(service) or not selector or str_at(service, "spec", "type") == "ExternalName":
            for item in own:
                if service is None or str_at(service, "spec", "type") == "ExternalName":
                    await self._ctx.delete(ENDPOINT_SLICES, item)
            if service is None:
                await self._forget_legacy(key)
            return
        pods = [
            p
            for p in self._pods.in_namespace(key[0])
            if map_selects(selector, labels_of(p)) and strings_ip(p) and not podlib.is_finished(p)
        ]
        pods.sort(key=lambda p: (str_at(p, "metadata", "creationTimestamp"), name_of(p)))
        desired = desired_slices(service, pods)
        await self._write_slices(service, desired, own)
        await self._write_legacy(service, pods)

    async def _write_slices(self, service: JsonObject, desired: list[JsonObject], own: list[JsonObject]) -> None:
        free = sorted(own, key=name_of)
        for wanted in desired:
            match = next((s for s in free if _same_shape(s, wanted)), None)
            if match is None:
                await self._ctx.create(ENDPOINT_SLICES, wanted, namespace_of(service))
                continue
            free.remove(match)
            same_labels = string_map_at(wanted, "metadata", "labels") == labels_of(match)
            if objects_at(match, "endpoints") == objects_at(wanted, "endpoints") and same_labels:
                continue
            changed: JsonObject = {**match, "endpoints": wanted["endpoints"]}
            annotations = annotations_of(match)
            annotations[TRIGGER_TIME] = rfc3339(self._ctx.clock.now())
            changed["metadata"] = {
                **_object(match, "metadata"),
                "labels": at(wanted, "metadata", "labels"),
                "annotations": {**annotations},
            }
            await self._ctx.update(ENDPOINT_SLICES, changed)
        for item in free:
            await self._ctx.delete(ENDPOINT_SLICES, item)

    async def _write_legacy(self, service: JsonObject, pods: list[JsonObject]) -> None:
        subsets = legacy_subsets(service, pods)
        existing = self._endpoints.get(name_of(service), namespace_of(service))
        labels: JsonObject = {**labels_of(service), MANAGED_BY_LEGACY: "endpoint-controller"}
        if str_at(service, "spec", "clusterIP") == "None":
            labels[HEADLESS] = ""
        annotations: JsonObject = {TRIGGER_TIME: rfc3339(self._ctx.clock.now())}
        if existing is None:
            made: JsonObject = {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {
                    "name": name_of(service),
                    "namespace": namespace_of(service),
                    "labels": labels,
                    "annotations": annotations,
                },
                "subsets": subsets,
            }
            await self._ctx.create(ENDPOINTS, made)
            return
        if objects_at(existing, "subsets") == subsets and labels_of(existing) == labels:
            return
        metadata: JsonObject = {
            **_object(existing, "metadata"),
            "labels": labels,
            "annotations": {**_object(existing, "metadata", "annotations"), **annotations},
        }
        await self._ctx.update(ENDPOINTS, {**existing, "metadata": metadata, "subsets": subsets})

    async def _forget_legacy(self, key: Key) -> None:
        existing = self._endpoints.get(key[1], key[0])
        if existing is not None and labels_of(existing).get(MANAGED_BY_LEGACY) == "endpoint-controller":
            await self._ctx.delete(ENDPOINTS, existing)


class MirroringController:
    """Endpoints that a person wrote for a Service without a selector, as EndpointSlices."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._services = ctx.cache(SERVICES)
        self._slices = ctx.cache(ENDPOINT_SLICES)
        self._endpoints = ctx.cache(ENDPOINTS)
        self._queue: WorkQueue[Key] = WorkQueue("endpoint-mirroring")

    async def run(self) -> None:
        enqueue_self(self._services, self._queue)
        enqueue_self(self._endpoints, self._queue)
        await self._queue.run(self._sync)

    async def _sync(self, key: Key) -> None:
        source = self._endpoints.get(key[1], key[0])
        service = self._services.get(key[1], key[0])
        own = [
            s
            for s in self._slices.in_namespace(key[0])
            if labels_of(s).get(SERVICE_NAME) == key[1] and labels_of(s).get(MANAGED_BY) == MIRRORED
        ]
        desired: list[JsonObject] = []
        if source is not None and service is not None and _mirrored(source, service):
            desired = mirror_slices(source)
        free = sorted(own, key=name_of)
        for wanted in desired:
            match = next((s for s in free if _same_shape(s, wanted)), None)
            if match is None:
                await self._ctx.create(ENDPOINT_SLICES, wanted, key[0])
                continue
            free.remove(match)
            if objects_at(match, "endpoints") != objects_at(wanted, "endpoints"):
                await self._ctx.update(ENDPOINT_SLICES, {**match, "endpoints": wanted["endpoints"]})
        for item in free:
            await self._ctx.delete(ENDPOINT_SLICES, item)


def _mirrored(source: JsonObject, service: JsonObject) -> bool:
    return (
        not string_map_at(service, "spec", "selector")
        and labels_of(source).get(SKIP_MIRROR) != "true"
        and labels_of(source).get(MANAGED_BY_LEGACY) != "endpoint-controller"
        and not (namespace_of(source) == "default" and name_of(source) == "kubernetes")  # the API server makes both
        and "control-plane.alpha.kubernetes.io/leader" not in annotations_of(source)
        and not is_deleting(service)
    )


def mirror_slices(source: JsonObject) -> list[JsonObject]:
    """The slices that say what an Endpoints object says."""
    slices: list[JsonObject] = []
    for subset in objects_at(source, "subsets"):
        families: dict[str, list[Json]] = {}
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in objects_at(subset, field):
                ip = str_at(address, "ip")
                endpoint: JsonObject = {"addresses": [ip], "conditions": {"ready": ready}}
                for name in ("hostname", "nodeName", "targetRef"):
                    if name in address:
                        endpoint[name] = address[name]
                families.setdefault(_family(ip), []).append(endpoint)
        ports: list[Json] = [
            {"name": str_at(p, "name"), "port": int_at(p, "port"), "protocol": str_at(p, "protocol", default="TCP")}
            for p in objects_at(subset, "ports")
        ]
        labels = {k: v for k, v in labels_of(source).items() if k != SERVICE_NAME}
        for family, endpoints in families.items():
            slices.append(_slice(source, family, endpoints, ports, labels, MIRRORED, ENDPOINTS.kind))
    return slices


def desired_slices(service: JsonObject, pods: list[JsonObject]) -> list[JsonObject]:
    """The EndpointSlices of a Service with these pods; one empty slice when there are none."""
    families = strings_at(service, "spec", "ipFamilies") or ["IPv4"]
    labels = {k: v for k, v in labels_of(service).items() if k not in (SERVICE_NAME, MANAGED_BY)}
    if str_at(service, "spec", "clusterIP") == "None":
        labels[HEADLESS] = ""
    slices: list[JsonObject] = []
    for family in families:
        groups: dict[bytes, tuple[list[Json], list[Json]]] = {}
        for pod in pods:
            ip = next((i for i in pod_ips(pod) if _family(i) == family), "")
            if not ip:
                continue
            ports = _target_ports(service, pod)
            group = groups.setdefault(msgspec.json.encode(ports), (ports, []))
            group[1].append(_endpoint(service, pod, ip))
        if not groups:
            groups[b""] = (_target_ports(service, {}), [])
        for ports, endpoints in groups.values():
            for start in range(0, max(1, len(endpoints)), _MOST):
                part = endpoints[start : start + _MOST]
                slices.append(_slice(service, family, part, ports, labels, OURS, SERVICES.kind))
    return slices


def _slice(
    owner: JsonObject,
    family: str,
    endpoints: list[Json],
    ports: list[Json],
    labels: dict[str, str],
    manager: str,
    owner_kind: str,
) -> JsonObject:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{name_of(owner)}-",
            "namespace": namespace_of(owner),
            "labels": {**labels, SERVICE_NAME: name_of(owner), MANAGED_BY: manager},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": owner_kind,
                    "name": name_of(owner),
                    "uid": uid_of(owner),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }


def _endpoint(service: JsonObject, pod: JsonObject, ip: str) -> JsonObject:
    serving = podlib.is_ready(pod)
    terminating = is_deleting(pod)
    ready = (serving and not terminating) or bool_at(service, "spec", "publishNotReadyAddresses")
    endpoint: JsonObject = {
        "addresses": [ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": namespace_of(pod),
            "name": name_of(pod),
            "uid": uid_of(pod),
        },
    }
    if str_at(pod, "spec", "nodeName"):
        endpoint["nodeName"] = str_at(pod, "spec", "nodeName")
    if _has_hostname(service, pod):
        endpoint["hostname"] = str_at(pod, "spec", "hostname")
    return endpoint


def _has_hostname(service: JsonObject, pod: JsonObject) -> bool:
    return bool(str_at(pod, "spec", "hostname")) and str_at(pod, "spec", "subdomain") == name_of(service)


def _target_ports(service: JsonObject, pod: JsonObject) -> list[Json]:
    """The Service's ports as this pod has them; a named port that the pod lacks is left out."""
    ports: list[Json] = []
    for port in objects_at(service, "spec", "ports"):
        number = target_port(port, pod)
        if not number:
            continue
        entry: JsonObject = {
            "name": str_at(port, "name"),
            "port": number,
            "protocol": str_at(port, "protocol", default="TCP"),
        }
        if str_at(port, "appProtocol"):
            entry["appProtocol"] = str_at(port, "appProtocol")
        ports.append(entry)
    return ports


def target_port(port: JsonObject, pod: JsonObject) -> int:
    """The pod's port number for a Service port; 0 when it is a name that no container has."""
    target = at(port, "targetPort")
    if isinstance(target, str) and target and not target.isdigit():
        containers = [*objects_at(pod, "spec", "containers")]
        containers += [c for c in objects_at(pod, "spec", "initContainers") if str_at(c, "restartPolicy") == "Always"]
        for container in containers:
            for candidate in objects_at(container, "ports"):
                same = str_at(candidate, "protocol", default="TCP") == str_at(port, "protocol", default="TCP")
                if str_at(candidate, "name") == target and same:
                    return int_at(candidate, "containerPort")
        return 0
    number = int(target) if isinstance(target, int | str) and target else 0
    return number or int_at(port, "port")


def legacy_subsets(service: JsonObject, pods: list[JsonObject]) -> list[Json]:
    """`subsets` of the Endpoints object: addresses grouped by target ports, sorted, at most 1000."""
    family = (strings_at(service, "spec", "ipFamilies") or ["IPv4"])[0]
    groups: dict[bytes, tuple[list[Json], list[JsonObject], list[JsonObject]]] = {}
    publish = bool_at(service, "spec", "publishNotReadyAddresses")
    for pod in pods[:_MOST_LEGACY]:
        ip = next((i for i in pod_ips(pod) if _family(i) == family), "")
        if not ip or (is_deleting(pod) and not publish):
            continue
        address: JsonObject = {"ip": ip}
        if str_at(pod, "spec", "nodeName"):
            address["nodeName"] = str_at(pod, "spec", "nodeName")
        if _has_hostname(service, pod):
            address["hostname"] = str_at(pod, "spec", "hostname")
        address["targetRef"] = {
            "kind": "Pod",
            "namespace": namespace_of(pod),
            "name": name_of(pod),
            "uid": uid_of(pod),
        }
        ports = _target_ports(service, pod)
        _, ready, not_ready = groups.setdefault(msgspec.json.encode(ports), (ports, [], []))
        (ready if podlib.is_ready(pod) or publish else not_ready).append(address)
    subsets: list[Json] = []
    for _, (ports, ready, not_ready) in sorted(groups.items()):
        subset: JsonObject = {}
        if ready:
            subset["addresses"] = [*sorted(ready, key=lambda a: str_at(a, "ip"))]
        if not_ready:
            subset["notReadyAddresses"] = [*sorted(not_ready, key=lambda a: str_at(a, "ip"))]
        if ports:
            subset["ports"] = [{k: v for k, v in _object(p).items() if k != "name" or v} for p in ports]
        subsets.append(subset)
    return subsets


def pod_ips(pod: JsonObject) -> list[str]:
    listed = [str_at(i, "ip") for i in objects_at(pod, "status", "podIPs")]
    return [i for i in listed if i] or strings_ip(pod)


def strings_ip(pod: JsonObject) -> list[str]:
    ip = str_at(pod, "status", "podIP")
    return [ip] if ip else []


def _family(ip: str) -> str:
    try:
        return "IPv6" if ipaddress.ip_address(ip).version == 6 else "IPv4"
    except ValueError:
        return "FQDN"


def _same_shape(existing: JsonObject, wanted: JsonObject) -> bool:
    return existing.get("addressType") == wanted["addressType"] and _plain_ports(existing) == _plain_ports(wanted)


def _plain_ports(item: JsonObject) -> list[tuple[str, int, str, str]]:
    return [
        (str_at(p, "name"), int_at(p, "port"), str_at(p, "protocol", default="TCP"), str_at(p, "appProtocol"))
        for p in objects_at(item, "ports")
    ]


def _matters(pod: JsonObject) -> tuple[Json, ...]:
    return (
        {**labels_of(pod)},
        is_deleting(pod),
        [*pod_ips(pod)],
        podlib.is_ready(pod),
        podlib.is_finished(pod),
        str_at(pod, "spec", "hostname"),
        str_at(pod, "spec", "nodeName"),
        uid_of(pod),
    )


def _object(value: Json, *path: str) -> JsonObject:
    found = at(value, *path)
    return found if isinstance(found, dict) else {}
