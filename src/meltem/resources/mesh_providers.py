"""Extension providers of MeshConfig: where telemetry goes and who decides on requests.

In: decoded by `meltem.resources.mesh`. Out: frozen structs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from meltem.resources.base import Duration, JsonMap, Message, UInt32


class EnvoyExternalAuthorizationRequestBody(Message, frozen=True, kw_only=True):
    """How much of the request body the authorizer gets."""

    max_request_bytes: UInt32 = 0
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class EnvoyExternalAuthorizationHttpProvider(Message, frozen=True, kw_only=True):
    """An authorizer that is asked over HTTP."""

    service: str = ""
    port: UInt32 = 0
    timeout: Duration | None = None
    path_prefix: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_headers_in_check: tuple[str, ...] = ()
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: dict[str, str] = {}
    include_request_body_in_check: EnvoyExternalAuthorizationRequestBody | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class EnvoyExternalAuthorizationGrpcProvider(Message, frozen=True, kw_only=True):
    """An authorizer that is asked over gRPC."""

    service: str = ""
    port: UInt32 = 0
    timeout: Duration | None = None
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    include_request_body_in_check: EnvoyExternalAuthorizationRequestBody | None = None


class ProviderHeader(Message, frozen=True, kw_only=True):
    """A header that is sent to the provider; its value stands here or in istiod's environment."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("value", "envName"),)

    name: str = ""
    value: str | None = None
    env_name: str | None = None


class ZipkinTracingProvider(Message, frozen=True, kw_only=True):
    """Traces to a Zipkin collector."""

    service: str = ""
    port: UInt32 = 0
    max_tag_length: UInt32 = 0
    enable_64bit_trace_id: bool = msgspec.field(name="enable64bitTraceId", default=False)
    path: str = ""
    trace_context_option: Literal["USE_B3", "USE_B3_WITH_W3C_PROPAGATION"] = "USE_B3"
    timeout: Duration | None = None
    headers: tuple[ProviderHeader, ...] = ()


class LightstepTracingProvider(Message, frozen=True, kw_only=True):
    """Traces to Lightstep (deprecated)."""

    service: str = ""
    port: UInt32 = 0
    access_token: str = ""
    max_tag_length: UInt32 = 0


class DatadogTracingProvider(Message, frozen=True, kw_only=True):
    """Traces to Datadog."""

    service: str = ""
    port: UInt32 = 0
    max_tag_length: UInt32 = 0


class Logging(Message, frozen=True, kw_only=True):
    """Labels of Stackdriver log entries."""

    labels: dict[str, str] = {}


class StackdriverProvider(Message, frozen=True, kw_only=True):
    """Traces and logs to Stackdriver."""

    debug: bool = False
    max_number_of_attributes: UInt32 | None = None
    max_number_of_annotations: UInt32 | None = None
    max_number_of_message_events: UInt32 | None = None
    max_tag_length: UInt32 = 0
    logging: Logging | None = None


class OpenCensusAgentTracingProvider(Message, frozen=True, kw_only=True):
    """Traces to an OpenCensus agent (deprecated)."""

    service: str = ""
    port: UInt32 = 0
    context: tuple[Literal["UNSPECIFIED", "W3C_TRACE_CONTEXT", "GRPC_BIN", "CLOUD_TRACE_CONTEXT", "B3"], ...] = ()
    max_tag_length: UInt32 = 0


class SkyWalkingTracingProvider(Message, frozen=True, kw_only=True):
    """Traces to Apache SkyWalking."""

    service: str = ""
    port: UInt32 = 0
    access_token: str = ""


class HttpService(Message, frozen=True, kw_only=True):
    """An HTTP endpoint of a provider."""

    path: str = ""
    timeout: Duration | None = None
    headers: tuple[ProviderHeader, ...] = ()


class GrpcService(Message, frozen=True, kw_only=True):
    """Settings of gRPC calls to a provider."""

    timeout: Duration | None = None
    initial_metadata: tuple[ProviderHeader, ...] = ()


class EnvironmentResourceDetector(Message, frozen=True, kw_only=True):
    """Attributes from OTEL_RESOURCE_ATTRIBUTES."""


class DynatraceResourceDetector(Message, frozen=True, kw_only=True):
    """Attributes from Dynatrace's files."""


class ResourceDetectors(Message, frozen=True, kw_only=True):
    """Where resource attributes of spans come from."""

    environment: EnvironmentResourceDetector | None = None
    dynatrace: DynatraceResourceDetector | None = None


class DynatraceApi(Message, frozen=True, kw_only=True):
    """Where Dynatrace's sampler gets its rate."""

    service: str = ""
    port: UInt32 = 0
    http: HttpService | None = None


class DynatraceSampler(Message, frozen=True, kw_only=True):
    """Dynatrace's adaptive sampling."""

    tenant: str = ""
    cluster_id: UInt32 = 0
    root_spans_per_minute: UInt32 = 0
    http_service: DynatraceApi | None = None


class OpenTelemetryTracingProvider(Message, frozen=True, kw_only=True):
    """Traces to an OpenTelemetry collector."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("dynatraceSampler",),)

    service: str = ""
    port: UInt32 = 0
    max_tag_length: UInt32 = 0
    http: HttpService | None = None
    grpc: GrpcService | None = None
    resource_detectors: ResourceDetectors | None = None
    service_attribute_enrichment: Literal["ISTIO_CANONICAL", "OTEL_SEMANTIC_CONVENTIONS"] = "ISTIO_CANONICAL"
    dynatrace_sampler: DynatraceSampler | None = None


class PrometheusMetricsProvider(Message, frozen=True, kw_only=True):
    """Metrics that Prometheus scrapes."""


class LogFormat(Message, frozen=True, kw_only=True):
    """A text line or a JSON object a request."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "labels"),)

    text: str | None = None
    labels: JsonMap | None = None


class EnvoyFileAccessLogProvider(Message, frozen=True, kw_only=True):
    """Access logs to a file."""

    path: str = ""
    log_format: LogFormat | None = None
    omit_empty_values: bool = False


class EnvoyHttpGrpcV3LogProvider(Message, frozen=True, kw_only=True):
    """Access logs of HTTP requests to a gRPC service."""

    service: str = ""
    port: UInt32 = 0
    log_name: str = ""
    filter_state_objects_to_log: tuple[str, ...] = ()
    additional_request_headers_to_log: tuple[str, ...] = ()
    additional_response_headers_to_log: tuple[str, ...] = ()
    additional_response_trailers_to_log: tuple[str, ...] = ()


class EnvoyTcpGrpcV3LogProvider(Message, frozen=True, kw_only=True):
    """Access logs of TCP connections to a gRPC service."""

    service: str = ""
    port: UInt32 = 0
    log_name: str = ""
    filter_state_objects_to_log: tuple[str, ...] = ()


class OtelLogFormat(Message, frozen=True, kw_only=True):
    """Body and attributes of OpenTelemetry log entries."""

    text: str = ""
    labels: JsonMap | None = None


class EnvoyOpenTelemetryLogProvider(Message, frozen=True, kw_only=True):
    """Access logs to an OpenTelemetry collector."""

    service: str = ""
    port: UInt32 = 0
    log_name: str = ""
    log_format: OtelLogFormat | None = None


class SDSProvider(Message, frozen=True, kw_only=True):
    """A service that supplies gateways with secrets."""

    name: str = ""
    service: str = ""
    port: UInt32 = 0


class ExtensionProvider(Message, frozen=True, kw_only=True):
    """A named provider that policies and Telemetry refer to."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (
        (
            "envoyExtAuthzHttp",
            "envoyExtAuthzGrpc",
            "zipkin",
            "lightstep",
            "datadog",
            "stackdriver",
            "opencensus",
            "skywalking",
            "opentelemetry",
            "prometheus",
            "envoyFileAccessLog",
            "envoyHttpAls",
            "envoyTcpAls",
            "envoyOtelAls",
            "sds",
        ),
    )

    name: str = ""
    envoy_ext_authz_http: EnvoyExternalAuthorizationHttpProvider | None = None
    envoy_ext_authz_grpc: EnvoyExternalAuthorizationGrpcProvider | None = None
    zipkin: ZipkinTracingProvider | None = None
    lightstep: LightstepTracingProvider | None = None
    datadog: DatadogTracingProvider | None = None
    stackdriver: StackdriverProvider | None = None
    opencensus: OpenCensusAgentTracingProvider | None = None
    skywalking: SkyWalkingTracingProvider | None = None
    opentelemetry: OpenTelemetryTracingProvider | None = None
    prometheus: PrometheusMetricsProvider | None = None
    envoy_file_access_log: EnvoyFileAccessLogProvider | None = None
    envoy_http_als: EnvoyHttpGrpcV3LogProvider | None = None
    envoy_tcp_als: EnvoyTcpGrpcV3LogProvider | None = None
    envoy_otel_als: EnvoyOpenTelemetryLogProvider | None = None
    sds: SDSProvider | None = None


DEFAULT_PROVIDERS = (
    ExtensionProvider(name="prometheus", prometheus=PrometheusMetricsProvider()),
    ExtensionProvider(name="stackdriver", stackdriver=StackdriverProvider()),
    ExtensionProvider(name="envoy", envoy_file_access_log=EnvoyFileAccessLogProvider(path="/dev/stdout")),
)
"""The providers that every mesh has without naming them."""
