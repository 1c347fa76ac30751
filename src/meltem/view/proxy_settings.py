"""What a proxy's own ProxyConfig says of its HTTP: the headers that it adds, and what stands before a gateway.

In: a `Proxy`, whose node metadata PROXY_CONFIG has `proxyHeaders`, `connectionSettings` and `gatewayTopology`. Out:
frozen values, the defaults for a proxy that says nothing.
"""

from __future__ import annotations

import msgspec

from meltem.errors import InvalidResource
from meltem.objects import JsonObject, bool_at, object_at, str_at
from meltem.resources.base import Duration
from meltem.resources.mesh_proxy import ConnectionSettings
from meltem.resources.parse import lenient
from meltem.view.proxy import Proxy

UNSET = -1.0
"""Of a number that nobody set; values with it can be ordered."""


class Connections(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """Limits of connections that a proxy takes in (`connectionSettings`). Seconds and bytes; `UNSET`: Envoy's own."""

    edge: bool = False
    """Profile EDGE: a gateway takes `EDGE` for what is not said."""
    listener_buffer: float = UNSET
    cluster_buffer: float = UNSET
    idle: float = UNSET
    max_duration: float = UNSET
    drain: float = UNSET
    request: float = UNSET
    request_headers: float = UNSET
    stream_idle: float = UNSET
    max_stream: float = UNSET
    streams: float = UNSET
    stream_window: float = UNSET
    connection_window: float = UNSET
    underscores: str = ""
    """Envoy's name of what becomes of headers with underscores in their names; empty: they pass."""
    merge_slashes: float = UNSET
    """0 or 1; else the mesh's path normalization says."""
    escaped_slashes: str = ""
    """Envoy's name of what becomes of paths with escaped slashes; empty: the mesh's path normalization says."""


EDGE = Connections(
    listener_buffer=32_768,
    cluster_buffer=32_768,
    idle=3600,
    request=300,
    request_headers=60,
    stream_idle=300,
    streams=100,
    stream_window=65_536,
    connection_window=1_048_576,
    underscores="REJECT_REQUEST",
    merge_slashes=1,
    escaped_slashes="UNESCAPE_AND_REDIRECT",
)
"""Istio's defaults of a gateway with profile EDGE, which are Envoy's advice for proxies at the edge.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/best_practices/edge"""


class HttpOptions(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """HTTP as one proxy speaks it, whoever asks."""

    http10: bool = False
    server: str = ""
    """The header `server` of answers; empty: Istio's."""
    keep_server: bool = False
    """The application's own header `server` stays."""
    request_id: bool = True
    debug_headers: bool = True
    """`x-envoy-upstream-service-time` and the like."""
    attempts: bool = True
    """Servers are told how often a request was tried."""
    forwarded_port: bool = False
    forwarded_host: bool = False
    """A host that a rule rewrites is told in `x-forwarded-host`."""
    preserve_case: bool = False
    """Names of HTTP/1 headers keep their capitals."""
    idle_timeout: float = UNSET
    """Seconds after which an idle connection is closed, HTTP or TCP, where no rule says it (metadata IDLE_TIMEOUT)."""
    connections: Connections | None = None

    @property
    def idle(self) -> float | None:
        return None if self.idle_timeout < 0 else self.idle_timeout

    client_certificate: str = ""
    """What a sidecar does with `x-forwarded-client-cert`: Envoy's name of it; empty: it appends."""
    certificate_details: tuple[str, ...] = ("subject", "dns", "uri")
    """Parts of the client's certificate that it appends."""


class GatewayTopology(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """What stands before a gateway."""

    trusted_proxies: int = 0
    client_certificate: str = ""
    """What becomes of `x-forwarded-client-cert`: Envoy's name of it; empty: set anew from the connection."""
    proxy_protocol: bool = False
    """Connections begin with a PROXY protocol header."""


def http_options(proxy: Proxy) -> HttpOptions:
    idle = _seconds(proxy.idle_timeout)
    if not any(field in proxy.proxy_config for field in ("proxyHeaders", "connectionSettings")):
        return HttpOptions(http10=proxy.http10, idle_timeout=idle)
    config = _config(proxy)
    given = object_at(config, "proxyHeaders")
    forwarded = str_at(given, "forwardedClientCert")
    return HttpOptions(
        http10=proxy.http10,
        server=str_at(given, "server", "value"),
        keep_server=bool_at(given, "server", "disabled"),
        request_id=not bool_at(given, "requestId", "disabled"),
        debug_headers=not bool_at(given, "envoyDebugHeaders", "disabled"),
        attempts=not bool_at(given, "attemptCount", "disabled"),
        forwarded_port=bool_at(given, "xForwardedPort", "enabled"),
        forwarded_host=bool_at(given, "xForwardedHost", "enabled"),
        preserve_case=bool_at(given, "preserveHttp1HeaderCase"),
        client_certificate="" if forwarded == "UNDEFINED" else forwarded,
        certificate_details=_details(object_at(given, "setCurrentClientCertDetails")),
        idle_timeout=idle,
        connections=_connections(object_at(config, "connectionSettings")),
    )


def _details(given: JsonObject) -> tuple[str, ...]:
    """Subject and names unless they are switched off, the certificate and its chain where they are switched on."""
    wanted = {"subject": True, "cert": False, "chain": False, "dns": True, "uri": True}
    return tuple(part for part, default in wanted.items() if bool_at(given, part, default=default))


def _seconds(text: str) -> float:
    try:
        return float(Duration.parse(text)) if text else UNSET
    except ValueError:
        return UNSET  # as Istio: what is no duration is not there


def _connections(given: JsonObject) -> Connections | None:
    try:
        return connections_of(lenient(given, ConnectionSettings)[0]) if given else None
    except InvalidResource:
        return None  # istiod's validation and the injector have said it; a proxy is not left without listeners for it


def connections_of(settings: ConnectionSettings) -> Connections:
    """Negative numbers count as not set, as in Istio."""

    def number(value: float | None) -> float:
        return UNSET if value is None or value < 0 else float(value)

    underscores = settings.http_headers_with_underscores_action.removeprefix("HEADERS_WITH_UNDERSCORES_")
    escaped = settings.http_path_with_escaped_slashes_action
    return Connections(
        edge=settings.profile == "EDGE",
        listener_buffer=number(settings.listener_per_connection_buffer_limit_bytes),
        cluster_buffer=number(settings.cluster_per_connection_buffer_limit_bytes),
        idle=number(settings.http_idle_timeout),
        max_duration=number(settings.http_max_connection_duration),
        drain=number(settings.http_drain_timeout),
        request=number(settings.http_request_timeout),
        request_headers=number(settings.http_request_headers_timeout),
        stream_idle=number(settings.http_stream_idle_timeout),
        max_stream=number(settings.http_max_stream_duration),
        streams=number(settings.http_max_concurrent_streams),
        stream_window=number(settings.http2_initial_stream_window_size),
        connection_window=number(settings.http2_initial_connection_window_size),
        underscores="" if underscores == "UNSPECIFIED" else underscores,
        merge_slashes=number(settings.http_merge_slashes),
        escaped_slashes="" if escaped == "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED" else escaped,
    )


def limits(own: Connections | None, mesh: Connections | None, *, gateway: bool) -> Connections:
    """What holds at a proxy: its own settings, else the mesh's; the profile EDGE counts at gateways only."""
    said = own or mesh or Connections()
    if not (gateway and said.edge):
        return said
    default = Connections()
    fields = (f for f in Connections.__struct_fields__ if getattr(said, f) == getattr(default, f))
    return msgspec.structs.replace(said, **{f: getattr(EDGE, f) for f in fields})


def topology_of(proxy: Proxy) -> GatewayTopology:
    if "gatewayTopology" not in proxy.proxy_config:
        return GatewayTopology()
    given = object_at(_config(proxy), "gatewayTopology")
    trusted = given.get("numTrustedProxies")
    return GatewayTopology(
        trusted_proxies=max(0, int(trusted)) if isinstance(trusted, int | float) else 0,  # a node's numbers are floats
        client_certificate=str_at(given, "forwardClientCertDetails"),
        proxy_protocol=isinstance(given.get("proxyProtocol"), dict),
    )


def _config(proxy: Proxy) -> JsonObject:
    return object_at(msgspec.json.decode(proxy.proxy_config))


__all__ = [
    "UNSET",
    "Connections",
    "GatewayTopology",
    "HttpOptions",
    "connections_of",
    "http_options",
    "limits",
    "topology_of",
]
