"""IST0101, IST0112 and IST0140: destinations of routes: hosts, ports and subsets that are not there; rules of a service
that a gateway's route to it goes past."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.graph.destinations import host_patterns
from meltem.graph.model import short_name
from meltem.graph.routing import MESH
from meltem.objects import JsonObject, Step, int_at, name_of, namespace_of, object_at, objects_at, str_at, strings_at

Found = Iterable[tuple[JsonObject, tuple[Step, ...]]]


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("VirtualService"):
        namespace = namespace_of(placed.obj)
        for destination, path in destinations(placed.obj):
            host = str_at(destination, "host")
            services = context.services_of(host, namespace)
            if not services:
                text = f"Referenced host not found: {host}"
                yield message("IST0101", placed, text, *path, "host")
                continue
            number = int_at(destination, "port", "number")
            ports = {p.number for s in services for p in s.ports}
            if number and ports and number not in ports:
                text = f"Referenced host:port not found: {host}:{number}"
                yield message("IST0101", placed, text, *path, "port")
            elif not number and len(ports) > 1:
                shown = ", ".join(map(str, sorted(ports)))
                text = f"The host {host} has several ports ({shown}): the route must say which one (port.number)."
                yield message("IST0112", placed, text, *path)


def analyze_subsets(context: Context) -> Iterable[Message]:
    rules = context.world.engine.mesh.rules
    for placed in context.own("VirtualService"):
        namespace = namespace_of(placed.obj)
        for destination, path in destinations(placed.obj):
            subset = str_at(destination, "subset")
            host = short_name(str_at(destination, "host"), namespace, context.domain)
            covering = set(host_patterns(host))
            known = {s.name for r in rules.values() if r.host in covering for s in r.subsets}
            if subset and subset not in known:
                text = f"Referenced host+subset in destinationrule not found: {str_at(destination, 'host')}+{subset}"
                yield message("IST0101", placed, text, *path, "subset")


def analyze_gateways(context: Context) -> Iterable[Message]:
    """A gateway's route to a host as a whole, where another VirtualService splits that host by subsets: at the gateway
    only its own rules hold."""
    splitting: dict[str, str] = {}
    for placed in context.every("VirtualService"):
        namespace = namespace_of(placed.obj)
        hosts = {short_name(h, namespace, context.domain) for h in strings_at(placed.obj, "spec", "hosts")}
        for destination, _ in _of_http(placed.obj):
            host = short_name(str_at(destination, "host"), namespace, context.domain)
            if str_at(destination, "subset") and host in hosts:
                splitting.setdefault(host, f"{namespace}/{name_of(placed.obj)}")
    for placed in context.own("VirtualService"):
        if not set(strings_at(placed.obj, "spec", "gateways")) - {MESH}:
            continue
        own = f"{namespace_of(placed.obj)}/{name_of(placed.obj)}"
        for destination, path in _of_http(placed.obj):
            host = short_name(str_at(destination, "host"), namespace_of(placed.obj), context.domain)
            other = splitting.get(host, own)
            if not str_at(destination, "subset") and other != own:
                text = f"Subsets in VirtualService {other} have no effect on requests at the gateway: write them here."
                yield message("IST0140", placed, text, *path)


def _of_http(vs: JsonObject) -> Found:
    return ((d, path) for d, path in destinations(vs) if path[1] == "http" and path[3] == "route")


def destinations(vs: JsonObject) -> Found:
    """Every destination of a VirtualService and its path; mirrors too."""
    for kind in ("http", "tls", "tcp"):
        for i, rule in enumerate(objects_at(vs, "spec", kind)):
            for j, route in enumerate(objects_at(rule, "route")):
                yield object_at(route, "destination"), ("spec", kind, i, "route", j, "destination")
            if object_at(rule, "mirror"):
                yield object_at(rule, "mirror"), ("spec", kind, i, "mirror")
            for j, mirror in enumerate(objects_at(rule, "mirrors")):
                yield object_at(mirror, "destination"), ("spec", kind, i, "mirrors", j, "destination")
