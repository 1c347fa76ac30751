"""IST0173: subsets that select no pod."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, labels_of, namespace_of, objects_at, str_at, string_map_at

_OF_NODE = frozenset(
    (
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.istio.io/subzone",
        "kubernetes.io/hostname",
    )
)
"""Labels that a workload has by the node that it runs on."""


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("DestinationRule"):
        services = context.services_of(str_at(placed.obj, "spec", "host"), namespace_of(placed.obj))
        kubernetes = [s for s in services if s.kubernetes and s.selector]
        if not kubernetes:
            continue
        for index, subset in enumerate(objects_at(placed.obj, "spec", "subsets")):
            labels = string_map_at(subset, "labels")
            of_node = {k: v for k, v in labels.items() if k in _OF_NODE}
            of_pod = {k: v for k, v in labels.items() if k not in _OF_NODE}
            found = any(
                _stands(context, pod, of_node)
                for s in kubernetes
                for pod in context.pods(s.namespace, {**dict(s.selector), **of_pod})
            )
            if labels and not found:
                shown = listed(f"{k}={v}" for k, v in labels.items())
                text = f"The subset {str_at(subset, 'name')} selects no pod: no pod of the host has {shown}."
                yield message("IST0173", placed, text, "spec", "subsets", index)


def _stands(context: Context, pod: JsonObject, labels: Mapping[str, str]) -> bool:
    """Whether the pod is where these labels say; a pod without a node (of a file) may come to be there."""
    name = str_at(pod, "spec", "nodeName")
    node = context.find("Node", "", name) if name else None
    known = {**labels_of(node or {}), **labels_of(pod)}
    return all(known.get(k) == v or (not name and v and k not in known) for k, v in labels.items())
