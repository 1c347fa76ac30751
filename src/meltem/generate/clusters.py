"""Clusters: outbound ones from `ClusterView`, a workload's own from `InboundPort`, and the fixed ones.

In: units of view. Out: `cluster.Cluster` resources under Istio's names.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/cluster/v3/cluster.proto
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import endpoints, locality, names, tls
from meltem.generate.balancing import apply_load_balancer, apply_localities
from meltem.generate.filters import peers
from meltem.generate.filters.connections import header_case
from meltem.graph.model import Protocol, Resolution
from meltem.resources import networking
from meltem.view.units import Balance, ClusterView, InboundPort, InboundView, MeshOptions

C = api.cluster.Cluster
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MAX_UINT32 = 4294967295
LONGEST_KEEPALIVE = 32767
"""Seconds: Linux refuses a connection that asks for more (MAX_TCP_KEEPIDLE)."""

_TYPES = {
    Resolution.ENDPOINTS: C.EDS,
    Resolution.PASSTHROUGH: C.ORIGINAL_DST,
    Resolution.DNS: C.STRICT_DNS,
    Resolution.DNS_ROUND_ROBIN: C.LOGICAL_DNS,
}


def outbound(view: ClusterView) -> Resource:
    """The cluster of one service port or subset."""
    policy = view.policy
    pool = policy.connection_pool if policy is not None else None
    message = C(
        name=view.name,
        connect_timeout=api.duration(_connect_timeout(pool, view.mesh)),
        circuit_breakers={"thresholds": [_thresholds(pool, policy)]},
        metadata=_metadata(view),
        common_lb_config={},
    )
    if view.mesh.outbound_stat_name:
        service = (view.hostname, view.namespace, view.service_name)
        message.alt_stat_name = stat_name(
            view.mesh.outbound_stat_name, service, view.port, port_name=view.port_name, subset=view.subset
        )
    if view.resolution is Resolution.DYNAMIC_DNS:
        _dynamic_dns(message, view)
    else:
        message.type = _TYPES[view.resolution]
        if view.resolution is Resolution.DNS_ROUND_ROBIN and len(view.endpoints) != 1:
            message.type = C.STRICT_DNS  # Envoy takes exactly one name there
    if view.resolution is Resolution.ENDPOINTS:
        message.eds_cluster_config.eds_config.ads.SetInParent()
        message.eds_cluster_config.eds_config.resource_api_version = api.config_source.V3
        message.eds_cluster_config.eds_config.initial_fetch_timeout.SetInParent()
        message.eds_cluster_config.service_name = view.name
    elif view.resolution is Resolution.PASSTHROUGH:
        message.lb_policy = C.CLUSTER_PROVIDED
        if view.port_override:
            message.original_dst_lb_config.upstream_port_override.value = view.port_override
    elif view.resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN):
        _dns(message, view)
    if view.resolution not in (Resolution.PASSTHROUGH, Resolution.DYNAMIC_DNS):
        apply_localities(message, Balance.of(view.balance))
        apply_load_balancer(message, policy.load_balancer if policy is not None else None)
    if policy is not None and policy.outlier_detection is not None:
        _outliers(message, policy.outlier_detection, fails_over=_fails_over(view))
    _keepalive(message, pool, view.mesh)
    options = _http_options(view, pool)
    if view.external:
        options.http_filters.extend(peers.withheld())
    _transport(message, view, options)
    if policy is not None and policy.outlier_detection is not None:
        _error_codes(options, policy.outlier_detection.outlier_detection_http_error_codes)
    if view.preserve_case:
        _preserve_case(options)
    if view.buffer >= 0:
        message.per_connection_buffer_limit_bytes.value = int(view.buffer)
    if options.ListFields():
        if not options.WhichOneof("upstream_protocol_options"):
            options.explicit_http_config.http_protocol_options.SetInParent()
        message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(api.pack(options))
    return api.resource(api.CLUSTER, view.name, message)


def _preserve_case(options: api.http_protocol_options.HttpProtocolOptions) -> None:
    """HTTP/1 header names as they were written; HTTP/2 has none but small letters."""
    if options.explicit_http_config.HasField("http2_protocol_options"):
        return
    if options.HasField("use_downstream_protocol_config"):
        http1 = options.use_downstream_protocol_config.http_protocol_options
    else:
        http1 = options.explicit_http_config.http_protocol_options
    http1.header_key_format.CopyFrom(header_case())


def stat_name(
    pattern: str, service: tuple[str, str, str], port: int, *, port_name: str = "", subset: str = "", target: int = 0
) -> str:
    """The name under which a cluster counts, by MeshConfig's pattern. `service`: hostname, namespace, name."""
    host, namespace, name = service
    in_kubernetes = bool(name) and host.startswith(f"{name}.{namespace}.svc.")
    words = {
        "%SERVICE%": f"{name}.{namespace}" if in_kubernetes else host,
        "%SERVICE_NAME%": name if in_kubernetes else host,
        "%SERVICE_FQDN%": host,
        "%SUBSET_NAME%": subset,
        "%TARGET_PORT%": str(target),
        "%SERVICE_PORT%": str(port),
        "%SERVICE_PORT_NAME%": port_name,
    }
    for word, value in words.items():
        pattern = pattern.replace(word, value)
    return pattern


def _connect_timeout(pool: networking.ConnectionPool | None, mesh: MeshOptions) -> float:
    own = pool.tcp.connect_timeout if pool is not None and pool.tcp is not None else None
    return float(own) if own is not None else mesh.connect_timeout


def _thresholds(
    pool: networking.ConnectionPool | None, policy: networking.TrafficPolicy | None
) -> api.circuit_breaker.CircuitBreakers.Thresholds:
    """Nothing is limited unless the rule says so (Envoy's own defaults would be 1024)."""
    tcp = pool.tcp if pool is not None else None
    http = pool.http if pool is not None else None
    made = api.circuit_breaker.CircuitBreakers.Thresholds(
        max_connections={"value": (tcp.max_connections if tcp is not None else 0) or MAX_UINT32},
        max_pending_requests={"value": (http.http1_max_pending_requests if http is not None else 0) or MAX_UINT32},
        max_requests={"value": (http.http2_max_requests if http is not None else 0) or MAX_UINT32},
        max_retries={"value": (http.max_retries if http is not None else 0) or MAX_UINT32},
        track_remaining=True,
    )
    budget = policy.retry_budget if policy is not None else None
    if budget is not None:
        made.retry_budget.budget_percent.value = budget.percent if budget.percent is not None else 20.0
        made.retry_budget.min_retry_concurrency.value = budget.min_retry_concurrency or 3
        if budget.budget_interval is not None:
            interval = api.duration(float(budget.budget_interval)).SerializeToString()
            made.retry_budget.MergeFromString(
                b"\x1a" + bytes((len(interval),)) + interval
            )  # field 3, unknown to the wheel
    return made


def _metadata(view: ClusterView) -> api.base.Metadata:
    """What telemetry reads: the service, the subset and the destination rule."""
    struct = api.struct_pb2.Struct()
    service = {"host": view.hostname, "name": view.service_name, "namespace": view.namespace}
    struct["services"] = [service]
    struct.update(service)  # metrics cannot look into the list
    if view.policy_source:
        namespace, _, name = view.policy_source.partition("/")
        struct["config"] = f"/apis/networking.istio.io/v1/namespaces/{namespace}/destination-rule/{name}"
    if view.subset:
        struct["subset"] = view.subset
    return api.base.Metadata(filter_metadata={"istio": struct})


def _dns(message: C, view: ClusterView) -> None:
    message.dns_lookup_family = C.V4_ONLY if not view.ipv6 else (C.ALL if view.ipv4 else C.V6_ONLY)
    message.dns_refresh_rate.CopyFrom(api.duration(view.mesh.dns_refresh_rate))
    message.dns_jitter.CopyFrom(api.duration(0.1))
    message.respect_dns_ttl = True
    client = locality.Client(view.locality, labels=view.client_labels)
    made = endpoints.inline(view.name, view.endpoints, client, Balance.of(view.balance))
    message.load_assignment.CopyFrom(made)


def _dynamic_dns(message: C, view: ClusterView) -> None:
    """A wildcard host whose real name is in the request (SNI or Host): resolved when it is called."""
    message.lb_policy = C.CLUSTER_PROVIDED
    config = api.dfp_cluster.ClusterConfig(dns_cache_config=dns_cache(view.ipv4, view.ipv6))
    # Envoy wants the certificate's name bound to the host that was asked for; where the rule names another, or there is
    # no TLS, it has to be told that this is meant.
    config.allow_insecure_cluster_options = True
    message.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    message.cluster_type.typed_config.CopyFrom(api.pack(config))


def dns_cache(ipv4: bool, ipv6: bool) -> api.dns_cache.DnsCacheConfig:
    """The cache of wildcard hosts' names, one a proxy. Envoy shares it by name between clusters and filters, which
    must agree on it."""
    family = C.V4_ONLY if not ipv6 else (C.ALL if ipv4 else C.V6_ONLY)
    return api.dns_cache.DnsCacheConfig(name="dynamic_dns", dns_lookup_family=family, dns_refresh_rate={"seconds": 60})


def _fails_over(view: ClusterView) -> bool:
    """The rule says where to fail over to."""
    balance = Balance.of(view.balance)
    setting = balance.localities or balance.zones
    return setting is not None and bool(setting.failover or setting.failover_priority)


def _outliers(message: C, rule: networking.OutlierDetection, *, fails_over: bool) -> None:
    """Istio's mapping: gateway errors and 5xx each on their own, success rate off, panic threshold 0 unless said.

    Envoy ejects at most a tenth of the endpoints unless the rule says otherwise: of fewer than ten, none, and nothing
    would ever fail over. Where the rule fails over, one is ejected at any rate, as Envoy did when the rules that people
    copy were written."""
    made = message.outlier_detection
    made.enforcing_success_rate.value = 0
    made.enforcing_failure_percentage.value = 0
    gateway_errors = rule.consecutive_gateway_errors
    if gateway_errors is not None:
        made.consecutive_gateway_failure.value = gateway_errors
        made.enforcing_consecutive_gateway_failure.value = 100 if gateway_errors else 0
    errors = rule.consecutive_5xx_errors
    if errors is None and rule.consecutive_errors:
        errors = rule.consecutive_errors  # what older rules say
    if errors is not None:
        made.consecutive_5xx.value = errors
        made.enforcing_consecutive_5xx.value = 100 if errors else 0
    if rule.interval is not None:
        made.interval.CopyFrom(api.duration(float(rule.interval)))
    if rule.base_ejection_time is not None:
        made.base_ejection_time.CopyFrom(api.duration(float(rule.base_ejection_time)))
    if fails_over and not rule.max_ejection_percent:
        made.always_eject_one_host.value = True
    if rule.max_ejection_percent:
        made.max_ejection_percent.value = rule.max_ejection_percent
    if rule.split_external_local_origin_errors:
        made.split_external_local_origin_errors = True
        local = rule.consecutive_local_origin_failures
        if local:
            made.consecutive_local_origin_failure.value = local
            made.enforcing_consecutive_local_origin_failure.value = 100
        made.enforcing_local_origin_success_rate.value = 0
    message.common_lb_config.healthy_panic_threshold.value = float(rule.min_health_percent)


def _error_codes(options: api.http_protocol_options.HttpProtocolOptions, codes: tuple[int, ...]) -> None:
    """Which answers count as errors of the endpoint, in place of 5xx."""
    for code in codes:
        matcher = options.outlier_detection.error_matcher
        one = matcher.or_match.rules.add() if len(codes) > 1 else matcher
        one.http_response_headers_match.headers.add(name=":status", string_match={"exact": str(code)})


def _keepalive(message: C, pool: networking.ConnectionPool | None, mesh: MeshOptions) -> None:
    own = pool.tcp.tcp_keepalive if pool is not None and pool.tcp is not None else None
    keepalive = own or mesh.tcp_keepalive
    if keepalive is None:
        return
    made = message.upstream_connection_options.tcp_keepalive
    made.SetInParent()
    if keepalive.probes:
        made.keepalive_probes.value = keepalive.probes
    if keepalive.time is not None:
        made.keepalive_time.value = min(int(keepalive.time), LONGEST_KEEPALIVE)
    if keepalive.interval is not None:
        made.keepalive_interval.value = min(int(keepalive.interval), LONGEST_KEEPALIVE)


def _http_options(
    view: ClusterView, pool: networking.ConnectionPool | None
) -> api.http_protocol_options.HttpProtocolOptions:
    """HTTP/2 where the port says so or the rule upgrades, the client's own version where it is sniffed; limits."""
    options = api.http_protocol_options.HttpProtocolOptions()
    _http_version(options, view, pool.http if pool is not None else None)
    _connection_limits(options, pool)
    return options


def _connection_limits(
    options: api.http_protocol_options.HttpProtocolOptions, pool: networking.ConnectionPool | None
) -> None:
    """How long a connection may idle and live, and how many requests it may carry."""
    http = pool.http if pool is not None else None
    tcp = pool.tcp if pool is not None else None
    common = api.protocol.HttpProtocolOptions()
    idle = http.idle_timeout if http is not None else None
    if idle is None and tcp is not None and tcp.idle_timeout is not None:
        common.idle_timeout.CopyFrom(api.duration(float(tcp.idle_timeout)))
    elif idle is not None:
        common.idle_timeout.CopyFrom(api.duration(float(idle)))
    if http is not None and http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    if tcp is not None and tcp.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(api.duration(float(tcp.max_connection_duration)))
    if common.ListFields():
        options.common_http_protocol_options.CopyFrom(common)


def _http_version(
    options: api.http_protocol_options.HttpProtocolOptions, view: ClusterView, http: networking.HTTPPool | None
) -> None:
    http2 = _http2_options(http)
    wanted = http.h2_upgrade_policy if http is not None else "DEFAULT"
    upgrade = wanted == "UPGRADE" or (
        wanted == "DEFAULT" and view.mesh.h2_upgrade and not view.external and view.protocol.is_http
    )
    if http is not None and http.use_client_protocol:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.CopyFrom(http2)
    elif view.protocol.is_http2 or (upgrade and not view.protocol.is_tcp):
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2)
    elif view.protocol is Protocol.AUTO and view.follows_client:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.CopyFrom(http2)


def _http2_options(http: networking.HTTPPool | None) -> api.protocol.Http2ProtocolOptions:
    http2 = api.protocol.Http2ProtocolOptions()
    if http is not None and http.max_concurrent_streams:
        http2.max_concurrent_streams.value = http.max_concurrent_streams
    if http is not None and http.http2_keep_alive is not None:
        ping = http.http2_keep_alive
        if ping.interval is not None:
            http2.connection_keepalive.interval.CopyFrom(api.duration(float(ping.interval)))
        # Envoy wants a time-out whenever there is keep-alive.
        http2.connection_keepalive.timeout.CopyFrom(api.duration(float(ping.timeout or ping.interval or 20)))
    return http2


def _alpn(view: ClusterView, options: api.http_protocol_options.HttpProtocolOptions) -> tuple[str, ...]:
    """What mutual TLS offers: the server tells HTTP from TCP by it. Where the port's protocol is not known, a TCP proxy
    says it itself."""
    if options.explicit_http_config.HasField("http2_protocol_options"):
        return tls.ALPN_H2_ISTIO
    return tls.ALPN_TCP if view.protocol.is_tcp else tls.ALPN_HTTP_ISTIO


def _transport(message: C, view: ClusterView, options: api.http_protocol_options.HttpProtocolOptions) -> None:
    settings = view.policy.tls if view.policy is not None else None
    if view.sni_dnat:
        return
    if view.auto_mtls:
        _auto_mtls(message, view, options)
    elif settings is not None and settings.mode == "ISTIO_MUTUAL":
        sans = settings.subject_alt_names or view.default_sans
        context = tls.mesh_client(sans, settings.sni or view.sni, _alpn(view, options))
        tls.with_defaults(context.common_tls_context, view.mesh.tls_defaults)
        message.transport_socket.CopyFrom(tls.socket(context))
    elif settings is not None and settings.mode in ("SIMPLE", "MUTUAL") and _has_certificates(view, settings):
        alpn = ("h2",) if options.explicit_http_config.HasField("http2_protocol_options") else ()
        defaults = view.default_sans if view.external else ()
        context = tls.client(settings, sni=settings.sni, alpn=alpn, default_sans=defaults)
        tls.with_defaults(context.common_tls_context, view.mesh.tls_defaults)
        _names_by_request(settings, options)
        message.transport_socket.CopyFrom(tls.socket(context))
    if view.policy is not None and view.policy.proxy_protocol is not None:
        _proxy_protocol(message, view.policy.proxy_protocol)


def _has_certificates(view: ClusterView, settings: networking.ClientTLS) -> bool:
    """A secret is for gateways and for sidecars that the rule selects; others send plain text, as in Istio, where such
    a rule stands for the gateway's side of an egress path. CA bundles of ConfigMaps are no secret."""
    credential = settings.credential_name
    return not credential or view.secrets_by_sds or credential.startswith("configmap://")


def _names_by_request(settings: networking.ClientTLS, options: api.http_protocol_options.HttpProtocolOptions) -> None:
    """Without a name given, the host of the request is asked for, and must be in the certificate."""
    if settings.sni:
        return
    options.upstream_http_protocol_options.auto_sni = True
    if not settings.subject_alt_names and not settings.insecure_skip_verify:
        options.upstream_http_protocol_options.auto_san_validation = True


def _auto_mtls(message: C, view: ClusterView, options: api.http_protocol_options.HttpProtocolOptions) -> None:
    """Mutual TLS to endpoints that are marked as taking it, plain to the others; an original destination has no mark,
    but then all take it."""
    context = tls.mesh_client(view.default_sans, view.sni, _alpn(view, options))
    tls.with_defaults(context.common_tls_context, view.mesh.tls_defaults)
    if view.resolution is Resolution.PASSTHROUGH:
        message.transport_socket.CopyFrom(tls.socket(context))
        return
    tls_match = api.struct([("tlsMode", "istio")])
    message.transport_socket_matches.add(name="tlsMode-istio", match=tls_match, transport_socket=tls.socket(context))
    message.transport_socket_matches.add(
        name="tlsMode-disabled", match=api.struct_pb2.Struct(), transport_socket=tls.raw_socket()
    )


def _proxy_protocol(message: C, settings: networking.ProxyProtocol) -> None:
    """A header with the client's address before everything else, TLS included."""
    version = api.proxy_protocol.ProxyProtocolConfig.V2 if settings.version == "V2" else (
        api.proxy_protocol.ProxyProtocolConfig.V1
    )  # fmt: skip

    def wrapped(inner: api.base.TransportSocket) -> api.base.TransportSocket:
        made = api.upstream_proxy_protocol.ProxyProtocolUpstreamTransport(
            config={"version": version}, transport_socket=inner
        )
        name = "envoy.transport_sockets.upstream_proxy_protocol"
        return api.base.TransportSocket(name=name, typed_config=api.pack(made))

    for one in message.transport_socket_matches:
        one.transport_socket.CopyFrom(wrapped(one.transport_socket))
    if not message.transport_socket_matches:
        inner = message.transport_socket if message.HasField("transport_socket") else tls.raw_socket()
        message.transport_socket.CopyFrom(wrapped(inner))


# --- a workload's own ---


def inbound(view: InboundView) -> list[Resource]:
    """One cluster a port: to the application, by the address that the connection was meant for or a fixed one."""
    made = {p.cluster: _inbound(view, p) for p in view.ports}
    passthrough = [_inbound_passthrough(view, 4)] if view.ipv4 else []
    if view.ipv6:
        passthrough.append(_inbound_passthrough(view, 6))
    return [*made.values(), *passthrough]


def _inbound(view: InboundView, port: InboundPort) -> Resource:
    tcp = port.pool.tcp if port.pool is not None else None
    message = C(
        name=port.cluster,
        connect_timeout=api.duration(_connect_timeout(port.pool, view.mesh)),
        circuit_breakers={"thresholds": [_thresholds(port.pool, None)]},
    )
    if view.mesh.inbound_stat_name and port.services:
        message.alt_stat_name = stat_name(
            view.mesh.inbound_stat_name, port.services[0], port.service_port or port.port,
            port_name=port.port_name, target=port.target,
        )  # fmt: skip
    services = message.metadata.filter_metadata["istio"]
    found = [{"host": h, "namespace": ns, "name": n} for h, ns, n in port.services]
    services["services"] = found
    if found:
        services.update(found[0])
    if port.address.startswith("unix://"):
        message.type = C.STATIC
        message.load_assignment.CopyFrom(endpoints.to_pipe(port.cluster, port.address.removeprefix("unix://")))
    elif port.address or view.mesh.inbound_localhost:
        message.type = C.STATIC
        address = port.address or ("127.0.0.1" if view.ipv4 else "::1")
        message.load_assignment.CopyFrom(endpoints.to_address(port.cluster, address, port.target))
    else:
        message.type = C.ORIGINAL_DST
        message.lb_policy = C.CLUSTER_PROVIDED
        if port.target and port.target != port.port:
            message.original_dst_lb_config.upstream_port_override.value = port.target
        _bind_loopback(message, *(([4] if view.ipv4 else []) + ([6] if view.ipv6 else [])))
    options = _inbound_options(port)
    if view.http.preserve_case and (port.protocol.is_http or port.protocol is Protocol.AUTO):
        _preserve_case(options)
    if options.ListFields():
        message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(api.pack(options))
    if tcp is not None:
        _keepalive(message, port.pool, view.mesh)
    return api.resource(api.CLUSTER, port.cluster, message)


def _inbound_options(port: InboundPort) -> api.http_protocol_options.HttpProtocolOptions:
    """Towards the application: its version of HTTP, and the pool's limits."""
    options = api.http_protocol_options.HttpProtocolOptions()
    _connection_limits(options, port.pool)
    http = port.pool.http if port.pool is not None else None
    http2 = _http2_options(http)
    if port.protocol is Protocol.AUTO or (http is not None and http.use_client_protocol):
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.CopyFrom(http2)
    elif port.protocol.is_http2:
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2)
    elif options.ListFields():  # HTTP/1.1, whatever the client's proxy speaks to ours
        options.explicit_http_config.http_protocol_options.SetInParent()
    return options


def _bind_loopback(message: C, *families: int) -> None:
    """To the application from 127.0.0.6 or ::6, as the destination's family is, so that the capture rules know it for
    the proxy's own and let it be."""
    bind = message.upstream_bind_config
    for index, family in enumerate(families):
        address = bind.extra_source_addresses.add().address if index else bind.source_address
        address.address, address.port_value = "::6" if family == 6 else "127.0.0.6", 0


def _inbound_passthrough(view: InboundView, family: int) -> Resource:
    name = names.INBOUND_PASSTHROUGH_V4 if family == 4 else names.INBOUND_PASSTHROUGH_V6
    message = C(
        name=name,
        type=C.ORIGINAL_DST,
        lb_policy=C.CLUSTER_PROVIDED,
        connect_timeout=api.duration(view.mesh.connect_timeout),
        circuit_breakers={"thresholds": [_thresholds(_default_pool(view.mesh), None)]},
    )
    message.metadata.filter_metadata["istio"]["name"] = name
    _bind_loopback(message, family)
    options = api.http_protocol_options.HttpProtocolOptions(
        use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}}
    )
    if view.http.preserve_case:
        _preserve_case(options)
    message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(api.pack(options))
    return api.resource(api.CLUSTER, name, message)


# --- fixed ones ---


def _default_pool(mesh: MeshOptions) -> networking.ConnectionPool | None:
    return mesh.default_traffic.connection_pool if mesh.default_traffic is not None else None


def passthrough(mesh: MeshOptions, *, preserve_case: bool = False) -> Resource:
    """To where the caller meant to go."""
    options = api.http_protocol_options.HttpProtocolOptions(
        use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}},
        http_filters=peers.withheld(),
    )
    if preserve_case:
        _preserve_case(options)
    message = C(
        name=names.PASSTHROUGH_CLUSTER,
        type=C.ORIGINAL_DST,
        lb_policy=C.CLUSTER_PROVIDED,
        connect_timeout=api.duration(mesh.connect_timeout),
        circuit_breakers={"thresholds": [_thresholds(_default_pool(mesh), None)]},
        typed_extension_protocol_options={HTTP_OPTIONS: api.pack(options)},
    )
    message.metadata.filter_metadata["istio"]["name"] = names.PASSTHROUGH_CLUSTER  # what metrics call the service
    return api.resource(api.CLUSTER, names.PASSTHROUGH_CLUSTER, message)


def allow_any_dynamic(
    mesh: MeshOptions, settings: networking.ClientTLS | None, *, ipv4: bool, ipv6: bool, preserve_case: bool
) -> Resource:
    """To where DNS says that the request's host is; with TLS where `settings` say so."""
    body = passthrough(mesh, preserve_case=preserve_case).body
    message = C.FromString(body)
    message.ClearField("type")
    message.name = names.ALLOW_ANY_DYNAMIC_CLUSTER
    message.metadata.filter_metadata["istio"]["name"] = names.ALLOW_ANY_DYNAMIC_CLUSTER
    encrypted = settings is not None and settings.mode in ("SIMPLE", "MUTUAL")
    config = api.dfp_cluster.ClusterConfig(dns_cache_config=dns_cache(ipv4, ipv6))
    config.allow_insecure_cluster_options = not encrypted or bool(
        settings and (settings.sni or settings.subject_alt_names or settings.insecure_skip_verify)
    )
    message.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    message.cluster_type.typed_config.CopyFrom(api.pack(config))
    if encrypted and settings is not None:
        options = api.http_protocol_options.HttpProtocolOptions.FromString(
            message.typed_extension_protocol_options[HTTP_OPTIONS].value
        )
        _names_by_request(settings, options)
        message.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(api.pack(options))
        context = tls.client(settings, sni=settings.sni, alpn=(), default_sans=())
        tls.with_defaults(context.common_tls_context, mesh.tls_defaults)
        message.transport_socket.CopyFrom(tls.socket(context))
    return api.resource(api.CLUSTER, message.name, message)


def blackhole(mesh: MeshOptions) -> Resource:
    """To nowhere."""
    message = C(name=names.BLACKHOLE_CLUSTER, type=C.STATIC, connect_timeout=api.duration(mesh.connect_timeout))
    message.metadata.filter_metadata["istio"]["name"] = names.BLACKHOLE_CLUSTER
    return api.resource(api.CLUSTER, names.BLACKHOLE_CLUSTER, message)
