"""IST0173: subsets that select no pod."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.objects import namespace_of, objects_at, str_at, string_map_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("DestinationRule"):
        services = context.services_of(str_at(placed.obj, "spec", "host"), namespace_of(placed.obj))
        kubernetes = [s for s in services if s.kubernetes and s.selector]
        if not kubernetes:
            continue
        for index, subset in enumerate(objects_at(placed.obj, "spec", "subsets")):
            labels = string_map_at(subset, "labels")
            found = any(context.pods(s.namespace, {**dict(s.selector), **labels}) for s in kubernetes)
            if labels and not found:
                shown = listed(f"{k}={v}" for k, v in labels.items())
                text = f"The subset {str_at(subset, 'name')} selects no pod: no pod of the host has {shown}."
                yield message("IST0173", placed, text, "spec", "subsets", index)
