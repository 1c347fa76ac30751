"""Cluster IPs and node ports of Services.

In: the wanted Service and the live one. Out: the wanted one with its addresses and ports filled in; what is in use is
read from the store, staged writes included, so that nothing is handed out twice. Raises Invalid, in the API server's
words.
"""

from __future__ import annotations

import ipaddress
import random

from meltem.local.apiserver.families import settle
from meltem.local.apiserver.schema.fielderrors import FieldError, invalid
from meltem.local.apiserver.storage import Store
from meltem.local.config import FAMILY_NAMES, ClusterConfig
from meltem.objects import (
    Json,
    JsonObject,
    ensure_object,
    int_at,
    name_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
    uid_of,
)

NODE_PORTS = range(30000, 32768)


class ServiceAllocator:
    def __init__(self, store: Store, config: ClusterConfig) -> None:
        self._store = store
        self._networks = {FAMILY_NAMES[n.version]: n for n in map(ipaddress.ip_network, config.service_cidrs)}

    def prepare(self, obj: JsonObject, old: JsonObject | None) -> None:
        """Fills addresses and ports in place; other kinds are left alone. Raises Invalid."""
        if str_at(obj, "kind") != "Service" or str_at(obj, "apiVersion") != "v1":
            return
        spec = ensure_object(obj, "spec")
        kind = str_at(spec, "type") or "ClusterIP"
        before = old if old is not None else None
        others = [e.object for e in self._store.heads("services") if not _same(e.object, obj)]
        if kind == "ExternalName":
            self._release(spec, before)
            return
        errors = settle(spec, object_at(before, "spec") if before is not None else None, [*self._networks])
        if errors:
            raise invalid("", "Service", name_of(obj), errors)
        self._addresses(obj, spec, before, others)
        self._ports(obj, spec, kind, before, others)

    def _release(self, spec: JsonObject, before: JsonObject | None) -> None:
        """ExternalName has neither address nor node ports."""
        old_ips = strings_at(before, "spec", "clusterIPs") if before else []
        if strings_at(spec, "clusterIPs") == old_ips or not old_ips:
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"):
                spec.pop(name, None)
        for port in objects_at(spec, "ports"):
            port.pop("nodePort", None)

    def _addresses(
        self, obj: JsonObject, spec: JsonObject, before: JsonObject | None, others: list[JsonObject]
    ) -> None:
        """One cluster IP for each family, those that are there kept."""
        given, own = strings_at(spec, "clusterIPs"), strings_at(before, "spec", "clusterIPs") if before else []
        if given == ["None"]:
            return
        used = {ip for other in others for ip in strings_at(other, "spec", "clusterIPs")}
        found: list[Json] = []
        for index, family in enumerate(strings_at(spec, "ipFamilies")):
            if index < len(given):
                self._check_address(obj, family, given[index], used, own[index] if index < len(own) else "")
                found.append(str(ipaddress.ip_address(given[index])))
            else:
                found.append(self._free_address(obj, family, used))
        spec["clusterIP"], spec["clusterIPs"] = found[0], found

    def _check_address(self, obj: JsonObject, family: str, address: str, used: set[str], own: str) -> None:
        """May the Service have this one? `own` is what it has now."""
        field = "spec.clusterIPs"
        if address == own:
            return
        if own and own != "None":
            raise _refused(
                obj, field + "[0]", "FieldValueInvalid", f'Invalid value: ["{address}"]: may not change once set'
            )
        if ipaddress.ip_address(address) not in self._networks[family]:
            why = f"failed to allocate IP {address}: the provided network does not match the current range"
            raise _refused(obj, field, "FieldValueInvalid", f'Invalid value: ["{address}"]: {why}')
        if str(ipaddress.ip_address(address)) in used:
            why = f"failed to allocate IP {address}: provided IP is already allocated"
            raise _refused(obj, field, "FieldValueInvalid", f'Invalid value: ["{address}"]: {why}')

    def _free_address(self, obj: JsonObject, family: str, used: set[str]) -> str:
        """A random one of the upper part of the range: the lower part is for addresses that people choose."""
        network = self._networks[family]
        size = network.num_addresses
        reserved = min(max(16, size // 16), 256)
        for _ in range(100):
            address = str(network[random.randrange(reserved, size - 1)])
            if address not in used:
                return address
        for host in network.hosts():
            if str(host) not in used and host != network[1]:
                return str(host)
        raise _refused(obj, "spec.clusterIPs", "FieldValueInvalid", "failed to allocate a serviceIP: range is full")

    def _ports(
        self, obj: JsonObject, spec: JsonObject, kind: str, before: JsonObject | None, others: list[JsonObject]
    ) -> None:
        wants = kind == "NodePort" or (
            kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False
        )
        used = {number for other in others for number in node_ports(other)}
        own = {*node_ports(before)} if before else set[int]()
        known = {_identity(p): int_at(p, "nodePort") for p in objects_at(before, "spec", "ports")} if before else {}
        taken: dict[int, str] = {}
        for index, port in enumerate(objects_at(spec, "ports")):
            number = int_at(port, "nodePort")
            if kind == "ClusterIP":
                if number and before is not None and number in own:
                    port.pop("nodePort", None)
                continue
            if not number and wants:
                number = known.get(_identity(port), 0)
            if number:
                self._check_port(obj, f"spec.ports[{index}].nodePort", number, used)
            elif wants:
                number = _free_port(obj, used | set(taken) | own)
            if number:
                port["nodePort"] = number
                taken[number] = str_at(port, "protocol")
        self._health_port(obj, spec, kind, used | set(taken))

    def _check_port(self, obj: JsonObject, field: str, number: int, used: set[int]) -> None:
        if number not in NODE_PORTS:
            valid = f"{NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
            why = f"provided port is not in the valid range. The range of valid ports is {valid}"
            raise _refused(obj, field, "FieldValueInvalid", f"Invalid value: {number}: {why}")
        if number in used:
            raise _refused(
                obj, field, "FieldValueInvalid", f"Invalid value: {number}: provided port is already allocated"
            )

    def _health_port(self, obj: JsonObject, spec: JsonObject, kind: str, used: set[int]) -> None:
        if kind == "LoadBalancer" and str_at(spec, "externalTrafficPolicy") == "Local":
            number = int_at(spec, "healthCheckNodePort")
            if number:
                self._check_port(obj, "spec.healthCheckNodePort", number, used)
            else:
                spec["healthCheckNodePort"] = _free_port(obj, used)
        else:
            spec.pop("healthCheckNodePort", None)


def node_ports(service: JsonObject) -> list[int]:
    """Every node port that a Service holds, its health check's included."""
    ports = [int_at(p, "nodePort") for p in objects_at(service, "spec", "ports")]
    return [n for n in (*ports, int_at(service, "spec", "healthCheckNodePort")) if n]


def _identity(port: JsonObject) -> tuple[Json, str]:
    return port.get("port"), str_at(port, "protocol") or "TCP"


def _free_port(obj: JsonObject, used: set[int]) -> int:
    free = [n for n in NODE_PORTS if n not in used]
    if not free:
        raise _refused(obj, "spec.ports", "FieldValueInvalid", "failed to allocate a nodePort: range is full")
    return random.choice(free)


def _same(a: JsonObject, b: JsonObject) -> bool:
    if uid_of(a) and uid_of(a) == uid_of(b):
        return True
    return name_of(a) == name_of(b) and str_at(a, "metadata", "namespace") == str_at(b, "metadata", "namespace")


def _refused(obj: JsonObject, path: str, reason: str, message: str) -> Exception:
    return invalid("", "Service", name_of(obj), [FieldError(path, reason, message)])
