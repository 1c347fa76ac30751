"""IST0101 and IST0162: Gateways whose selector finds no workload, or whose port no Service leads to."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import int_at, labels_of, namespace_of, objects_at, str_at, string_map_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("Gateway"):
        if str_at(placed.obj, "apiVersion").startswith("gateway.networking.k8s.io"):
            continue
        selector = spec_map(placed, "selector")
        if not selector:
            continue
        pods = context.pods("", selector)
        if not pods and context.partial:
            continue
        if not pods:
            shown = listed(f"{k}={v}" for k, v in selector.items())
            yield message("IST0101", placed, f"Referenced selector not found: {shown}", "spec", "selector")
            continue
        ports: set[int] = set()
        for service in context.every("Service"):
            chosen = string_map_at(service.obj, "spec", "selector")
            if any(chosen and namespace_of(p) == namespace_of(service.obj) and chosen.items() <= labels_of(p).items() for p in pods):  # fmt: skip  # noqa: E501
                for port in objects_at(service.obj, "spec", "ports"):
                    ports |= {int_at(port, "port"), int_at(port, "targetPort")}
        for index, server in enumerate(objects_at(placed.obj, "spec", "servers")):
            number = int_at(server, "port", "number")
            if ports and number not in ports:
                text = f"Port {number} is no port of a Service in front of the gateway (its ports: "
                text += f"{', '.join(map(str, sorted(ports - {0})))}): nothing reaches it from outside."
                yield message("IST0162", placed, text, "spec", "servers", index, "port", "number")
