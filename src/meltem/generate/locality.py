"""Which localities come first: failover by distance or by labels, and fixed distribution.

In: the endpoints of a cluster, where the client is, the settings of localities or zones. Out: groups of endpoints with
priority and weight, in a fixed order. Without settings every locality has priority 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meltem.graph.model import Endpoint
from meltem.resources import networking
from meltem.view.units import Balance

Place = tuple[str, str, str]


class Group(msgspec.Struct, frozen=True):
    """Endpoints of one locality at one priority."""

    locality: Place
    priority: int
    weight: int
    endpoints: tuple[Endpoint, ...]


class Client(msgspec.Struct, frozen=True):
    """Where the client is, and those of its labels that failover is ranked by."""

    locality: Place = ("", "", "")
    network: str = ""
    cluster: str = ""
    node: str = ""
    labels: tuple[tuple[str, str], ...] = ()


def arrange(endpoints: Iterable[Endpoint], client: Client, balance: Balance) -> list[Group]:
    setting = balance.localities
    by_place: dict[Place, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_place.setdefault(endpoint.locality, []).append(endpoint)
    if balance.zones is not None and balance.zones.enabled is not False:
        return _zones(by_place, client, balance.zones)
    if setting is None:
        return [_group(p, 0, by_place[p]) for p in sorted(by_place)]
    if setting.distribute:
        shares = _distribution(setting, client.locality)
        if shares is None:
            return [_group(p, 0, by_place[p]) for p in sorted(by_place)]
        return _distributed(by_place, shares)
    failover = {f.from_: f.to for f in setting.failover}
    if setting.failover_priority:
        ranked = _by_labels(by_place, client, setting.failover_priority)
        nearness = {p: _distance(client.locality, p, failover) if failover else 0 for p in by_place}
        return _ordered((((rank, nearness[place]), place), members) for (rank, place), members in ranked)
    ranks = {p: _distance(client.locality, p, failover) for p in by_place}
    order = {rank: i for i, rank in enumerate(sorted(set(ranks.values())))}
    return [_group(p, order[ranks[p]], by_place[p]) for p in sorted(by_place, key=lambda p: (ranks[p], p))]


def _group(place: Place, priority: int, endpoints: list[Endpoint], weight: int | None = None) -> Group:
    total = weight if weight is not None else sum(max(1, e.weight) for e in endpoints)
    return Group(place, priority, max(1, total), tuple(endpoints))


def _distance(client: Place, place: Place, failover: dict[str, str]) -> int:
    """0 same subzone, 1 same zone, 2 same region, 3 the region to fail over to (or any), 4 the others."""
    if client[0] != place[0]:
        return 3 if failover.get(client[0], place[0]) == place[0] else 4
    if client[1] != place[1]:
        return 2
    return 0 if client[2] == place[2] else 1


def _matches(pattern: str, place: Place) -> bool:
    """`region/zone/subzone`, each part or the whole tail `*`."""
    for wanted, actual in zip(pattern.split("/"), place, strict=False):
        if wanted == "*":
            return True
        if wanted != actual:
            return False
    return True


def _distribution(setting: networking.LocalityLoadBalancer, client: Place) -> dict[str, int] | None:
    for rule in setting.distribute:
        if _matches(rule.from_, client):
            return rule.to
    return None


def _distributed(by_place: dict[Place, list[Endpoint]], shares: dict[str, int]) -> list[Group]:
    """Each entry's share is split over the localities that it matches, by their endpoints' weights; localities that no
    entry names get nothing."""
    out: list[Group] = []
    taken: set[Place] = set()
    for pattern in sorted(shares, key=lambda p: (-len(p.replace("*", "").split("/")), p)):
        places = [p for p in sorted(by_place) if p not in taken and _matches(pattern, p)]
        total = sum(max(1, e.weight) for p in places for e in by_place[p])
        for place in places:
            taken.add(place)
            own = sum(max(1, e.weight) for e in by_place[place])
            weight = round(shares[pattern] * own / total * 100) if total else 0
            if weight:
                out.append(_group(place, 0, by_place[place], weight))
    return sorted(out, key=lambda g: g.locality)


def _zones(
    by_place: dict[Place, list[Endpoint]], client: Client, setting: networking.ZoneAwareLoadBalancer
) -> list[Group]:
    """The client's region first, all its zones alike (Envoy itself shares between them), then the region to fail over
    to, then the others; before that the labels of `failoverPriority`, if there are any."""
    to = next((f.to for f in setting.failover if f.from_ == client.locality[0]), None)

    def region(place: Place) -> int:
        return 0 if place[0] == client.locality[0] else (1 if place[0] == to else 2)

    ranked = _by_labels(by_place, client, setting.failover_priority)
    return _ordered((((rank, region(place)), place), members) for (rank, place), members in ranked)


def _by_labels(
    by_place: dict[Place, list[Endpoint]], client: Client, priority: tuple[str, ...]
) -> Iterable[tuple[tuple[int, Place], list[Endpoint]]]:
    """failoverPriority: the more of the labels an endpoint shares with the client, from the first on, the lower its
    rank. Groups of one rank and place."""
    mine = dict(client.labels) | dict(_topology(client.locality, client.network, client.cluster, client.node))
    grouped: dict[tuple[int, Place], list[Endpoint]] = {}
    for place, members in by_place.items():
        for endpoint in members:
            own = dict(endpoint.labels)
            own |= dict(_topology(endpoint.locality, endpoint.network, endpoint.cluster, endpoint.node))
            rank = len(priority)
            for label in priority:
                name, _, value = label.partition("=")
                if own.get(name, "") != (value or mine.get(name, "")):
                    break
                rank -= 1
            grouped.setdefault((rank, place), []).append(endpoint)
    return grouped.items()


def _ordered(ranked: Iterable[tuple[tuple[tuple[int, int], Place], list[Endpoint]]]) -> list[Group]:
    """Priorities without gaps, by rank."""
    grouped = dict(ranked)
    order = {rank: i for i, rank in enumerate(sorted({rank for rank, _ in grouped}))}
    return [_group(place, order[rank], grouped[(rank, place)]) for rank, place in sorted(grouped)]


def _topology(place: Place, network: str, cluster: str, node: str) -> list[tuple[str, str]]:
    known = [
        ("topology.kubernetes.io/region", place[0]),
        ("topology.kubernetes.io/zone", place[1]),
        ("topology.istio.io/subzone", place[2]),
        ("topology.istio.io/network", network),
        ("topology.istio.io/cluster", cluster),
        ("kubernetes.io/hostname", node),
    ]
    return [pair for pair in known if pair[1]]
