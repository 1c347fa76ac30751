"""IST0177: ServiceEntries that give one host and port different protocols."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at, strings_at


def analyze(context: Context) -> Iterable[Message]:
    said: dict[tuple[str, int], list[tuple[str, JsonObject]]] = {}
    for placed in context.every("ServiceEntry"):
        for host in strings_at(placed.obj, "spec", "hosts"):
            for port in objects_at(placed.obj, "spec", "ports"):
                here = said.setdefault((host, int_at(port, "number")), [])
                here.append((str_at(port, "protocol").upper(), placed.obj))
    for placed in context.own("ServiceEntry"):
        own = _title(placed.obj)
        for host in strings_at(placed.obj, "spec", "hosts"):
            for index, port in enumerate(objects_at(placed.obj, "spec", "ports")):
                protocol = str_at(port, "protocol").upper()
                others = {
                    _title(o)
                    for p, o in said[host, int_at(port, "number")]
                    if p != protocol and _seen_together(placed.obj, o)
                } - {own}
                if others:
                    here = f"Host {host} port {int_at(port, 'number')} is {str_at(port, 'protocol')} here"
                    text = f"{here}, and something else in {listed(others)}."
                    yield message("IST0177", placed, text, "spec", "ports", index)


def _seen_together(one: JsonObject, other: JsonObject) -> bool:
    """Whether a namespace sees both."""
    mine, theirs = _scopes(one), _scopes(other)
    return "*" in mine or "*" in theirs or bool(mine & theirs)


def _scopes(entry: JsonObject) -> set[str]:
    own = namespace_of(entry)
    return {own if e == "." else e for e in strings_at(entry, "spec", "exportTo")} - {"~"} or {"*"}


def _title(obj: JsonObject) -> str:
    return f"{namespace_of(obj)}/{name_of(obj)}"
