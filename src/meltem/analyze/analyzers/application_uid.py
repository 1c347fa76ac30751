"""IST0144: an application that runs as the proxy's user escapes capture."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, int_at, object_at, objects_at, str_at

_PROXY = 1337


def analyze(context: Context) -> Iterable[Message]:
    for kind, path in (("Pod", ("spec",)), ("Deployment", ("spec", "template", "spec"))):
        for placed in context.own(kind):
            spec = object_at(placed.obj, *path)
            if _runs_as_proxy(spec):
                text = f"A container runs as user {_PROXY}, which is the proxy's: its traffic would not be captured."
                yield message("IST0144", placed, text, *path)


def _runs_as_proxy(spec: JsonObject) -> bool:
    whole = int_at(spec, "securityContext", "runAsUser")
    for container in objects_at(spec, "containers"):
        if str_at(container, "name") == "istio-proxy":
            continue
        if (int_at(container, "securityContext", "runAsUser") or whole) == _PROXY:
            return True
    return False
