"""Automatic addresses for hosts of ServiceEntries that have none, so that TCP to them can be told apart.

In: the hosts without addresses, with what their status says already, and the addresses that people wrote. Out: one IPv4
of 240.240.0.0/12's upper half and one IPv6 of 2001:2::/48 (ranges that nobody routes) a host.

What `status.addresses` says stays, so that clients' connections and caches go on to mean the same host. Without it an
address depends only on which hosts there are, never on when they came: istiods that do not know of each other agree,
and what the leader writes is what all of them told their proxies before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import msgspec

from meltem.collections import Collection, Graph, Reader, Source
from meltem.graph.inputs import ResourceKey
from meltem.graph.model import ServiceKey
from meltem.graph.services import valid_ip
from meltem.resources import networking

OPT_OUT = "networking.istio.io/enable-autoallocate-ip"
_LEVELS = 15
Pairs = tuple[tuple[str, str], ...]
"""(host, address) as `status.addresses` has them."""


class Claim(msgspec.Struct, frozen=True):
    """A host that needs addresses, and those that its ServiceEntry's status gives it."""

    created: str = ""
    given: tuple[str, ...] = ()


def slot(key: ServiceKey) -> int:
    """Two bytes of the key's hash."""
    return int.from_bytes(blake2b("/".join(key).encode(), digest_size=2).digest(), "big")


def candidate(key: ServiceKey, level: int) -> tuple[str, str]:
    """240.240.x.y for level 0, 240.241.x.y for level 1, and so on."""
    high, low = divmod(slot(key), 256)
    return f"240.{240 + level}.{high}.{low}", f"2001:2::f0f0:{level:x}:{high:02x}{low:02x}"


def needs_address(entry: networking.ServiceEntry, host: str) -> bool:
    """Whether automatic allocation gives this host addresses: it has none, is no wildcard, is not NONE, and nobody
    switched it off."""
    spec = entry.spec
    off = entry.metadata.labels.get(OPT_OUT, "").lower() == "false"
    return not off and not spec.addresses and not host.startswith("*") and spec.resolution != "NONE"


class Addresses:
    """The collections. `of`: host → its addresses; `unwritten`: ServiceEntry → what its status has still to say."""

    def __init__(self, graph: Graph, entries: Source[ResourceKey, networking.ServiceEntry]) -> None:
        self.claims: Collection[ServiceKey, Claim] = graph.derive("hosts without addresses", entries, _claims)
        self._by_slot = graph.index("hosts by address slot", self.claims, lambda k, _v: [slot(k)])
        self._by_given = graph.index("hosts by given address", self.claims, lambda _k, v: v.given)
        self._written = graph.index(
            "entries by written address",
            entries,
            lambda _k, v: [a.removesuffix("/32").removesuffix("/128") for a in v.spec.addresses],
        )
        self.of: Collection[ServiceKey, tuple[str, ...]] = graph.derive("automatic addresses", self.claims, self._of)
        self.unwritten: Collection[ResourceKey, Pairs] = graph.derive("unwritten addresses", entries, self._unwritten)

    def _of(self, reader: Reader, key: ServiceKey, claim: Claim) -> Mapping[ServiceKey, tuple[str, ...]]:
        if self._keeps(reader, key, claim):
            return {key: claim.given}
        rivals = reader.lookup(self._by_slot, slot(key))
        waiting = sorted(k for k, c in rivals.items() if not self._keeps(reader, k, c))
        free = [n for n in range(_LEVELS) if not any(self._taken(reader, a) for a in candidate(key, n))]
        place = waiting.index(key)
        return {key: candidate(key, free[place]) if place < len(free) else ()}

    def _keeps(self, reader: Reader, key: ServiceKey, claim: Claim) -> bool:
        """The host has the addresses of its status: nobody wrote one of them into a spec, and of several hosts that
        say that they have it this is the oldest."""
        if not claim.given:
            return False
        for address in claim.given:
            same = reader.lookup(self._by_given, address)
            if reader.lookup(self._written, address) or min((c.created, k) for k, c in same.items())[1] != key:
                return False
        return True

    def _taken(self, reader: Reader, address: str) -> bool:
        if reader.lookup(self._written, address):
            return True
        return any(self._keeps(reader, k, c) for k, c in reader.lookup(self._by_given, address).items())

    def _unwritten(
        self, reader: Reader, key: ResourceKey, entry: networking.ServiceEntry
    ) -> Mapping[ResourceKey, Pairs]:
        hosts = [h for h in dict.fromkeys(entry.spec.hosts) if needs_address(entry, h)]
        wanted = tuple((h, a) for h in hosts for a in reader.get(self.of, (key[1], h)) or ())
        said = tuple((a.host, a.value) for a in entry.status.addresses)
        return {} if wanted == said else {key: wanted}


def _claims(_reader: Reader, key: ResourceKey, entry: networking.ServiceEntry) -> Mapping[ServiceKey, Claim]:
    hosts = [h for h in entry.spec.hosts if needs_address(entry, h)]
    return {(key[1], h): Claim(entry.metadata.creation_timestamp, _given(entry, h)) for h in hosts}


def _given(entry: networking.ServiceEntry, host: str) -> tuple[str, ...]:
    said: Iterable[str] = (a.value for a in entry.status.addresses if a.host == host)
    return tuple(a for a in dict.fromkeys(said) if valid_ip(a))
