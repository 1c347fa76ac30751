"""HTTP filters in Istio's order, and the connection manager around them; TCP proxies.

In: what kind of listener (sidecar inbound, sidecar outbound, gateway) and its options. Out: network filters.

Order: peer metadata, authorization and authentication (inbound, gateway), grpc stats, fault, CORS, stats, router.
Filters of Istio's own that stock Envoy lacks stand as no-ops under their names: EnvoyFilters find their anchors.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.generate import tls
from meltem.generate.filters import access_log, authz, connections, jwt, metrics, peers, telemetry, wasm
from meltem.resources.networking import Tunnel
from meltem.view.filters import NO_FILTERS, Filters, Tracer
from meltem.view.proxy_settings import GatewayTopology, HttpOptions, limits
from meltem.view.units import MeshOptions, WeightedCluster

Filter = api.listener_components.Filter
HttpFilter = api.hcm.HttpFilter


class Position(enum.Enum):
    """Where a filter chain stands."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"
    GATEWAY = "gateway"


NO_TOPOLOGY = GatewayTopology()
PLAIN = HttpOptions()
_APPENDING = (api.hcm.HttpConnectionManager.SANITIZE_SET, api.hcm.HttpConnectionManager.APPEND_FORWARD)
_CLIENT_CERTIFICATES = {
    "SANITIZE_SET": api.hcm.HttpConnectionManager.SANITIZE_SET,
    "SANITIZE": api.hcm.HttpConnectionManager.SANITIZE,
    "FORWARD_ONLY": api.hcm.HttpConnectionManager.FORWARD_ONLY,
    "APPEND_FORWARD": api.hcm.HttpConnectionManager.APPEND_FORWARD,
    "ALWAYS_FORWARD_ONLY": api.hcm.HttpConnectionManager.ALWAYS_FORWARD_ONLY,
}
_NORMALIZATION = {
    "DEFAULT": (True, False, False),
    "BASE": (True, False, False),
    "NONE": (False, False, False),
    "MERGE_SLASHES": (True, True, False),
    "DECODE_AND_MERGE_SLASHES": (True, True, True),
}


def http_filter(name: str, config: api.message.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=api.pack(config))


def http_filters(
    position: Position,
    mesh: MeshOptions,
    filters: Filters = NO_FILTERS,
    *,
    grpc_web: bool = False,
    ports: tuple[int, ...] = (),
    http: HttpOptions = PLAIN,
) -> list[HttpFilter]:
    """`ports`: by which Wasm plugins may be limited to this chain."""
    made: list[HttpFilter] = [peers.server() if position is Position.INBOUND else peers.client()]
    made.extend(authz.custom_http(filters, mesh))
    made.extend(wasm.http(filters, "AUTHN", ports))
    made.extend(jwt.http(filters))
    made.extend(wasm.http(filters, "AUTHZ", ports))
    made.extend(authz.http(filters, mesh))
    made.extend(wasm.http(filters, "STATS", ports))
    made.extend(wasm.http(filters, "UNSPECIFIED_PHASE", ports))
    if grpc_web:
        made.append(http_filter("envoy.filters.http.grpc_web", api.grpc_web.GrpcWeb()))
    made.append(
        http_filter(
            "envoy.filters.http.grpc_stats",
            api.grpc_stats.FilterConfig(emit_filter_state=True, stats_for_all_methods={"value": False}),
        )
    )
    made.append(http_filter("envoy.filters.http.fault", api.fault.HTTPFault()))
    made.append(http_filter("envoy.filters.http.cors", api.cors.Cors()))
    made.append(telemetry.anchor("istio.stats"))
    made.append(
        http_filter("envoy.filters.http.router", api.router.Router(suppress_envoy_headers=not http.debug_headers))
    )
    return made


def network_filters(
    mesh: MeshOptions, filters: Filters, *, protected: bool, ports: tuple[int, ...] = ()
) -> list[Filter]:
    """What stands before a TCP proxy. `protected`: authorization holds here."""
    made: list[Filter] = []
    if protected:
        made.extend(authz.custom_tcp(filters, mesh))
    made.extend(wasm.network(filters, "AUTHN", ports))
    made.extend(wasm.network(filters, "AUTHZ", ports))
    if protected:
        made.extend(authz.tcp(filters, mesh))
    made.extend(wasm.network(filters, "STATS", ports))
    made.extend(wasm.network(filters, "UNSPECIFIED_PHASE", ports))
    return made


def before_http(filters: Filters, ports: tuple[int, ...]) -> list[Filter]:
    """What stands before a connection manager: plugins see an HTTP port's connections as they see others."""
    return [made for phase in wasm.PHASES for made in wasm.network(filters, phase, ports)]


def offers_tcp() -> Filter:
    """Before a TCP proxy: its upstream mutual TLS offers what stands for TCP, whatever the cluster offers for HTTP."""
    config = api.network_set_filter_state.Config(
        on_new_connection=[
            {
                "object_key": "envoy.network.application_protocols",
                "format_string": {"text_format_source": {"inline_string": ",".join(tls.ALPN_TCP)}},
                "shared_with_upstream": "ONCE",
            }
        ]
    )
    return Filter(name="istio.alpn", typed_config=api.pack(config))


def connection_manager(
    position: Position,
    mesh: MeshOptions,
    *,
    stat_prefix: str,
    filters: Iterable[HttpFilter],
    route_name: str = "",
    route_config: api.route.RouteConfiguration | None = None,
    http: HttpOptions = PLAIN,
    policies: Filters = NO_FILTERS,
    mutual_tls: bool = False,
    topology: GatewayTopology = NO_TOPOLOGY,
) -> Filter:
    """Either `route_name` (by RDS) or `route_config` (in place). `mutual_tls`: the chain takes only the mesh's own."""
    inbound = position is Position.INBOUND
    manager = api.hcm.HttpConnectionManager(
        stat_prefix=stat_prefix,
        codec_type=api.hcm.HttpConnectionManager.AUTO,
        http_filters=list(filters),
        use_remote_address={"value": position is Position.GATEWAY},
        normalize_path={"value": True},
        path_with_escaped_slashes_action=api.hcm.HttpConnectionManager.KEEP_UNCHANGED,
        access_log=[
            *access_log.logs(mesh, policies.telemetry, http=True),
            *metrics.http_stats(policies.telemetry, inbound=inbound, mutual_tls=mutual_tls),
        ],
        upgrade_configs=[{"upgrade_type": "websocket"}],
        strip_trailing_host_dot=True,
        proxy_100_continue=True,  # whether a body is wanted is for the server to say
        request_id_extension=_request_id(policies.telemetry.tracer),
    )
    normalize, merge, decode = _NORMALIZATION[mesh.path_normalization]
    manager.normalize_path.value = normalize
    manager.merge_slashes = merge
    if decode:
        manager.path_with_escaped_slashes_action = api.hcm.HttpConnectionManager.UNESCAPE_AND_FORWARD
    _headers(manager, position, http)
    held = limits(http.connections, mesh.connections, gateway=position is Position.GATEWAY)
    connections.apply(manager, http, held)
    if inbound:
        _forward_certificates(manager, http)
    elif position is Position.GATEWAY:
        _trust(manager, topology)
    telemetry.tracing(manager, mesh, policies.telemetry.tracer)
    if route_config is not None:
        manager.route_config.CopyFrom(route_config)
    else:
        manager.rds.route_config_name = route_name
        manager.rds.config_source.ads.SetInParent()
        manager.rds.config_source.resource_api_version = api.config_source.V3
        manager.rds.config_source.initial_fetch_timeout.SetInParent()
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=api.pack(manager))


def _headers(manager: api.hcm.HttpConnectionManager, position: Position, http: HttpOptions) -> None:
    """Headers that the proxy adds."""
    manager.server_name = http.server or ("" if position is Position.OUTBOUND else "istio-envoy")
    if http.keep_server:
        manager.server_name = ""
        manager.server_header_transformation = api.hcm.HttpConnectionManager.PASS_THROUGH
    if http.http10:
        manager.http_protocol_options.accept_http_10 = True
    if not http.request_id:
        manager.generate_request_id.value = False
    manager.append_x_forwarded_port = http.forwarded_port


def _forward_certificates(manager: api.hcm.HttpConnectionManager, http: HttpOptions) -> None:
    """The client's certificate, as a sidecar tells its application of it."""
    manager.forward_client_cert_details = _CLIENT_CERTIFICATES.get(
        http.client_certificate, api.hcm.HttpConnectionManager.APPEND_FORWARD
    )
    if manager.forward_client_cert_details in _APPENDING:
        details = manager.set_current_client_cert_details
        details.SetInParent()
        for part in http.certificate_details:
            if part == "subject":
                details.subject.value = True
            else:
                setattr(details, part, True)


def _trust(manager: api.hcm.HttpConnectionManager, topology: GatewayTopology) -> None:
    """Which addresses and client certificates of the proxies before a gateway are believed."""
    manager.xff_num_trusted_hops = topology.trusted_proxies
    manager.forward_client_cert_details = _CLIENT_CERTIFICATES.get(
        topology.client_certificate, api.hcm.HttpConnectionManager.SANITIZE_SET
    )
    if manager.forward_client_cert_details in _APPENDING:
        details = manager.SetCurrentClientCertDetails(subject={"value": True}, cert=True, dns=True, uri=True)
        manager.set_current_client_cert_details.CopyFrom(details)


def _request_id(tracer: Tracer | None) -> api.hcm.RequestIDExtension:
    """UUIDs that keep the caller's id, without turning the trace decision into them twice."""
    config = api.uuid_request_id.UuidRequestIdConfig(
        use_request_id_for_trace_sampling={"value": tracer is None or tracer.use_request_id}
    )
    return api.hcm.RequestIDExtension(typed_config=api.pack(config))


def tcp_proxy(
    mesh: MeshOptions,
    position: Position,
    *,
    stat_prefix: str,
    clusters: tuple[WeightedCluster, ...],
    idle_timeout: float | None = None,
    hash_source_ip: bool = False,
    max_duration: float | None = None,
    tunnel: Tunnel | None = None,
    policies: Filters = NO_FILTERS,
    mutual_tls: bool = False,
) -> Filter:
    counted = metrics.tcp_stats(policies.telemetry, inbound=position is Position.INBOUND, mutual_tls=mutual_tls)
    lines = access_log.logs(mesh, policies.telemetry, http=False)
    if counted:
        access_log.leave_out_connected(lines)
    proxy = api.tcp_proxy.TcpProxy(stat_prefix=stat_prefix, access_log=[*lines, *counted])
    if counted:
        proxy.access_log_options.flush_access_log_on_connected = True
    if len(clusters) == 1:
        proxy.cluster = clusters[0].cluster
    else:
        for one in clusters:
            if one.weight:
                proxy.weighted_clusters.clusters.add(name=one.cluster, weight=one.weight)
    if idle_timeout is not None:
        proxy.idle_timeout.CopyFrom(api.duration(idle_timeout))
    if hash_source_ip:
        proxy.hash_policy.add(source_ip={})
    if max_duration is not None:
        proxy.max_downstream_connection_duration.CopyFrom(api.duration(max_duration))
    if tunnel is not None:
        proxy.tunneling_config.hostname = f"{tunnel.target_host}:{tunnel.target_port}"
        proxy.tunneling_config.use_post = tunnel.protocol.upper() == "POST"
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=api.pack(proxy))
