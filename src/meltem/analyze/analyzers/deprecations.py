"""IST0002: fields that have successors."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, Step, at, object_at, objects_at, string_map_at
from meltem.simulate.origin import Placed


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("VirtualService"):
        for i, rule in enumerate(objects_at(placed.obj, "spec", "http")):
            yield from _virtual_service(placed, rule, ("spec", "http", i))
    for placed in context.own("DestinationRule"):
        yield from _policy(placed, object_at(placed.obj, "spec", "trafficPolicy"), ("spec", "trafficPolicy"))
        for i, subset in enumerate(objects_at(placed.obj, "spec", "subsets")):
            yield from _policy(placed, object_at(subset, "trafficPolicy"), ("spec", "subsets", i, "trafficPolicy"))
    for placed in context.own("Ingress"):
        if "kubernetes.io/ingress.class" in string_map_at(placed.obj, "metadata", "annotations"):
            text = "The annotation kubernetes.io/ingress.class is deprecated: use spec.ingressClassName."
            yield message("IST0002", placed, text, "metadata", "annotations")


def _old(
    placed: Placed, value: JsonObject, path: tuple[Step, ...], old: tuple[str, ...], new: str
) -> Iterable[Message]:
    if at(value, *old) is not None:
        text = f"{'.'.join(old)} is deprecated: use {new}."
        yield message("IST0002", placed, text, *path, *old)


def _virtual_service(placed: Placed, rule: JsonObject, path: tuple[Step, ...]) -> Iterable[Message]:
    yield from _old(placed, rule, path, ("fault", "delay", "percent"), "fault.delay.percentage")
    yield from _old(placed, rule, path, ("fault", "abort", "percent"), "fault.abort.percentage")
    yield from _old(placed, rule, path, ("corsPolicy", "allowOrigin"), "corsPolicy.allowOrigins")
    yield from _old(placed, rule, path, ("mirrorPercent",), "mirrorPercentage")
    yield from _old(placed, rule, path, ("mirror_percent",), "mirrorPercentage")


def _policy(placed: Placed, policy: JsonObject, path: tuple[Step, ...]) -> Iterable[Message]:
    new = "outlierDetection.consecutive5xxErrors"
    yield from _old(placed, policy, path, ("outlierDetection", "consecutiveErrors"), new)
    ring = ("loadBalancer", "consistentHash", "minimumRingSize")
    yield from _old(placed, policy, path, ring, "loadBalancer.consistentHash.ringHash.minimumRingSize")
