"""The arithmetic of a Deployment's rollout: no API, no time.

In: a Deployment, its ReplicaSets. Out: how many replicas each may have next. Words: "new" is the ReplicaSet of the
current template, "old" are all others. Source of the rules: the Kubernetes documentation of Deployments.
"""

from __future__ import annotations

import math

import msgspec

from meltem.objects import Json, JsonObject, at, int_at, str_at

DESIRED_ANNOTATION = "deployment.kubernetes.io/desired-replicas"
MAX_ANNOTATION = "deployment.kubernetes.io/max-replicas"


class Bounds(msgspec.Struct, frozen=True):
    """`surge`: pods above `replicas` that may exist; `unavailable`: pods below it that may be missing."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.surge

    @property
    def least_available(self) -> int:
        return self.replicas - self.unavailable


def bounds(deployment: JsonObject) -> Bounds:
    replicas = int_at(deployment, "spec", "replicas", default=1)
    if str_at(deployment, "spec", "strategy", "type") == "Recreate":
        return Bounds(replicas, 0, replicas)
    rolling = at(deployment, "spec", "strategy", "rollingUpdate")
    surge = share(at(rolling, "maxSurge"), replicas, default="25%", up=True)
    unavailable = share(at(rolling, "maxUnavailable"), replicas, default="25%", up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1  # or nothing could ever move (two small percentages that both round to nothing)
    return Bounds(replicas, surge, min(unavailable, replicas))


def share(value: Json, total: int, *, default: str, up: bool) -> int:
    """An IntOrString: a count, or a percentage of `total` rounded up or down."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else default
    if not text.endswith("%"):
        return int(text) if text.isdigit() else 0
    try:
        exact = float(text[:-1]) * total / 100
    except ValueError:
        return 0
    return math.ceil(exact) if up else math.floor(exact)


def size(replica_set: JsonObject) -> int:
    return int_at(replica_set, "spec", "replicas", default=1)


def available(replica_set: JsonObject) -> int:
    return int_at(replica_set, "status", "availableReplicas")


def grow_new(limits: Bounds, new: JsonObject, old: list[JsonObject]) -> int:
    """The size that the new set may have now."""
    if size(new) >= limits.replicas:
        return limits.replicas
    room = limits.most - size(new) - sum(size(o) for o in old)
    return size(new) + max(0, min(room, limits.replicas - size(new)))


def shrink_old(limits: Bounds, new: JsonObject, old: list[JsonObject]) -> dict[str, int]:
    """Old sets by name with the size that they must have now; sets that stay as they are are left out.

    Pods that never became available go first: they serve nobody."""
    everything = size(new) + sum(size(o) for o in old)
    new_unavailable = size(new) - available(new)
    budget = everything - limits.least_available - new_unavailable
    result: dict[str, int] = {}
    if budget <= 0:
        return result
    sizes = {_name(o): size(o) for o in old}
    for item in old:
        sick = min(budget, max(0, sizes[_name(item)] - available(item)))
        if sick:
            sizes[_name(item)] -= sick
            result[_name(item)] = sizes[_name(item)]
            budget -= sick
    healthy_budget = min(budget, available(new) + sum(available(o) for o in old) - limits.least_available)
    for item in old:
        if healthy_budget <= 0:
            break
        step = min(healthy_budget, sizes[_name(item)])
        if step > 0:
            sizes[_name(item)] -= step
            result[_name(item)] = sizes[_name(item)]
            healthy_budget -= step
    return result


def proportional(limits: Bounds, sets: list[JsonObject]) -> dict[str, int]:
    """Sizes after `spec.replicas` changed in the middle of a rollout: the change is spread over all sets in proportion,
    so that a bad template does not get all of the growth. Larger sets first, then newer ones."""
    total = sum(size(s) for s in sets)
    allowed = limits.most if limits.replicas > 0 else 0
    difference = allowed - total
    ordered = sorted(sets, key=lambda s: (size(s), str_at(s, "metadata", "creationTimestamp")), reverse=True)
    if difference < 0:  # the oldest of equal sets give first
        ordered = sorted(sets, key=lambda s: (-size(s), str_at(s, "metadata", "creationTimestamp")))
    sizes: dict[str, int] = {}
    given = 0
    for item in ordered:
        part = _fraction(item, limits, total) if difference else 0
        rest = difference - given
        part = min(part, rest) if difference > 0 else max(part, rest)
        part = max(part, 0) if difference > 0 else min(part, 0)
        sizes[_name(item)] = size(item) + part
        given += part
    if ordered:
        first = _name(ordered[0])
        sizes[first] = max(0, sizes[first] + difference - given)
    return sizes


def _fraction(item: JsonObject, limits: Bounds, total: int) -> int:
    before = total  # of all sets, when they were last sized
    annotated = at(item, "metadata", "annotations", MAX_ANNOTATION)
    if isinstance(annotated, str) and annotated.isdigit() and int(annotated) > 0:
        before = int(annotated)
    if before <= 0:
        return 0
    return round(size(item) * limits.most / before) - size(item)


def _name(item: JsonObject) -> str:
    return str_at(item, "metadata", "name")
