"""Networks: workloads that reach one another directly, and the gateways by which others reach them.

In: MeshNetworks, and Services that are labelled as the gateway of a network. Out: gateways by network, the network of
an address, and endpoints as a client on some network can call them: those on other networks stand for their gateways,
which pass mutual TLS on by its SNI. An endpoint there that takes no mutual TLS cannot be reached.

Source: https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshNetworks
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from meltem.graph.model import Endpoint, Service
from meltem.resources import core
from meltem.resources.meshconfig import MeshNetworks

LABEL = "topology.istio.io/network"
PORT_LABEL = "networking.istio.io/gatewayPort"
DEFAULT_PORT = 15443

GatewayKey = tuple[str, str, int]
"""network, address (or its name in DNS), port"""
Gateways = Callable[[str], Iterable[tuple[str, int]]]
"""Network → (address, port) of its gateways."""


class Ranges(msgspec.Struct, frozen=True):
    """Networks by address (`cidrs`: range, network) and by cluster."""

    cidrs: tuple[tuple[str, str], ...] = ()
    registries: tuple[tuple[str, str], ...] = ()

    def of_cluster(self, cluster: str) -> str:
        return dict(self.registries).get(cluster, "")

    def of_address(self, text: str) -> str:
        if not self.cidrs:
            return ""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return ""
        return next((name for cidr, name in self.cidrs if address in ipaddress.ip_network(cidr, strict=False)), "")


NO_RANGES = Ranges()


def ranges_of(networks: MeshNetworks) -> Ranges:
    cidrs: list[tuple[str, str]] = []
    registries: list[tuple[str, str]] = []
    for name, network in sorted(networks.networks.items()):
        for one in network.endpoints:
            if one.from_cidr:
                cidrs.append((one.from_cidr, name))
            elif one.from_registry:
                registries.append((one.from_registry, name))
    return Ranges(tuple(cidrs), tuple(registries))


def gateways_of_service(service: core.Service) -> Mapping[GatewayKey, bool]:
    """A Service with the label of a network is that network's gateway, at its addresses outside the cluster."""
    network = service.metadata.labels.get(LABEL, "")
    if not network:
        return {}
    given = service.metadata.labels.get(PORT_LABEL, "")
    port = int(given) if given.isascii() and given.isdigit() else DEFAULT_PORT
    balancers = {i.ip or i.hostname for i in service.status.load_balancer.ingress}
    outside = {a for a in balancers if a} | set(service.spec.external_ips)
    return {(network, address, port): True for address in outside}


def gateways_of_config(
    networks: MeshNetworks, services: Callable[[str], Iterable[Service]]
) -> Mapping[GatewayKey, bool]:
    """Those that MeshNetworks names. `services`: by host."""
    found: dict[GatewayKey, bool] = {}
    for name, network in networks.networks.items():
        for gateway in network.gateways:
            port = gateway.port or DEFAULT_PORT
            if gateway.address:
                found[(name, gateway.address, port)] = True
            for service in services(gateway.registry_service_name) if gateway.registry_service_name else ():
                for address in service.external_addresses:
                    found[(name, address, port)] = True
    return found


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def in_view(endpoints: Iterable[Endpoint], view: Iterable[str], ranges: Ranges) -> list[Endpoint]:
    """Those on the networks that a proxy asked for (ISTIO_META_REQUESTED_NETWORK_VIEW), and those on none. Without it a
    gateway would send what came from another network back there."""
    known = {"", *view}
    return [e for e in endpoints if (e.network or ranges.of_address(e.address)) in known]


def reachable(endpoints: Iterable[Endpoint], network: str, gateways: Gateways, ranges: Ranges) -> list[Endpoint]:
    """The endpoints as a client on `network` calls them (empty: on none, everything is called directly).

    A gateway stands for all endpoints of its network in a locality, with their weight; where a network has several
    gateways the weight is split, and that of all others grows so that the parts stay whole.
    """
    direct: list[Endpoint] = []
    behind: dict[tuple[str, tuple[str, str, str]], list[Endpoint]] = {}
    for one in endpoints:
        theirs = one.network or ranges.of_address(one.address)
        if not network or not theirs or theirs == network or not any(True for _ in gateways(theirs)):
            direct.append(one)
        elif one.mutual_tls:
            behind.setdefault((theirs, one.locality), []).append(one)
    if not behind:
        return direct
    doors = {place: sorted(gateways(place[0])) for place in behind}
    scale = math.lcm(*(len(found) for found in doors.values()))
    made = [e if scale == 1 else msgspec.structs.replace(e, weight=max(1, e.weight) * scale) for e in direct]
    for place in sorted(behind):
        some = behind[place]
        weight = sum(max(1, e.weight) for e in some) * scale // len(doors[place])
        made += [
            Endpoint(
                address=address, port=port, service_port=some[0].service_port, cluster=some[0].cluster,
                network=place[0], locality=place[1], weight=weight, mutual_tls=True,
            )
            for address, port in doors[place]
        ]  # fmt: skip
    return made
