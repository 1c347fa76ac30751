"""IST0145: Gateways with the same selector, port and host."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.graph.model import host_matches
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at, strings_at
from meltem.simulate.origin import Placed


def analyze(context: Context) -> Iterable[Message]:
    every = context.every("Gateway")
    for placed in context.own("Gateway"):
        selector = spec_map(placed, "selector")
        rivals = [o for o in every if o is not placed and selector and spec_map(o, "selector") == selector]
        for index, server in enumerate(objects_at(placed.obj, "spec", "servers")):
            found = [_title(r) for r in rivals for s in objects_at(r.obj, "spec", "servers") if _conflict(server, s)]
            if found:
                hosts = ", ".join(strings_at(server, "hosts"))
                number = int_at(server, "port", "number")
                text = (
                    f"Conflicts with gateways {listed(set(found))}: same selector, port {number} and hosts ({hosts})."
                )
                yield message("IST0145", placed, text, "spec", "servers", index)


def _title(placed: Placed) -> str:
    return f"{namespace_of(placed.obj)}/{name_of(placed.obj)}"


def _conflict(one: JsonObject, other: JsonObject) -> bool:
    if int_at(one, "port", "number") != int_at(other, "port", "number"):
        return False
    if str_at(one, "bind") != str_at(other, "bind"):
        return False
    mine, theirs = strings_at(one, "hosts"), strings_at(other, "hosts")
    return any(_same(a, b) for a in mine for b in theirs)


def _same(one: str, other: str) -> bool:
    space, _, host = one.rpartition("/")
    space2, _, host2 = other.rpartition("/")
    if space not in ("", "*") and space2 not in ("", "*") and space != space2:
        return False
    return host_matches(host, host2) or host_matches(host2, host)
