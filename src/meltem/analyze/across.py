"""IST0170: services of one name in several clusters of a mesh that are not the same service.

In: what each cluster has, by the name of its context (empty for the cluster that was asked first). Out: findings about
the first cluster's service. The mesh joins such services: which one's type and ports hold would be chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at


def analyze(clusters: Mapping[str, Context]) -> Iterable[Message]:
    """The first one's services, as far as they are to be reported on."""
    (first, home), *others = clusters.items()
    for placed in home.own("Service"):
        namespace, name = namespace_of(placed.obj), name_of(placed.obj)
        differ: dict[str, list[str]] = {}
        for context, other in others:
            found = other.find("Service", namespace, name)
            wrong = _differences(placed.obj, found) if found is not None else []
            if wrong:
                differ[context] = wrong
        if differ:
            reasons = "; ".join(dict.fromkeys(r for some in differ.values() for r in some))
            where = ", ".join((first or "this one", *differ))
            text = f"The service {name} of namespace {namespace} is not the same in the clusters {where}: {reasons}."
            yield message("IST0170", placed, text, "spec")


def _differences(one: JsonObject, other: JsonObject) -> list[str]:
    found: list[str] = []
    if (str_at(one, "spec", "clusterIP") == "None") != (str_at(other, "spec", "clusterIP") == "None"):
        found.append("one is headless and one is not")
    if _type(one) != _type(other):
        found.append("their types differ")
    if _ports(one) != _ports(other):
        found.append("their ports differ")
    return found


def _type(service: JsonObject) -> str:
    return str_at(service, "spec", "type") or "ClusterIP"


def _ports(service: JsonObject) -> set[tuple[str, int, str, str, str]]:
    """Without node ports, which each cluster gives out for itself."""
    return {
        (
            str_at(p, "name"), int_at(p, "port"), str(p.get("targetPort", int_at(p, "port"))),
            str_at(p, "protocol") or "TCP", str_at(p, "appProtocol"),
        )
        for p in objects_at(service, "spec", "ports")
    }  # fmt: skip
