"""IST0151 to IST0155: EnvoyFilter operations that do not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import int_at, objects_at, str_at

_RELATIVE = frozenset(("INSERT_BEFORE", "INSERT_AFTER", "REPLACE", "REMOVE"))
_REPLACEABLE = frozenset(("HTTP_FILTER", "NETWORK_FILTER", "VIRTUAL_HOST"))
_WHOLE = frozenset(("ROUTE_CONFIGURATION", "HTTP_ROUTE"))


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("EnvoyFilter"):
        priority = int_at(placed.obj, "spec", "priority")
        for index, patch in enumerate(objects_at(placed.obj, "spec", "configPatches")):
            target, operation = str_at(patch, "applyTo"), str_at(patch, "patch", "operation")
            path = ("spec", "configPatches", index, "patch", "operation")
            if operation == "REPLACE" and target not in _REPLACEABLE:
                yield message(
                    "IST0152",
                    placed,
                    f"REPLACE does nothing for {target}: it is for HTTP_FILTER, NETWORK_FILTER and VIRTUAL_HOST.",
                    *path,
                )
            elif operation == "ADD" and target in _WHOLE:
                yield message("IST0153", placed, f"ADD is ignored for {target}.", *path)
            elif operation == "REMOVE" and target in _WHOLE:
                yield message("IST0154", placed, f"REMOVE is ignored for {target}.", *path)
            elif operation in _RELATIVE and not priority:
                if str_at(patch, "match", "proxy", "proxyVersion"):
                    text = (
                        f"{operation} with a proxyVersion and without priority may not be applied, or not in the order "
                    )
                    yield message("IST0155", placed, text + "that is meant. Set spec.priority.", *path)
                else:
                    instead = "Use INSERT_FIRST, or set" if operation.startswith("INSERT") else "Set"
                    text = f"{operation} without priority depends on which EnvoyFilter comes first. {instead} "
                    yield message("IST0151", placed, text + "spec.priority.", *path)
