"""VirtualService: how requests to a host are routed.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from meltem.resources.base import BoolValue, Int32, Message, Resource, Schema, Timeout, UInt32, UInt32Value
from meltem.resources.common import Destination, IstioStatus, Percent, StringMatch


class CorsPolicy(Message, frozen=True, kw_only=True):
    """VirtualService, http.corsPolicy: one part of it."""

    allow_credentials: BoolValue = None
    allow_headers: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Timeout | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"


class Delegate(Message, frozen=True, kw_only=True):
    """VirtualService, http.delegate: one part of it."""

    name: str = ""
    namespace: str = ""


class HTTPBody(Message, frozen=True, kw_only=True):
    """VirtualService, http.directResponse.body: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("string", "bytes"),)

    bytes: Annotated[str, Schema(format="byte")] | None = None
    string: str | None = None


class HTTPDirectResponse(Message, frozen=True, kw_only=True):
    """VirtualService, http.directResponse: one part of it."""

    body: HTTPBody | None = None
    status: UInt32


class FaultAbort(Message, frozen=True, kw_only=True):
    """VirtualService, http.fault.abort: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("httpStatus", "grpcStatus", "http2Error"),)

    grpc_status: str | None = None
    http2_error: str | None = None
    http_status: Int32 | None = None
    percentage: Percent | None = None


class FaultDelay(Message, frozen=True, kw_only=True):
    """VirtualService, http.fault.delay: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("fixedDelay", "exponentialDelay"),)

    exponential_delay: Timeout | None = None
    fixed_delay: Timeout | None = None
    percent: Int32 = 0
    percentage: Percent | None = None


class HTTPFaultInjection(Message, frozen=True, kw_only=True):
    """VirtualService, http.fault: one part of it."""

    abort: FaultAbort | None = None
    delay: FaultDelay | None = None


class HeaderOperations(Message, frozen=True, kw_only=True):
    """VirtualService, http.headers.request: one part of it."""

    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    set: dict[str, str] = {}


class Headers(Message, frozen=True, kw_only=True):
    """VirtualService, http.headers: one part of it."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatch(Message, frozen=True, kw_only=True):
    """VirtualService, http.match: one part of it."""

    authority: StringMatch | None = None
    gateways: tuple[str, ...] = ()
    headers: dict[str, StringMatch] = {}
    ignore_uri_case: bool = False
    method: StringMatch | None = None
    name: str = ""
    port: UInt32 = 0
    query_params: dict[str, StringMatch] = {}
    scheme: StringMatch | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    stat_prefix: str = ""
    uri: StringMatch | None = None
    without_headers: dict[str, StringMatch] = {}


class HTTPMirror(Message, frozen=True, kw_only=True):
    """VirtualService, http.mirrors: one part of it."""

    destination: Destination
    percentage: Percent | None = None


class HTTPRedirect(Message, frozen=True, kw_only=True):
    """VirtualService, http.redirect: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("port", "derivePort"),)

    authority: str = ""
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    port: UInt32 | None = None
    prefix_rewrite: str = ""
    redirect_code: UInt32 = 0
    scheme: str = ""
    uri: str = ""


class HTTPRetry(Message, frozen=True, kw_only=True):
    """VirtualService, http.retries: one part of it."""

    attempts: Int32 = 0
    backoff: Timeout | None = None
    per_try_timeout: Timeout | None = None
    retry_ignore_previous_hosts: BoolValue = None
    retry_on: str = ""
    retry_remote_localities: BoolValue = None


class RegexRewrite(Message, frozen=True, kw_only=True):
    """VirtualService, http.rewrite.uriRegexRewrite: one part of it."""

    match: str = ""
    rewrite: str = ""


class HTTPRewrite(Message, frozen=True, kw_only=True):
    """VirtualService, http.rewrite: one part of it."""

    authority: str = ""
    uri: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRouteDestination(Message, frozen=True, kw_only=True):
    """VirtualService, http.route: one part of it."""

    destination: Destination
    headers: Headers | None = None
    weight: Int32 = 0


class HTTPRoute(Message, frozen=True, kw_only=True):
    """VirtualService, http: one part of it."""

    cors_policy: CorsPolicy | None = None
    delegate: Delegate | None = None
    direct_response: HTTPDirectResponse | None = None
    fault: HTTPFaultInjection | None = None
    headers: Headers | None = None
    match: tuple[HTTPMatch, ...] = ()
    mirror: Destination | None = None
    mirror_percent_alias: UInt32Value = msgspec.field(name="mirror_percent", default=None)
    mirror_percent: UInt32Value = None
    mirror_percentage: Percent | None = None
    mirrors: tuple[HTTPMirror, ...] = ()
    name: str = ""
    redirect: HTTPRedirect | None = None
    retries: HTTPRetry | None = None
    rewrite: HTTPRewrite | None = None
    route: tuple[HTTPRouteDestination, ...] = ()
    timeout: Timeout | None = None


class TCPMatch(Message, frozen=True, kw_only=True):
    """VirtualService, tcp.match: one part of it."""

    destination_subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    port: UInt32 = 0
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    source_subnet: str = ""


class RouteDestination(Message, frozen=True, kw_only=True):
    """VirtualService, tcp.route: one part of it."""

    destination: Destination
    weight: Int32 = 0


class TCPRoute(Message, frozen=True, kw_only=True):
    """VirtualService, tcp: one part of it."""

    match: tuple[TCPMatch, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TLSMatch(Message, frozen=True, kw_only=True):
    """VirtualService, tls.match: one part of it."""

    destination_subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    port: UInt32 = 0
    sni_hosts: tuple[str, ...]
    source_labels: dict[str, str] = {}
    source_namespace: str = ""


class TLSRoute(Message, frozen=True, kw_only=True):
    """VirtualService, tls: one part of it."""

    match: tuple[TLSMatch, ...]
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Message, frozen=True, kw_only=True):
    """VirtualService: one part of it."""

    export_to: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()


class VirtualService(Resource, frozen=True, kw_only=True):
    """A VirtualService."""

    spec: VirtualServiceSpec = VirtualServiceSpec()
    status: IstioStatus = IstioStatus()
