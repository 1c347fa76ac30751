"""The proxy settings of `defaultConfig` and of the annotation `proxy.istio.io/config`, with Istio's defaults.

In: decoded by `meltem.resources.mesh`. Out: frozen structs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from meltem.resources.base import Duration, Int32, Int32Value, Message, UInt32
from meltem.resources.destination_rule import ClientTLS, TcpKeepalive
from meltem.resources.proxy_config import ProxyImage
from meltem.resources.workload import ReadinessProbe


class ZipkinTracer(Message, frozen=True, kw_only=True):
    """A Zipkin collector, as the older `tracing` setting names it."""

    address: str = ""


class LightstepTracer(Message, frozen=True, kw_only=True):
    """A Lightstep satellite."""

    address: str = ""
    access_token: str = ""


class DatadogTracer(Message, frozen=True, kw_only=True):
    """A Datadog agent."""

    address: str = ""


class StackdriverTracer(Message, frozen=True, kw_only=True):
    """Limits of spans sent to Stackdriver."""

    debug: bool = False
    max_number_of_attributes: UInt32 | None = None
    max_number_of_annotations: UInt32 | None = None
    max_number_of_message_events: UInt32 | None = None


class OpenCensusTracer(Message, frozen=True, kw_only=True):
    """An OpenCensus agent."""

    address: str = ""
    context: tuple[Literal["UNSPECIFIED", "W3C_TRACE_CONTEXT", "GRPC_BIN", "CLOUD_TRACE_CONTEXT", "B3"], ...] = ()


class LiteralTag(Message, frozen=True, kw_only=True):
    """A span tag with a fixed value."""

    value: str = ""


class EnvironmentTag(Message, frozen=True, kw_only=True):
    """A span tag from an environment variable of the proxy."""

    name: str = ""
    default_value: str = ""


class HeaderTag(Message, frozen=True, kw_only=True):
    """A span tag from a request header."""

    name: str = ""
    default_value: str = ""


class TracingTag(Message, frozen=True, kw_only=True):
    """Where a span tag takes its value from."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("literal", "environment", "header"),)

    literal: LiteralTag | None = None
    environment: EnvironmentTag | None = None
    header: HeaderTag | None = None


class ProxyTracing(Message, frozen=True, kw_only=True):
    """Tracing by the proxy itself; the Telemetry resource is the newer way."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("zipkin", "lightstep", "datadog", "stackdriver", "openCensusAgent"),
    )

    zipkin: ZipkinTracer | None = None
    lightstep: LightstepTracer | None = None
    datadog: DatadogTracer | None = None
    stackdriver: StackdriverTracer | None = None
    open_census_agent: OpenCensusTracer | None = None
    custom_tags: dict[str, TracingTag] = {}
    max_path_tag_length: UInt32 = 0
    sampling: float = 0.0
    tls_settings: ClientTLS | None = None
    enable_istio_tags: bool | None = None


class SDSSettings(Message, frozen=True, kw_only=True):
    """Kept so that old configurations parse; without effect."""

    enabled: bool = False
    k8s_sa_jwt_path: str = ""


class RemoteService(Message, frozen=True, kw_only=True):
    """A service that proxies send logs or metrics to."""

    address: str = ""
    tls_settings: ClientTLS | None = None
    tcp_keepalive: TcpKeepalive | None = None


class ProxyProtocolConfiguration(Message, frozen=True, kw_only=True):
    """Present means that gateways expect the PROXY protocol."""


class Topology(Message, frozen=True, kw_only=True):
    """How many trusted proxies stand before the gateway, and what becomes of client certificate headers."""

    num_trusted_proxies: UInt32 = 0
    forward_client_cert_details: Literal[
        "UNDEFINED", "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"
    ] = "UNDEFINED"
    proxy_protocol: ProxyProtocolConfiguration | None = None


class ProxyStatsMatcher(Message, frozen=True, kw_only=True):
    """Statistics to keep beside the usual ones."""

    inclusion_prefixes: tuple[str, ...] = ()
    inclusion_suffixes: tuple[str, ...] = ()
    inclusion_regexps: tuple[str, ...] = ()


class CryptoMb(Message, frozen=True, kw_only=True):
    """Private key operations on CryptoMB (not in stock Envoy)."""

    poll_delay: Duration | None = None
    fallback: bool | None = None


class QAT(Message, frozen=True, kw_only=True):
    """Private key operations on QuickAssist (not in stock Envoy)."""

    poll_delay: Duration | None = None
    fallback: bool | None = None


class PrivateKeyProvider(Message, frozen=True, kw_only=True):
    """Where private key operations happen."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("cryptomb", "qat"),)

    cryptomb: CryptoMb | None = None
    qat: QAT | None = None


class SetCurrentClientCertDetails(Message, frozen=True, kw_only=True):
    """Which parts of the client certificate go into x-forwarded-client-cert."""

    subject: bool | None = None
    cert: bool | None = None
    chain: bool | None = None
    dns: bool | None = None
    uri: bool | None = None


class RequestIdHeader(Message, frozen=True, kw_only=True):
    """Whether x-request-id is made."""

    disabled: bool | None = None


class ServerHeader(Message, frozen=True, kw_only=True):
    """The server header of responses."""

    disabled: bool | None = None
    value: str = ""


class AttemptCountHeader(Message, frozen=True, kw_only=True):
    """Whether x-envoy-attempt-count is sent."""

    disabled: bool | None = None


class EnvoyDebugHeaders(Message, frozen=True, kw_only=True):
    """Whether Envoy's x-envoy-* headers are sent."""

    disabled: bool | None = None


class MetadataExchangeHeaders(Message, frozen=True, kw_only=True):
    """Whether peer metadata headers go to services outside the mesh."""

    mode: Literal["UNDEFINED", "IN_MESH"] = "UNDEFINED"


class XForwardedHostHeader(Message, frozen=True, kw_only=True):
    """Whether x-forwarded-host is set."""

    enabled: bool | None = None


class XForwardedPortHeader(Message, frozen=True, kw_only=True):
    """Whether x-forwarded-port is set."""

    enabled: bool | None = None


class ProxyHeaders(Message, frozen=True, kw_only=True):
    """Headers that proxies add to requests and responses."""

    forwarded_client_cert: Literal[
        "UNDEFINED", "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"
    ] = "UNDEFINED"
    set_current_client_cert_details: SetCurrentClientCertDetails | None = None
    request_id: RequestIdHeader | None = None
    server: ServerHeader | None = None
    attempt_count: AttemptCountHeader | None = None
    envoy_debug_headers: EnvoyDebugHeaders | None = None
    metadata_exchange_headers: MetadataExchangeHeaders | None = None
    preserve_http1_header_case: bool | None = None
    x_forwarded_host: XForwardedHostHeader | None = None
    x_forwarded_port: XForwardedPortHeader | None = None


class ConnectionSettings(Message, frozen=True, kw_only=True):
    """Buffers, timeouts and limits of connections."""

    profile: Literal["SIDECAR", "EDGE"] = "SIDECAR"
    listener_per_connection_buffer_limit_bytes: UInt32 | None = None
    cluster_per_connection_buffer_limit_bytes: UInt32 | None = None
    http_idle_timeout: Duration | None = None
    http_max_connection_duration: Duration | None = None
    http_drain_timeout: Duration | None = None
    http_request_timeout: Duration | None = None
    http_request_headers_timeout: Duration | None = None
    http_stream_idle_timeout: Duration | None = None
    http_max_stream_duration: Duration | None = None
    http_max_concurrent_streams: UInt32 | None = None
    http2_initial_stream_window_size: UInt32 | None = None
    http2_initial_connection_window_size: UInt32 | None = None
    http_headers_with_underscores_action: Literal[
        "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
        "HEADERS_WITH_UNDERSCORES_ALLOW",
        "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
        "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
    ] = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED"
    http_merge_slashes: bool | None = None
    http_path_with_escaped_slashes_action: Literal[
        "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
        "KEEP_UNCHANGED",
        "REJECT_REQUEST",
        "UNESCAPE_AND_REDIRECT",
        "UNESCAPE_AND_FORWARD",
    ] = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED"
    listener_connection_limit: UInt32 | None = None
    global_downstream_connection_limit: UInt32 | None = None


class MeshProxyConfig(Message, frozen=True, kw_only=True):
    """Settings of proxies, mesh-wide or for a pod by annotation."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("serviceCluster", "tracingServiceName"),)

    config_path: str = "./etc/istio/proxy"
    binary_path: str = "/usr/local/bin/envoy"
    service_cluster: str | None = "istio-proxy"
    tracing_service_name: (
        Literal["APP_LABEL_AND_NAMESPACE", "CANONICAL_NAME_ONLY", "CANONICAL_NAME_AND_NAMESPACE"] | None
    ) = None
    drain_duration: Duration = Duration(45)
    discovery_address: str = "istiod.istio-system.svc:15012"
    discovery_refresh_delay: Duration | None = None
    zipkin_address: str = ""
    statsd_udp_address: str = ""
    envoy_metrics_service_address: str = ""
    proxy_admin_port: int = 15000
    availability_zone: str = ""
    control_plane_auth_policy: Literal["NONE", "MUTUAL_TLS", "INHERIT"] = "MUTUAL_TLS"
    custom_config_file: str = ""
    stat_name_length: Int32 = 189
    concurrency: Int32Value = None
    proxy_bootstrap_template_path: str = ""
    interception_mode: Literal["REDIRECT", "TPROXY", "NONE"] = "REDIRECT"
    tracing: ProxyTracing | None = None
    sds: SDSSettings | None = None
    envoy_access_log_service: RemoteService | None = None
    envoy_metrics_service: RemoteService | None = None
    proxy_metadata: dict[str, str] = {}
    runtime_values: dict[str, str] = {}
    status_port: int = 15020
    extra_stat_tags: tuple[str, ...] = ()
    gateway_topology: Topology | None = None
    termination_drain_duration: Duration = Duration(5)
    mesh_id: str = ""
    readiness_probe: ReadinessProbe | None = None
    proxy_stats_matcher: ProxyStatsMatcher | None = None
    hold_application_until_proxy_starts: bool | None = None
    ca_certificates_pem: tuple[str, ...] = ()
    image: ProxyImage | None = None
    private_key_provider: PrivateKeyProvider | None = None
    proxy_headers: ProxyHeaders | None = None
    file_flush_interval: Duration | None = None
    file_flush_min_size_kb: UInt32 = 0
    stats_compression: bool | None = None
    connection_settings: ConnectionSettings | None = None
