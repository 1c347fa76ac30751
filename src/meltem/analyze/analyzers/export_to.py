"""IST0101 for exportTo: namespaces that are not there."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import strings_at


def analyze(context: Context) -> Iterable[Message]:
    known = context.namespaces()
    for kind in ("VirtualService", "DestinationRule", "ServiceEntry"):
        for placed in context.own(kind):
            for index, name in enumerate(strings_at(placed.obj, "spec", "exportTo")):
                if name not in ("*", ".", "~") and name not in known:
                    text = f"Referenced namespace not found: {name}"
                    yield message("IST0101", placed, text, "spec", "exportTo", index)
