"""IST0116, IST0137: services that select the same workload and contradict each other."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.graph.model import port_protocol
from meltem.objects import (
    JsonObject,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("Deployment"):
        labels = labels_of(object_at(placed.obj, "spec", "template"))
        services = [s.obj for s in context.every("Service") if _selects(s.obj, namespace_of(placed.obj), labels)]
        by_port: dict[int, dict[str, set[str]]] = {}
        by_target: dict[str, dict[int, set[str]]] = {}
        for service in services:
            for port in objects_at(service, "spec", "ports"):
                number = int_at(port, "port")
                app, transport = str_at(port, "appProtocol"), str_at(port, "protocol") or "TCP"
                protocol = port_protocol(number, str_at(port, "name"), app, transport).value or "unknown"
                by_port.setdefault(number, {}).setdefault(protocol, set()).add(name_of(service))
                target = str(port.get("targetPort", number))
                by_target.setdefault(target, {}).setdefault(number, set()).add(name_of(service))
        for number, protocols in by_port.items():
            if len(protocols) > 1:
                names = listed({n for some in protocols.values() for n in some})
                text = f"Services {names} give port {number} of this workload different protocols: {listed(protocols)}."
                yield message("IST0116", placed, text)
        for target, ports in by_target.items():
            names = {n for some in ports.values() for n in some}
            if len(ports) > 1 and len(names) > 1:
                numbers = ", ".join(map(str, sorted(ports)))
                text = f"Services {listed(names)} lead ports {numbers} to one target port ({target}) of it."
                yield message("IST0137", placed, text)


def _selects(service: JsonObject, namespace: str, labels: dict[str, str]) -> bool:
    selector = string_map_at(service, "spec", "selector")
    return namespace_of(service) == namespace and bool(selector) and selector.items() <= labels.items()
