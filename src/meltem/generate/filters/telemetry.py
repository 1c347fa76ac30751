"""Tracing: where spans go, which requests are traced, what spans say; and the anchor of Istio's stats filter.

In: which way traffic goes, the mesh's settings, what Telemetry resources say. Out: the tracing part of a connection
manager. Without a provider the proxy's bootstrap says where spans go.

The spans' own service is the proxy's (`--service-cluster`), and for OpenTelemetry what the environment variable
OTEL_RESOURCE_ATTRIBUTES says, which the agent sets: listeners are shared by many workloads.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.generate.filters import labels
from meltem.resources.mesh_providers import ExtensionProvider, OpenTelemetryTracingProvider, ProviderHeader
from meltem.resources.telemetry import CustomTag
from meltem.view.filters import Tracer
from meltem.view.units import MeshOptions

HttpFilter = api.hcm.HttpFilter
Manager = api.hcm.HttpConnectionManager
Provider = api.http_tracer.Tracing.Http
_ISTIO_TAGS = {
    "istio.canonical_revision": labels.OWN["canonical_revision"],
    "istio.canonical_service": labels.OWN["canonical_service"],
    "istio.mesh_id": "ISTIO_META_MESH_ID",
    "istio.namespace": labels.OWN["namespace"],
    "istio.cluster_id": labels.OWN["cluster"],
}


def anchor(name: str) -> HttpFilter:
    """A filter that does nothing, under a name that EnvoyFilters look for."""
    return HttpFilter(name=name, typed_config=api.pack(api.header_mutation.HeaderMutation()))


def tracing(manager: Manager, mesh: MeshOptions, tracer: Tracer | None) -> None:
    if not mesh.tracing or (tracer is not None and tracer.disabled):
        return
    made = manager.tracing
    made.client_sampling.value = 100.0
    made.random_sampling.value = mesh.tracing_sampling
    made.overall_sampling.value = 100.0
    if tracer is None or tracer.istio_tags:
        for tag, variable in _ISTIO_TAGS.items():
            made.custom_tags.add(tag=tag, environment={"name": variable, "default_value": "unknown"})
    if tracer is None:
        return
    if tracer.sampling is not None:
        made.random_sampling.value = tracer.sampling
    if not tracer.propagate:
        made.MergeFromString(b"\x68\x01")  # no_context_propagation: field 13, unknown to the wheel
    for name, tag in tracer.tags:
        _tag(made, name, tag)
    if tracer.provider is not None and tracer.cluster:
        provider = _provider(tracer.provider, tracer)
        if provider is not None:
            made.provider.CopyFrom(provider)
        length = _tag_length(tracer.provider)
        if length:
            made.max_path_tag_length.value = length


def _tag(made: Manager.Tracing, name: str, tag: CustomTag) -> None:
    if tag.literal is not None:
        made.custom_tags.add(tag=name, literal={"value": tag.literal.value})
    elif tag.environment is not None:
        one = tag.environment
        made.custom_tags.add(tag=name, environment={"name": one.name, "default_value": one.default_value})
    elif tag.header is not None:
        made.custom_tags.add(
            tag=name, request_header={"name": tag.header.name, "default_value": tag.header.default_value}
        )
    elif tag.formatter is not None:
        made.custom_tags.add(tag=name, value=tag.formatter.value)


def _tag_length(provider: ExtensionProvider) -> int:
    for one in (provider.zipkin, provider.opentelemetry, provider.datadog, provider.lightstep):
        if one is not None:
            return one.max_tag_length
    return 0


def _provider(provider: ExtensionProvider, tracer: Tracer) -> Provider | None:
    """None for tracers that stock Envoy no longer has (OpenCensus, Stackdriver)."""
    if provider.zipkin is not None:
        return _packed("envoy.tracers.zipkin", _zipkin(provider, tracer))
    if provider.opentelemetry is not None:
        return _packed("envoy.tracers.opentelemetry", _opentelemetry(provider.opentelemetry, tracer))
    if provider.lightstep is not None:
        made = api.opentelemetry.OpenTelemetryConfig(grpc_service=_grpc(tracer))
        if provider.lightstep.access_token:
            made.grpc_service.initial_metadata.add(key="lightstep-access-token", value=provider.lightstep.access_token)
        return _packed("envoy.tracers.opentelemetry", made)
    if provider.datadog is not None:
        config = api.datadog.DatadogConfig(
            collector_cluster=tracer.cluster, service_name="istio-proxy", collector_hostname=tracer.authority
        )
        return _packed("envoy.tracers.datadog", config)
    if provider.skywalking is not None:
        walking = api.skywalking.SkyWalkingConfig(grpc_service=_grpc(tracer))
        if provider.skywalking.access_token:
            walking.client_config.backend_token = provider.skywalking.access_token
        return _packed("envoy.tracers.skywalking", walking)
    return None


def _packed(name: str, config: api.message.Message) -> Provider:
    return Provider(name=name, typed_config=api.pack(config))


def _grpc(tracer: Tracer) -> api.grpc_service.GrpcService:
    return api.grpc_service.GrpcService(envoy_grpc={"cluster_name": tracer.cluster, "authority": tracer.authority})


def _zipkin(provider: ExtensionProvider, tracer: Tracer) -> api.zipkin.ZipkinConfig:
    settings = provider.zipkin
    made = api.zipkin.ZipkinConfig(
        collector_cluster=tracer.cluster,
        collector_endpoint="/api/v2/spans",
        collector_endpoint_version=api.zipkin.ZipkinConfig.HTTP_JSON,
        collector_hostname=tracer.authority,
        trace_id_128bit=True,
        shared_span_context={"value": False},
    )
    if settings is not None:
        made.trace_id_128bit = not settings.enable_64bit_trace_id
        made.collector_endpoint = settings.path or made.collector_endpoint
        if settings.trace_context_option == "USE_B3_WITH_W3C_PROPAGATION":
            made.trace_context_option = api.zipkin.ZipkinConfig.USE_B3_WITH_W3C_PROPAGATION
    return made


def _opentelemetry(settings: OpenTelemetryTracingProvider, tracer: Tracer) -> api.opentelemetry.OpenTelemetryConfig:
    made = api.opentelemetry.OpenTelemetryConfig()
    if settings.http is not None:
        service = made.http_service
        service.http_uri.uri = f"http://{tracer.authority}:{settings.port}/{settings.http.path.lstrip('/')}"
        service.http_uri.cluster = tracer.cluster
        timeout = float(settings.http.timeout) if settings.http.timeout is not None else 5.0
        service.http_uri.timeout.CopyFrom(api.duration(timeout))
        for name, value in _headers(settings.http.headers):
            service.request_headers_to_add.add(header={"key": name, "value": value})
    else:
        made.grpc_service.CopyFrom(_grpc(tracer))
        if settings.grpc is not None:
            if settings.grpc.timeout is not None:
                made.grpc_service.timeout.CopyFrom(api.duration(float(settings.grpc.timeout)))
            for name, value in _headers(settings.grpc.initial_metadata):
                made.grpc_service.initial_metadata.add(key=name, value=value)
    detectors = settings.resource_detectors
    environment = api.otel_environment.EnvironmentResourceDetectorConfig()
    made.resource_detectors.add(
        name="envoy.tracers.opentelemetry.resource_detectors.environment", typed_config=api.pack(environment)
    )
    if detectors is not None and detectors.dynatrace is not None:
        dynatrace = api.otel_dynatrace.DynatraceResourceDetectorConfig()
        made.resource_detectors.add(
            name="envoy.tracers.opentelemetry.resource_detectors.dynatrace", typed_config=api.pack(dynatrace)
        )
    return made


def _headers(given: Iterable[ProviderHeader]) -> Iterable[tuple[str, str]]:
    """Headers with a value of their own; those from istiod's environment are no matter of pure generation."""
    return [(h.name, h.value) for h in given if h.value is not None]
