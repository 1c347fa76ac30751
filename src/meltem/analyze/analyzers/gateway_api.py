"""IST0166 and IST0176: policies that select pods of a Kubernetes Gateway, and definitions too old to be read."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.graph.policies import GATEWAY_NAME
from meltem.objects import annotations_of, at, labels_of, name_of, namespace_of

_KINDS = ("AuthorizationPolicy", "RequestAuthentication", "Telemetry", "WasmPlugin", "TrafficExtension")
BUNDLE = "gateway.networking.k8s.io/bundle-version"
MINIMUM = {
    "backendtlspolicies.gateway.networking.k8s.io": (1, 4, 0),
    "grpcroutes.gateway.networking.k8s.io": (1, 1, 0),
    "tlsroutes.gateway.networking.k8s.io": (1, 5, 0),
}
"""Definitions, and the first release of the Gateway API that has the version that is read."""


def analyze_selectors(context: Context) -> Iterable[Message]:
    for kind in _KINDS:
        for placed in context.own(kind):
            labels = spec_map(placed, "selector", "matchLabels")
            space = "" if namespace_of(placed.obj) == context.root_namespace else namespace_of(placed.obj)
            if not labels or any(at(placed.obj, "spec", k) for k in ("targetRef", "targetRefs")):
                continue
            names = {labels_of(p)[GATEWAY_NAME] for p in context.pods(space, labels) if GATEWAY_NAME in labels_of(p)}
            if names:
                text = f"The selector chooses pods of the Kubernetes Gateway {listed(names)}: use targetRefs instead."
                yield message("IST0166", placed, text, "spec", "selector")


def analyze_versions(context: Context) -> Iterable[Message]:
    for placed in context.own("CustomResourceDefinition"):
        least = MINIMUM.get(name_of(placed.obj))
        version = annotations_of(placed.obj).get(BUNDLE, "")
        installed = _numbers(version)
        if least is not None and installed is not None and installed < least:
            wanted = "v" + ".".join(map(str, least))
            text = (
                f"{name_of(placed.obj)} is of release {version}, and at least {wanted} is needed: objects are not read."
            )
            yield message("IST0176", placed, text, "metadata", "annotations", BUNDLE)


def _numbers(version: str) -> tuple[int, ...] | None:
    parts = version.removeprefix("v").partition("-")[0].split(".")
    return tuple(int(p) for p in parts) if all(p.isascii() and p.isdigit() for p in parts) else None
