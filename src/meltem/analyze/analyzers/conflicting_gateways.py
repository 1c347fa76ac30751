"""IST0145: Gateways of one workload with the same port and host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at, strings_at
from meltem.simulate.origin import Placed


def analyze(context: Context) -> Iterable[Message]:
    every = context.every("Gateway")
    for placed in context.own("Gateway"):
        selector = spec_map(placed, "selector")
        rivals = [o for o in every if o is not placed and _same_workload(context, selector, spec_map(o, "selector"))]
        for index, server in enumerate(objects_at(placed.obj, "spec", "servers")):
            mine = _Listener(server, namespace_of(placed.obj))
            found = [
                _title(r)
                for r in rivals
                for s in objects_at(r.obj, "spec", "servers")
                if _conflict(mine, _Listener(s, namespace_of(r.obj)))
            ]
            if found:
                hosts = ", ".join(strings_at(server, "hosts"))
                number = int_at(server, "port", "number")
                text = (
                    f"Conflicts with gateways {listed(set(found))}: same workload, port {number} and hosts ({hosts})."
                )
                yield message("IST0145", placed, text, "spec", "servers", index)


def _title(placed: Placed) -> str:
    return f"{namespace_of(placed.obj)}/{name_of(placed.obj)}"


def _same_workload(context: Context, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether both are for one workload: by the same selector, or by a pod that both choose."""
    if one == other:
        return True
    if any(other.get(k, v) != v for k, v in one.items()):
        return False
    return bool(context.pods("", {**one, **other}))


class _Listener(NamedTuple):
    server: JsonObject
    namespace: str

    @property
    def hosts(self) -> set[str]:
        """With the own namespace in place of `.`; any namespace is left out."""
        found: set[str] = set()
        for text in strings_at(self.server, "hosts"):
            space, _, host = text.rpartition("/")
            found.add(f"{self.namespace if space == '.' else space}/{host}" if space not in ("", "*") else host)
        return found


def _conflict(one: _Listener, other: _Listener) -> bool:
    """The same name, as Istio has it: a name beside a wildcard that covers it is no conflict, the nearer one wins."""
    if int_at(one.server, "port", "number") != int_at(other.server, "port", "number"):
        return False
    return str_at(one.server, "bind") == str_at(other.server, "bind") and bool(one.hosts & other.hosts)
