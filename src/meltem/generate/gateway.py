"""A gateway's listeners: one a port, a filter chain for each server or SNI.

In: `GatewayListenerView`. Out: `listener.Listener` resources.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import tls
from meltem.generate.filters import access_log
from meltem.generate.filters.chain import Position, connection_manager, http_filters, tcp_proxy
from meltem.generate.outbound import match, socket_address, tls_inspector
from meltem.view.units import GatewayChain, GatewayListenerView

L = api.listener.Listener
FilterChain = api.listener_components.FilterChain


def listener(view: GatewayListenerView) -> Resource:
    message = L(
        name=view.name,
        address=socket_address(view.address, view.port),
        traffic_direction=api.base.OUTBOUND,
        access_log=access_log.listener_logs(view.mesh),
    )
    if view.ipv6:
        message.additional_addresses.add(address=socket_address("::", view.port))
    if any(c.sni or c.tls is not None for c in view.chains):
        message.listener_filters.append(tls_inspector())
    seen: set[tuple[object, ...]] = set()
    for chain in view.chains:
        made = _chain(view, chain, seen)
        if made is not None:
            message.filter_chains.append(made)
    return api.resource(api.LISTENER, view.name, message)


def _chain(view: GatewayListenerView, chain: GatewayChain, seen: set[tuple[object, ...]]) -> FilterChain | None:
    """None where chains before it take all that it would."""
    encrypted = chain.tls is not None
    sni = tuple(s for s in chain.sni if s != "*")
    wanted = tuple(s for s in (sni or ("",)) if (encrypted, s, chain.subnets) not in seen)
    if not wanted:
        return None
    seen.update((encrypted, s, chain.subnets) for s in wanted)
    made = FilterChain(filters=_filters(view, chain))
    found = match(tuple(s for s in wanted if s), chain.subnets)
    if found.server_names or found.prefix_ranges:
        made.filter_chain_match.CopyFrom(found)
    if chain.tls is not None:
        alpn = tls.ALPN_INBOUND_HTTP if chain.kind == "http" else ()
        made.transport_socket.CopyFrom(tls.socket(tls.server(chain.tls, alpn)))
    return made


def _filters(view: GatewayListenerView, chain: GatewayChain) -> list[api.listener_components.Filter]:
    if chain.kind == "http":
        manager = connection_manager(
            Position.GATEWAY,
            view.mesh,
            stat_prefix=f"outbound_{view.name}",
            filters=http_filters(Position.GATEWAY),
            route_name=chain.route,
            http10=view.http10,
        )
        return [manager]
    if chain.kind == "sni":
        sni = api.listener_components.Filter(
            name="envoy.filters.network.sni_cluster", typed_config=api.pack(api.sni_cluster.SniCluster())
        )
        blackhole = api.tcp_proxy.TcpProxy(stat_prefix="BlackHoleCluster", cluster="BlackHoleCluster")
        return [
            sni,
            api.listener_components.Filter(name="envoy.filters.network.tcp_proxy", typed_config=api.pack(blackhole)),
        ]
    prefix = chain.clusters[0].cluster if chain.clusters else "BlackHoleCluster"
    return [tcp_proxy(view.mesh, Position.GATEWAY, stat_prefix=prefix, clusters=chain.clusters)]
