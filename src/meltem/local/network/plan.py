"""What the node's packet rules must be, from Services, EndpointSlices and host ports of pods. Pure: no I/O, no time.

In: a `ClusterConfig`, the Services, the EndpointSlices, the host ports, an IP version. Out: `Plan`: chains with their
rules, maps and sets with their elements, all of one nftables table of that version's family; and `flows`, the
(protocol, address, port) → endpoints pairs by which stale UDP connections are found. Rules: ready endpoints serve; when
none is ready, those that terminate but still serve do.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from meltem.local.config import FAMILY_NAMES, NODE_NAME, ClusterConfig, url_host
from meltem.local.network.host_ports import HostPort
from meltem.objects import (
    Json,
    JsonObject,
    bool_at,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    objects_at,
    str_at,
    strings_at,
)

TABLE = "meltem"
SERVICE_NAME = "kubernetes.io/service-name"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_AFFINITY_SECONDS = 10800

Frontend = tuple[str, str, int]
"""Address, protocol (tcp, udp, sctp), port."""
Backend = tuple[str, int]


class Plan(msgspec.Struct):
    """Names to contents. `chains`: rules in order. `sets`: declaration, and elements (for a map: key to verdict)."""

    chains: dict[str, tuple[str, ...]]
    declarations: dict[str, str]
    elements: dict[str, dict[str, str]]
    flows: dict[Frontend, frozenset[Backend]]
    health: dict[int, int]
    """healthCheckNodePort to the number of local endpoints."""
    family: str = "ip"
    """The table's: `ip` or `ip6`."""


class _Side(msgspec.Struct, frozen=True):
    """One IP family: how nft writes it, and the cluster's addresses of it."""

    word: str
    kind: str
    node_ip: str
    dns_ip: str
    virtual: str
    """Ranges of addresses that are served by translation alone."""
    unreachable: str
    """Matches what says that nobody listens on a port."""

    @property
    def version(self) -> int:
        return 6 if self.word == "ip6" else 4

    def has(self, address: str) -> bool:
        try:
            return ipaddress.ip_address(address).version == self.version
        except ValueError:
            return False

    def socket(self, address: str, port: int) -> str:
        return f"{url_host(address)}:{port}"


def _side(config: ClusterConfig, version: int) -> _Side:
    at = config.versions.index(version)
    word = "ip6" if version == 6 else "ip"
    icmp = "icmpv6 type destination-unreachable icmpv6 code port-unreachable"
    if version == 4:
        icmp = "icmp type destination-unreachable icmp code port-unreachable"
    return _Side(
        word=word,
        kind="ipv6_addr" if version == 6 else "ipv4_addr",
        node_ip=config.node_ips[at],
        dns_ip=config.dns_ip if at == 0 else "",
        virtual=f"{word} daddr {{ {config.service_cidrs[at]}, {config.load_balancer_cidrs[at]} }}",
        unreachable=icmp,
    )


class _Endpoint(msgspec.Struct, frozen=True):
    ip: str
    ready: bool
    serving: bool
    terminating: bool
    local: bool


def make_plan(
    config: ClusterConfig,
    services: Iterable[JsonObject],
    slices: Iterable[JsonObject],
    host_ports: Iterable[HostPort] = (),
    version: int = 4,
) -> Plan:
    side = _side(config, version)
    by_service: dict[tuple[str, str], list[JsonObject]] = {}
    for item in slices:
        if str_at(item, "addressType") == FAMILY_NAMES[version]:
            key = (namespace_of(item), labels_of(item).get(SERVICE_NAME, ""))
            by_service.setdefault(key, []).append(item)
    plan = _base(side)
    taken: set[Frontend] = set()
    # Oldest first: of two services that claim one address the older keeps it.
    ordered = sorted(services, key=lambda s: (str_at(s, "metadata", "creationTimestamp"), namespace_of(s), name_of(s)))
    for service in ordered:
        if str_at(service, "spec", "type") == "ExternalName" or not _cluster_ip(service, side):
            continue
        if _cluster_ip(service, side) == side.dns_ip:
            continue  # answered by this process on that very address
        items = by_service.get((namespace_of(service), name_of(service)), [])
        for port in objects_at(service, "spec", "ports"):
            _add_port(plan, side, service, port, items, taken)
    for port in host_ports:
        if side.has(port.ip):
            _add_host_port(plan, side, port)
    return plan


def _add_host_port(plan: Plan, side: _Side, port: HostPort) -> None:
    key = f"{port.protocol} . {port.number}"
    if key in plan.elements["hostports"]:
        return
    chain = f"host-{_digest(key, [(port.ip, port.target)])}"
    plan.chains[chain] = (f"meta l4proto {port.protocol} dnat {side.word} to {side.socket(port.ip, port.target)}",)
    plan.elements["hostports"][key] = f"goto {chain}"
    plan.elements["hairpin"][f"{port.ip} . {port.ip}"] = ""
    plan.flows[(side.node_ip, port.protocol, port.number)] = frozenset({(port.ip, port.target)})


def _base(side: _Side) -> Plan:
    word, kind = side.word, side.kind
    lookup = f"{word} daddr . meta l4proto . th dport vmap"
    on_node = f"{word} daddr {side.node_ip} meta l4proto . th dport vmap"
    served = f"{word} daddr != {side.dns_ip} " if side.dns_ip else ""
    # An address of the cluster that nothing translated has no such port: say so, or it would travel for ever.
    refuse = (f"{lookup} @unserved", f"{side.virtual} {served}ct state new reject")
    # While the process that answers DNS is started anew, a query goes unanswered and is asked again a second later; a
    # refusal would make the caller give up at once.
    patience = (f"{word} saddr {side.dns_ip} {side.unreachable} drop",) if side.dns_ip else ()
    return Plan(
        chains={
            "dispatch": (
                f"{lookup} @services",
                f"{on_node} @hostports",
                f"{on_node} @nodeports",
            ),
            "refuse": ("reject",),
            "ignore": ("drop",),
            "prerouting": ("jump dispatch",),
            "output": ("jump dispatch",),
            "postrouting": (f"{word} saddr . {word} daddr @hairpin masquerade",),
            "screen": (f"{lookup} @screened",),
            "screen_local": (f"{lookup} @unserved", f"{on_node} @unserved_nodeports"),
            "screen_forward": refuse,
            "screen_output": (*patience, *refuse),
        },
        declarations={
            "services": f"map {{ type {kind} . inet_proto . inet_service : verdict; }}",
            "hostports": "map { type inet_proto . inet_service : verdict; }",
            "nodeports": "map { type inet_proto . inet_service : verdict; }",
            "unserved": f"map {{ type {kind} . inet_proto . inet_service : verdict; }}",
            "unserved_nodeports": "map { type inet_proto . inet_service : verdict; }",
            "screened": f"map {{ type {kind} . inet_proto . inet_service : verdict; }}",
            "hairpin": f"set {{ type {kind} . {kind}; }}",
        },
        elements={
            n: {}
            for n in ("services", "hostports", "nodeports", "unserved", "unserved_nodeports", "screened", "hairpin")
        },
        flows={},
        health={},
        family=word,
    )


HOOKS = {
    "prerouting": "type nat hook prerouting priority dstnat;",
    "output": "type nat hook output priority -100;",
    "postrouting": "type nat hook postrouting priority srcnat;",
    "screen": "type filter hook prerouting priority -110;",
    "screen_local": "type filter hook input priority -110;",
    "screen_forward": "type filter hook forward priority -110;",
    "screen_output": "type filter hook output priority 0;",
}
"""Which chains are called by the kernel, and where. Screens come before translation, `screen_output` after it:
    there it sees only what was not translated."""


def _add_port(
    plan: Plan,
    side: _Side,
    service: JsonObject,
    port: JsonObject,
    slices: list[JsonObject],
    taken: set[Frontend],
) -> None:
    protocol = _PROTOCOLS.get(str_at(port, "protocol", default="TCP"))
    number = int_at(port, "port")
    if protocol is None or not number:
        return
    endpoints = _endpoints(slices, port, side)
    internal_local = str_at(service, "spec", "internalTrafficPolicy") == "Local"
    external_local = str_at(service, "spec", "externalTrafficPolicy") == "Local"
    inside = _backends(endpoints, only_local=internal_local)
    outside = _backends(endpoints, only_local=external_local)
    inside_chain = _chains(plan, side, service, port, protocol, inside)
    outside_chain = _chains(plan, side, service, port, protocol, outside)
    absent_inside = "drop" if endpoints and not inside and internal_local else "goto refuse"
    absent_outside = "drop" if endpoints and not outside and external_local else "goto refuse"

    def serve(address: str, chain: str, absent: str, backends: list[Backend]) -> None:
        frontend = (address, protocol, number)
        if frontend in taken or not side.has(address):
            return
        taken.add(frontend)
        key = f"{address} . {protocol} . {number}"
        if chain:
            plan.elements["services"][key] = f"goto {chain}"
        else:
            plan.elements["unserved"][key] = absent
        plan.flows[frontend] = frozenset(backends)

    serve(_cluster_ip(service, side), inside_chain, absent_inside, inside)
    for address in strings_at(service, "spec", "externalIPs"):
        serve(address, outside_chain, absent_outside, outside)
    for entry in objects_at(service, "status", "loadBalancer", "ingress"):
        if str_at(entry, "ipMode", default="VIP") != "Proxy":
            serve(str_at(entry, "ip"), outside_chain, absent_outside, outside)
            _screen(plan, side, service, str_at(entry, "ip"), (protocol, number))
    node_port = int_at(port, "nodePort")
    if node_port and str_at(service, "spec", "type") in ("NodePort", "LoadBalancer"):
        key = f"{protocol} . {node_port}"
        if outside_chain:
            plan.elements["nodeports"].setdefault(key, f"goto {outside_chain}")
        else:
            plan.elements["unserved_nodeports"].setdefault(key, absent_outside)
        plan.flows.setdefault((side.node_ip, protocol, node_port), frozenset(outside))
    check = int_at(service, "spec", "healthCheckNodePort")
    if check and external_local:
        plan.health[check] = len({ip for ip, _ in outside})


def _chains(
    plan: Plan, side: _Side, service: JsonObject, port: JsonObject, protocol: str, backends: list[Backend]
) -> str:
    """The chain that picks one of the backends; empty without any."""
    if not backends:
        return ""
    title = f"{namespace_of(service)}/{name_of(service)}/{protocol}/{int_at(port, 'port')}"
    digest = _digest(title, backends, str_at(service, "spec", "sessionAffinity"))
    chain = f"svc-{digest}-{title}"[:120]
    if chain in plan.chains:
        return chain
    for ip, _ in backends:
        plan.elements["hairpin"][f"{ip} . {ip}"] = ""
    if str_at(service, "spec", "sessionAffinity") == "ClientIP":
        plan.chains[chain] = _sticky(plan, side, service, (title, protocol), backends)
        return chain
    if len(backends) == 1:
        target = side.socket(*backends[0])
    else:
        choices = ", ".join(f"{i} : {ip} . {number}" for i, (ip, number) in enumerate(backends))
        target = f"numgen random mod {len(backends)} map {{ {choices} }}"
    plan.chains[chain] = (f"meta l4proto {protocol} dnat {side.word} to {target}",)
    return chain


def _sticky(
    plan: Plan, side: _Side, service: JsonObject, port: tuple[str, str], backends: list[Backend]
) -> tuple[str, ...]:
    """ClientIP affinity: one chain and one set of remembered clients for each endpoint of a port (title, protocol)."""
    title, protocol = port
    seconds = int_at(service, "spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds", default=_AFFINITY_SECONDS)
    remembered: list[str] = []
    choices: list[str] = []
    for index, (ip, number) in enumerate(backends):
        digest = _digest(title, [(ip, number)], str(seconds))
        chain, clients = f"ep-{digest}", f"aff-{digest}"
        plan.declarations[clients] = f"set {{ type {side.kind}; flags dynamic,timeout; timeout {seconds}s; }}"
        plan.chains[chain] = (
            f"update @{clients} {{ {side.word} saddr timeout {seconds}s }}",
            f"meta l4proto {protocol} dnat {side.word} to {side.socket(ip, number)}",
        )
        remembered.append(f"{side.word} saddr @{clients} goto {chain}")
        choices.append(f"{index} : goto {chain}")
    return (*remembered, f"numgen random mod {len(backends)} vmap {{ {', '.join(choices)} }}")


def _screen(plan: Plan, side: _Side, service: JsonObject, address: str, port: tuple[str, int]) -> None:
    """`loadBalancerSourceRanges`: everyone else's packets are dropped."""
    wanted = [r.strip() for r in strings_at(service, "spec", "loadBalancerSourceRanges")]
    ranges = [r for r in wanted if _is_network(r, side.version)]
    if not any(_is_network(r) for r in wanted) or not side.has(address):
        return
    protocol, number = port
    chain = f"lb-{_digest(address, [(protocol, number)], ','.join(ranges))}"
    rules = [f"{side.word} saddr {r} return" for r in ranges]
    plan.chains[chain] = (*rules, "ct state established,related return", "drop")
    plan.elements["screened"][f"{address} . {protocol} . {number}"] = f"goto {chain}"


def _endpoints(slices: list[JsonObject], port: JsonObject, side: _Side) -> list[tuple[_Endpoint, int]]:
    """Every endpoint once, with the target port of the Service port of that name."""
    found: dict[Backend, _Endpoint] = {}
    for item in slices:
        numbers = [
            int_at(p, "port")
            for p in objects_at(item, "ports")
            if str_at(p, "name") == str_at(port, "name")
            and str_at(p, "protocol", default="TCP") == str_at(port, "protocol", default="TCP")
        ]
        for endpoint in objects_at(item, "endpoints"):
            ready = bool_at(endpoint, "conditions", "ready", default=True)
            node = str_at(endpoint, "nodeName")
            for ip in strings_at(endpoint, "addresses")[:1]:  # the API says: consumers use the first
                for number in numbers:
                    if number and side.has(ip):
                        found[(ip, number)] = _Endpoint(
                            ip=ip,
                            ready=ready,
                            serving=bool_at(endpoint, "conditions", "serving", default=ready),
                            terminating=bool_at(endpoint, "conditions", "terminating"),
                            local=node == NODE_NAME,
                        )
    return [(endpoint, key[1]) for key, endpoint in sorted(found.items())]


def _backends(endpoints: list[tuple[_Endpoint, int]], *, only_local: bool) -> list[Backend]:
    near = [(e, n) for e, n in endpoints if e.local or not only_local]
    ready = [(e.ip, n) for e, n in near if e.ready]
    return ready or [(e.ip, n) for e, n in near if e.serving and e.terminating]


def _cluster_ip(service: JsonObject, side: _Side) -> str:
    addresses = strings_at(service, "spec", "clusterIPs") or [str_at(service, "spec", "clusterIP")]
    return next((ip for ip in addresses if side.has(ip)), "")


def _is_network(text: str, version: int = 0) -> bool:
    try:
        found = ipaddress.ip_network(text, strict=False).version
    except ValueError:
        return False
    return found == version or not version


def _digest(*parts: Json | Iterable[Backend] | Iterable[tuple[str, int]] | Mapping[str, str]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]
