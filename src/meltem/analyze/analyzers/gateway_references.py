"""IST0101 and IST0132: Gateways that VirtualServices name, and whether they serve the hosts."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.graph.model import host_matches, short_name
from meltem.graph.routing import MESH, resolve_gateways
from meltem.objects import JsonObject, namespace_of, objects_at, strings_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("VirtualService"):
        namespace = namespace_of(placed.obj)
        named = strings_at(placed.obj, "spec", "gateways")
        hosts = [short_name(h, namespace, context.domain) for h in strings_at(placed.obj, "spec", "hosts")]
        for index, (text, name) in enumerate(zip(named, _resolved(named, namespace), strict=True)):
            if name == MESH:
                continue
            where, _, short = name.partition("/")
            gateway = context.find("Gateway", where, short)
            if gateway is None:
                yield message("IST0101", placed, f"Referenced gateway not found: {text}", "spec", "gateways", index)
                continue
            missing = [h for h in hosts if not _served(gateway, h, namespace)]
            if missing:
                said = f"Gateway {name} serves none of the hosts {listed(missing)}: the routes do not apply there."
                yield message("IST0132", placed, said, "spec", "hosts")


def _resolved(names: list[str], namespace: str) -> list[str]:
    return [resolve_gateways((n,), namespace)[0] for n in names]


def _served(gateway: JsonObject, host: str, namespace: str) -> bool:
    for server in objects_at(gateway, "spec", "servers"):
        for text in strings_at(server, "hosts"):
            space, _, pattern = text.rpartition("/")
            if space == "." and namespace_of(gateway) != namespace:
                continue
            if space not in ("", "*", ".", namespace):
                continue
            if host_matches(pattern, host) or host_matches(host, pattern):
                return True
    return False
