"""What one service brings to outbound listeners: the chains of filters by address and port.

In: a scope with its rules (`Outbound`), a service and the routings of its host. Out: `ChainView`s, each with the
address and the port of the listener that it goes into.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meltem.graph.model import Port, Protocol, Resolution, Service
from meltem.graph.routing import Routing
from meltem.graph.services import is_network
from meltem.resources import networking
from meltem.view.outbound import (
    Outbound,
    Place,
    addresses_of,
    cluster_name,
    destination_cluster,
    holds,
    own_addresses,
    policy_of,
    port_of,
    ports_at,
    sniffed_alone,
)
from meltem.view.units import ChainView, WeightedCluster


def chains(
    view: Outbound,
    service: Service,
    routings: list[Routing],
    place: Place | None = None,
    taken: frozenset[int] = frozenset(),
) -> Iterator[tuple[str, int, ChainView]]:
    """(address, port, chain): what the service brings to outbound listeners."""
    scope = view.scope
    everywhere = scope.wildcard if scope.capture else scope.loopback
    if place is not None and place.bind:
        everywhere = place.bind
    for port in ports_at(service, place, taken) if not service.alias_of else ():
        number = place.number if place is not None else port.number
        dynamic = service.hostname if _is_dynamic(service) else ""
        if port.protocol.is_http:
            route = place.route if place is not None else str(number)
            grpc_web = port.protocol is Protocol.GRPC_WEB
            yield everywhere, number, ChainView(kind="http", route=route, dynamic_dns=dynamic, grpc_web=grpc_web)
            continue
        if port.protocol is Protocol.UDP:
            continue
        subnets = tuple(a for a in addresses_of(scope, service) if is_network(a))
        own = own_addresses(scope, service) if everywhere == scope.wildcard and scope.capture else ()
        if service.headless and service.kubernetes and scope.capture and (place is None or not place.bind):
            own = tuple(sorted({a for e in view.endpoints_of(service) for a in e.addresses}))
            if not own:
                continue  # on every address of the port there would be nothing but what is meant for others
        tcp = list(_tcp_chains(view, service, port, routings, subnets))
        if port.protocol is Protocol.AUTO:
            for address in own or (everywhere,):
                alone = place is None and sniffed_alone(scope, service)
                route = f"{service.hostname}:{number}" if alone else str(number)
                yield (
                    address,
                    number,
                    msgspec.structs.replace(
                        tcp[0], kind="auto", route=route, subnets=subnets, sni=(), dynamic_dns=dynamic
                    ),
                )
            continue
        for address in own or (everywhere,):
            for chain in tcp:
                if port.protocol.is_tls and not chain.sni and not own:
                    chain = msgspec.structs.replace(chain, sni=(service.hostname,))
                yield address, number, chain


def _is_dynamic(service: Service) -> bool:
    return service.resolution is Resolution.DYNAMIC_DNS and service.hostname.startswith("*")


def _tcp_chains(
    view: Outbound, service: Service, port: Port, routings: list[Routing], subnets: tuple[str, ...]
) -> Iterator[ChainView]:
    """Routing rules' TLS and TCP routes for the port, then the service itself unless a rule takes everything."""
    common = ChainView(
        kind="tcp", source=service.source, created=service.created, mongo=port.protocol is Protocol.MONGO
    )
    if port.protocol.is_tls:
        found = list(_tls_routes(view, port, routings, subnets, common))
        if found:
            yield from found
            return
    else:
        for routing in routings:
            for tcp in routing.tcp:
                matches = [m for m in tcp.match if holds(view, m, port.number)]
                if not tcp.route or (tcp.match and not matches):
                    continue
                if not tcp.match or any(not m.destination_subnets for m in matches):
                    yield to_routes(view, tcp.route, port.number, common, subnets=subnets)
                    return
                nets = tuple(n for m in matches for n in m.destination_subnets)
                yield to_routes(view, tcp.route, port.number, common, subnets=nets)
    name = cluster_name(port.number, "", service.hostname)
    made = msgspec.structs.replace(common, clusters=(WeightedCluster(cluster=name),), stat_prefix=name, subnets=subnets)
    if _is_dynamic(service):
        sni = (service.hostname,) if port.protocol.is_tls else ()
        made = msgspec.structs.replace(made, dynamic_dns=service.hostname, dynamic_port=port.number, sni=sni)
    yield _held(made, port, policy_of(view, service, port.number, ""))


def _tls_routes(
    view: Outbound, port: Port, routings: list[Routing], subnets: tuple[str, ...], common: ChainView
) -> Iterator[ChainView]:
    """The first rule that names a server takes it, as far as addresses are the same."""
    taken: set[tuple[str, tuple[str, ...]]] = set()
    for routing in routings:
        for tls in routing.tls:
            for match in tls.match if tls.route else ():
                nets = match.destination_subnets or subnets
                names = tuple(n for n in match.sni_hosts if (n, nets) not in taken)
                if names and holds(view, match, port.number):
                    taken.update((n, nets) for n in names)
                    yield to_routes(view, tls.route, port.number, common, subnets=nets, sni=names)


def to_routes(
    view: Outbound,
    routes: tuple[networking.RouteDestination, ...],
    port: int,
    common: ChainView,
    *,
    subnets: tuple[str, ...] = (),
    sni: tuple[str, ...] = (),
) -> ChainView:
    """A chain to weighted destinations; how connections are held is the first destination's rule."""
    clusters = tuple(
        WeightedCluster(cluster=destination_cluster(view, r.destination, port), weight=r.weight) for r in routes
    )
    prefix = clusters[0].cluster if clusters else ""
    made = msgspec.structs.replace(common, clusters=clusters, sni=sni, subnets=subnets, stat_prefix=prefix)
    if not routes:
        return made
    first = routes[0].destination
    target = view.service_for(first.host)
    if target is None:
        return made
    subset = first.subset if len(routes) == 1 else ""
    number = port_of(view, first, port)
    return _held(made, target.port(number), policy_of(view, target, number, subset))


def _held(chain: ChainView, port: Port | None, held: networking.TrafficPolicy | None) -> ChainView:
    """What the destination's port and a destination rule say of TCP connections that a proxy takes in for it."""
    if port is not None and port.protocol is Protocol.AUTO and (
        held is None or held.tls is None or held.tls.mode == "ISTIO_MUTUAL"
    ):  # fmt: skip
        chain = msgspec.structs.replace(chain, told_by_alpn=True)
    if held is None:
        return chain
    tcp = held.connection_pool.tcp if held.connection_pool is not None else None
    idle = tcp.idle_timeout if tcp is not None else None
    longest = tcp.max_connection_duration if tcp is not None else None
    consistent = held.load_balancer.consistent_hash if held.load_balancer is not None else None
    return msgspec.structs.replace(
        chain,
        idle_timeout=float(idle) if idle is not None else None,
        max_duration=float(longest) if longest is not None else None,
        hash_source_ip=bool(consistent is not None and consistent.use_source_ip),
        tunnel=held.tunnel,
    )
