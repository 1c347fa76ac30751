"""Load balancing of a cluster: the algorithm, slow start, and whether localities are weighted.

In: a destination rule's load balancer. Out: fields set on a cluster. Least request is the default, as in Istio.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.resources import networking

C = api.cluster.Cluster


def apply_load_balancer(message: C, settings: networking.LoadBalancer | None, *, weighted: bool) -> None:
    """`weighted`: localities have shares of their own."""
    if weighted:
        message.common_lb_config.locality_weighted_lb_config.SetInParent()
    if settings is not None and settings.consistent_hash is not None:
        _consistent_hash(message, settings.consistent_hash)
        return
    simple = settings.simple if settings is not None else None
    if simple == "RANDOM":
        message.lb_policy = C.RANDOM
    elif simple == "ROUND_ROBIN":
        message.lb_policy = C.ROUND_ROBIN
        slow_start = _slow_start(settings)
        if slow_start is not None:
            message.round_robin_lb_config.slow_start_config.CopyFrom(slow_start)
    elif simple == "PASSTHROUGH":
        message.lb_policy = C.CLUSTER_PROVIDED
    else:
        message.lb_policy = C.LEAST_REQUEST
        slow_start = _slow_start(settings)
        if slow_start is not None:
            message.least_request_lb_config.slow_start_config.CopyFrom(slow_start)


def _slow_start(settings: networking.LoadBalancer | None) -> C.SlowStartConfig | None:
    if settings is None:
        return None
    warmup = settings.warmup
    duration = warmup.duration if warmup is not None else settings.warmup_duration_secs
    if duration is None:
        return None
    made = C.SlowStartConfig(slow_start_window=api.duration(float(duration)))
    if warmup is not None:
        made.aggression.default_value = warmup.aggression if warmup.aggression is not None else 1.0
        made.aggression.runtime_key = "meltem.slow_start_aggression"
        made.min_weight_percent.value = warmup.minimum_percent if warmup.minimum_percent is not None else 10.0
    return made


def _consistent_hash(message: C, settings: networking.ConsistentHash) -> None:
    if settings.maglev is not None:
        message.lb_policy = C.MAGLEV
        if settings.maglev.table_size:
            message.maglev_lb_config.table_size.value = settings.maglev.table_size
        return
    message.lb_policy = C.RING_HASH
    size = settings.ring_hash.minimum_ring_size if settings.ring_hash is not None else settings.minimum_ring_size
    message.ring_hash_lb_config.minimum_ring_size.value = size or 1024
