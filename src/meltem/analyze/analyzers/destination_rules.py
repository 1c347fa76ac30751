"""IST0174: a DestinationRule for a host that no service has."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import namespace_of, str_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("DestinationRule"):
        host = str_at(placed.obj, "spec", "host")
        if host and host != "*" and not context.services_of(host, namespace_of(placed.obj)):
            text = f"The host {host} matches no service of the mesh: the rule has no effect."
            yield message("IST0174", placed, text, "spec", "host")
