"""IST0102, IST0103, IST0123: namespaces and pods that injection does not reach, or reaches twice."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import SYSTEM_NAMESPACES, Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, annotations_of, bool_at, labels_of, name_of, namespace_of, str_at
from meltem.simulate.proxies import proxy_container

_LABEL = "istio-injection"
_REVISION = "istio.io/rev"
_INJECT = "sidecar.istio.io/inject"


def analyze(context: Context) -> Iterable[Message]:
    injected: set[str] = set()
    for placed in context.every("Namespace"):
        labels = labels_of(placed.obj)
        if labels.get(_LABEL) == "enabled" or (labels.get(_REVISION) and labels.get(_LABEL) != "disabled"):
            injected.add(name_of(placed.obj))
    yield from _namespaces(context)
    for placed in context.own("Pod"):
        if namespace_of(placed.obj) in injected and _wants(placed.obj) and proxy_container(placed.obj) is None:
            text = f"The pod {name_of(placed.obj)} has no proxy although its namespace is injected. Restart it."
            yield message("IST0103", placed, text)


def _namespaces(context: Context) -> Iterable[Message]:
    for placed in context.own("Namespace"):
        name, labels = name_of(placed.obj), labels_of(placed.obj)
        if name in SYSTEM_NAMESPACES or name == context.system:
            continue
        if _LABEL in labels and _REVISION in labels:
            text = f"The namespace has both labels, {_LABEL} and {_REVISION}; {_LABEL} wins. Remove one of them."
            yield message("IST0123", placed, text, "metadata", "labels")
        elif _LABEL not in labels and _REVISION not in labels and "istio.io/dataplane-mode" not in labels:
            text = (
                f"The namespace is not enabled for injection. Run 'kubectl label namespace {name} {_LABEL}=enabled' to "
                f"enable it, or 'kubectl label namespace {name} {_LABEL}=disabled' to say that it is meant so."
            )
            yield message("IST0102", placed, text)


def _wants(pod: JsonObject) -> bool:
    if bool_at(pod, "spec", "hostNetwork") or str_at(pod, "status", "phase") in ("Succeeded", "Failed"):
        return False
    return "false" not in (labels_of(pod).get(_INJECT), annotations_of(pod).get(_INJECT))
