"""Which traffic policy holds for one port of one destination (or of a subset of it).

In: a destination rule. Out: one `TrafficPolicy` without port-level settings. A port's settings replace the others
whole, as Istio documents it; a subset's replace the rule's component by component.
"""

from __future__ import annotations

import msgspec

from meltem.graph.destinations import Rule
from meltem.resources import networking


def for_port(policy: networking.TrafficPolicy | None, port: int) -> networking.TrafficPolicy | None:
    if policy is None or not policy.port_level_settings:
        return policy
    own = next((p for p in policy.port_level_settings if p.port is not None and p.port.number == port), None)
    bare = msgspec.structs.replace(policy, port_level_settings=())
    if own is None:
        return bare
    return msgspec.structs.replace(
        bare,
        connection_pool=own.connection_pool,
        load_balancer=own.load_balancer,
        outlier_detection=own.outlier_detection,
        tls=own.tls,
    )


def merged(rule: Rule | None, subset: networking.Subset | None, port: int) -> networking.TrafficPolicy | None:
    """The rule's policy for the port with the subset's laid over it."""
    if rule is None:
        return None
    base = for_port(rule.policy, port)
    if subset is None or subset.traffic_policy is None:
        return base
    own = subset.traffic_policy
    if base is None:
        return for_port(own, port)
    over = msgspec.structs.replace(
        base,
        connection_pool=own.connection_pool or base.connection_pool,
        load_balancer=own.load_balancer or base.load_balancer,
        outlier_detection=own.outlier_detection or base.outlier_detection,
        tls=own.tls or base.tls,
        tunnel=own.tunnel or base.tunnel,
        proxy_protocol=own.proxy_protocol or base.proxy_protocol,
        retry_budget=own.retry_budget or base.retry_budget,
        port_level_settings=own.port_level_settings,
    )
    return for_port(over, port)
