"""IST0102, IST0103, IST0123, IST0148: namespaces and pods that injection does not reach, or reaches twice."""

from __future__ import annotations

from collections.abc import Iterable

from meltem import yamlio
from meltem.analyze.context import SYSTEM_NAMESPACES, Context, message
from meltem.analyze.messages import Message
from meltem.errors import UserError
from meltem.objects import JsonObject, annotations_of, bool_at, labels_of, name_of, namespace_of, str_at
from meltem.simulate.proxies import proxy_container

_LABEL = "istio-injection"
_REVISION = "istio.io/rev"
_MODE = "istio.io/dataplane-mode"
_INJECT = "sidecar.istio.io/inject"


def analyze(context: Context) -> Iterable[Message]:
    injected: set[str] = set()
    by_default = _by_default(context)
    for placed in context.every("Namespace"):
        labels = labels_of(placed.obj)
        unsaid = by_default and _LABEL not in labels and _REVISION not in labels and _kept(context, placed.obj)
        if unsaid or labels.get(_LABEL) == "enabled" or (labels.get(_REVISION) and labels.get(_LABEL) != "disabled"):
            injected.add(name_of(placed.obj))
    yield from _namespaces(context, by_default=by_default)
    for placed in context.own("Pod"):
        if namespace_of(placed.obj) in injected and _wants(placed.obj) and proxy_container(placed.obj) is None:
            text = f"The pod {name_of(placed.obj)} has no proxy although its namespace is injected. Restart it."
            yield message("IST0103", placed, text)


def _by_default(context: Context) -> bool:
    """Whether the installation injects namespaces that do not say (`enableNamespacesByDefault`)."""
    found = context.find("ConfigMap", context.system, "istio-sidecar-injector")
    text = str_at(found, "data", "values") if found is not None else ""
    try:
        values = yamlio.load(text, source="values")
    except UserError:
        return False
    return bool_at(values, "sidecarInjectorWebhook", "enableNamespacesByDefault")


def _kept(context: Context, namespace: JsonObject) -> bool:
    return name_of(namespace) not in SYSTEM_NAMESPACES and name_of(namespace) != context.system


def _namespaces(context: Context, *, by_default: bool) -> Iterable[Message]:
    for placed in context.own("Namespace"):
        name, labels = name_of(placed.obj), labels_of(placed.obj)
        if not _kept(context, placed.obj):
            continue
        asking = [k for k in (_LABEL, _REVISION, _MODE) if k in labels]
        if len(asking) > 1 and labels.get(_LABEL, "enabled") == "enabled":
            text = f"The namespace has the labels {' and '.join(asking)}; {asking[0]} wins. Keep one of them."
            yield message("IST0123", placed, text, "metadata", "labels")
        elif _LABEL not in labels and _REVISION not in labels and _MODE not in labels:
            if by_default:
                text = "The namespace is enabled for injection: the installation says enableNamespacesByDefault."
                yield message("IST0148", placed, text)
                continue
            text = (
                f"The namespace is not enabled for injection. Run 'kubectl label namespace {name} {_LABEL}=enabled' to "
                f"enable it, or 'kubectl label namespace {name} {_LABEL}=disabled' to say that it is meant so."
            )
            yield message("IST0102", placed, text)


def _wants(pod: JsonObject) -> bool:
    if bool_at(pod, "spec", "hostNetwork") or str_at(pod, "status", "phase") in ("Succeeded", "Failed"):
        return False
    return "false" not in (labels_of(pod).get(_INJECT), annotations_of(pod).get(_INJECT))
