"""Load balancing of a cluster: the algorithm, slow start, and whether localities are weighted.

In: a destination rule's load balancer. Out: fields set on a cluster. Least request is the default, as in Istio.
"""

from __future__ import annotations

from meltem import envoyapi as api
from meltem.resources import networking
from meltem.view.units import Balance

C = api.cluster.Cluster


def apply_localities(message: C, balance: Balance) -> None:
    """Whether Envoy weighs localities against each other, or keeps traffic within the zone."""
    setting, zones = balance.localities, balance.zones
    if zones is not None:
        made = message.common_lb_config.zone_aware_lb_config
        made.SetInParent()
        if zones.enabled is False:
            made.routing_enabled.value = 0
        if zones.min_cluster_size is not None:
            made.min_cluster_size.value = zones.min_cluster_size
    elif setting is not None and (setting.distribute or setting.failover or setting.failover_priority):
        message.common_lb_config.locality_weighted_lb_config.SetInParent()


def apply_load_balancer(message: C, settings: networking.LoadBalancer | None) -> None:
    if settings is not None and settings.consistent_hash is not None:
        _consistent_hash(message, settings.consistent_hash)
        return
    if settings is not None and settings.backend_utilization is not None:
        _backend_utilization(message, settings, settings.backend_utilization)
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


def _backend_utilization(
    message: C, settings: networking.LoadBalancer, utilization: networking.BackendUtilization
) -> None:
    """Weights by the load that endpoints report in their answers (ORCA headers)."""
    made = api.client_side_weighted_round_robin.ClientSideWeightedRoundRobin(
        metric_names_for_computing_utilization=utilization.metric_names_for_computing_utilization
    )
    if utilization.error_utilization_penalty_percent:
        made.error_utilization_penalty.value = utilization.error_utilization_penalty_percent / 100
    for field, value in (
        (made.blackout_period, utilization.weight_stabilization_period),
        (made.weight_expiration_period, utilization.weight_expiration_period),
        (made.weight_update_period, utilization.weight_update_period),
    ):
        if value is not None:
            field.CopyFrom(api.duration(float(value)))
    slow_start = _slow_start(settings)
    if slow_start is not None:
        made.slow_start_config.MergeFromString(slow_start.SerializeToString())  # the same fields in another message
    one = message.load_balancing_policy.policies.add().typed_extension_config
    one.name = "envoy.load_balancing_policies.client_side_weighted_round_robin"
    one.typed_config.CopyFrom(api.pack(made))


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
