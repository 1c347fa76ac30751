"""IST0109: VirtualServices of the mesh that are for the same host."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.graph.routing import MESH
from meltem.objects import JsonObject, name_of, namespace_of


def analyze(context: Context) -> Iterable[Message]:
    users: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {}
    for (kind, namespace, name), routing in context.world.engine.mesh.routings.items():
        if kind == "VirtualService" and MESH in routing.gateways:
            for host in routing.hosts:
                users.setdefault(host, []).append((namespace, name, routing.export_to))
    for placed in context.own("VirtualService"):
        namespace, name = _key(placed.obj)
        found = context.world.engine.mesh.routings.get(("VirtualService", namespace, name))
        if found is None or MESH not in found.gateways:
            continue
        for host in found.hosts:
            rivals = [
                f"{ns}/{n}"
                for ns, n, export in users.get(host, [])
                if (ns, n) != (namespace, name) and _overlap(found.export_to, export)
            ]
            if rivals:
                text = f"The host {host} is also that of VirtualServices {listed(rivals)}: only the oldest one applies."
                yield message("IST0109", placed, text, "spec", "hosts")


def _key(obj: JsonObject) -> tuple[str, str]:
    return namespace_of(obj), name_of(obj)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return "*" in one or "*" in other or bool(set(one) & set(other))
