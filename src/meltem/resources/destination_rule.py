"""DestinationRule: what happens to a request once its route is chosen.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from meltem.resources.base import (
    A_COUNT,
    AT_LEAST_0,
    BoolValue,
    Count,
    Duration,
    Message,
    Percentage,
    PercentValue,
    Resource,
    Schema,
    Share,
    Timeout,
    UInt32,
    UInt32Value,
    UInt64,
)
from meltem.resources.common import IstioStatus, PortSelector, WorkloadSelector


class Http2KeepAlive(Message, frozen=True, kw_only=True):
    """Pings on HTTP/2 connections to the destination.

    interval: Time between pings.
    timeout: How long an answer may take before the connection is closed.
    """

    interval: Timeout | None = None
    timeout: Timeout | None = None


class HTTPPool(Message, frozen=True, kw_only=True):
    """Limits for HTTP.

    h2_upgrade_policy: Whether HTTP/1.1 connections become HTTP/2.
    http1_max_pending_requests: Requests that may wait for a connection.
    http2_keep_alive: Pings on HTTP/2 connections.
    http2_max_requests: Active requests to the destination.
    idle_timeout: How long an unused connection stays open.
    max_concurrent_streams: Streams of one HTTP/2 connection.
    max_requests_per_connection: Requests before a connection is closed; 1 turns keep-alive off.
    max_retries: Retries under way to all hosts of the destination.
    use_client_protocol: Speak the HTTP version that the client speaks.
    """

    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    http1_max_pending_requests: Count = 0
    http2_keep_alive: Http2KeepAlive | None = None
    http2_max_requests: Count = 0
    idle_timeout: Timeout | None = None
    max_concurrent_streams: Count = 0
    max_requests_per_connection: Count = 0
    max_retries: Count = 0
    use_client_protocol: bool = False


class TcpKeepalive(Message, frozen=True, kw_only=True):
    """Keep-alive probes of TCP.

    interval: Time between probes.
    probes: Unanswered probes before the connection counts as dead.
    time: Idle time before the first probe.
    """

    interval: Timeout | None = None
    probes: UInt32 = 0
    time: Timeout | None = None


class TCPPool(Message, frozen=True, kw_only=True):
    """Limits for TCP, which also hold for HTTP.

    connect_timeout: How long connecting may take.
    idle_timeout: How long a connection without bytes stays open.
    max_connection_duration: Longest life of a connection.
    max_connections: Connections to the destination.
    tcp_keepalive: Keep-alive probes.
    """

    connect_timeout: Timeout | None = None
    idle_timeout: Duration | None = None
    max_connection_duration: Timeout | None = None
    max_connections: Count = 0
    tcp_keepalive: TcpKeepalive | None = None


class ConnectionPool(Message, frozen=True, kw_only=True):
    """Limits of connections to the destination.

    http: Limits for HTTP.
    tcp: Limits for TCP.
    """

    http: HTTPPool | None = None
    tcp: TCPPool | None = None


class BackendUtilization(Message, frozen=True, kw_only=True):
    """Balances by the load that endpoints report.

    error_utilization_penalty_percent: How much errors add to an endpoint's load.
    metric_names_for_computing_utilization: Reported metrics that count as load.
    weight_expiration_period: After this long without a report a weight is forgotten.
    weight_stabilization_period: How long an endpoint must report before its weight is used.
    weight_update_period: How often weights are computed.
    """

    error_utilization_penalty_percent: UInt32 = 0
    metric_names_for_computing_utilization: tuple[str, ...] = ()
    weight_expiration_period: Duration | None = None
    weight_stabilization_period: Duration | None = None
    weight_update_period: Duration | None = None


class CookieAttribute(Message, frozen=True, kw_only=True):
    """An attribute of the cookie.

    name: Name, such as SameSite.
    value: Value; none for attributes such as Secure.
    """

    name: str
    value: str = ""


class HTTPCookie(Message, frozen=True, kw_only=True):
    """Hashes by a cookie, which is made when the client has none.

    attributes: Further attributes of the cookie.
    name: Name of the cookie.
    path: Path of the cookie.
    ttl: Life of the cookie; 0s makes a session cookie.
    """

    attributes: tuple[CookieAttribute, ...] = ()
    name: str
    path: str = ""
    ttl: Duration | None = None


class MagLev(Message, frozen=True, kw_only=True):
    """Maglev hashing.

    table_size: Entries of the table; a prime.
    """

    table_size: UInt64 = 0


class RingHash(Message, frozen=True, kw_only=True):
    """Ring hashing.

    minimum_ring_size: Least number of entries of the ring.
    """

    minimum_ring_size: UInt64 = 0


class ConsistentHash(Message, frozen=True, kw_only=True):
    """Keeps requests with the same key on one endpoint.

    http_cookie: The key is a cookie.
    http_header_name: The key is a request header.
    http_query_parameter_name: The key is a query parameter.
    maglev: Use Maglev hashing.
    minimum_ring_size: Older form of `ringHash.minimumRingSize`.
    ring_hash: Use ring hashing.
    use_source_ip: The key is the client's address.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"),
        ("ringHash", "maglev"),
    )

    http_cookie: HTTPCookie | None = None
    http_header_name: str | None = None
    http_query_parameter_name: str | None = None
    maglev: MagLev | None = None
    minimum_ring_size: UInt64 = 0
    ring_hash: RingHash | None = None
    use_source_ip: bool | None = None


class LocalityDistribute(Message, frozen=True, kw_only=True):
    """Where the traffic of one locality goes.

    from_: Locality of the client, such as `region/zone/*`.
    to: Locality and percentage; the sum is 100.
    """

    from_: str = ""
    to: dict[str, Share] = {}


class LocalityFailover(Message, frozen=True, kw_only=True):
    """Where traffic goes when a region has no healthy endpoint.

    from_: Region of the client.
    to: Region to fail over to.
    """

    from_: str = ""
    to: str = ""


class LocalityLoadBalancer(Message, frozen=True, kw_only=True):
    """Prefers endpoints near the client.

    distribute: Fixed shares by locality.
    enabled: Turns it on or off here, whatever the mesh says.
    failover: Which region takes over for which.
    failover_priority: Labels, most important first, by which endpoints are ranked.
    """

    distribute: tuple[LocalityDistribute, ...] = ()
    enabled: BoolValue = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()


class Warmup(Message, frozen=True, kw_only=True):
    """New endpoints get their share of traffic little by little.

    aggression: Shape of the curve; 1 is a straight line.
    duration: How long a new endpoint warms up.
    minimum_percent: Share that it starts with.
    """

    aggression: Annotated[Annotated[float, AT_LEAST_0] | None, Schema(format="double", minimum=0, nullable=True)] = None
    duration: Timeout
    minimum_percent: PercentValue = None


class ZoneAwareLoadBalancer(Message, frozen=True, kw_only=True):
    """Keeps traffic within the zone as far as endpoints allow.

    enabled: Turns it on or off here.
    failover: Which region takes over for which.
    failover_priority: Labels, most important first, by which endpoints are ranked.
    min_cluster_size: With fewer endpoints than this, zones do not count.
    """

    enabled: BoolValue = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: Annotated[
        Annotated[int, A_COUNT] | None, Schema(maximum=4294967295, minimum=1, nullable=True)
    ] = None


class LoadBalancer(Message, frozen=True, kw_only=True):
    """How an endpoint is chosen.

    backend_utilization: By load that endpoints report.
    consistent_hash: By a key of the request.
    locality_lb_setting: By nearness.
    simple: By a simple algorithm.
    warmup: Slow start of new endpoints.
    warmup_duration_secs: Older form of `warmup.duration`.
    zone_aware_lb_setting: By zone.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("simple", "consistentHash", "backendUtilization"),)

    backend_utilization: BackendUtilization | None = None
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLoadBalancer | None = None
    simple: Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"] | None = None
    warmup: Warmup | None = None
    warmup_duration_secs: Timeout | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancer | None = None


class OutlierDetection(Message, frozen=True, kw_only=True):
    """Takes endpoints that fail out of use for a while.

    base_ejection_time: Shortest time out of use; grows with every ejection.
    consecutive_5xx_errors: Server errors in a row that eject.
    consecutive_errors: Older form of `consecutiveGatewayErrors`.
    consecutive_gateway_errors: Gateway errors (502, 503, 504) in a row that eject.
    consecutive_local_origin_failures: Connection failures in a row that eject.
    interval: Time between sweeps.
    max_ejection_percent: Share of endpoints that may be out of use.
    min_health_percent: Below this share of healthy endpoints nothing is ejected.
    outlier_detection_http_error_codes: Status codes that count as errors.
    split_external_local_origin_errors: Count failures to connect apart from errors that the endpoint answers with.
    """

    base_ejection_time: Timeout | None = None
    consecutive_5xx_errors: UInt32Value = msgspec.field(name="consecutive5xxErrors", default=None)
    consecutive_errors: Count = 0
    consecutive_gateway_errors: UInt32Value = None
    consecutive_local_origin_failures: UInt32Value = None
    interval: Timeout | None = None
    max_ejection_percent: Percentage = 0
    min_health_percent: Percentage = 0
    outlier_detection_http_error_codes: tuple[
        Annotated[int, Schema(maximum=599, minimum=100), msgspec.Meta(ge=0, le=599)], ...
    ] = ()
    split_external_local_origin_errors: bool = False


class ClientTLS(Message, frozen=True, kw_only=True):
    """TLS towards the destination.

    ca_certificates: File with the certificates that verify the server.
    ca_crl: File with revoked certificates.
    client_certificate: File with the client's certificate.
    credential_name: Secret with certificate and key.
    insecure_skip_verify: Do not verify the server.
    mode: Whether and how TLS is used.
    private_key: File with the client's key.
    sni: Server name to ask for.
    subject_alt_names: Names of which the server's certificate must have one.
    """

    ca_certificates: str = ""
    ca_crl: str = ""
    client_certificate: str = ""
    credential_name: str = ""
    insecure_skip_verify: BoolValue = None
    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] = "DISABLE"
    private_key: str = ""
    sni: str = ""
    subject_alt_names: tuple[str, ...] = ()


class PortTrafficPolicy(Message, frozen=True, kw_only=True):
    """Policy of one port; what it does not set is not taken from the level above.

    connection_pool: Limits of connections.
    load_balancer: How an endpoint is chosen.
    outlier_detection: When failing endpoints are taken out of use.
    port: The port that it is for.
    tls: TLS towards the destination.
    """

    connection_pool: ConnectionPool | None = None
    load_balancer: LoadBalancer | None = None
    outlier_detection: OutlierDetection | None = None
    port: PortSelector | None = None
    tls: ClientTLS | None = None


class ProxyProtocol(Message, frozen=True, kw_only=True):
    """Sends the PROXY protocol to the destination.

    version: Version of the protocol.
    """

    version: Literal["V1", "V2"] = "V1"


class RetryBudget(Message, frozen=True, kw_only=True):
    """Limits retries to a share of the requests.

    budget_interval: Time over which requests are counted.
    min_retry_concurrency: Retries that are always allowed.
    percent: Share of requests that may be retries.
    """

    budget_interval: Duration | None = None
    min_retry_concurrency: UInt32 = 0
    percent: PercentValue = None


class Tunnel(Message, frozen=True, kw_only=True):
    """Sends connections through an HTTP proxy.

    protocol: CONNECT or POST.
    target_host: Host that the proxy is asked for.
    target_port: Port that the proxy is asked for.
    """

    protocol: str = ""
    target_host: str
    target_port: UInt32


class TrafficPolicy(Message, frozen=True, kw_only=True):
    """What happens to traffic on its way to the destination.

    connection_pool: Limits of connections.
    load_balancer: How an endpoint is chosen.
    outlier_detection: When failing endpoints are taken out of use.
    port_level_settings: Policies of single ports.
    proxy_protocol: Sends the PROXY protocol.
    retry_budget: Limits retries.
    tls: TLS towards the destination.
    tunnel: Sends connections through an HTTP proxy.
    """

    connection_pool: ConnectionPool | None = None
    load_balancer: LoadBalancer | None = None
    outlier_detection: OutlierDetection | None = None
    port_level_settings: Annotated[tuple[PortTrafficPolicy, ...], Schema(maxItems=4096)] = ()
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None
    tls: ClientTLS | None = None
    tunnel: Tunnel | None = None


class Subset(Message, frozen=True, kw_only=True):
    """A named part of a service's endpoints.

    labels: Labels that an endpoint must have.
    name: Name by which routes refer to it.
    traffic_policy: Policy of the subset; overrides that of the host.
    """

    labels: dict[str, str] = {}
    name: str
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Message, frozen=True, kw_only=True):
    """What happens to requests to a host once the route is chosen.

    export_to: Namespaces in which the rule is seen; none means all.
    host: The service that the rule is for; may begin with `*.`.
    subsets: Named parts of the service.
    traffic_policy: Policy for all of the service.
    workload_selector: Clients that follow the rule; none means all.
    """

    export_to: tuple[str, ...] = ()
    host: str
    subsets: tuple[Subset, ...] = ()
    traffic_policy: TrafficPolicy | None = None
    workload_selector: WorkloadSelector | None = None


class DestinationRule(Resource, frozen=True, kw_only=True):
    """Policies for traffic to a host."""

    spec: DestinationRuleSpec
    status: IstioStatus = IstioStatus()
