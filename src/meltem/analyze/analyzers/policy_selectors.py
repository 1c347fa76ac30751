"""IST0127 and IST0101: authorization policies (and other selected ones) that are for no workload."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import namespace_of, objects_at, strings_at

_KINDS = ("AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication", "WasmPlugin", "TrafficExtension")


def analyze(context: Context) -> Iterable[Message]:
    known = context.namespaces()
    for kind in _KINDS:
        for placed in context.own(kind):
            labels = spec_map(placed, "selector", "matchLabels")
            space = "" if namespace_of(placed.obj) == context.root_namespace else namespace_of(placed.obj)
            if labels and not context.pods(space, labels):
                shown = listed(f"{k}={v}" for k, v in labels.items())
                text = f"No workload has the labels {shown}: the policy is for none."
                yield message("IST0127", placed, text, "spec", "selector")
    for placed in context.own("AuthorizationPolicy"):
        for i, rule in enumerate(objects_at(placed.obj, "spec", "rules")):
            for j, source in enumerate(objects_at(rule, "from")):
                for name in strings_at(source, "source", "namespaces"):
                    if "*" not in name and name not in known:
                        path = ("spec", "rules", i, "from", j, "source", "namespaces")
                        yield message("IST0101", placed, f"Referenced namespace not found: {name}", *path)
