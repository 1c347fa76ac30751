"""Outbound listeners of a sidecar: one an address and port, and the one that takes in all captured traffic.

In: `OutboundListenerView`, `VirtualOutboundView`. Out: `listener.Listener` resources.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import names, tls
from meltem.generate.clusters import dns_cache
from meltem.generate.filters import access_log
from meltem.generate.filters.chain import (
    Position,
    before_http,
    connection_manager,
    http_filters,
    network_filters,
    offers_tcp,
    tcp_proxy,
)
from meltem.generate.routes import configuration
from meltem.view.filters import Filters
from meltem.view.units import (
    ChainView,
    MeshOptions,
    OutboundListenerView,
    RouteConfigView,
    VirtualOutboundView,
    WeightedCluster,
)

L = api.listener.Listener
FilterChain = api.listener_components.FilterChain
Match = api.listener_components.FilterChainMatch

ORIGINAL_DST = "envoy.filters.listener.original_dst"
TLS_INSPECTOR = "envoy.filters.listener.tls_inspector"
HTTP_INSPECTOR = "envoy.filters.listener.http_inspector"
SNI_DYNAMIC = "envoy.filters.network.sni_dynamic_forward_proxy"
WILDCARDS = ("0.0.0.0", "::")
PASSTHROUGH = (WeightedCluster(cluster=names.PASSTHROUGH_CLUSTER),)
BLACKHOLE = (WeightedCluster(cluster=names.BLACKHOLE_CLUSTER),)


def socket_address(address: str, port: int) -> api.address.Address:
    return api.address.Address(socket_address={"address": address, "port_value": port})


def listener_filter(name: str, config: api.message.Message) -> api.listener_components.ListenerFilter:
    return api.listener_components.ListenerFilter(name=name, typed_config=api.pack(config))


def tls_inspector() -> api.listener_components.ListenerFilter:
    return listener_filter(TLS_INSPECTOR, api.tls_inspector.TlsInspector())


def http_inspector() -> api.listener_components.ListenerFilter:
    return listener_filter(HTTP_INSPECTOR, api.http_inspector.HttpInspector())


def detection(message: L, mesh: MeshOptions) -> None:
    """How long to wait for the first bytes when they decide; 0 (Istio's default) waits without limit."""
    message.listener_filters_timeout.CopyFrom(api.duration(mesh.protocol_detection_timeout))
    message.continue_on_listener_filters_timeout = mesh.protocol_detection_timeout > 0


def listener(view: OutboundListenerView) -> Resource:
    message = L(
        name=view.name,
        address=socket_address(view.address, view.port),
        traffic_direction=api.base.OUTBOUND,
        access_log=access_log.listener_logs(view.mesh, view.filters.telemetry),
    )
    if view.address.startswith("unix://"):
        message.address.pipe.path = view.address.removeprefix("unix://")
    for extra in view.extra_addresses:
        message.additional_addresses.add(address=socket_address(extra, view.port))
    if not view.bind_to_port:
        message.bind_to_port.value = False
    chains = distinct(view.chains)
    http = [c for c in chains if c.kind == "http"]
    auto = [c for c in chains if c.kind == "auto"]
    tcp = [c for c in chains if c.kind == "tcp"]
    if any(c.sni or c.dynamic_dns for c in tcp) or auto:
        message.listener_filters.append(tls_inspector())
    # Everybody calls through a wildcard address' port: what is not HTTP there may be for somewhere else.
    sniff = bool(auto) or (bool(http) and (bool(tcp) or view.address in WILDCARDS))
    if sniff:
        message.listener_filters.append(http_inspector())
        detection(message, view.mesh)
    for chain in (*http[:1], *(auto[:1] if not http else ())):
        message.filter_chains.append(_http_chain(view, chain, sniffed=sniff))
    specific = [c for c in tcp if c.sni or c.subnets]
    message.filter_chains.extend(_tcp_chain(view, c) for c in specific)
    general = [c for c in tcp if not c.sni and not c.subnets] or auto
    if general:
        rest = _tcp_chain(view, general[0])
        rest.ClearField("filter_chain_match")
        message.default_filter_chain.CopyFrom(rest)
    elif not http or sniff:
        message.default_filter_chain.CopyFrom(fallback(view))
    return api.resource(api.LISTENER, view.name, message)


def distinct(chains: tuple[ChainView, ...]) -> list[ChainView]:
    """Chains whose matches differ: of two that would take the same connections, the older service's stays."""
    seen: set[tuple[object, ...]] = set()
    out: list[ChainView] = []
    for chain in sorted(chains, key=lambda c: (c.created, c.source, c.stat_prefix)):
        sni = tuple(s for s in chain.sni if ("sni", s, chain.subnets) not in seen)
        if chain.sni and not sni:
            continue
        key = (chain.kind, chain.subnets) if not chain.sni else ()
        if key and key in seen:
            continue
        seen.add(key)
        seen.update(("sni", s, chain.subnets) for s in chain.sni)
        out.append(chain)
    return out


def _http_chain(view: OutboundListenerView, chain: ChainView, *, sniffed: bool) -> FilterChain:
    http = http_filters(
        Position.OUTBOUND,
        view.mesh,
        view.filters,
        grpc_web=any(c.grpc_web for c in view.chains),
        ports=(view.port,),
        http=view.http,
    )
    if view.dynamic or any(c.dynamic_dns for c in view.chains):
        http.insert(len(http) - 1, dynamic_hosts(view))
    manager = connection_manager(
        Position.OUTBOUND,
        view.mesh,
        stat_prefix=f"outbound_{view.name}",
        filters=http,
        policies=view.filters,
        route_name=chain.route,
        http=view.http,
    )
    made = FilterChain(filters=[*before_http(view.filters, (view.port,)), manager])
    if sniffed:
        made.filter_chain_match.application_protocols.extend(tls.plain_http(http10=view.http.http10))
        made.filter_chain_match.transport_protocol = "raw_buffer"
    return made


def _tcp_chain(view: OutboundListenerView, chain: ChainView) -> FilterChain:
    filters: list[api.listener_components.Filter] = []
    if chain.mongo:
        mongo = api.mongo_proxy.MongoProxy(stat_prefix=chain.stat_prefix)
        filters.append(
            api.listener_components.Filter(name="envoy.filters.network.mongo_proxy", typed_config=api.pack(mongo))
        )
    filters.extend(network_filters(view.mesh, view.filters, protected=False, ports=(view.port,)))
    if chain.dynamic_dns:
        sni = api.sni_dfp.FilterConfig(dns_cache_config=cache_of(view), port_value=chain.dynamic_port)
        filters.append(api.listener_components.Filter(name=SNI_DYNAMIC, typed_config=api.pack(sni)))
    if chain.told_by_alpn:
        filters.append(offers_tcp())
    filters.append(
        to_clusters(view.mesh, Position.OUTBOUND, chain, view.filters, stat_prefix=view.name, idle=view.http.idle)
    )
    made = FilterChain(filters=filters)
    if chain.sni or chain.subnets:
        made.filter_chain_match.CopyFrom(match(chain.sni, chain.subnets))
    return made


def to_clusters(
    mesh: MeshOptions,
    position: Position,
    chain: ChainView,
    filters: Filters,
    *,
    stat_prefix: str,
    idle: float | None = None,
) -> api.listener_components.Filter:
    """The TCP proxy of a chain. `idle`: the proxy's own time-out, where no rule has one."""
    return tcp_proxy(
        mesh,
        position,
        stat_prefix=chain.stat_prefix or stat_prefix,
        clusters=chain.clusters,
        idle_timeout=idle if chain.idle_timeout is None else chain.idle_timeout,
        hash_source_ip=chain.hash_source_ip,
        max_duration=chain.max_duration,
        tunnel=chain.tunnel,
        policies=filters,
    )


def cache_of(view: OutboundListenerView | VirtualOutboundView) -> api.dns_cache.DnsCacheConfig:
    return dns_cache(view.ipv4, view.ipv6)


def dynamic_hosts(view: OutboundListenerView | VirtualOutboundView) -> api.hcm.HttpFilter:
    """Resolves the host of requests to wildcard and unknown hosts; it lets all others be."""
    config = api.http_dfp.FilterConfig(dns_cache_config=cache_of(view))
    return api.hcm.HttpFilter(name="envoy.filters.http.dynamic_forward_proxy", typed_config=api.pack(config))


def match(sni: tuple[str, ...], subnets: tuple[str, ...]) -> Match:
    made = Match(server_names=[s for s in sni if s != "*"])
    if made.server_names:
        made.transport_protocol = "tls"
    for subnet in subnets:
        prefix, _, length = subnet.partition("/")
        bits = int(length) if length.isdigit() else (128 if ":" in prefix else 32)
        made.prefix_ranges.add(address_prefix=prefix, prefix_len={"value": bits})
    return made


def fallback(view: OutboundListenerView) -> FilterChain:
    """Traffic that is for nothing known: on its way, or refused."""
    where = PASSTHROUGH if view.passthrough else BLACKHOLE
    proxy = tcp_proxy(
        view.mesh,
        Position.OUTBOUND,
        stat_prefix=where[0].cluster,
        clusters=where,
        idle_timeout=view.http.idle,
        policies=view.filters,
    )
    return FilterChain(name=where[0].cluster, filters=[proxy])


def virtual_outbound(view: VirtualOutboundView) -> Resource:
    """Takes in what the capture rules send to it, hands it to the listener of its original destination."""
    wildcard = "0.0.0.0" if view.ipv4 else "::"
    message = L(
        name=names.VIRTUAL_OUTBOUND,
        address=socket_address(wildcard, view.port),
        use_original_dst={"value": True},
        traffic_direction=api.base.OUTBOUND,
        access_log=access_log.listener_logs(view.mesh, view.filters.telemetry),
    )
    if view.ipv4 and view.ipv6:
        message.additional_addresses.add(address=socket_address("::", view.port))
    blackhole = FilterChain(
        name="virtualOutbound-blackhole",
        filters=[
            tcp_proxy(
                view.mesh,
                Position.OUTBOUND,
                stat_prefix=names.BLACKHOLE_CLUSTER,
                clusters=BLACKHOLE,
                policies=view.filters,
            )
        ],
        # A connection made to the port itself would be sent to itself for ever.
        filter_chain_match={"destination_port": {"value": view.port}},
    )
    where = (WeightedCluster(cluster=view.egress_cluster),) if view.egress_cluster else (
        PASSTHROUGH if view.passthrough else BLACKHOLE
    )  # fmt: skip
    rest = FilterChain(
        name="virtualOutbound-catchall-tcp",
        filters=[
            tcp_proxy(
                view.mesh,
                Position.OUTBOUND,
                stat_prefix=where[0].cluster,
                clusters=where,
                idle_timeout=view.http.idle,
                policies=view.filters,
            )
        ],
    )
    message.filter_chains.append(blackhole)
    if view.dynamic:
        message.listener_filters.append(http_inspector())
        detection(message, view.mesh)
        message.filter_chains.append(_dynamic_chain(view))
    message.filter_chains.append(rest)
    return api.resource(api.LISTENER, names.VIRTUAL_OUTBOUND, message)


def _dynamic_chain(view: VirtualOutboundView) -> FilterChain:
    """Plain HTTP on ports that nobody knows: to where DNS says that its host is."""
    filters = http_filters(Position.OUTBOUND, view.mesh, view.filters, http=view.http)
    filters.insert(len(filters) - 1, dynamic_hosts(view))
    fallback = RouteConfigView(
        name=names.ALLOW_ANY_DYNAMIC,
        fallback="dynamic",
        ignore_port=True,
        include_attempt_count=view.http.attempts,
        mesh=view.mesh,
    )
    manager = connection_manager(
        Position.OUTBOUND,
        view.mesh,
        stat_prefix=f"outbound_{names.VIRTUAL_OUTBOUND}_{names.ALLOW_ANY_DYNAMIC}",
        filters=filters,
        policies=view.filters,
        route_config=configuration(fallback),
        http=view.http,
    )
    return FilterChain(
        name="virtualOutbound-catchall-tcp-http",
        filter_chain_match={"application_protocols": tls.plain_http(http10=view.http.http10)},
        filters=[manager],
    )
