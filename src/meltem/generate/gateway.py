"""A gateway's listeners: one a port, a filter chain for each server or SNI.

In: `GatewayListenerView`. Out: `listener.Listener` resources.
"""

from __future__ import annotations

import msgspec

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import tls
from meltem.generate.filters import access_log, authz
from meltem.generate.filters.chain import (
    Position,
    before_http,
    connection_manager,
    http_filters,
    network_filters,
    offers_tcp,
)
from meltem.generate.outbound import listener_filter, match, socket_address, tls_inspector, to_clusters
from meltem.view.proxy_settings import limits
from meltem.view.units import ChainView, GatewayChain, GatewayListenerView

L = api.listener.Listener
FilterChain = api.listener_components.FilterChain
PASSED_CLUSTERS = "outbound_."
"""How the names of clusters begin to which connections pass as they are. To those of any other name the gateway begins
TLS itself: a client that could name one would speak with the gateway's identity."""
ALPN_OF_MESH = ("istio-peer-exchange", "istio", *tls.ALPN_MTLS_HTTP)


def listener(view: GatewayListenerView) -> Resource:
    message = L(
        name=view.name,
        address=socket_address(view.address, view.port),
        traffic_direction=api.base.OUTBOUND,
        access_log=access_log.listener_logs(view.mesh, view.filters.telemetry),
    )
    held = limits(view.http.connections, view.mesh.connections, gateway=True)
    if held.listener_buffer >= 0:
        message.per_connection_buffer_limit_bytes.value = int(held.listener_buffer)
    if view.ipv6:
        message.additional_addresses.add(address=socket_address("::", view.port))
    if view.udp:
        for one in (message.address, *(a.address for a in message.additional_addresses)):
            one.socket_address.protocol = api.address.SocketAddress.UDP
        message.udp_listener_config.quic_options.SetInParent()
        message.udp_listener_config.downstream_socket_config.SetInParent()
    else:
        if view.topology.proxy_protocol:
            config = api.proxy_protocol_filter.ProxyProtocol()
            message.listener_filters.append(listener_filter("envoy.filters.listener.proxy_protocol", config))
        if any(c.sni or c.tls is not None for c in view.chains):
            message.listener_filters.append(tls_inspector())
    seen: set[tuple[object, ...]] = set()
    for chain in view.chains:
        made = _chain(view, chain, seen)
        if made is not None:
            message.filter_chains.append(made)
    return api.resource(api.LISTENER, view.name, message)


class Broken(msgspec.Struct, frozen=True):
    """A filter chain that cannot be made."""

    chain: GatewayChain
    error: str


def broken(view: GatewayListenerView) -> tuple[Broken, ...]:
    """The chains to blame where a listener cannot be made; the others are made without them."""
    found: list[Broken] = []
    for chain in view.chains:
        try:
            _chain(view, chain, set())
        except Exception as error:  # whatever it is, it must not cost the other chains
            found.append(Broken(chain, str(error)))
    return tuple(found)


def _chain(view: GatewayListenerView, chain: GatewayChain, seen: set[tuple[object, ...]]) -> FilterChain | None:
    """None where chains before it take all that it would."""
    sni = tuple(s for s in chain.sni if s != "*") or ("",)
    # Envoy's SNI knows only wildcards of whole labels, and refuses a listener in which there is another.
    wanted = tuple(s for s in sni if (s, chain.subnets) not in seen and "*" not in s.removeprefix("*."))
    if not wanted:
        return None
    seen.update((s, chain.subnets) for s in wanted)
    made = FilterChain(filters=_filters(view, chain))
    found = match(tuple(s for s in wanted if s), chain.subnets)
    if view.udp and found.transport_protocol:
        found.transport_protocol = "quic"
    if chain.kind == "sni":
        found.application_protocols.extend(ALPN_OF_MESH)  # only what sidecars of the mesh send
    if found.ListFields():
        made.filter_chain_match.CopyFrom(found)
    if chain.tls is not None and view.udp:
        config = api.quic.QuicDownstreamTransport(
            downstream_tls_context=tls.server(chain.tls, ("h3",), view.mesh.tls_defaults)
        )
        made.transport_socket.name = "envoy.transport_sockets.quic"
        made.transport_socket.typed_config.CopyFrom(api.pack(config))
    elif chain.tls is not None:
        made.transport_socket.CopyFrom(tls.socket(tls.server(chain.tls, tls.ALPN_INBOUND_HTTP, view.mesh.tls_defaults)))
    return made


def _filters(view: GatewayListenerView, chain: GatewayChain) -> list[api.listener_components.Filter]:
    if chain.kind == "http":
        manager = connection_manager(
            Position.GATEWAY,
            view.mesh,
            stat_prefix=f"outbound_{view.name}",
            filters=http_filters(
                Position.GATEWAY,
                view.mesh,
                view.filters,
                grpc_web=chain.grpc_web,
                ports=(view.port,),
                http=view.http,
            ),
            policies=view.filters,
            route_name=chain.route,
            http=view.http,
            topology=view.topology,
        )
        return [_over_quic(manager)] if view.udp else [*before_http(view.filters, (view.port,)), manager]
    if chain.kind == "sni":
        sni = api.listener_components.Filter(
            name="envoy.filters.network.sni_cluster", typed_config=api.pack(api.sni_cluster.SniCluster())
        )
        blackhole = api.tcp_proxy.TcpProxy(stat_prefix="BlackHoleCluster", cluster="BlackHoleCluster")
        return [
            authz.only_server_names(PASSED_CLUSTERS),
            sni,
            api.listener_components.Filter(name="envoy.filters.network.tcp_proxy", typed_config=api.pack(blackhole)),
        ]
    prefix = chain.clusters[0].cluster if chain.clusters else "BlackHoleCluster"
    tcp = chain.tcp or ChainView(kind="tcp", clusters=chain.clusters)
    proxy = to_clusters(view.mesh, Position.GATEWAY, tcp, view.filters, stat_prefix=prefix, idle=view.http.idle)
    told = [offers_tcp()] if tcp.told_by_alpn else []
    return [*network_filters(view.mesh, view.filters, protected=True, ports=(view.port,)), *told, proxy]


def _over_quic(manager: api.listener_components.Filter) -> api.listener_components.Filter:
    config = api.hcm.HttpConnectionManager.FromString(manager.typed_config.value)
    config.codec_type = api.hcm.HttpConnectionManager.HTTP3
    config.http3_protocol_options.SetInParent()
    return api.listener_components.Filter(name=manager.name, typed_config=api.pack(config))
