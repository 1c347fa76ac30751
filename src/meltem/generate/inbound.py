"""The inbound listener of a sidecar: one filter chain for each port, way of encryption and protocol.

In: `InboundView`. Out: `virtualInbound`, and listeners of their own for Sidecar ingress ports that bind.

Chains of a port, by mutual TLS mode: encrypted HTTP and TCP told apart by Istio's ALPNs (PERMISSIVE, STRICT), plain
HTTP and TCP (PERMISSIVE, DISABLE). A port without a service has the same chains towards where the connection was meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import names, tls
from meltem.generate.filters import access_log
from meltem.generate.filters.chain import (
    Position,
    before_http,
    connection_manager,
    http_filters,
    network_filters,
    tcp_proxy,
)
from meltem.generate.outbound import detection, http_inspector, listener_filter, socket_address, tls_inspector
from meltem.generate.routes import inbound_configuration
from meltem.graph.authn import TLSMode
from meltem.graph.model import Protocol
from meltem.view.units import (
    InboundPort,
    InboundView,
    RouteView,
    VirtualHostView,
    WeightedCluster,
    WorkloadIdentity,
    key_of,
)

L = api.listener.Listener
FilterChain = api.listener_components.FilterChain
ALPN_MTLS_TCP = ("istio-peer-exchange", "istio")


def listeners(view: InboundView) -> list[Resource]:
    made = [_virtual(view)] if view.capture else []
    for port in view.ports:
        if port.bind:
            made.append(_bound(view, port))
    return made


def _virtual(view: InboundView) -> Resource:
    port = view.mesh.inbound_port
    wildcard = "0.0.0.0" if view.ipv4 else "::"
    message = L(
        name=names.VIRTUAL_INBOUND,
        address=socket_address(wildcard, port),
        use_original_dst={"value": True},
        traffic_direction=api.base.INBOUND,
        access_log=access_log.listener_logs(view.mesh, view.filters.telemetry),
    )
    # The chains of all ports stand in this one listener; the destination port picks among them.
    message.ClearField("use_original_dst")
    if view.ipv4 and view.ipv6:
        message.additional_addresses.add(address=socket_address("::", port))
    if view.tproxy:
        message.transparent.value = True
    message.listener_filters.append(
        listener_filter("envoy.filters.listener.original_dst", api.original_dst.OriginalDst())
    )
    if view.tproxy:
        message.listener_filters.append(
            listener_filter("envoy.filters.listener.original_src", api.original_src.OriginalSrc(mark=1337))
        )
    message.listener_filters.extend(
        (_skipping(tls_inspector(), view, _plain), _skipping(http_inspector(), view, _known))
    )
    detection(message, view.mesh)
    message.filter_chains.append(_self(view, port))
    for one in view.ports:
        if not one.bind:
            message.filter_chains.extend(chains(view, one, captured=True))
    if view.passthrough:
        for family in (*((4,) if view.ipv4 else ()), *((6,) if view.ipv6 else ())):
            message.filter_chains.extend(_unknown_ports(_Common(view), family))
    return api.resource(api.LISTENER, names.VIRTUAL_INBOUND, message)


def _plain(port: InboundPort) -> bool:
    """Nothing can be encrypted by the mesh: server-first protocols need no first bytes from the client."""
    return port.mode is TLSMode.DISABLE and port.tls is None and not port.protocol.is_tls


def _known(port: InboundPort) -> bool:
    """The declared protocol decides; no need to look at the bytes."""
    return port.protocol is not Protocol.AUTO


def _skipping(
    inspector: api.listener_components.ListenerFilter,
    view: InboundView,
    skip: object,
) -> api.listener_components.ListenerFilter:
    """The inspector, left out for the destination ports where it would only wait."""
    ports = [p.port for p in view.ports if not p.bind and callable(skip) and skip(p)]
    if len(ports) == 1:
        inspector.filter_disabled.destination_port_range.start = ports[0]
        inspector.filter_disabled.destination_port_range.end = ports[0] + 1
    elif ports:
        for port in ports:
            rule = inspector.filter_disabled.or_match.rules.add()
            rule.destination_port_range.start, rule.destination_port_range.end = port, port + 1
    return inspector


def _self(view: InboundView, port: int) -> FilterChain:
    """A connection to the inbound port itself was not captured: it would be sent in a circle."""
    blackhole = (WeightedCluster(cluster=names.BLACKHOLE_CLUSTER),)
    return FilterChain(
        name="virtualInbound-blackhole",
        filter_chain_match={"destination_port": {"value": port}},
        filters=[
            tcp_proxy(
                view.mesh,
                Position.INBOUND,
                stat_prefix=names.BLACKHOLE_CLUSTER,
                clusters=blackhole,
                policies=view.filters,
            )
        ],
    )


def _bound(view: InboundView, port: InboundPort) -> Resource:
    """A listener of its own (no capture, or a Sidecar ingress with a bind address)."""
    name = names.listener(port.bind, port.port)
    message = L(
        name=name,
        address=socket_address(port.bind, port.port),
        traffic_direction=api.base.INBOUND,
        access_log=access_log.listener_logs(view.mesh, view.filters.telemetry),
    )
    if port.bind.startswith("unix://"):
        message.address.pipe.path = port.bind.removeprefix("unix://")
    if not _plain(port):
        message.listener_filters.append(tls_inspector())
    if not _known(port):
        message.listener_filters.append(http_inspector())
    detection(message, view.mesh)
    message.filter_chains.extend(chains(view, port, captured=False))
    return api.resource(api.LISTENER, name, message)


# --- chains of one port ---


def chains(view: InboundView, port: InboundPort, *, captured: bool) -> Iterable[FilterChain]:
    where = port.port if captured else 0
    if port.tls is not None and port.mode is TLSMode.DISABLE:
        yield from _own_tls(view, port, where)
        return
    if port.mode is not TLSMode.DISABLE:
        yield from _encrypted(view, port, where)
    if port.mode is not TLSMode.STRICT:
        yield from _plaintext(view, port, where)


def _match(port: int, transport: str, alpn: tuple[str, ...] = ()) -> api.listener_components.FilterChainMatch:
    made = api.listener_components.FilterChainMatch(transport_protocol=transport, application_protocols=list(alpn))
    if port:
        made.destination_port.value = port
    return made


def _encrypted(view: InboundView, port: InboundPort, where: int) -> Iterable[FilterChain]:
    """Mutual TLS of the mesh. Under PERMISSIVE only Istio's ALPNs are ours: other TLS is the application's own."""
    strict = port.mode is TLSMode.STRICT
    if port.protocol is Protocol.AUTO or (port.protocol.is_http and not strict):
        alpn = tls.ALPN_MTLS_HTTP
    else:
        alpn = () if strict else (*ALPN_MTLS_TCP, *(tls.ALPN_MTLS_HTTP if port.protocol.is_http else ()))
    if port.protocol.is_http or port.protocol is Protocol.AUTO:
        plain_http = (*tls.ALPN_MTLS_HTTP, *ALPN_MTLS_TCP) if port.protocol.is_http and not strict else alpn
        yield FilterChain(
            name=_name(port, where),
            filter_chain_match=_match(where, "tls", plain_http),
            filters=_http(view, port, mutual_tls=True),
            transport_socket=_mutual_tls(view, tls.ALPN_INBOUND_HTTP),
        )
    if not port.protocol.is_http:
        tcp = ALPN_MTLS_TCP if port.protocol is Protocol.AUTO or not strict else ()
        yield FilterChain(
            name=_name(port, where),
            filter_chain_match=_match(where, "tls", () if strict else tcp),
            filters=_tcp(view, port, mutual_tls=True),
            transport_socket=_mutual_tls(view, ("istio",)),
        )


def _mutual_tls(view: InboundView, alpn: tuple[str, ...]) -> api.base.TransportSocket:
    mesh = view.mesh
    return tls.socket(tls.mesh_server(alpn, mesh.mesh_tls, trust_domains=mesh.peer_trust_domains))


def _plaintext(view: InboundView, port: InboundPort, where: int) -> Iterable[FilterChain]:
    if port.protocol is Protocol.AUTO:
        yield FilterChain(
            name=_name(port, where),
            filter_chain_match=_match(where, "raw_buffer", tls.plain_http(http10=view.http.http10)),
            filters=_http(view, port),
        )
        yield FilterChain(
            name=_name(port, where), filter_chain_match=_match(where, "raw_buffer"), filters=_tcp(view, port)
        )
    elif port.protocol.is_http:
        yield FilterChain(
            name=_name(port, where), filter_chain_match=_match(where, "raw_buffer"), filters=_http(view, port)
        )
    else:
        yield FilterChain(
            name=_name(port, where), filter_chain_match=_match(where, "raw_buffer"), filters=_tcp(view, port)
        )
    if port.mode is TLSMode.PERMISSIVE and not port.protocol.is_http:
        # TLS that is not the mesh's goes to the application as it is.
        yield FilterChain(name=_name(port, where), filter_chain_match=_match(where, "tls"), filters=_tcp(view, port))
    elif port.mode is TLSMode.PERMISSIVE:
        yield FilterChain(name=_name(port, where), filter_chain_match=_match(where, "tls"), filters=_tcp(view, port))


def _own_tls(view: InboundView, port: InboundPort, where: int) -> Iterable[FilterChain]:
    """A Sidecar ingress listener with TLS settings of its own."""
    if port.tls is None:
        return
    http = port.protocol.is_http or port.protocol is Protocol.HTTPS
    yield FilterChain(
        name=_name(port, where),
        filter_chain_match=_match(where, "tls"),
        filters=_http(view, port) if http else _tcp(view, port),
        transport_socket=tls.socket(
            tls.server(port.tls, tls.ALPN_INBOUND_HTTP if http else (), view.mesh.tls_defaults)
        ),
    )


def _name(port: InboundPort, where: int) -> str:
    host = "0.0.0.0" if where else port.bind
    return f"{host}_{port.port}"


def _http(view: InboundView, port: InboundPort, *, mutual_tls: bool = False) -> list[api.listener_components.Filter]:
    host = VirtualHostView(
        name=f"inbound|http|{port.service_port}", domains=port.domains, routes=port.routes, mesh=view.mesh
    )
    ports = (port.port, port.service_port)
    manager = connection_manager(
        Position.INBOUND,
        view.mesh,
        stat_prefix=f"inbound_0.0.0.0_{port.port}",
        filters=http_filters(
            Position.INBOUND,
            view.mesh,
            view.filters,
            grpc_web=port.protocol is Protocol.GRPC_WEB,
            ports=ports,
            http=view.http,
        ),
        route_config=inbound_configuration(port.cluster, port.domains, port.routes, host),
        http=view.http,
        policies=view.filters,
        mutual_tls=mutual_tls,
    )
    return [*before_http(view.filters, ports), manager]


def _tcp(view: InboundView, port: InboundPort, *, mutual_tls: bool = False) -> list[api.listener_components.Filter]:
    proxy = tcp_proxy(
        view.mesh,
        Position.INBOUND,
        stat_prefix=port.cluster,
        clusters=(WeightedCluster(cluster=port.cluster),),
        idle_timeout=view.http.idle,
        policies=view.filters,
        mutual_tls=mutual_tls,
    )
    return [*network_filters(view.mesh, view.filters, protected=True, ports=(port.port, port.service_port)), proxy]


# --- ports that no service has ---


class _Common:
    """An inbound view without what is the workload's own: most workloads of a mesh have it in common."""

    __slots__ = ("digest", "view")

    def __init__(self, view: InboundView) -> None:
        self.view = msgspec.structs.replace(view, ports=(), identity=WorkloadIdentity())
        self.digest = key_of(self.view)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Common) and self.digest == other.digest


@lru_cache(maxsize=64)
def _unknown_ports(common: _Common, family: int) -> tuple[FilterChain, ...]:
    """Shared between all who ask alike: to be copied into a message, never changed."""
    return tuple(_unknown_port(common.view, family))


def _unknown_port(view: InboundView, family: int) -> Iterable[FilterChain]:
    cluster = names.INBOUND_PASSTHROUGH_V4 if family == 4 else names.INBOUND_PASSTHROUGH_V6
    port = InboundPort(
        port=0,
        protocol=Protocol.AUTO,
        cluster=cluster,
        mode=view.policy.mode,
        routes=(RouteView(name="default", clusters=(WeightedCluster(cluster=cluster),), operation=":0/*"),),
    )
    for chain in chains(view, msgspec.structs.replace(port), captured=False):
        chain.name = "virtualInbound-catchall-http" if _is_http(chain) else "virtualInbound"
        prefix = chain.filter_chain_match.prefix_ranges.add()
        prefix.address_prefix, prefix.prefix_len.value = ("0.0.0.0", 0) if family == 4 else ("::0", 0)
        yield chain


def _is_http(chain: FilterChain) -> bool:
    return chain.filters[-1].name.endswith("http_connection_manager")
