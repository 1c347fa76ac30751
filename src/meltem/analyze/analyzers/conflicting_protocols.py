"""IST0177: ServiceEntries that give one host and port different protocols."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at, strings_at


def analyze(context: Context) -> Iterable[Message]:
    said: dict[tuple[str, int], dict[str, set[str]]] = {}
    for placed in context.every("ServiceEntry"):
        for host in strings_at(placed.obj, "spec", "hosts"):
            for port in objects_at(placed.obj, "spec", "ports"):
                by = said.setdefault((host, int_at(port, "number")), {})
                by.setdefault(str_at(port, "protocol").upper(), set()).add(_title(placed.obj))
    for placed in context.own("ServiceEntry"):
        own = _title(placed.obj)
        for host in strings_at(placed.obj, "spec", "hosts"):
            for index, port in enumerate(objects_at(placed.obj, "spec", "ports")):
                by = said[host, int_at(port, "number")]
                others = {n for p, names in by.items() if p != str_at(port, "protocol").upper() for n in names} - {own}
                if others:
                    here = f"Host {host} port {int_at(port, 'number')} is {str_at(port, 'protocol')} here"
                    text = f"{here}, and something else in {listed(others)}."
                    yield message("IST0177", placed, text, "spec", "ports", index)


def _title(obj: JsonObject) -> str:
    return f"{namespace_of(obj)}/{name_of(obj)}"
