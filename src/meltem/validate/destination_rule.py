"""DestinationRule: host, subsets and traffic policies. Parts of a policy are checked for MeshConfig too.

In: a `DestinationRule`. Out: findings.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from meltem.resources.networking import (
    ConnectionPool,
    DestinationRule,
    HTTPPool,
    LoadBalancer,
    LocalityFailover,
    LocalityLoadBalancer,
    OutlierDetection,
    PortTrafficPolicy,
    TCPPool,
    TrafficPolicy,
    Tunnel,
    ZoneAwareLoadBalancer,
)
from meltem.validate import checks
from meltem.validate.findings import Report
from meltem.validate.tls import check_client_tls

_TOPOLOGY = frozenset({"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"})
MAX_MAGLEV = 5000011
MAX_LOCALITIES = 500


def check_destination_rule(r: Report, rule: DestinationRule) -> None:
    spec = rule.spec
    checks.check_wildcard_domain(r.at("host"), spec.host)
    _policy(r.at("trafficPolicy"), rule.namespace, spec.traffic_policy)
    checks.check_unique(r.at("subsets"), (s.name for s in spec.subsets), "subset")
    for i, subset in enumerate(spec.subsets):
        here = r.at("subsets", i)
        if not checks.is_label(subset.name):
            here.at("name").error(f"{subset.name[:64]!r} is no subset name", "Write letters, digits and '-'.")
        checks.check_labels(here.at("labels"), subset.labels)
        _policy(here.at("trafficPolicy"), rule.namespace, subset.traffic_policy)
    checks.check_export_to(r, rule.namespace, spec.export_to)
    if spec.workload_selector is not None:
        checks.check_selector_labels(r.at("workloadSelector").at("matchLabels"), spec.workload_selector.match_labels)
        if any(e not in (".", rule.namespace) for e in spec.export_to):
            r.at("exportTo").error(
                "a rule for selected workloads is seen in its own namespace only", "Write `.` or remove exportTo."
            )


def _policy(r: Report, namespace: str, policy: TrafficPolicy | None) -> None:
    if policy is None:
        return
    parts = (
        policy.outlier_detection,
        policy.connection_pool,
        policy.load_balancer,
        policy.tls,
        policy.port_level_settings or None,
        policy.tunnel,
        policy.proxy_protocol,
        policy.retry_budget,
    )
    if all(part is None for part in parts):
        r.error("the policy is empty", "Set a field, or remove trafficPolicy.")
        return
    if policy.tunnel is not None and policy.proxy_protocol is not None:
        r.error("tunnel and proxyProtocol exclude each other")
    check_outlier_detection(r.at("outlierDetection"), policy.outlier_detection)
    check_connection_pool(r.at("connectionPool"), policy.connection_pool)
    _load_balancer(r.at("loadBalancer"), policy.load_balancer, policy.outlier_detection)
    check_client_tls(r.at("tls"), namespace, policy.tls)
    for i, port in enumerate(policy.port_level_settings):
        _port_policy(r.at("portLevelSettings", i), namespace, port)
    _tunnel(r.at("tunnel"), policy.tunnel)


def _port_policy(r: Report, namespace: str, policy: PortTrafficPolicy) -> None:
    if policy.port is None:
        r.at("port").error("the port is missing", "Write port: {number: 80}.")
    parts = (policy.outlier_detection, policy.connection_pool, policy.load_balancer, policy.tls)
    if all(part is None for part in parts):
        r.error("the policy is empty", "Set connectionPool, loadBalancer, outlierDetection or tls.")
    check_outlier_detection(r.at("outlierDetection"), policy.outlier_detection)
    check_connection_pool(r.at("connectionPool"), policy.connection_pool)
    _load_balancer(r.at("loadBalancer"), policy.load_balancer, policy.outlier_detection)
    check_client_tls(r.at("tls"), namespace, policy.tls)


def _tunnel(r: Report, tunnel: Tunnel | None) -> None:
    if tunnel is None:
        return
    if tunnel.protocol not in ("", "CONNECT", "POST"):
        r.at("protocol").error(f"{tunnel.protocol[:64]!r} is no tunnel protocol", "Write CONNECT or POST.")
    if not checks.is_ip(tunnel.target_host):
        checks.check_fqdn(r.at("targetHost"), tunnel.target_host)
    checks.check_port(r.at("targetPort"), tunnel.target_port)


def check_outlier_detection(r: Report, outlier: OutlierDetection | None) -> None:
    if outlier is None:
        return
    checks.check_duration(r.at("baseEjectionTime"), outlier.base_ejection_time)
    checks.check_duration(r.at("interval"), outlier.interval)
    if outlier.consecutive_errors:
        r.at("consecutiveErrors").warn("is deprecated", "Use consecutiveGatewayErrors or consecutive5xxErrors.")
    if outlier.consecutive_local_origin_failures and not outlier.split_external_local_origin_errors:
        r.at("consecutiveLocalOriginFailures").error(
            "needs splitExternalLocalOriginErrors", "Set splitExternalLocalOriginErrors: true."
        )
    for field, value in (
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ):
        if not 0 <= value <= 100:
            r.at(field).error(f"{value} is no percentage", "Write a number from 0 to 100.")


def check_connection_pool(r: Report, pool: ConnectionPool | None) -> None:
    if pool is None:
        return
    if pool.http is None and pool.tcp is None:
        r.error("the connection pool is empty", "Set http or tcp.")
    if pool.http is not None:
        _http_pool(r.at("http"), pool.http)
    if pool.tcp is not None:
        _tcp_pool(r.at("tcp"), pool.tcp)


def _not_negative(r: Report, values: Iterable[tuple[str, int]]) -> None:
    for field, value in values:
        if value < 0:
            r.at(field).error(f"{value} is negative")


def _http_pool(r: Report, pool: HTTPPool) -> None:
    _not_negative(
        r,
        (
            ("http1MaxPendingRequests", pool.http1_max_pending_requests),
            ("http2MaxRequests", pool.http2_max_requests),
            ("maxRequestsPerConnection", pool.max_requests_per_connection),
            ("maxRetries", pool.max_retries),
            ("maxConcurrentStreams", pool.max_concurrent_streams),
        ),
    )
    checks.check_duration(r.at("idleTimeout"), pool.idle_timeout)
    if pool.h2_upgrade_policy == "UPGRADE" and pool.use_client_protocol:
        r.at("useClientProtocol").error("contradicts h2UpgradePolicy UPGRADE", "Keep one of them.")
    if pool.http2_keep_alive is not None:
        here = r.at("http2KeepAlive")
        for field, value in (("interval", pool.http2_keep_alive.interval), ("timeout", pool.http2_keep_alive.timeout)):
            if value is None:
                here.at(field).error(f"{field} is missing", "Keep-alive needs both interval and timeout.")
            checks.check_duration(here.at(field), value)


def _tcp_pool(r: Report, pool: TCPPool) -> None:
    _not_negative(r, (("maxConnections", pool.max_connections),))
    checks.check_duration(r.at("connectTimeout"), pool.connect_timeout)
    checks.check_duration(r.at("maxConnectionDuration"), pool.max_connection_duration)
    if pool.idle_timeout is not None and abs(pool.idle_timeout.nanoseconds) >= 1_000_000:  # 0s: no limit
        checks.check_duration(r.at("idleTimeout"), pool.idle_timeout)
    if pool.tcp_keepalive is not None:
        checks.check_duration(r.at("tcpKeepalive").at("time"), pool.tcp_keepalive.time)
        checks.check_duration(r.at("tcpKeepalive").at("interval"), pool.tcp_keepalive.interval)


def _load_balancer(r: Report, lb: LoadBalancer | None, outlier: OutlierDetection | None) -> None:
    if lb is None:
        return
    algorithms = [
        n
        for n, there in (
            ("simple", lb.simple is not None),
            ("consistentHash", lb.consistent_hash is not None),
            ("backendUtilization", lb.backend_utilization is not None),
        )
        if there
    ]
    if len(algorithms) > 1:
        r.error(f"{algorithms[0]} and {algorithms[1]} exclude each other", "Keep one of them.")
    _consistent_hash(r.at("consistentHash"), lb)
    if lb.locality_lb_setting is not None and lb.zone_aware_lb_setting is not None:
        r.error("localityLbSetting and zoneAwareLbSetting exclude each other", "Keep one of them.")
    check_locality(r.at("localityLbSetting"), lb.locality_lb_setting, outlier is not None)
    check_zone_aware(r.at("zoneAwareLbSetting"), lb.zone_aware_lb_setting, outlier is not None)
    if lb.warmup is not None:
        here = r.at("warmup")
        checks.check_duration(here.at("duration"), lb.warmup.duration)
        if lb.warmup.minimum_percent is not None and not 0 <= lb.warmup.minimum_percent <= 100:
            here.at("minimumPercent").error(f"{lb.warmup.minimum_percent:g} is no percentage")
        if lb.warmup.aggression is not None and lb.warmup.aggression <= 0:
            here.at("aggression").error("must be greater than 0")


def _consistent_hash(r: Report, lb: LoadBalancer) -> None:
    chash = lb.consistent_hash
    if chash is None:
        return
    keys = (chash.http_header_name, chash.http_cookie, chash.use_source_ip, chash.http_query_parameter_name)
    if sum(k is not None for k in keys) > 1:
        r.error(
            "only one key can be hashed", "Keep one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName."
        )
    if chash.http_cookie is not None:
        here = r.at("httpCookie")
        if not chash.http_cookie.name:
            here.at("name").error("the cookie has no name")
        if any(not a.name for a in chash.http_cookie.attributes):
            here.at("attributes").error("an attribute has no name")
        checks.check_unique(here.at("attributes"), (a.name for a in chash.http_cookie.attributes), "attribute")
    if chash.ring_hash is not None and chash.maglev is not None:
        r.error("ringHash and maglev exclude each other", "Keep one of them.")
    if chash.minimum_ring_size:
        r.at("minimumRingSize").warn("is deprecated", "Use ringHash.minimumRingSize.")
        if chash.ring_hash is not None or chash.maglev is not None:
            r.at("minimumRingSize").error("cannot stand beside ringHash or maglev", "Use ringHash.minimumRingSize.")
    if chash.maglev is not None:
        size = chash.maglev.table_size
        if not is_prime(size) or size >= MAX_MAGLEV:
            r.at("maglev").at("tableSize").error(
                f"{size} is no table size", f"Write a prime smaller than {MAX_MAGLEV}, such as 65537."
            )


def is_prime(n: int) -> bool:
    """For numbers up to `MAX_MAGLEV`; larger ones are not looked at. 1 counts, as for Envoy."""
    if n < 1 or n > MAX_MAGLEV:
        return False
    return all(n % d for d in range(2, int(n**0.5) + 1))


def check_locality(r: Report, lb: LocalityLoadBalancer | None, has_outlier: bool) -> None:
    if lb is None:
        return
    if lb.distribute and lb.failover:
        r.error("distribute and failover exclude each other")
        return
    if lb.failover and any(p in _TOPOLOGY for p in lb.failover_priority):
        r.at("failoverPriority").error("failover and topology labels exclude each other", "Keep one of them.")
        return
    for i, one in enumerate(lb.distribute):
        here = r.at("distribute", i).at("to")
        if any(not 1 <= w <= 100 for w in one.to.values()):
            here.error("every share must be from 1 to 100")
        elif sum(one.to.values()) != 100:
            here.error(f"the shares add up to {sum(one.to.values())}, not to 100")
        _localities(here, one.to)
    _localities(r.at("distribute"), [d.from_ for d in lb.distribute])
    if (lb.failover or lb.failover_priority) and not has_outlier:
        r.warn("failover needs outlierDetection to notice that endpoints fail", "Set outlierDetection.")
    _failover(r, lb.failover)


def check_zone_aware(r: Report, lb: ZoneAwareLoadBalancer | None, has_outlier: bool) -> None:
    if lb is None:
        return
    for i, label in enumerate(lb.failover_priority):
        if label in _TOPOLOGY:
            r.at("failoverPriority", i).error("regions and zones are taken care of already", "Remove the label.")
    if (lb.failover or lb.failover_priority) and not has_outlier:
        r.warn("failover needs outlierDetection to notice that endpoints fail", "Set outlierDetection.")
    _failover(r, lb.failover)


def _failover(r: Report, rules: tuple[LocalityFailover, ...]) -> None:
    for i, rule in enumerate(rules):
        here = r.at("failover", i)
        if rule.from_ == rule.to:
            here.error("a region cannot fail over to itself")
        if "/" in rule.from_ + rule.to or "*" in rule.from_ + rule.to:
            here.error("failover is between regions", "Write region names only, without zones or '*'.")


def _localities(r: Report, names: Iterable[str]) -> None:
    """`region/zone/subzone`, `*` only at the end, none within another."""
    seen: list[tuple[str, ...]] = []
    for name in islice(names, MAX_LOCALITIES):
        if name.count("*") > 1 or ("*" in name and not name.endswith("*")):
            r.error(f"{name[:80]!r}: '*' may stand once, at the end")
            continue
        parts = tuple(name.split("/", 2))
        if not all(parts):
            r.error(f"{name[:80]!r} has an empty part", "Write region, region/zone or region/zone/subzone.")
            continue
        plain = parts[: parts.index("*")] if "*" in parts else parts
        if any(plain[: len(s)] == s or s[: len(plain)] == plain for s in seen):
            r.error(f"{name[:80]!r} overlaps with another locality")
        seen.append(plain)
