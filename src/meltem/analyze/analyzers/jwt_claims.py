"""IST0149: routing by claims of a token that nothing verifies."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.graph.routing import MESH, resolve_gateways
from meltem.objects import JsonObject, labels_of, namespace_of, object_at, objects_at, string_map_at, strings_at

_PREFIX = "@request.auth.claims"


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("VirtualService"):
        path = _claim(placed.obj)
        if path is None:
            continue
        for name in resolve_gateways(strings_at(placed.obj, "spec", "gateways"), namespace_of(placed.obj)):
            if name == MESH:
                continue
            where, _, short = name.partition("/")
            gateway = context.find("Gateway", where, short)
            selector = string_map_at(gateway, "spec", "selector") if gateway is not None else {}
            pods = context.pods("", selector) if selector else []
            if pods and not all(_authenticated(context, p) for p in pods):
                text = f"Routes by claims of a token at gateway {name}, whose pods no RequestAuthentication is for: no "
                yield message("IST0149", placed, text + "claim would ever match.", *path)


def _claim(vs: JsonObject) -> tuple[str | int, ...] | None:
    for i, rule in enumerate(objects_at(vs, "spec", "http")):
        for j, match in enumerate(objects_at(rule, "match")):
            names = [*object_at(match, "headers"), *object_at(match, "withoutHeaders")]
            if any(n.startswith(_PREFIX) for n in names):
                return ("spec", "http", i, "match", j, "headers")
    return None


def _authenticated(context: Context, pod: JsonObject) -> bool:
    for one in context.every("RequestAuthentication"):
        selector = string_map_at(one.obj, "spec", "selector", "matchLabels")
        spaces = (namespace_of(pod), context.root_namespace)
        if namespace_of(one.obj) in spaces and selector.items() <= labels_of(pod).items():
            return True
    return False
