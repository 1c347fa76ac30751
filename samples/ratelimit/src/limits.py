"""Rules of a rate limit service, in the form of envoyproxy/ratelimit, and the counting.

What goes in: configuration documents (`domain`, `descriptors`), then descriptors of requests. What comes out: for each
descriptor the limit that it falls under, whether it is exceeded, how much is left and for how long.

A descriptor is a list of (key, value). It falls under the rule at the same depth whose keys fit, level by level: a rule
with that value before one whose value is a prefix and `*`, and that before one without a value, which counts each value
by itself. Windows are fixed: a minute begins with the minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
Descriptor = tuple[tuple[str, str], ...]
MOST_WINDOWS = 100_000


class BadConfiguration(Exception):
    """It says where and what is wrong."""


@dataclass(frozen=True)
class Limit:
    """So many requests in a unit of time; `requests` None: as many as come."""

    requests: int | None
    unit: str = "second"
    name: str = ""
    replaces: tuple[str, ...] = ()
    shadow: bool = False
    shared: str = ""
    """What is counted instead of the value, where all values that a wildcard fits share the limit."""


@dataclass(frozen=True)
class Rule:
    """One entry of a list of descriptors."""

    key: str
    value: str = ""
    limit: Limit | None = None
    below: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What becomes of one descriptor. `limit` None: nothing limits it."""

    limit: Limit | None
    over: bool = False
    left: int = 0
    seconds: int = 0


def read(document: object, where: str) -> tuple[str, tuple[Rule, ...]]:
    """Domain and rules of one document; raises BadConfiguration."""
    if not isinstance(document, dict) or not isinstance(document.get("domain"), str) or not document["domain"]:
        raise BadConfiguration(f"{where}: has no domain")
    return document["domain"], _rules(document.get("descriptors", []), f"{where}: descriptors")


def _rules(items: object, where: str) -> tuple[Rule, ...]:
    if not isinstance(items, list):
        raise BadConfiguration(f"{where}: is no list")
    return tuple(_rule(item, f"{where}[{index}]") for index, item in enumerate(items))


def _rule(item: object, where: str) -> Rule:
    if not isinstance(item, dict) or not isinstance(item.get("key"), str) or not item["key"]:
        raise BadConfiguration(f"{where}: has no key")
    value = "" if item.get("value") is None else str(item["value"])
    shared = value[:-1] if item.get("share_threshold") and value.endswith("*") else ""
    limit = _limit(item["rate_limit"], bool(item.get("shadow_mode")), shared, where) if item.get("rate_limit") else None
    return Rule(item["key"], value, limit, _rules(item.get("descriptors") or [], f"{where}.descriptors"))


def _limit(item: object, shadow: bool, shared: str, where: str) -> Limit:
    where = f"{where}.rate_limit"
    if not isinstance(item, dict):
        raise BadConfiguration(f"{where}: is no object")
    name = str(item.get("name") or "")
    replaces = tuple(str(r.get("name")) for r in item.get("replaces") or [] if isinstance(r, dict))
    if item.get("unlimited"):
        return Limit(None, "second", name, replaces, shadow, shared)
    unit = str(item.get("unit", "")).lower()
    if unit not in UNITS:
        raise BadConfiguration(f"{where}.unit: {unit!r} is none of {', '.join(UNITS)}")
    requests = item.get("requests_per_unit")
    if not isinstance(requests, int) or isinstance(requests, bool) or requests < 0:
        raise BadConfiguration(f"{where}.requests_per_unit: is no number")
    return Limit(requests, unit, name, replaces, shadow, shared)


def find(rules: Sequence[Rule], descriptor: Descriptor) -> Limit | None:
    """The limit that a descriptor falls under."""
    found: Rule | None = None
    for key, value in descriptor:
        same = [r for r in rules if r.key == key]
        found = (
            next((r for r in same if r.value == value and value), None)
            or next((r for r in same if r.value.endswith("*") and value.startswith(r.value[:-1])), None)
            or next((r for r in same if not r.value), None)
        )
        if found is None:
            return None
        rules = found.below
    return found.limit if found is not None else None


@dataclass
class Limiter:
    """Counts. `clock`: seconds since 1970."""

    clock: Callable[[], float] = time.time
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    _counts: dict[tuple[str, Descriptor, str, int], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, documents: Iterable[tuple[str, tuple[Rule, ...]]]) -> None:
        """From now on these rules; what was counted stays."""
        made: dict[str, tuple[Rule, ...]] = {}
        for domain, rules in documents:
            made[domain] = made.get(domain, ()) + rules
        self.rules = made

    def check(self, domain: str, descriptors: Sequence[Descriptor], hits: int = 1) -> list[Verdict]:
        """A verdict for each descriptor; every limit that is met counts the hits."""
        rules = self.rules.get(domain, ())
        limits = [find(rules, d) for d in descriptors]
        replaced = {name for limit in limits if limit is not None for name in limit.replaces}
        with self._lock:
            return [
                self._count(domain, descriptor, limit, hits)
                if limit is not None and not (limit.name and limit.name in replaced)
                else Verdict(None)
                for descriptor, limit in zip(descriptors, limits, strict=True)
            ]

    def _count(self, domain: str, descriptor: Descriptor, limit: Limit, hits: int) -> Verdict:
        if limit.requests is None:
            return Verdict(limit, left=2**32 - 1)
        length = UNITS[limit.unit]
        now = int(self.clock())
        if limit.shared:
            descriptor = (*descriptor[:-1], (descriptor[-1][0], f"{limit.shared}*"))
        window = (domain, descriptor, limit.unit, now // length)
        count = self._counts[window] = self._counts.get(window, 0) + hits
        if len(self._counts) > MOST_WINDOWS:
            self._forget(now)
        over = count > limit.requests and not limit.shadow
        return Verdict(limit, over, max(limit.requests - count, 0), length - now % length)

    def _forget(self, now: int) -> None:
        """Windows that are past; where all are present, everything."""
        kept = {w: c for w, c in self._counts.items() if w[3] == now // UNITS[w[2]]}
        self._counts = kept if len(kept) < MOST_WINDOWS else {}
