"""What Telemetry resources say, merged as Istio merges them: mesh, then namespace, then workload; section by section.

In: the resources that hold for a workload, root namespace first, and the mesh's configuration. Out: `Telemetry`.

Access logs and traces: the nearest resource that has the section replaces what farther ones say of it; metrics add up,
later overrides over earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from meltem.cel_parse import parse as parse_cel
from meltem.errors import UserError
from meltem.graph.policies import target_of
from meltem.resources import telemetry as api
from meltem.resources.mesh_providers import ExtensionProvider
from meltem.resources.meshconfig import MeshConfig
from meltem.view.filters import AccessLogSink, MetricsOverride, Telemetry, Tracer

ClusterOf = Callable[[str, int], str]


def merged(
    resources: Iterable[api.Telemetry], config: MeshConfig, root: str, *, server: bool, cluster_of: ClusterOf
) -> Telemetry:
    """One resource a level: the mesh's general one, the namespace's, the one that selects the workload (the oldest)."""
    levels: list[api.Telemetry] = []
    seen: set[tuple[str, bool]] = set()
    for resource in sorted(resources, key=lambda t: (t.namespace != root, not target_of(t).general)):
        level = (resource.namespace, target_of(resource).general)
        if level not in seen:
            seen.add(level)
            levels.append(resource)
    providers = {p.name: p for p in config.extension_providers}
    return Telemetry(
        metrics=_metrics_on(levels, config),
        overrides=tuple(_overrides(levels, server=server)),
        logs=_logs(levels, config, providers, server=server, cluster_of=cluster_of),
        tracer=_tracer(levels, config, providers, server=server, cluster_of=cluster_of),
    )


def _fits(mode: str, *, server: bool) -> bool:
    return mode in ("CLIENT_AND_SERVER", "SERVER" if server else "CLIENT")


def _metrics_on(levels: list[api.Telemetry], config: MeshConfig) -> bool:
    """Prometheus is on unless the nearest resource that names providers names others only."""
    names = config.default_providers.metrics or ("prometheus",)
    for level in levels:
        for section in level.spec.metrics:
            if section.providers:
                names = tuple(p.name for p in section.providers)
    prometheus = {p.name for p in config.extension_providers if p.prometheus is not None}
    return any(n in prometheus for n in names)


def _overrides(levels: list[api.Telemetry], *, server: bool) -> Iterable[MetricsOverride]:
    for override in (o for level in levels for m in level.spec.metrics for o in m.overrides):
        match = override.match
        if match is not None and not _fits(match.mode, server=server):
            continue
        if match is not None and match.custom_metric:
            continue  # Stock Envoy makes the standard metrics only.
        yield MetricsOverride(
            metric=(match.metric or "") if match is not None else "",
            disabled=override.disabled,
            tags=tuple(
                (name, None if tag.operation == "REMOVE" else tag.value)
                for name, tag in sorted(override.tag_overrides.items())
                if name and (tag.operation == "REMOVE" or _is_expression(tag.value))
            ),
        )


def _logs(
    levels: list[api.Telemetry],
    config: MeshConfig,
    providers: dict[str, ExtensionProvider],
    *,
    server: bool,
    cluster_of: ClusterOf,
) -> tuple[AccessLogSink, ...] | None:
    """None: nobody says anything, the mesh's own log file holds."""
    defaults = config.default_providers.access_logging
    found: tuple[AccessLogSink, ...] | None = None
    if defaults:
        found = tuple(_sinks(defaults, providers, "", cluster_of))
    inherited = defaults or (("envoy",) if config.access_log_file else ())
    for level in levels:
        sections = [s for s in level.spec.access_logging if s.match is None or _fits(s.match.mode, server=server)]
        if not sections:
            continue
        made: list[AccessLogSink] = []
        for section in sections:
            named = tuple(p.name for p in section.providers)
            inherited = named or inherited
            if section.disabled:
                off = set(named) or {s.provider.name for s in made}
                made = [s for s in made if s.provider.name not in off]
                continue
            expression = section.filter.expression if section.filter is not None else ""
            if expression and not _is_expression(expression):
                continue
            made.extend(_sinks(named or inherited or ("envoy",), providers, expression, cluster_of))
        found = tuple(made)
    return found


def _sinks(
    names: Iterable[str], providers: dict[str, ExtensionProvider], expression: str, cluster_of: ClusterOf
) -> Iterable[AccessLogSink]:
    for name in names:
        provider = providers.get(name)
        if provider is None:
            continue
        if provider.envoy_file_access_log is not None:
            yield AccessLogSink(provider=provider, expression=expression)
            continue
        remote = provider.envoy_http_als or provider.envoy_tcp_als or provider.envoy_otel_als
        cluster = cluster_of(remote.service, remote.port) if remote is not None else ""
        if remote is not None and cluster:
            host = remote.service.rpartition("/")[2]
            yield AccessLogSink(provider=provider, expression=expression, cluster=cluster, authority=host)


def _tracer(
    levels: list[api.Telemetry],
    config: MeshConfig,
    providers: dict[str, ExtensionProvider],
    *,
    server: bool,
    cluster_of: ClusterOf,
) -> Tracer | None:
    """None: nobody says anything, the mesh's own settings hold."""
    names = config.default_providers.tracing
    made: Tracer | None = Tracer() if names else None
    disabled, sampling = False, None
    settings: dict[str, object] = {}
    tags: dict[str, api.CustomTag] = {}
    for section in (s for level in levels for s in level.spec.tracing):
        if section.match is not None and not _fits(section.match.mode, server=server):
            continue
        made = Tracer()
        names = tuple(p.name for p in section.providers) or names
        if section.disable_span_reporting is not None:
            disabled = bool(section.disable_span_reporting)
        if section.random_sampling_percentage is not None:
            sampling = float(section.random_sampling_percentage)
        if section.custom_tags:
            tags = {name: tag for name, tag in section.custom_tags.items() if _is_whole(name, tag)}
        for field, value in (
            ("istio_tags", section.enable_istio_tags),
            ("use_request_id", section.use_request_id_for_trace_sampling),
        ):
            if value is not None:
                settings[field] = bool(value)
        if section.disable_context_propagation is not None:
            settings["propagate"] = not section.disable_context_propagation
    if made is None:
        return None
    provider = next((providers[n] for n in names if n in providers), None)
    service = _service_of(provider) if provider is not None else ("", 0)
    return Tracer(
        provider=provider,
        cluster=cluster_of(*service) if service[0] else "",
        authority=service[0].rpartition("/")[2],
        sampling=sampling,
        tags=tuple(sorted(tags.items())),
        disabled=disabled,
        istio_tags=settings.get("istio_tags", True) is True,
        use_request_id=settings.get("use_request_id", True) is True,
        propagate=settings.get("propagate", True) is True,
    )


@lru_cache(maxsize=1024)
def _is_expression(text: str) -> bool:
    """What is none, Envoy refuses with the whole listener; admission refuses it, but may not have been asked."""
    try:
        parse_cel(text)
    except UserError:
        return False
    return True


def _is_whole(name: str, tag: api.CustomTag) -> bool:
    given = (
        tag.literal.value if tag.literal is not None else None,
        tag.environment.name if tag.environment is not None else None,
        tag.header.name if tag.header is not None else None,
        tag.formatter.value if tag.formatter is not None else None,
    )
    return bool(name) and all(given_one is None or (given_one and "\n" not in given_one) for given_one in given)


def _service_of(provider: ExtensionProvider) -> tuple[str, int]:
    for one in (provider.zipkin, provider.opentelemetry, provider.datadog, provider.skywalking, provider.lightstep):
        if one is not None:
            return one.service, one.port
    return "", 0
