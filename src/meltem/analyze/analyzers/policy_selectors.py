"""IST0127 and IST0101: authorization policies (and other selected ones) that are for no workload."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, at, namespace_of, objects_at, strings_at

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
        namespace = namespace_of(placed.obj)
        if namespace != context.root_namespace and not (_chooses(placed.obj) or context.pods(namespace, {})):
            yield message("IST0127", placed, f"The namespace {namespace} has no workload: the policy is for none.")
        for i, rule in enumerate(objects_at(placed.obj, "spec", "rules")):
            for j, source in enumerate(objects_at(rule, "from")):
                for field in ("namespaces", "notNamespaces"):
                    for name in strings_at(source, "source", field):
                        if not any(_means(name, n) for n in known):
                            path = ("spec", "rules", i, "from", j, "source", field)
                            yield message("IST0101", placed, f"Referenced namespace not found: {name}", *path)


def _chooses(policy: JsonObject) -> bool:
    return any(at(policy, "spec", k) is not None for k in ("selector", "targetRef", "targetRefs"))


def _means(text: str, namespace: str) -> bool:
    """A namespace in full, or with a wildcard at one end."""
    if text.startswith("*"):
        return namespace.endswith(text[1:])
    return namespace.startswith(text[:-1]) if text.endswith("*") else namespace == text
