"""Access logs: Istio's default line, or what the mesh's configuration says instead.

In: mesh options, and what Telemetry resources say. Out: access logs of connection managers, TCP proxies, listeners.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.resources.mesh_providers import (
    EnvoyFileAccessLogProvider,
    EnvoyHttpGrpcV3LogProvider,
    EnvoyOpenTelemetryLogProvider,
    ExtensionProvider,
)
from meltem.view.filters import AccessLogSink, Telemetry
from meltem.view.units import MeshOptions

BOOTSTRAP_SERVICE = "envoy_accesslog_service"
DEFAULT_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
JSON_FIELDS = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}


def file_logs(mesh: MeshOptions) -> list[api.accesslog.AccessLog]:
    """The mesh's access log; none unless `accessLogFile` is set."""
    if not mesh.access_log_file:
        return []
    log = api.file_access_log.FileAccessLog(path=mesh.access_log_file)
    if mesh.access_log_json:
        fields = JSON_FIELDS
        if mesh.access_log_format:
            log.log_format.json_format.CopyFrom(_json(mesh.access_log_format))
        else:
            log.log_format.json_format.CopyFrom(api.struct(fields.items()))
    else:
        log.log_format.text_format_source.inline_string = mesh.access_log_format or DEFAULT_FORMAT
    return [api.accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=api.pack(log))]


def _json(text: str) -> api.struct_pb2.Struct:
    try:
        return api.json_format.Parse(text, api.struct_pb2.Struct())
    except api.json_format.ParseError:
        return api.struct(JSON_FIELDS.items())


def leave_out_connected(logs: Iterable[api.accesslog.AccessLog]) -> None:
    """One line a connection, at its end: the moment at which it was made is logged for the metrics' sake only."""
    for log in logs:
        ended = api.accesslog.AccessLogFilter()
        ended.log_type_filter.types.append(api.accesslog_data.AccessLogType.TcpUpstreamConnected)
        ended.log_type_filter.exclude = True
        if log.HasField("filter"):
            ended = api.accesslog.AccessLogFilter(and_filter={"filters": [ended, log.filter]})
        log.filter.CopyFrom(ended)


def listener_logs(mesh: MeshOptions, telemetry: Telemetry) -> list[api.accesslog.AccessLog]:
    """Connections that no filter chain takes would leave no trace otherwise."""
    if mesh.disable_listener_log:
        return []
    made = logs(mesh, telemetry, http=False)
    for log in made:
        no_route = api.accesslog.AccessLogFilter(response_flag_filter={"flags": ["NR"]})
        if log.HasField("filter"):
            both = api.accesslog.AccessLogFilter(and_filter={"filters": [no_route, log.filter]})
            log.filter.CopyFrom(both)
        else:
            log.filter.CopyFrom(no_route)
    return made


# --- what Telemetry resources say ---


def logs(mesh: MeshOptions, telemetry: Telemetry, *, http: bool) -> list[api.accesslog.AccessLog]:
    """The access logs of a connection manager (`http`) or a TCP proxy."""
    if telemetry.logs is None:
        return [*file_logs(mesh), *_mesh_service(mesh, http=http)]
    made = [_sink(sink, mesh, http=http) for sink in telemetry.logs]
    return [one for one in made if one is not None]


def _sink(sink: AccessLogSink, mesh: MeshOptions, *, http: bool) -> api.accesslog.AccessLog | None:
    provider = sink.provider
    if provider.envoy_file_access_log is not None:
        made = _file(provider.envoy_file_access_log, mesh)
    elif provider.envoy_http_als is not None and http:
        made = _http_service(provider.envoy_http_als, sink)
    elif provider.envoy_tcp_als is not None and not http:
        settings = provider.envoy_tcp_als
        common = _common(sink, settings.log_name or "tcp_envoy_accesslog", settings.filter_state_objects_to_log)
        config = api.grpc_access_log.TcpGrpcAccessLogConfig(common_config=common)
        made = api.accesslog.AccessLog(name="envoy.access_loggers.tcp_grpc", typed_config=api.pack(config))
    elif provider.envoy_otel_als is not None:
        made = _opentelemetry(provider.envoy_otel_als, sink)
    else:
        return None
    if sink.expression:
        made.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        expression = api.cel_filter.ExpressionFilter(expression=sink.expression)
        made.filter.extension_filter.typed_config.CopyFrom(api.pack(expression))
    return made


def _file(settings: EnvoyFileAccessLogProvider, mesh: MeshOptions) -> api.accesslog.AccessLog:
    log = api.file_access_log.FileAccessLog(path=settings.path or "/dev/stdout")
    chosen = settings.log_format
    if chosen is not None and chosen.labels is not None:
        api.json_format.ParseDict(chosen.labels, log.log_format.json_format)
        used = str(chosen.labels)
    elif chosen is not None and chosen.text:
        used = chosen.text if chosen.text.endswith("\n") else chosen.text + "\n"
        log.log_format.text_format_source.inline_string = used
    elif mesh.access_log_json:
        log.log_format.json_format.CopyFrom(
            _json(mesh.access_log_format) if mesh.access_log_format else api.struct(JSON_FIELDS.items())
        )
        used = mesh.access_log_format
    else:
        used = mesh.access_log_format or DEFAULT_FORMAT
        log.log_format.text_format_source.inline_string = used
    log.log_format.omit_empty_values = settings.omit_empty_values
    if "REQ_WITHOUT_QUERY" in used:
        formatter = api.req_without_query.ReqWithoutQuery()
        log.log_format.formatters.add(name="envoy.formatter.req_without_query", typed_config=api.pack(formatter))
    return api.accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=api.pack(log))


def _mesh_service(mesh: MeshOptions, *, http: bool) -> list[api.accesslog.AccessLog]:
    """MeshConfig's enableEnvoyAccessLogService: the proxy's bootstrap has the cluster, from `envoyAccessLogService`."""
    if not mesh.access_log_service:
        return []
    sink = AccessLogSink(provider=ExtensionProvider(), cluster=BOOTSTRAP_SERVICE)
    if http:
        return [_http_service(EnvoyHttpGrpcV3LogProvider(), sink)]
    config = api.grpc_access_log.TcpGrpcAccessLogConfig(common_config=_common(sink, "tcp_envoy_accesslog", ()))
    return [api.accesslog.AccessLog(name="envoy.access_loggers.tcp_grpc", typed_config=api.pack(config))]


def _common(sink: AccessLogSink, name: str, objects: Iterable[str]) -> api.grpc_access_log.CommonGrpcAccessLogConfig:
    return api.grpc_access_log.CommonGrpcAccessLogConfig(
        log_name=name,
        grpc_service={"envoy_grpc": {"cluster_name": sink.cluster, "authority": sink.authority}},
        transport_api_version=api.config_source.V3,
        filter_state_objects_to_log=list(objects),
    )


def _http_service(settings: EnvoyHttpGrpcV3LogProvider, sink: AccessLogSink) -> api.accesslog.AccessLog:
    config = api.grpc_access_log.HttpGrpcAccessLogConfig(
        common_config=_common(sink, settings.log_name or "http_envoy_accesslog", settings.filter_state_objects_to_log),
        additional_request_headers_to_log=list(settings.additional_request_headers_to_log),
        additional_response_headers_to_log=list(settings.additional_response_headers_to_log),
        additional_response_trailers_to_log=list(settings.additional_response_trailers_to_log),
    )
    return api.accesslog.AccessLog(name="envoy.access_loggers.http_grpc", typed_config=api.pack(config))


def _opentelemetry(settings: EnvoyOpenTelemetryLogProvider, sink: AccessLogSink) -> api.accesslog.AccessLog:
    config = api.otel_access_log.OpenTelemetryAccessLogConfig(
        common_config=_common(sink, settings.log_name or "otel_envoy_accesslog", ()), disable_builtin_labels=True
    )
    chosen = settings.log_format
    config.body.string_value = (chosen.text if chosen is not None else "") or DEFAULT_FORMAT.rstrip("\n")
    for key, value in sorted((chosen.labels or {}).items() if chosen is not None else ()):
        config.attributes.values.add(key=key, value={"string_value": str(value)})
    return api.accesslog.AccessLog(name="envoy.access_loggers.open_telemetry", typed_config=api.pack(config))
