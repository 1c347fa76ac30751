"""Kubernetes Gateway API kinds: types only.

In: decoded by `meltem.resources.parse`. Out: frozen structs. Names and shapes are those of gateway.networking.k8s.io.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from meltem.resources.base import Condition, Message, Resource
from meltem.resources.core import LabelSelector

GROUP = "gateway.networking.k8s.io"


class ObjectRef(Message, frozen=True, kw_only=True):
    """An object by group, kind and name; `namespace` None means the referrer's own."""

    group: str = ""
    kind: str = ""
    name: str = ""
    namespace: str | None = None


class SecretRef(Message, frozen=True, kw_only=True):
    """A Secret with a certificate, or what else holds one."""

    group: str = ""
    kind: str = "Secret"
    name: str = ""
    namespace: str | None = None


class ParentRef(Message, frozen=True, kw_only=True):
    """What a route attaches to: a Gateway (or one listener of it) or a Service."""

    group: str = GROUP
    kind: str = "Gateway"
    name: str = ""
    namespace: str | None = None
    section_name: str | None = None
    port: int | None = None


class HTTPHeader(Message, frozen=True, kw_only=True):
    """A header and its value."""

    name: str = ""
    value: str = ""


class HeaderModifier(Message, frozen=True, kw_only=True):
    """Headers to set, add and remove."""

    set: tuple[HTTPHeader, ...] = ()
    add: tuple[HTTPHeader, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Message, frozen=True, kw_only=True):
    """A new path, or a new prefix in place of the matched one."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"] = "ReplaceFullPath"
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Message, frozen=True, kw_only=True):
    """Answers with a redirect."""

    scheme: str | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: int | None = None
    status_code: int = 302


class URLRewrite(Message, frozen=True, kw_only=True):
    """Rewrites host and path."""

    hostname: str | None = None
    path: PathModifier | None = None


class Fraction(Message, frozen=True, kw_only=True):
    """A share of requests."""

    numerator: int = 0
    denominator: int = 100


class BackendObjectRef(Message, frozen=True, kw_only=True):
    """A Service or other backend."""

    group: str = ""
    kind: str = "Service"
    name: str = ""
    namespace: str | None = None
    port: int | None = None


class RequestMirror(Message, frozen=True, kw_only=True):
    """Sends a copy of requests elsewhere."""

    backend_ref: BackendObjectRef = BackendObjectRef()
    percent: int | None = None
    fraction: Fraction | None = None


class HTTPCors(Message, frozen=True, kw_only=True):
    """Cross-origin sharing."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 5


class RouteFilter(Message, frozen=True, kw_only=True):
    """One change to requests or responses; `type` says which of the fields counts."""

    type: str = ""
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: URLRewrite | None = None
    request_mirror: RequestMirror | None = None
    cors: HTTPCors | None = None
    extension_ref: ObjectRef | None = None


class BackendRef(Message, frozen=True, kw_only=True):
    """A weighted backend, with filters of its own for HTTP and gRPC."""

    group: str = ""
    kind: str = "Service"
    name: str = ""
    namespace: str | None = None
    port: int | None = None
    weight: int = 1
    filters: tuple[RouteFilter, ...] = ()


class PathMatch(Message, frozen=True, kw_only=True):
    """A match of the path."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"


class ValueMatch(Message, frozen=True, kw_only=True):
    """A match of a header or query parameter."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: str = ""
    value: str = ""


class HTTPRouteMatch(Message, frozen=True, kw_only=True):
    """All that is set must match."""

    path: PathMatch = PathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    method: str = ""


class RouteTimeouts(Message, frozen=True, kw_only=True):
    """Timeouts as Gateway API durations (`10s`, `1h30m`); empty means none is set."""

    request: str = ""
    backend_request: str = ""


class RouteRetry(Message, frozen=True, kw_only=True):
    """When and how often to try again."""

    codes: tuple[int, ...] = ()
    attempts: int | None = None
    backoff: str = ""


class CookieConfig(Message, frozen=True, kw_only=True):
    """Life of a session cookie."""

    lifetime_type: Literal["Permanent", "Session"] = "Session"


class SessionPersistence(Message, frozen=True, kw_only=True):
    """Keeps a client on one backend."""

    session_name: str = ""
    absolute_timeout: str = ""
    idle_timeout: str = ""
    type: Literal["Cookie", "Header"] = "Cookie"
    cookie_config: CookieConfig | None = None


class HTTPRouteRule(Message, frozen=True, kw_only=True):
    """Matches, filters and backends."""

    name: str = ""
    matches: tuple[HTTPRouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: RouteTimeouts | None = None
    retry: RouteRetry | None = None
    session_persistence: SessionPersistence | None = None


class RouteParentStatus(Message, frozen=True, kw_only=True):
    """What one controller says of the route at one parent."""

    parent_ref: ParentRef = ParentRef()
    controller_name: str = ""
    conditions: tuple[Condition, ...] = ()


class RouteStatus(Message, frozen=True, kw_only=True):
    """State of the route by parent."""

    parents: tuple[RouteParentStatus, ...] = ()


class HTTPRouteSpec(Message, frozen=True, kw_only=True):
    """HTTP routes of some hosts at some parents."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRouteRule, ...] = ()


class HTTPRoute(Resource, frozen=True, kw_only=True):
    """How HTTP requests are routed."""

    spec: HTTPRouteSpec = HTTPRouteSpec()
    status: RouteStatus = RouteStatus()


class GRPCMethodMatch(Message, frozen=True, kw_only=True):
    """A match of service and method."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: str = ""
    method: str = ""


class GRPCRouteMatch(Message, frozen=True, kw_only=True):
    """All that is set must match."""

    method: GRPCMethodMatch | None = None
    headers: tuple[ValueMatch, ...] = ()


class GRPCRouteRule(Message, frozen=True, kw_only=True):
    """Matches, filters and backends."""

    name: str = ""
    matches: tuple[GRPCRouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(Message, frozen=True, kw_only=True):
    """gRPC routes of some hosts at some parents."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRouteRule, ...] = ()


class GRPCRoute(Resource, frozen=True, kw_only=True):
    """How gRPC calls are routed."""

    spec: GRPCRouteSpec = GRPCRouteSpec()
    status: RouteStatus = RouteStatus()


class StreamRouteRule(Message, frozen=True, kw_only=True):
    """Backends of connections."""

    name: str = ""
    backend_refs: tuple[BackendRef, ...] = ()


class StreamRouteSpec(Message, frozen=True, kw_only=True):
    """Routes of connections; hostnames are server names and are for TLS only."""

    parent_refs: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[StreamRouteRule, ...] = ()


class TCPRoute(Resource, frozen=True, kw_only=True):
    """How TCP connections are routed."""

    spec: StreamRouteSpec = StreamRouteSpec()
    status: RouteStatus = RouteStatus()


class TLSRoute(Resource, frozen=True, kw_only=True):
    """How TLS connections are routed by server name."""

    spec: StreamRouteSpec = StreamRouteSpec()
    status: RouteStatus = RouteStatus()


class RouteNamespaces(Message, frozen=True, kw_only=True):
    """From which namespaces routes may attach."""

    from_: Literal["All", "Selector", "Same", "None"] = msgspec.field(name="from", default="Same")
    selector: LabelSelector | None = None


class RouteGroupKind(Message, frozen=True, kw_only=True):
    """A kind of route."""

    group: str = GROUP
    kind: str = ""


class AllowedRoutes(Message, frozen=True, kw_only=True):
    """Which routes may attach to a listener."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class FrontendValidation(Message, frozen=True, kw_only=True):
    """How client certificates are checked."""

    ca_certificate_refs: tuple[ObjectRef, ...] = ()
    mode: str = ""


class ListenerTLS(Message, frozen=True, kw_only=True):
    """TLS of a listener."""

    mode: Literal["Terminate", "Passthrough"] = "Terminate"
    certificate_refs: tuple[SecretRef, ...] = ()
    frontend_validation: FrontendValidation | None = None
    options: dict[str, str] = {}


class Listener(Message, frozen=True, kw_only=True):
    """A port, host and protocol of a Gateway."""

    name: str = ""
    hostname: str | None = None
    port: int = 0
    protocol: str = ""
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewayAddress(Message, frozen=True, kw_only=True):
    """An address that a Gateway wants or has."""

    type: str = "IPAddress"
    value: str = ""


class GatewayInfrastructure(Message, frozen=True, kw_only=True):
    """Labels, annotations and parameters of what is deployed for the Gateway."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    parameters_ref: ObjectRef | None = None


class GatewaySpec(Message, frozen=True, kw_only=True):
    """A Gateway's class and listeners."""

    gateway_class_name: str = ""
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayAddress, ...] = ()
    infrastructure: GatewayInfrastructure | None = None


class ListenerStatus(Message, frozen=True, kw_only=True):
    """State of one listener."""

    name: str = ""
    supported_kinds: tuple[RouteGroupKind, ...] = ()
    attached_routes: int = 0
    conditions: tuple[Condition, ...] = ()


class GatewayStatus(Message, frozen=True, kw_only=True):
    """State of the Gateway."""

    addresses: tuple[GatewayAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()


class Gateway(Resource, frozen=True, kw_only=True):
    """Listeners that routes attach to."""

    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()


class GatewayClassSpec(Message, frozen=True, kw_only=True):
    """Who serves Gateways of the class."""

    controller_name: str = ""
    description: str = ""
    parameters_ref: ObjectRef | None = None


class GatewayClassStatus(Message, frozen=True, kw_only=True):
    """State of the class."""

    conditions: tuple[Condition, ...] = ()


class GatewayClass(Resource, frozen=True, kw_only=True):
    """A class of Gateways."""

    spec: GatewayClassSpec = GatewayClassSpec()
    status: GatewayClassStatus = GatewayClassStatus()


class GrantFrom(Message, frozen=True, kw_only=True):
    """Who may refer."""

    group: str = ""
    kind: str = ""
    namespace: str = ""


class GrantTo(Message, frozen=True, kw_only=True):
    """What may be referred to; an empty name means all of the kind."""

    group: str = ""
    kind: str = ""
    name: str = ""


class ReferenceGrantSpec(Message, frozen=True, kw_only=True):
    """Who may refer to what here."""

    from_: tuple[GrantFrom, ...] = msgspec.field(name="from", default=())
    to: tuple[GrantTo, ...] = ()


class ReferenceGrant(Resource, frozen=True, kw_only=True):
    """Lets objects of other namespaces refer to objects of this one."""

    spec: ReferenceGrantSpec = ReferenceGrantSpec()


class PolicyTarget(Message, frozen=True, kw_only=True):
    """A Service (or one port of it) that the policy is for."""

    group: str = ""
    kind: str = ""
    name: str = ""
    section_name: str = ""


class SubjectAltName(Message, frozen=True, kw_only=True):
    """A name that the backend's certificate must have."""

    type: Literal["Hostname", "URI"] = "Hostname"
    hostname: str = ""
    uri: str = ""


class BackendTLSValidation(Message, frozen=True, kw_only=True):
    """How the backend's certificate is checked."""

    ca_certificate_refs: tuple[ObjectRef, ...] = ()
    well_known_ca_certificates: str = msgspec.field(name="wellKnownCACertificates", default="")
    hostname: str = ""
    subject_alt_names: tuple[SubjectAltName, ...] = ()


class BackendTLSPolicySpec(Message, frozen=True, kw_only=True):
    """TLS from gateways to backends."""

    target_refs: tuple[PolicyTarget, ...] = ()
    validation: BackendTLSValidation = BackendTLSValidation()
    options: dict[str, str] = {}


class BackendTLSPolicy(Resource, frozen=True, kw_only=True):
    """How gateways speak TLS to a backend."""

    spec: BackendTLSPolicySpec = BackendTLSPolicySpec()
