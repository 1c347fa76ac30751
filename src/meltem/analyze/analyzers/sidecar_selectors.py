"""IST0110, IST0111, IST0101: Sidecar resources that compete for a workload, or select none."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, name_of, namespace_of
from meltem.simulate.origin import Placed


def analyze(context: Context) -> Iterable[Message]:
    yield from competing(context, "Sidecar", ("workloadSelector", "labels"), "IST0110", "IST0111")


def competing(context: Context, kind: str, where: tuple[str, ...], selected: str, general: str) -> Iterable[Message]:
    """Resources of a kind of which only one may be for a workload (or a namespace)."""
    for placed in context.own(kind):
        namespace = namespace_of(placed.obj)
        same = [p for p in context.every(kind) if namespace_of(p.obj) == namespace]
        labels = spec_map(placed, *where)
        rivals: set[str] = set()
        if not labels:
            rivals = {name_of(p.obj) for p in same if not spec_map(p, *where)}
            if len(rivals) > 1:
                text = f"Several {kind} resources have no workload selector ({listed(rivals)}): the oldest applies."
                yield message(general, placed, text, "spec")
            continue
        pods = context.pods(namespace, labels)
        if not pods and kind == "Sidecar":
            shown = listed(f"{k}={v}" for k, v in labels.items())
            yield message("IST0101", placed, f"Referenced selector not found: {shown}", "spec", *where)
        rivals = {name_of(p.obj) for p in same if spec_map(p, *where) and _shares(context, p, pods, where)}
        if pods and len(rivals) > 1:
            text = f"{kind} resources {listed(rivals)} select the same pods: only the oldest applies."
            yield message(selected, placed, text, "spec", *where)


def _shares(context: Context, other: Placed, pods: list[JsonObject], where: tuple[str, ...]) -> bool:
    theirs = {name_of(p) for p in context.pods(namespace_of(other.obj), spec_map(other, *where))}
    return any(name_of(p) in theirs for p in pods)
