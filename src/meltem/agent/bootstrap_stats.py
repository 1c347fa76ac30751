"""The statistics part of the bootstrap: which statistics Envoy keeps, how names become labels, where they are sent.

In: `AgentSettings` (ProxyConfig `proxyStatsMatcher`, `extraStatTags`, annotations). Out: JSON. Istio's defaults: few
statistics are kept, so that a proxy with thousands of clusters stays small.
"""

from __future__ import annotations

import json
from typing import cast

from meltem.agent import durations
from meltem.agent.bootstrap_resources import address_of
from meltem.agent.environment import AgentSettings
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, object_at, str_at, strings_at

PREFIXES = ("cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "grpc.xds-grpc", "wasm")
SUFFIXES = ("rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied")
DRAIN_SUFFIX = "downstream_cx_active"
REGEXES = (r"vhost\..*\.route\..*",)
MESH_PREFIXES = ("reporter=", "component", "istio")
_TYPE = "type.googleapis.com/"

_ADDRESS = r"(?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*)"
_TAGS = (
    ("cluster_name", r"^cluster(\.(.+);)"),
    ("http_conn_manager_prefix", r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)"),
    ("thread_name", r"^server(\.(.+))\.watchdog"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    (
        "http_conn_manager_listener_prefix",
        r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    ("listener_address", r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"),
    ("mongo_prefix", r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$"),
    ("cache", r"(cache\.(.+?)\.)"),
    ("component", r"(component\.(.+?)\.)"),
    ("tag", r"(tag\.(.+?);\.)"),
    ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
)


def stats_config(settings: AgentSettings) -> JsonObject:
    tags: list[Json] = [{"tag_name": name, "regex": regex} for name, regex in _TAGS]
    for tag in _extra_tags(settings):
        tags.append({"tag_name": tag, "regex": f"({tag}=\\.=(.*?);\\.;)"})
    built: JsonObject = {
        "use_all_default_tags": False,
        "stats_tags": tags,
        "stats_matcher": {"inclusion_list": {"patterns": _patterns(settings)}},
    }
    if buckets := _histogram_buckets(settings):
        built["histogram_bucket_settings"] = buckets
    return built


def flush_options(settings: AgentSettings) -> JsonObject:
    """`stats_flush_interval` and `stats_eviction_interval` from the annotations; what cannot be used is an error."""
    built: JsonObject = {}
    flush = _interval(settings, "sidecar.istio.io/statsFlushInterval")
    eviction = _interval(settings, "sidecar.istio.io/statsEvictionInterval")
    if flush:
        built["stats_flush_interval"] = f"{flush:g}s"
    if eviction:
        if eviction % (flush or 5.0):
            raise UserError(
                f"must be a multiple of the flush interval ({flush or 5.0:g} s)",
                where="annotation sidecar.istio.io/statsEvictionInterval",
            )
        built["stats_eviction_interval"] = f"{eviction:g}s"
    return built


def sinks(settings: AgentSettings) -> list[Json]:
    found: list[Json] = []
    if str_at(settings.proxy_config, "envoyMetricsService", "address"):
        found.append(
            {
                "name": "envoy.stat_sinks.metrics_service",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.config.metrics.v3.MetricsServiceConfig",
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "envoy_metrics_service"}},
                },
            }
        )
    if statsd := str_at(settings.proxy_config, "statsdUdpAddress"):
        found.append(
            {
                "name": "envoy.stat_sinks.statsd",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.config.metrics.v3.StatsdSink",
                    "address": address_of(statsd, where="ProxyConfig statsdUdpAddress"),
                },
            }
        )
    return found


def _patterns(settings: AgentSettings) -> list[Json]:
    matcher = object_at(settings.proxy_config, "proxyStatsMatcher")
    suffixes = (*SUFFIXES, DRAIN_SUFFIX) if settings.exit_on_zero else SUFFIXES
    patterns: list[Json] = []
    for kind, annotation, field, required in (
        ("prefix", "statsInclusionPrefixes", "inclusionPrefixes", PREFIXES),
        ("suffix", "statsInclusionSuffixes", "inclusionSuffixes", suffixes),
        ("regex", "statsInclusionRegexps", "inclusionRegexps", REGEXES),
    ):
        asked = settings.annotations.get(f"sidecar.istio.io/{annotation}", "")
        chosen = [p.strip() for p in asked.split(",") if p.strip()] if asked else strings_at(matcher, field)
        for text in dict.fromkeys([*_with_pod_ips(chosen, settings), *required]):
            patterns.append({"safe_regex": {"regex": text}} if kind == "regex" else {kind: text})
    patterns.extend({"prefix": prefix} for prefix in MESH_PREFIXES)
    return patterns


def _with_pod_ips(patterns: list[str], settings: AgentSettings) -> list[str]:
    """`{pod_ip}` in a pattern stands for each address of the pod."""
    found: list[str] = []
    for pattern in patterns:
        found += (
            [pattern.replace("{pod_ip}", ip) for ip in settings.instance_ips] if "{pod_ip}" in pattern else [pattern]
        )
    return found


def _extra_tags(settings: AgentSettings) -> list[str]:
    annotated = settings.annotations.get("sidecar.istio.io/extraStatTags", "").split(",")
    tags = [*strings_at(settings.proxy_config, "extraStatTags"), *(t.strip() for t in annotated)]
    found = [t for t in dict.fromkeys(tags) if t]
    for tag in found:
        if not all(c.isalnum() or c in "_-." for c in tag):
            raise UserError(f"{tag[:60]!r} is no statistics tag (letters, digits, _, - and .)", where="extraStatTags")
    return found


def _histogram_buckets(settings: AgentSettings) -> list[Json]:
    text = settings.annotations.get("sidecar.istio.io/statsHistogramBuckets", "")
    if not text:
        return []
    where = "annotation sidecar.istio.io/statsHistogramBuckets"
    try:
        parsed = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise UserError("is not JSON", where=where) from None
    found: list[Json] = []
    for prefix, buckets in sorted(parsed.items()) if isinstance(parsed, dict) else ():
        if not isinstance(buckets, list) or not all(isinstance(b, int | float) for b in buckets):
            raise UserError(f"must hold a list of numbers under {prefix[:60]!r}", where=where)
        found.append({"match": {"prefix": prefix}, "buckets": buckets})
    return found


def _interval(settings: AgentSettings, annotation: str) -> float:
    text = settings.annotations.get(annotation, "")
    if not text:
        return 0.0
    try:
        return durations.seconds(text)
    except ValueError as error:
        raise UserError(str(error), where=f"annotation {annotation}") from None
