"""IST0146, IST0147: `image: auto` where no injection will replace it."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, labels_of, namespace_of, object_at, objects_at, str_at


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("Deployment"):
        template = object_at(placed.obj, "spec", "template")
        if _auto(template) and not _injected(context, namespace_of(placed.obj), labels_of(template)):
            text = "A container has image: auto, but no injection would replace it. Label the namespace or the pods."
            yield message("IST0146", placed, text, "spec", "template", "spec", "containers")
    for placed in context.own("Pod"):
        if _auto(placed.obj):
            text = "A container has image: auto and was not injected. Label the namespace or the pod, and make it anew."
            yield message("IST0147", placed, text, "spec", "containers")


def _auto(pod: JsonObject) -> bool:
    return any(str_at(c, "image") == "auto" for c in objects_at(pod, "spec", "containers"))


def _injected(context: Context, namespace: str, pod: dict[str, str]) -> bool:
    space = context.find("Namespace", "", namespace)
    labels = labels_of(space) if space is not None else {}
    if pod.get("sidecar.istio.io/inject") == "false" or labels.get("istio-injection") == "disabled":
        return False
    wanted = pod.get("sidecar.istio.io/inject") == "true" or "istio.io/rev" in pod
    return wanted or labels.get("istio-injection") == "enabled" or "istio.io/rev" in labels
