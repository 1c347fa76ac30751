"""Istio's standard metrics as stats access loggers of stock Envoy.

In: which side reports, HTTP or TCP, and what Telemetry resources change. Out: access logs for connection managers and
TCP proxies.

All loggers share one scope (`sharing_name`), so that counters outlive the listener that counts. The message class of
the wheel is older than the binary and lacks `stats_scope` (field 6, envoy.type.v3.Scope): its bytes are appended.

Envoy has no running count of a connection's bytes that could be added up, so TCP bytes are counted when it ends.
"""

from __future__ import annotations

from functools import lru_cache

from meltem import envoyapi as api
from meltem.generate.filters import labels
from meltem.view.filters import MetricsOverride, Telemetry

AccessLog = api.accesslog.AccessLog
Overrides = tuple[MetricsOverride, ...]
Stats = api.stats_access_log.Config

HTTP_METRICS = {
    "REQUEST_COUNT": "requests_total",
    "REQUEST_DURATION": "request_duration_milliseconds",
    "REQUEST_SIZE": "request_bytes",
    "RESPONSE_SIZE": "response_bytes",
}
GRPC_METRICS = {
    "GRPC_REQUEST_MESSAGES": "request_messages_total",
    "GRPC_RESPONSE_MESSAGES": "response_messages_total",
}
TCP_METRICS = {
    "TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
    "TCP_SENT_BYTES": "tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "tcp_received_bytes_total",
}
_FIXED = {"REQUEST_COUNT", "TCP_OPENED_CONNECTIONS", "TCP_CLOSED_CONNECTIONS"}
_VALUES = {
    "REQUEST_DURATION": ("%DURATION%", Stats.Histogram.Milliseconds),
    "REQUEST_SIZE": ("%DOWNSTREAM_WIRE_BYTES_RECEIVED%", Stats.Histogram.Bytes),
    "RESPONSE_SIZE": ("%DOWNSTREAM_WIRE_BYTES_SENT%", Stats.Histogram.Bytes),
}
_COUNTED = {
    "GRPC_REQUEST_MESSAGES": "%FILTER_STATE(envoy.filters.http.grpc_stats:FIELD:request_message_count)%",
    "GRPC_RESPONSE_MESSAGES": "%FILTER_STATE(envoy.filters.http.grpc_stats:FIELD:response_message_count)%",
    "TCP_SENT_BYTES": "%BYTES_SENT%",
    "TCP_RECEIVED_BYTES": "%BYTES_RECEIVED%",
}
_SCOPE = b"\x32\x10" + b"\x20\x01" + b"\x2a\x05istio" + b"\x32\x05istio"
"""stats_scope {enable_eviction: true, prefix: "istio", sharing_name: "istio"}"""
_CUSTOM = {
    "request.method": "%REQ(:METHOD)%",
    "request.url_path": "%PATH(NQ)%",
    "request.path": "%REQ(:PATH)%",
    "request.host": "%REQ(:AUTHORITY)%",
    "response.code": "%RESPONSE_CODE%",
}
"""Attributes that a plain operator gives more cheaply than CEL."""


def http_stats(telemetry: Telemetry, *, inbound: bool, mutual_tls: bool) -> tuple[AccessLog, ...]:
    """Shared between all who ask alike: to be copied into a message, never changed."""
    return _http_stats(telemetry.overrides, inbound, mutual_tls) if telemetry.metrics else ()


@lru_cache(maxsize=64)
def _http_stats(overrides: Overrides, inbound: bool, mutual_tls: bool) -> tuple[AccessLog, ...]:
    base = labels.labels(inbound=inbound, http=True, mutual_tls=mutual_tls)
    made = [_logger(overrides, HTTP_METRICS, base)]
    grpc = _logger(overrides, GRPC_METRICS, base)
    if grpc is not None:
        match = grpc.filter.header_filter.header
        match.name = "content-type"
        match.string_match.prefix = "application/grpc"
        made.append(grpc)
    return tuple(m for m in made if m is not None)


def tcp_stats(telemetry: Telemetry, *, inbound: bool, mutual_tls: bool) -> tuple[AccessLog, ...]:
    """The proxy must also have `flush_access_log_on_connected`, for the count of opened connections."""
    return _tcp_stats(telemetry.overrides, inbound, mutual_tls) if telemetry.metrics else ()


@lru_cache(maxsize=64)
def _tcp_stats(overrides: Overrides, inbound: bool, mutual_tls: bool) -> tuple[AccessLog, ...]:
    base = labels.labels(inbound=inbound, http=False, mutual_tls=mutual_tls)
    first = {"TCP_OPENED_CONNECTIONS": TCP_METRICS["TCP_OPENED_CONNECTIONS"]}
    rest = {k: v for k, v in TCP_METRICS.items() if k not in first}
    made: list[AccessLog] = []
    kinds = api.accesslog_data.AccessLogType
    for metrics, moment in ((first, kinds.TcpUpstreamConnected), (rest, kinds.TcpConnectionEnd)):
        logger = _logger(overrides, metrics, base)
        if logger is not None:
            logger.filter.log_type_filter.types.append(moment)
            made.append(logger)
    return tuple(made)


def _logger(overrides: Overrides, metrics: dict[str, str], base: dict[str, str]) -> AccessLog | None:
    """None where all of these metrics are disabled."""
    config = Stats()
    for kind, name in metrics.items():
        tags = _tags(kind, overrides, base)
        if tags is None:
            continue
        stat = {"name": name, "tags": [{"name": k, "value_format": v} for k, v in tags.items()]}
        if kind in _VALUES:
            value, unit = _VALUES[kind]
            config.histograms.add(stat=stat, unit=unit, value_format=value)
        elif kind in _FIXED:
            config.counters.add(stat=stat, value_fixed={"value": 1})
        else:
            config.counters.add(stat=stat, value_format=_COUNTED[kind])
    if not config.counters and not config.histograms:
        return None
    body = config.SerializeToString(deterministic=True) + _SCOPE
    packed = api.any_pb2.Any(type_url=api.PREFIX + Stats.DESCRIPTOR.full_name, value=body)
    return AccessLog(name="envoy.access_loggers.stats", typed_config=packed)


def _tags(kind: str, overrides: Overrides, base: dict[str, str]) -> dict[str, str] | None:
    """The labels of one metric after all overrides, in order; None: it is disabled."""
    tags = dict(base)
    disabled = False
    for override in overrides:
        if override.metric not in ("", "ALL_METRICS", kind):
            continue
        if override.disabled is not None:
            disabled = override.disabled
        for name, expression in override.tags:
            if expression is None:
                tags.pop(name, None)
            else:
                tags[name] = expression_format(expression)
    return None if disabled else tags


def expression_format(expression: str) -> str:
    """A CEL expression as an access log format; quoted text and plain attributes without CEL's cost."""
    text = _without_conversion(expression.strip())
    if text in _CUSTOM:
        return _CUSTOM[text]
    for quote in ("'", '"'):
        inner = text[1:-1]
        if len(text) > 1 and text[0] == text[-1] == quote and quote not in inner and "\\" not in inner:
            return inner.replace("%", "%%")
    return f"%CEL({text})%"


def _without_conversion(text: str) -> str:
    """`string(x)` is `x`: a tag is text anyway, and CEL in stock Envoy's formats has no conversions."""
    if not text.startswith("string(") or not text.endswith(")"):
        return text
    inner = text.removeprefix("string(")[:-1]
    depth = 0
    for character in inner:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return text  # the first parenthesis ends before the last
    return inner.strip()
