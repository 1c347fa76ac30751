"""What a proxy's own settings say of the connections that it takes in: limits, time-outs, the case of header names.

In: `HttpOptions` and the mesh's options. Out: fields of the HTTP connection manager.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/core/v3/protocol.proto
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.view.proxy_settings import Connections, HttpOptions

_ESCAPED_SLASHES = {
    "KEEP_UNCHANGED": api.hcm.HttpConnectionManager.KEEP_UNCHANGED,
    "REJECT_REQUEST": api.hcm.HttpConnectionManager.REJECT_REQUEST,
    "UNESCAPE_AND_REDIRECT": api.hcm.HttpConnectionManager.UNESCAPE_AND_REDIRECT,
    "UNESCAPE_AND_FORWARD": api.hcm.HttpConnectionManager.UNESCAPE_AND_FORWARD,
}
_UNDERSCORES = {
    "ALLOW": api.protocol.HttpProtocolOptions.ALLOW,
    "REJECT_REQUEST": api.protocol.HttpProtocolOptions.REJECT_REQUEST,
    "DROP_HEADER": api.protocol.HttpProtocolOptions.DROP_HEADER,
}


def header_case() -> api.protocol.Http1ProtocolOptions.HeaderKeyFormat:
    """Header names as they were written."""
    formatter = api.preserve_case.PreserveCaseFormatterConfig()
    return api.protocol.Http1ProtocolOptions.HeaderKeyFormat(
        stateful_formatter={
            "name": "envoy.http.stateful_header_formatters.preserve_case",
            "typed_config": api.pack(formatter),
        }
    )


def apply(manager: api.hcm.HttpConnectionManager, http: HttpOptions, settings: Connections) -> None:
    """A stream may be silent for as long as it likes unless the settings say otherwise (Envoy's own limit of five
    minutes would end quiet websockets and watches)."""
    if http.preserve_case:
        manager.http_protocol_options.header_key_format.CopyFrom(header_case())
    manager.stream_idle_timeout.CopyFrom(api.duration(max(settings.stream_idle, 0)))
    common = manager.common_http_protocol_options
    idle = settings.idle if settings.idle >= 0 else http.idle_timeout
    for field, parent, seconds in (
        ("idle_timeout", common, idle),
        ("max_connection_duration", common, settings.max_duration),
        ("max_stream_duration", common, settings.max_stream),
        ("request_timeout", manager, settings.request),
        ("request_headers_timeout", manager, settings.request_headers),
        ("drain_timeout", manager, settings.drain),
    ):
        if seconds >= 0:
            getattr(parent, field).CopyFrom(api.duration(seconds))
    for field, number in (
        ("max_concurrent_streams", settings.streams),
        ("initial_stream_window_size", settings.stream_window),
        ("initial_connection_window_size", settings.connection_window),
    ):
        if number >= 0:
            getattr(manager.http2_protocol_options, field).value = int(number)
    if settings.underscores:
        common.headers_with_underscores_action = _UNDERSCORES[settings.underscores]
    if settings.merge_slashes >= 0:
        manager.merge_slashes = settings.merge_slashes > 0
    if settings.escaped_slashes:
        manager.path_with_escaped_slashes_action = _ESCAPED_SLASHES[settings.escaped_slashes]
