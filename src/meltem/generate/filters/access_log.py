"""Access logs: Istio's default line, or what the mesh's configuration says instead.

In: mesh options. Out: access log configurations for connection managers, TCP proxies and listeners.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.view.units import MeshOptions

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


def listener_logs(mesh: MeshOptions) -> list[api.accesslog.AccessLog]:
    """Connections that no filter chain takes would leave no trace otherwise."""
    if mesh.disable_listener_log:
        return []
    logs = file_logs(mesh)
    for log in logs:
        log.filter.response_flag_filter.flags.append("NR")
    return logs
