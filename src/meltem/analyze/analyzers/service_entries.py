"""IST0134: TCP services outside of the mesh that need addresses to be told apart."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.graph.model import declared_protocol
from meltem.objects import at, objects_at, str_at, strings_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("ServiceEntry"):
        if strings_at(placed.obj, "spec", "addresses") or objects_at(placed.obj, "status", "addresses"):
            continue
        hosts = strings_at(placed.obj, "spec", "hosts")
        automatic = str_at(placed.obj, "spec", "resolution") not in ("", "NONE") and not any(
            h.startswith("*") for h in hosts
        )
        if automatic and at(placed.obj, "metadata", "labels", "networking.istio.io/enable-autoallocate-ip") != "false":
            continue  # they get addresses by themselves
        for index, port in enumerate(objects_at(placed.obj, "spec", "ports")):
            protocol = declared_protocol(str_at(port, "protocol"))
            if protocol.is_tcp and not protocol.is_tls:
                text = f"Port {str_at(port, 'name')} is {protocol.value} and the entry has no addresses: its traffic "
                text += "cannot be told from other traffic to that port."
                yield message("IST0134", placed, text, "spec", "ports", index)
