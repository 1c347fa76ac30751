"""VirtualService: how requests to a host are routed.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from meltem.resources.base import (
    BASE64,
    BoolValue,
    Count,
    Message,
    Percentage,
    PlainPort,
    Resource,
    Schema,
    ShareValue,
    Status,
    StatusCode,
    Timeout,
    UInt32,
)
from meltem.resources.common import Destination, IstioStatus, Percent, StringMatch


class CorsPolicy(Message, frozen=True, kw_only=True):
    """Cross-origin sharing.

    allow_credentials: Whether credentials may be sent.
    allow_headers: Request headers that may be sent.
    allow_methods: Methods that may be used.
    allow_origin: Older form of `allowOrigins`: exact origins.
    allow_origins: Origins that may call.
    expose_headers: Response headers that scripts may read.
    max_age: How long a preflight's result may be kept.
    unmatched_preflights: What happens to preflights from other origins.
    """

    allow_credentials: BoolValue = None
    allow_headers: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Timeout | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"


class Delegate(Message, frozen=True, kw_only=True):
    """A VirtualService whose routes stand here.

    name: Its name.
    namespace: Its namespace; empty means that of the root.
    """

    name: str = ""
    namespace: str = ""


class HTTPBody(Message, frozen=True, kw_only=True):
    """A response body.

    bytes: Body in base64.
    string: Body as text.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("string", "bytes"),)

    bytes: Annotated[str, Schema(format="byte"), BASE64] | None = None
    string: str | None = None


class HTTPDirectResponse(Message, frozen=True, kw_only=True):
    """Answers without asking a service.

    body: Response body.
    status: Status code.
    """

    body: HTTPBody | None = None
    status: Status


class FaultAbort(Message, frozen=True, kw_only=True):
    """Answers some requests with an error.

    grpc_status: gRPC status, by name or number.
    http2_error: Not used.
    http_status: HTTP status.
    percentage: Share of requests; none means all.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("httpStatus", "grpcStatus", "http2Error"),)

    grpc_status: str | None = None
    http2_error: str | None = None
    http_status: StatusCode | None = None
    percentage: Percent | None = None


class FaultDelay(Message, frozen=True, kw_only=True):
    """Delays some requests.

    exponential_delay: Not used.
    fixed_delay: How long.
    percent: Older form of `percentage`.
    percentage: Share of requests; none means all.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("fixedDelay", "exponentialDelay"),)

    exponential_delay: Timeout | None = None
    fixed_delay: Timeout | None = None
    percent: Percentage = 0
    percentage: Percent | None = None


class HTTPFaultInjection(Message, frozen=True, kw_only=True):
    """Errors made on purpose.

    abort: Answers with an error.
    delay: Delays.
    """

    abort: FaultAbort | None = None
    delay: FaultDelay | None = None


class HeaderOperations(Message, frozen=True, kw_only=True):
    """Changes of headers.

    add: Headers to add, beside values that are there.
    remove: Headers to remove.
    set: Headers to set, in place of values that are there.
    """

    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    set: dict[str, str] = {}


class Headers(Message, frozen=True, kw_only=True):
    """Changes of request and response headers.

    request: Of the request, before it is forwarded.
    response: Of the response, before it is returned.
    """

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatch(Message, frozen=True, kw_only=True):
    """Conditions of a rule; all that are set must hold.

    authority: The authority (host) of the request.
    gateways: Gateways for which the rule holds.
    headers: Headers by lower-case name; an empty match means that the header is there.
    ignore_uri_case: Whether exact and prefix matches of the path ignore case.
    method: The method.
    name: Name of the match, shown in access logs.
    port: Port that the request is sent to.
    query_params: Query parameters by name.
    scheme: The scheme.
    source_labels: Labels of the client.
    source_namespace: Namespace of the client.
    stat_prefix: Prefix of the route's statistics.
    uri: The path.
    without_headers: Headers that must not match.
    """

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
    """A destination that gets copies of requests.

    destination: The service.
    percentage: Share of requests; none means all.
    """

    destination: Destination
    percentage: Percent | None = None


class HTTPRedirect(Message, frozen=True, kw_only=True):
    """Answers with a redirect.

    authority: New host.
    derive_port: How the port is found.
    port: New port.
    prefix_rewrite: New prefix of the path.
    redirect_code: Status code; 301 if not set.
    scheme: New scheme.
    uri: New path.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("port", "derivePort"),)

    authority: str = ""
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    port: PlainPort | None = None
    prefix_rewrite: str = ""
    redirect_code: UInt32 = 0
    scheme: str = ""
    uri: str = ""


class HTTPRetry(Message, frozen=True, kw_only=True):
    """When and how often a request is tried again.

    attempts: Retries; 0 turns them off.
    backoff: Shortest time between tries.
    per_try_timeout: How long one try may take.
    retry_ignore_previous_hosts: Whether a retry goes to a host that was not tried.
    retry_on: Conditions, separated by commas.
    retry_remote_localities: Whether retries may leave the locality.
    """

    attempts: Count = 0
    backoff: Timeout | None = None
    per_try_timeout: Timeout | None = None
    retry_ignore_previous_hosts: BoolValue = None
    retry_on: str = ""
    retry_remote_localities: BoolValue = None


class RegexRewrite(Message, frozen=True, kw_only=True):
    """Rewrites the path by expression.

    match: RE2 expression.
    rewrite: Replacement; `\\1` is the first group.
    """

    match: str = ""
    rewrite: str = ""


class HTTPRewrite(Message, frozen=True, kw_only=True):
    """Rewrites path and host.

    authority: New host.
    uri: New path, or prefix where the match is one.
    uri_regex_rewrite: Rewrite by expression.
    """

    authority: str = ""
    uri: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRouteDestination(Message, frozen=True, kw_only=True):
    """A weighted destination of requests.

    destination: The service.
    headers: Changes of headers for this destination.
    weight: Share of requests, relative to the other destinations.
    """

    destination: Destination
    headers: Headers | None = None
    weight: Count = 0


class HTTPRoute(Message, frozen=True, kw_only=True):
    """A rule for HTTP requests; the first that matches is taken.

    cors_policy: Cross-origin sharing.
    delegate: A VirtualService whose routes stand here.
    direct_response: Answer without asking a service.
    fault: Errors made on purpose.
    headers: Changes of headers.
    match: Conditions, of which one must hold; none means always.
    mirror: A destination that gets copies of requests.
    mirror_percent_alias: Older spelling of `mirrorPercent`.
    mirror_percent: Older form of `mirrorPercentage`.
    mirror_percentage: Share of requests that `mirror` gets.
    mirrors: Destinations that get copies of requests.
    name: Name of the rule, shown in access logs.
    redirect: Answer with a redirect.
    retries: When and how often a request is tried again.
    rewrite: New path and host.
    route: Destinations and their weights.
    timeout: How long a request may take; none means no limit.
    """

    cors_policy: CorsPolicy | None = None
    delegate: Delegate | None = None
    direct_response: HTTPDirectResponse | None = None
    fault: HTTPFaultInjection | None = None
    headers: Headers | None = None
    match: tuple[HTTPMatch, ...] = ()
    mirror: Destination | None = None
    mirror_percent_alias: ShareValue = msgspec.field(name="mirror_percent", default=None)
    mirror_percent: ShareValue = None
    mirror_percentage: Percent | None = None
    mirrors: tuple[HTTPMirror, ...] = ()
    name: str = ""
    redirect: HTTPRedirect | None = None
    retries: HTTPRetry | None = None
    rewrite: HTTPRewrite | None = None
    route: tuple[HTTPRouteDestination, ...] = ()
    timeout: Timeout | None = None

    @property
    def mirror_share(self) -> float:
        """Percentage of requests that `mirror` gets, whichever of the three fields says it."""
        if self.mirror_percentage is not None:
            return self.mirror_percentage.value
        old = self.mirror_percent if self.mirror_percent is not None else self.mirror_percent_alias
        return 100.0 if old is None else float(old)


class TCPMatch(Message, frozen=True, kw_only=True):
    """Conditions of a rule; all that are set must hold.

    destination_subnets: Addresses or ranges of the destination.
    gateways: Gateways for which the rule holds.
    port: Port that the connection is made to.
    source_labels: Labels of the client.
    source_namespace: Namespace of the client.
    source_subnet: Addresses of the client; not used.
    """

    destination_subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    port: UInt32 = 0
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    source_subnet: str = ""


class RouteDestination(Message, frozen=True, kw_only=True):
    """A weighted destination of connections.

    destination: The service.
    weight: Share of connections, relative to the other destinations.
    """

    destination: Destination
    weight: Count = 0


class TCPRoute(Message, frozen=True, kw_only=True):
    """A rule for TCP connections; the first that matches is taken.

    match: Conditions, of which one must hold; none means always.
    route: Destinations and their weights.
    """

    match: tuple[TCPMatch, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TLSMatch(Message, frozen=True, kw_only=True):
    """Conditions of a rule; all that are set must hold.

    destination_subnets: Addresses or ranges of the destination.
    gateways: Gateways for which the rule holds.
    port: Port that the connection is made to.
    sni_hosts: Server names; may begin with `*.`.
    source_labels: Labels of the client.
    source_namespace: Namespace of the client.
    """

    destination_subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    port: UInt32 = 0
    sni_hosts: tuple[str, ...]
    source_labels: dict[str, str] = {}
    source_namespace: str = ""


class TLSRoute(Message, frozen=True, kw_only=True):
    """A rule for TLS that is passed through; the first that matches is taken.

    match: Conditions, of which one must hold.
    route: Destinations and their weights.
    """

    match: tuple[TLSMatch, ...]
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Message, frozen=True, kw_only=True):
    """How requests to a host are routed.

    export_to: Namespaces in which the routes are seen; none means all.
    gateways: Gateways that follow the routes; `mesh` means all sidecars.
    hosts: The hosts that the routes are for; may begin with `*.`.
    http: Rules for HTTP.
    tcp: Rules for TCP.
    tls: Rules for TLS that is passed through.
    """

    export_to: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()


class VirtualService(Resource, frozen=True, kw_only=True):
    """Routes of requests to a host."""

    spec: VirtualServiceSpec = VirtualServiceSpec()
    status: IstioStatus = IstioStatus()
