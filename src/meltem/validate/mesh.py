"""MeshConfig, MeshNetworks and ProxyConfig (the resource and the part of MeshConfig).

In: the struct. Out: findings, with paths as they stand in the ConfigMap's `mesh` key.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509

from meltem.resources.base import Duration
from meltem.resources.mesh_providers import ExtensionProvider
from meltem.resources.mesh_proxy import ConnectionSettings, MeshProxyConfig
from meltem.resources.meshconfig import CertificateData, MeshConfig, MeshNetworks
from meltem.resources.networking import ProxyConfig
from meltem.validate import checks
from meltem.validate.destination_rule import (
    check_connection_pool,
    check_locality,
    check_outlier_detection,
    check_zone_aware,
)
from meltem.validate.findings import Report, Result
from meltem.validate.formats import check_format
from meltem.validate.http_route import check_retries
from meltem.validate.tls import check_ciphers, check_client_tls, check_curves


def check_proxy_config(r: Report, config: ProxyConfig) -> None:
    checks.check_selector(r, config.spec.selector)
    if config.spec.concurrency is not None and config.spec.concurrency < 0:
        r.at("concurrency").error(f"{config.spec.concurrency} is negative", "Write 0 for one thread a CPU.")


def validate_meshconfig(config: MeshConfig) -> Result:
    """All findings of the mesh's settings."""
    r = Report()
    checks.check_port(r.at("proxyListenPort"), config.proxy_listen_port)
    checks.check_port(r.at("proxyInboundListenPort"), config.proxy_inbound_listen_port)
    if config.proxy_http_port:
        checks.check_port(r.at("proxyHttpPort"), config.proxy_http_port)
    check_client_tls(r.at("outboundTrafficPolicy").at("tls"), "", config.outbound_traffic_policy.tls)
    _between(r.at("connectTimeout"), config.connect_timeout, 0.001, 30)
    if config.protocol_detection_timeout.nanoseconds:
        checks.check_duration(r.at("protocolDetectionTimeout"), config.protocol_detection_timeout)
    _check_proxy(r.at("defaultConfig"), config.default_config)
    check_locality(r.at("localityLbSetting"), config.locality_lb_setting, has_outlier=True)
    check_zone_aware(r.at("zoneAwareLbSetting"), config.zone_aware_lb_setting, has_outlier=True)
    for i, settings in enumerate(config.service_settings):
        for j, host in enumerate(settings.hosts):
            checks.check_wildcard_domain(r.at("serviceSettings", i).at("hosts", j), host)
    _trust_domain(r.at("trustDomain"), config.trust_domain)
    for i, alias in enumerate(config.trust_domain_aliases):
        _trust_domain(r.at("trustDomainAliases", i), alias)
    for i, source in enumerate(config.config_sources):
        r.at("configSources", i).warn(
            f"{source.address[:80]!r} is not read: resources come from the API server that istiod is given",
            "Apply them there.",
        )
    for i, one in enumerate(config.ca_certificates):
        _root(r.at("caCertificates", i), one)
    check_format(r.at("accessLogFormat"), config.access_log_format, log=True)
    _tls(r, config)
    _providers(r, config.extension_providers)
    if config.default_traffic_policy is not None:
        here = r.at("defaultTrafficPolicy")
        check_connection_pool(here.at("connectionPool"), config.default_traffic_policy.connection_pool)
        check_outlier_detection(here.at("outlierDetection"), config.default_traffic_policy.outlier_detection)
    check_retries(r.at("defaultHttpRetryPolicy"), config.default_http_retry_policy)
    return r.result()


def _between(r: Report, value: Duration, low: float, high: float) -> None:
    if not low <= value <= high:
        r.error(f"{value} is out of range", f"Write a duration from {Duration(low)} to {Duration(high)}.")


def _trust_domain(r: Report, domain: str) -> None:
    found = domain and checks.domain_error(domain.replace("_", "-"), wildcard=False)
    if not domain or found:
        r.error(found or "is empty", "Write a name such as cluster.local.")


def _root(r: Report, root: CertificateData) -> None:
    for i, domain in enumerate(root.trust_domains):
        _trust_domain(r.at("trustDomains", i), domain)
    if root.pem is not None:
        _certificates(r.at("pem"), root.pem)
    elif root.spiffe_bundle_url:
        r.at("spiffeBundleUrl").warn("is not fetched", "Put the roots themselves into pem.")
    else:
        r.error("has neither pem nor spiffeBundleUrl")


def _certificates(r: Report, pem: str) -> None:
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        r.error(f"is no certificate in PEM: {error}")


def _tls(r: Report, config: MeshConfig) -> None:
    if config.mesh_mtls is not None and config.mesh_mtls.cipher_suites:
        check_ciphers(r.at("meshMTLS"), config.mesh_mtls.cipher_suites)
    if config.tls_defaults is not None:
        check_ciphers(r.at("tlsDefaults"), config.tls_defaults.cipher_suites)
    for field, tls in (("meshMTLS", config.mesh_mtls), ("tlsDefaults", config.tls_defaults)):
        check_curves(r.at(field), tls.ecdh_curves if tls else ())


def _providers(r: Report, providers: Iterable[ExtensionProvider]) -> None:
    seen: set[str] = set()
    for i, provider in enumerate(providers):
        here = r.at("extensionProviders", i)
        if not provider.name:
            here.at("name").error("is empty")
        elif provider.name in seen:
            here.at("name").error(f"{provider.name[:64]!r} is there twice")
        seen.add(provider.name)
        _provider(here, provider)


def _provider(r: Report, provider: ExtensionProvider) -> None:
    remote = {
        "envoyExtAuthzHttp": provider.envoy_ext_authz_http,
        "envoyExtAuthzGrpc": provider.envoy_ext_authz_grpc,
        "zipkin": provider.zipkin,
        "datadog": provider.datadog,
        "skywalking": provider.skywalking,
        "opentelemetry": provider.opentelemetry,
        "envoyHttpAls": provider.envoy_http_als,
        "envoyTcpAls": provider.envoy_tcp_als,
        "envoyOtelAls": provider.envoy_otel_als,
    }
    others = (
        *(provider.lightstep, provider.opencensus, provider.stackdriver, provider.prometheus, provider.sds),
        provider.envoy_file_access_log,
    )
    if sum(x is not None for x in (*remote.values(), *others)) != 1:
        r.error(f"provider {provider.name[:64]!r} must be of exactly one type", "Set one of zipkin, prometheus, ...")
    for field, value in remote.items():
        if value is None:
            continue
        checks.check_port(r.at(field).at("port"), value.port)
        host = value.service.partition("/")[2] or value.service
        if not host or checks.domain_error(host, wildcard=False):
            r.at(field).at("service").error(
                f"{value.service[:80]!r} is no service", "Write a host name, or namespace/host."
            )
    _log_formats(r, provider)
    http = provider.envoy_ext_authz_http
    for field, status in (
        ("envoyExtAuthzHttp", http.status_on_error if http else ""),
        ("envoyExtAuthzGrpc", provider.envoy_ext_authz_grpc.status_on_error if provider.envoy_ext_authz_grpc else ""),
    ):
        if status and not (status.isascii() and status.isdigit() and 100 <= int(status[:4]) <= 599):
            r.at(field).at("statusOnError").error(f"{status[:32]!r} is no HTTP status", "Write for example '503'.")


def _log_formats(r: Report, provider: ExtensionProvider) -> None:
    for field, log in (
        ("envoyFileAccessLog", provider.envoy_file_access_log),
        ("envoyOtelAls", provider.envoy_otel_als),
    ):
        if log is None or log.log_format is None:
            continue
        here = r.at(field).at("logFormat")
        check_format(here.at("text"), log.log_format.text or "", log=True)
        for name, value in (log.log_format.labels or {}).items():
            if isinstance(value, str):
                check_format(here.at("labels", name), value, log=True)


def validate_proxy_settings(config: MeshProxyConfig) -> Result:
    """All findings of what applies to one proxy: `defaultConfig` with a pod's own `proxy.istio.io/config` over it."""
    r = Report()
    _check_proxy(r, config)
    return r.result()


def _check_proxy(r: Report, config: MeshProxyConfig) -> None:
    for field, value in (("configPath", config.config_path), ("binaryPath", config.binary_path)):
        if not value:
            r.at(field).error("is empty")
    if not config.service_cluster and config.tracing_service_name is None:
        r.at("serviceCluster").error("is empty", "Set serviceCluster or tracingServiceName.")
    if config.drain_duration < 1 or config.drain_duration.nanoseconds % 1_000_000_000:
        r.at("drainDuration").error(f"{config.drain_duration} must be at least 1s, in whole seconds")
    _address(r.at("discoveryAddress"), config.discovery_address)
    for field, address in (
        ("statsdUdpAddress", config.statsd_udp_address),
        ("zipkinAddress", config.zipkin_address),
        ("envoyMetricsServiceAddress", config.envoy_metrics_service_address),
    ):
        if address:
            _address(r.at(field), address)
    for field, service in (
        ("envoyMetricsService", config.envoy_metrics_service),
        ("envoyAccessLogService", config.envoy_access_log_service),
    ):
        if service is not None and service.address:
            _address(r.at(field).at("address"), service.address)
    if config.tracing is not None:
        here = r.at("tracing")
        check_client_tls(here.at("tlsSettings"), "", config.tracing.tls_settings)
        if not 0 <= config.tracing.sampling <= 100:
            here.at("sampling").error(f"{config.tracing.sampling:g} is no percentage")
        if config.tracing.zipkin is not None:
            _address(here.at("zipkin").at("address"), config.tracing.zipkin.address)
        if config.tracing.datadog is not None:
            _address(here.at("datadog").at("address"), config.tracing.datadog.address)
    checks.check_port(r.at("proxyAdminPort"), config.proxy_admin_port)
    checks.check_port(r.at("statusPort"), config.status_port)
    if config.concurrency is not None and config.concurrency < 0:
        r.at("concurrency").error(f"{config.concurrency} is negative")
    if config.proxy_bootstrap_template_path:
        r.at("proxyBootstrapTemplatePath").warn(
            "is without effect: the bootstrap has no template",
            "Use customConfigFile, or the annotation sidecar.istio.io/bootstrapOverride.",
        )
    if config.file_flush_interval is not None and config.file_flush_interval < 0.001:
        r.at("fileFlushInterval").error(f"{config.file_flush_interval} is too short", "Write 1ms or more.")
    if config.connection_settings is not None:
        _connections(r.at("connectionSettings"), config.connection_settings)


def _connections(r: Report, settings: ConnectionSettings) -> None:
    for field, value, least in (
        ("listenerPerConnectionBufferLimitBytes", settings.listener_per_connection_buffer_limit_bytes, 0),
        ("clusterPerConnectionBufferLimitBytes", settings.cluster_per_connection_buffer_limit_bytes, 0),
        ("httpMaxConcurrentStreams", settings.http_max_concurrent_streams, 1),
        ("http2InitialStreamWindowSize", settings.http2_initial_stream_window_size, 65_535),
        ("http2InitialConnectionWindowSize", settings.http2_initial_connection_window_size, 65_535),
        ("listenerConnectionLimit", settings.listener_connection_limit, 1),
        ("globalDownstreamConnectionLimit", settings.global_downstream_connection_limit, 1),
    ):
        if value is not None and value < least:
            r.at(field).error(f"{value} is too small", f"Write {least} or more.")
    for field, span in (
        ("httpIdleTimeout", settings.http_idle_timeout),
        ("httpMaxConnectionDuration", settings.http_max_connection_duration),
        ("httpDrainTimeout", settings.http_drain_timeout),
        ("httpRequestTimeout", settings.http_request_timeout),
        ("httpRequestHeadersTimeout", settings.http_request_headers_timeout),
        ("httpStreamIdleTimeout", settings.http_stream_idle_timeout),
        ("httpMaxStreamDuration", settings.http_max_stream_duration),
    ):
        if span is not None and span < 0:
            r.at(field).error(f"{span} is negative", "Write 0s for no limit.")
    if settings.listener_connection_limit is not None:
        r.at("listenerConnectionLimit").warn(
            "is without effect, as in Istio",
            "Use globalDownstreamConnectionLimit, which counts all listeners together.",
        )


def _address(r: Report, address: str) -> None:
    """`host:port`, where host is a name or an address; `$(NAME)` stands for a variable."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and 1 <= len(port) <= 5):
        r.error(f"{address[:80]!r} is no address", "Write host:port.")
        return
    checks.check_port(r, int(port))
    plain = host.strip("[]")
    if not checks.is_ip(plain) and not host.startswith("$(") and checks.domain_error(host, wildcard=False):
        r.error(f"{address[:80]!r} has no valid host", "Write host:port.")


def validate_mesh_networks(networks: MeshNetworks) -> Result:
    """All findings of the networks."""
    r = Report()
    for name, network in networks.networks.items():
        here = r.at("networks", name)
        if not checks.is_label(name):
            here.error(f"{name[:64]!r} is no network name")
        for i, endpoints in enumerate(network.endpoints):
            if (endpoints.from_cidr is None) == (endpoints.from_registry is None):
                here.at("endpoints", i).error("exactly one of fromCidr and fromRegistry is needed")
            if endpoints.from_cidr is not None:
                checks.check_subnet(here.at("endpoints", i).at("fromCidr"), endpoints.from_cidr)
        for i, gateway in enumerate(network.gateways):
            if (gateway.address is None) == (gateway.registry_service_name is None):
                here.at("gateways", i).error("exactly one of address and registryServiceName is needed")
            checks.check_port(here.at("gateways", i).at("port"), gateway.port)
    return r.result()
