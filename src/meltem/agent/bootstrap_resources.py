"""The static part of the bootstrap: listeners 15090 and 15021, the clusters behind them, tracing and log collectors.

In: `AgentSettings`. Out: JSON.
"""

from __future__ import annotations

from meltem.agent.environment import AgentSettings
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, bool_at, int_at, object_at, str_at

_TYPE = "type.googleapis.com/"
_HTTP2: JsonObject = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{_TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
DEFAULT_ZIPKIN_PORT = 9411


def clusters(settings: AgentSettings) -> list[Json]:
    found: list[Json] = [
        _local_cluster("prometheus_stats", settings.localhost, settings.admin_port),
    ]
    if settings.status_port:
        found.append(_local_cluster("agent", settings.localhost, settings.status_port))
    for name, field, http2 in (
        ("envoy_metrics_service", "envoyMetricsService", True),
        ("envoy_accesslog_service", "envoyAccessLogService", True),
    ):
        remote = object_at(settings.proxy_config, field)
        if address := str_at(remote, "address"):
            found.append(_remote_cluster(settings, name, address, f"ProxyConfig {field}", remote, http2=http2))
    tracer, address = _tracer(settings)
    if tracer:
        name = {"zipkin": "zipkin", "datadog": "datadog_agent"}[tracer]
        where = f"ProxyConfig tracing.{tracer}"
        found.append(_remote_cluster(settings, name, address, where, object_at(settings.proxy_config, "tracing")))
    if settings.flag("ISTIO_META_ENABLE_SELF_DISCOVERY"):
        found.append(_self_cluster())
    return found


def listeners(settings: AgentSettings) -> list[Json]:
    """15090 shows Envoy's own metrics (from the admin port), 15021 answers the readiness probe (from the agent)."""
    wildcard = "::" if settings.ipv6_only else "0.0.0.0"
    metrics_address = settings.localhost if settings.flag("METRICS_LOCALHOST_ACCESS_ONLY") else wildcard
    compression = bool_at(settings.proxy_config, "statsCompression", default=True)
    found: list[Json] = [
        _listener(
            settings,
            metrics_address,
            settings.envoy_prometheus_port,
            "stats",
            _route("/stats/prometheus", "prometheus_stats"),
            compressors() if compression else [],
        ),
    ]
    if settings.status_port:
        ready = _route("/healthz/ready", "agent")
        found.append(_listener(settings, wildcard, settings.envoy_status_port, "agent", ready, []))
    return found


def tracing(settings: AgentSettings) -> JsonObject:
    """The bootstrap's own tracer, which listeners without a tracer of theirs use; empty when none is configured."""
    tracer, _ = _tracer(settings)
    if tracer == "zipkin":
        return {
            "http": {
                "name": "envoy.tracers.zipkin",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.config.trace.v3.ZipkinConfig",
                    "collector_cluster": "zipkin",
                    "collector_endpoint": "/api/v2/spans",
                    "collector_endpoint_version": "HTTP_JSON",
                    "trace_id_128bit": True,
                    "shared_span_context": False,
                },
            }
        }
    if tracer == "datadog":
        return {
            "http": {
                "name": "envoy.tracers.datadog",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.config.trace.v3.DatadogConfig",
                    "collector_cluster": "datadog_agent",
                    "service_name": settings.flags.service_cluster or settings.pod_name,
                },
            }
        }
    return {}


def compressors() -> list[Json]:
    found: list[Json] = []
    for name, message in (("brotli", "Brotli"), ("zstd", "Zstd"), ("gzip", "Gzip")):
        found.append(
            {
                "name": f"envoy.filters.http.compressor.{name}",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.filters.http.compressor.v3.Compressor",
                    "compressor_library": {
                        "name": f"stats_{name}",
                        "typed_config": {
                            "@type": f"{_TYPE}envoy.extensions.compression.{name}.compressor.v3.{message}",
                        },
                    },
                },
            }
        )
    return found


def socket_address(host: str, port: int) -> JsonObject:
    return {"socket_address": {"protocol": "TCP", "address": host, "port_value": port}}


def address_of(text: str, *, where: str, default_port: int = 0) -> JsonObject:
    """`host:port` or `[v6]:port` as an Envoy address; raises UserError for anything else."""
    host, separator, port = text.rpartition(":")
    if (not separator or (":" in host and not host.startswith("["))) and default_port:
        host, port = text, str(default_port)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UserError(f"{text[:120]!r} is no host:port", where=where)
    return socket_address(host, int(port))


def _tracer(settings: AgentSettings) -> tuple[str, str]:
    """(kind, address) of the tracer in ProxyConfig."""
    config = object_at(settings.proxy_config, "tracing")
    for kind in ("zipkin", "datadog"):
        if address := str_at(config, kind, "address"):
            return kind, address.replace("$(HOST_IP)", settings.environment.get("HOST_IP", "$(HOST_IP)"))
    for kind in ("lightstep", "stackdriver", "openCensusAgent"):
        if kind in config:
            raise UserError(
                f"is a tracer that stock Envoy does not have ({kind})",
                where="ProxyConfig tracing",
                remedy="Use zipkin or datadog here, or an OpenTelemetry provider with the Telemetry resource.",
            )
    return "", ""


def _local_cluster(name: str, host: str, port: int) -> JsonObject:
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": _assignment(name, socket_address(host, port)),
    }


def _remote_cluster(
    settings: AgentSettings, name: str, address: str, where: str, options: JsonObject, *, http2: bool = False
) -> JsonObject:
    cluster: JsonObject = {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STRICT_DNS",
        "respect_dns_ttl": True,
        "dns_lookup_family": "V6_ONLY" if settings.ipv6_only else ("ALL" if settings.dual_stack else "V4_ONLY"),
        "dns_refresh_rate": "30s",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "wait_for_warm_on_init": False,  # a collector that cannot be resolved must not hold up the proxy
        "load_assignment": _assignment(name, address_of(address, where=where, default_port=DEFAULT_ZIPKIN_PORT)),
    }
    if http2:
        cluster["typed_extension_protocol_options"] = _HTTP2
    if socket := _tls(settings, object_at(options, "tlsSettings"), where):
        cluster["transport_socket"] = socket
    keepalive = object_at(options, "tcpKeepalive")
    if keepalive:
        probe: JsonObject = {"keepalive_probes": int_at(keepalive, "probes", default=9)}
        cluster["upstream_connection_options"] = {"tcp_keepalive": probe}
    return cluster


def _tls(settings: AgentSettings, tls: JsonObject, where: str) -> JsonObject:
    """ClientTLSSettings as a transport socket; empty for mode DISABLE."""
    mode = str_at(tls, "mode") or "DISABLE"
    if mode == "DISABLE":
        return {}
    common: JsonObject = {}
    names: list[Json] = [{"san_type": "DNS", "matcher": {"exact": n}} for n in _strings(tls, "subjectAltNames")]
    if mode == "ISTIO_MUTUAL":
        directory = settings.config_path
        common["tls_certificate_sds_secret_configs"] = [_secret(settings, "default", directory / "sds-default.json")]
        common["validation_context_sds_secret_config"] = _secret(settings, "ROOTCA", directory / "sds-rootca.json")
    elif mode in ("SIMPLE", "MUTUAL"):
        validation: JsonObject = {
            "trusted_ca": {"filename": str_at(tls, "caCertificates") or "/etc/ssl/certs/ca-certificates.crt"}
        }
        if names:
            validation["match_typed_subject_alt_names"] = names
        common["validation_context"] = validation
        if mode == "MUTUAL":
            common["tls_certificates"] = [
                {
                    "certificate_chain": {"filename": str_at(tls, "clientCertificate")},
                    "private_key": {"filename": str_at(tls, "privateKey")},
                }
            ]
    else:
        raise UserError(f"{mode!r} is no TLS mode", where=f"{where} tlsSettings.mode")
    context: JsonObject = {
        "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    }
    if sni := str_at(tls, "sni"):
        context["sni"] = sni
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _secret(settings: AgentSettings, name: str, path: object) -> JsonObject:
    directory = str(settings.config_path)
    source: JsonObject = {"path": str(path), "watched_directory": {"path": directory}}
    return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def _strings(value: JsonObject, key: str) -> list[str]:
    found = value.get(key)
    return [v for v in found if isinstance(v, str)] if isinstance(found, list) else []


def _self_cluster() -> JsonObject:
    """The proxy's own service, by which Envoy knows how its zone compares with others (zone-aware balancing)."""
    return {
        "name": "local_cluster",
        "alt_stat_name": "local_cluster;",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
            "service_name": "local_cluster",
        },
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.least_request",
                        "typed_config": {
                            "@type": f"{_TYPE}envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                            "locality_lb_config": {"zone_aware_lb_config": {"min_cluster_size": 1}},
                        },
                    }
                }
            ]
        },
    }


def _listener(
    settings: AgentSettings, host: str, port: int, stat_prefix: str, route: JsonObject, filters: list[Json]
) -> JsonObject:
    router: JsonObject = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.router.v3.Router"},
    }
    listener: JsonObject = {
        "name": f"{host}_{port}",
        "address": socket_address(host, port),
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": f"{_TYPE}envoy.extensions.filters.network.http_connection_manager.v3"
                            ".HttpConnectionManager",
                            "codec_type": "AUTO",
                            "stat_prefix": stat_prefix,
                            "route_config": {
                                "virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}]
                            },
                            "http_filters": [*filters, router],
                        },
                    }
                ]
            }
        ],
    }
    if settings.dual_stack:
        other = {"0.0.0.0": "::", "::": "0.0.0.0", "127.0.0.1": "::1", "::1": "127.0.0.1"}[host]
        listener["additional_addresses"] = [{"address": socket_address(other, port)}]
    return listener


def _route(prefix: str, cluster: str) -> JsonObject:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster}}


def _assignment(name: str, address: JsonObject) -> JsonObject:
    endpoint: JsonObject = {"endpoint": {"address": address}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
