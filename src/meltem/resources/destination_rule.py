"""DestinationRule: what happens to a request once its route is chosen.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import (
    BoolValue,
    Duration,
    Int32,
    Message,
    PercentValue,
    Resource,
    Schema,
    Timeout,
    UInt32,
    UInt32Value,
    UInt64,
)
from meltem.resources.common import IstioStatus, PortSelector, WorkloadSelector


class Http2KeepAlive(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.connectionPool.http.http2KeepAlive: one part of it."""

    interval: Timeout | None = None
    timeout: Timeout | None = None


class HTTPPool(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.connectionPool.http: one part of it."""

    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    http1_max_pending_requests: Int32 = 0
    http2_keep_alive: Http2KeepAlive | None = None
    http2_max_requests: Int32 = 0
    idle_timeout: Timeout | None = None
    max_concurrent_streams: Int32 = 0
    max_requests_per_connection: Int32 = 0
    max_retries: Int32 = 0
    use_client_protocol: bool = False


class TcpKeepalive(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.connectionPool.tcp.tcpKeepalive: one part of it."""

    interval: Timeout | None = None
    probes: UInt32 = 0
    time: Timeout | None = None


class TCPPool(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.connectionPool.tcp: one part of it."""

    connect_timeout: Timeout | None = None
    idle_timeout: Duration | None = None
    max_connection_duration: Timeout | None = None
    max_connections: Int32 = 0
    tcp_keepalive: TcpKeepalive | None = None


class ConnectionPool(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.connectionPool: one part of it."""

    http: HTTPPool | None = None
    tcp: TCPPool | None = None


class BackendUtilization(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.backendUtilization: one part of it."""

    error_utilization_penalty_percent: UInt32 = 0
    metric_names_for_computing_utilization: tuple[str, ...] = ()
    weight_expiration_period: Duration | None = None
    weight_stabilization_period: Duration | None = None
    weight_update_period: Duration | None = None


class CookieAttribute(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes: one part of it."""

    name: str
    value: str = ""


class HTTPCookie(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.consistentHash.httpCookie: one part of it."""

    attributes: tuple[CookieAttribute, ...] = ()
    name: str
    path: str = ""
    ttl: Duration | None = None


class MagLev(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.consistentHash.maglev: one part of it."""

    table_size: UInt64 = 0


class RingHash(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.consistentHash.ringHash: one part of it."""

    minimum_ring_size: UInt64 = 0


class ConsistentHash(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.consistentHash: one part of it."""

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
    """DestinationRule, subsets.trafficPolicy.loadBalancer.localityLbSetting.distribute: one part of it."""

    from_: str = ""
    to: dict[str, UInt32] = {}


class LocalityFailover(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.localityLbSetting.failover: one part of it."""

    from_: str = ""
    to: str = ""


class LocalityLoadBalancer(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.localityLbSetting: one part of it."""

    distribute: tuple[LocalityDistribute, ...] = ()
    enabled: BoolValue = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()


class Warmup(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.warmup: one part of it."""

    aggression: Annotated[float | None, Schema(format="double", minimum=0, nullable=True)] = None
    duration: Timeout
    minimum_percent: PercentValue = None


class ZoneAwareLoadBalancer(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer.zoneAwareLbSetting: one part of it."""

    enabled: BoolValue = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: Annotated[int | None, Schema(maximum=4294967295, minimum=1, nullable=True)] = None


class LoadBalancer(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.loadBalancer: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("simple", "consistentHash", "backendUtilization"),)

    backend_utilization: BackendUtilization | None = None
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLoadBalancer | None = None
    simple: Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"] | None = None
    warmup: Warmup | None = None
    warmup_duration_secs: Timeout | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancer | None = None


class OutlierDetection(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.outlierDetection: one part of it."""

    base_ejection_time: Timeout | None = None
    consecutive_5xx_errors: UInt32Value = None
    consecutive_errors: Int32 = 0
    consecutive_gateway_errors: UInt32Value = None
    consecutive_local_origin_failures: UInt32Value = None
    interval: Timeout | None = None
    max_ejection_percent: Int32 = 0
    min_health_percent: Int32 = 0
    outlier_detection_http_error_codes: tuple[Annotated[int, Schema(maximum=599, minimum=100)], ...] = ()
    split_external_local_origin_errors: bool = False


class ClientTLS(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.portLevelSettings.tls: one part of it."""

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
    """DestinationRule, subsets.trafficPolicy.portLevelSettings: one part of it."""

    connection_pool: ConnectionPool | None = None
    load_balancer: LoadBalancer | None = None
    outlier_detection: OutlierDetection | None = None
    port: PortSelector | None = None
    tls: ClientTLS | None = None


class ProxyProtocol(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.proxyProtocol: one part of it."""

    version: Literal["V1", "V2"] = "V1"


class RetryBudget(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.retryBudget: one part of it."""

    budget_interval: Duration | None = None
    min_retry_concurrency: UInt32 = 0
    percent: PercentValue = None


class Tunnel(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy.tunnel: one part of it."""

    protocol: str = ""
    target_host: str
    target_port: UInt32


class TrafficPolicy(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets.trafficPolicy: one part of it."""

    connection_pool: ConnectionPool | None = None
    load_balancer: LoadBalancer | None = None
    outlier_detection: OutlierDetection | None = None
    port_level_settings: Annotated[tuple[PortTrafficPolicy, ...], Schema(maxItems=4096)] = ()
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None
    tls: ClientTLS | None = None
    tunnel: Tunnel | None = None


class Subset(Message, frozen=True, kw_only=True):
    """DestinationRule, subsets: one part of it."""

    labels: dict[str, str] = {}
    name: str
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Message, frozen=True, kw_only=True):
    """DestinationRule: one part of it."""

    export_to: tuple[str, ...] = ()
    host: str
    subsets: tuple[Subset, ...] = ()
    traffic_policy: TrafficPolicy | None = None
    workload_selector: WorkloadSelector | None = None


class DestinationRule(Resource, frozen=True, kw_only=True):
    """A DestinationRule."""

    spec: DestinationRuleSpec
    status: IstioStatus = IstioStatus()
