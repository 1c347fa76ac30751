"""Which generated objects an EnvoyFilter patch is for.

In: the patch's match and an object. Out: yes or no. What a match does not say is not asked.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from meltem import envoyapi as api
from meltem.generate import names
from meltem.resources import networking


class Where(msgspec.Struct, frozen=True):
    """Where objects stand. `ports`: of a gateway, its Service's port and its own."""

    gateway: bool = False
    ports: tuple[tuple[int, int], ...] = ()

    def is_port(self, wanted: int, actual: int) -> bool:
        return not wanted or wanted == actual or (wanted, actual) in self.ports


Match = networking.PatchMatch
_VIRTUAL = frozenset((names.VIRTUAL_INBOUND, names.VIRTUAL_OUTBOUND))
Chain = api.listener_components.FilterChain


def cluster(match: Match | None, name: str, hosts: Collection[str] = ()) -> bool:
    """`hosts`: of the services behind an inbound cluster, whose name has none."""
    wanted = match.cluster if match is not None else None
    if wanted is None:
        return True
    if wanted.name:
        return wanted.name == name
    parts = name.split("|")
    if len(parts) != 4:
        return not (wanted.service or wanted.port_number or wanted.subset)
    _, port, subset, host = parts
    return (
        (not wanted.service or wanted.service == host or (not host and wanted.service in hosts))
        and (not wanted.subset or wanted.subset == subset)
        and (not wanted.port_number or str(wanted.port_number) == port)
    )


def listener(match: Match | None, message: api.listener.Listener, where: Where, *, whole: bool = False) -> bool:
    """`whole`: the patch is for the listener itself, not for something in it."""
    wanted = match.listener if match is not None else None
    if wanted is None:
        return True
    if wanted.name and wanted.name != message.name:
        return False
    # The chains of the virtual listeners say which port they are for.
    return (not whole and message.name in _VIRTUAL) or where.is_port(
        wanted.port_number, message.address.socket_address.port_value
    )


def chain(match: Match | None, one: Chain, message: api.listener.Listener, where: Where) -> bool:
    wanted = match.listener if match is not None else None
    if wanted is None:
        return True
    found = one.filter_chain_match
    of_port = message.name in _VIRTUAL and bool(wanted.port_number)
    if of_port and found.destination_port.value != wanted.port_number:
        return False
    of_chain = wanted.filter_chain
    if of_chain is None:
        return True
    alpn = [a.strip() for a in of_chain.application_protocols.split(",") if a.strip()]
    return (
        (not of_chain.name or of_chain.name == one.name)
        and (not of_chain.sni or of_chain.sni in found.server_names)
        and (not of_chain.transport_protocol or of_chain.transport_protocol == found.transport_protocol)
        and (not of_chain.destination_port or of_chain.destination_port == found.destination_port.value)
        and (not of_chain.transport_socket or of_chain.transport_socket == one.transport_socket.name)
        and all(a in found.application_protocols for a in alpn)
    )


def asks_filter(match: Match | None) -> bool:
    """Whether a network filter is asked for."""
    wanted = match.listener.filter_chain if match is not None and match.listener is not None else None
    return wanted is not None and wanted.filter is not None


def asks_sub_filter(match: Match | None) -> bool:
    """Whether an HTTP filter is asked for."""
    wanted = match.listener.filter_chain if match is not None and match.listener is not None else None
    return wanted is not None and wanted.filter is not None and wanted.filter.sub_filter is not None


def filter_name(match: Match | None) -> str:
    """Of the network filter that is asked for; empty: any."""
    wanted = match.listener.filter_chain if match is not None and match.listener is not None else None
    return wanted.filter.name if wanted is not None and wanted.filter is not None else ""


def sub_filter_name(match: Match | None) -> str:
    wanted = match.listener.filter_chain if match is not None and match.listener is not None else None
    inner = wanted.filter.sub_filter if wanted is not None and wanted.filter is not None else None
    return inner.name if inner is not None else ""


def listener_filter_name(match: Match | None) -> str:
    return match.listener.listener_filter if match is not None and match.listener is not None else ""


OLD_NAMES = {
    "envoy.cors": "envoy.filters.http.cors",
    "envoy.fault": "envoy.filters.http.fault",
    "envoy.http_connection_manager": "envoy.filters.network.http_connection_manager",
    "envoy.lua": "envoy.filters.http.lua",
    "envoy.mongo_proxy": "envoy.filters.network.mongo_proxy",
    "envoy.router": "envoy.filters.http.router",
    "envoy.tcp_proxy": "envoy.filters.network.tcp_proxy",
}


def same_name(wanted: str, name: str) -> bool:
    """Filter names; the names that Envoy had before are still understood."""
    return not wanted or wanted == name or OLD_NAMES.get(wanted) == name


# --- routes ---


def route_configuration(match: networking.RouteConfigurationMatch | None, name: str, where: Where) -> bool:
    """Names: `9080`, `inbound|8080||`, `http.8080`, `https.443.<port name>.<gateway>.<namespace>`, `host:port`."""
    if match is None:
        return True
    if match.name and match.name != name:
        return False
    port, port_name, gateway = _parts(name)
    if match.port_number and not where.is_port(match.port_number, port):
        return False
    if not where.gateway:  # what only gateways have is not asked of sidecars
        return True
    return (not match.port_name or match.port_name == port_name) and (not match.gateway or match.gateway == gateway)


def _parts(name: str) -> tuple[int, str, str]:
    """Port, port name and gateway (`namespace/name`) of a route configuration's name."""
    pieces = name.split(".")
    if pieces[0] == "https" and len(pieces) >= 5:
        return _number(pieces[1]), pieces[2], f"{pieces[-1]}/{'.'.join(pieces[3:-1])}"
    if pieces[0] == "http" and len(pieces) == 2:
        return _number(pieces[1]), "", ""
    if name.startswith("inbound|"):
        return _number(name.split("|")[1]), "", ""
    return _number(name.rpartition(":")[2]), "", ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def virtual_host(match: networking.RouteConfigurationMatch | None, host: api.route_components.VirtualHost) -> bool:
    wanted = match.vhost if match is not None else None
    if wanted is None:
        return True
    return (not wanted.name or wanted.name == names.virtual_host_in(host.name)) and (
        not wanted.domain_name or wanted.domain_name in host.domains
    )


def route(match: networking.RouteConfigurationMatch | None, one: api.route_components.Route) -> bool:
    wanted = match.vhost.route if match is not None and match.vhost is not None else None
    if wanted is None:
        return True
    if wanted.name and wanted.name != one.name:
        return False
    kinds = {"ROUTE": "route", "REDIRECT": "redirect", "DIRECT_RESPONSE": "direct_response"}
    return wanted.action == "ANY" or one.WhichOneof("action") == kinds[wanted.action]
