"""What both kinds of session have in common: subscriptions by type, what changes, who waits for whom, what they tell.

In: notices of changes. Out: `BaseSession`, which `DeltaSession` and `StateSession` are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from meltem.envoyapi import CLUSTER, ENDPOINT, EXTENSION_CONFIG, PREFIX, ROUTE, SECRET
from meltem.xds.batches import Batches, Response
from meltem.xds.subscription import Content, Observer, Rejection, Subscription, TypeStatus

GATE_SECONDS = 2.0
NAMED_TYPES = frozenset({ENDPOINT, ROUTE, SECRET, EXTENSION_CONFIG})
"""Types that are only ever asked for by name: a first request without names asks for nothing."""
REPORT_TYPES = frozenset({PREFIX + "istio.v1.HealthInformation"})
"""Types in which clients tell, and expect no answer."""


class BaseSession:
    """See the module's head."""

    ORDER: ClassVar[tuple[str, ...]]
    """Types in the order in which they are sent; others come after them."""

    def __init__(self, content: Content, batches: Batches, observer: Observer) -> None:
        self._content = content
        self._batches = batches
        self._observer = observer
        self._subscriptions: dict[str, Subscription] = {}
        self._ordered: list[Subscription] = []
        self._nonce = 0
        self._gated_since: float | None = None
        self.deadline: float | None = None
        self.quiet = False
        """Nothing is to be sent before something changes or the client asks, whatever it acknowledges."""
        self.refused = False
        """The client has refused something at some time: only then has `refusals` anything to look through."""

    @property
    def current(self) -> bool:
        """Whether the client has taken everything. What it refuses counts as taken: that is told with the resource that
        is to blame. Asked of every session after each change."""
        clusters = self._subscriptions.get(CLUSTER)
        if clusters is None or not (clusters.sent_nonce or clusters.brought or clusters.rejected):
            return False
        if not self.quiet:
            return not any(known.stale for known in self._ordered)
        return not any(known.inflight is not None and not known.rejected for known in self._ordered)

    def notice(self, changed: Mapping[str, frozenset[str]], now: float) -> bool:
        """Resources that may differ from what was sent. True where the client is concerned."""
        concerned = False
        for type_url, names in changed.items():
            known = self._subscriptions.get(type_url)
            if known is None:
                continue
            mine = names if known.wildcard else known.names.among(names)
            if mine:
                concerned = True
                self.quiet = False
                known.dirty |= mine
                if known.since is None:
                    known.since = now
        return concerned

    def next(self, now: float) -> Response | None:
        """The next message to send, or None for now."""
        if self.quiet:
            return None
        self.deadline = None
        if self._gated_since is None and self._settled():
            self.quiet = True
            return None
        found = self._next(now)
        self.quiet = found is None and self.deadline is None and self._gated_since is None and self._settled()
        return found

    def statuses(self) -> dict[str, TypeStatus]:
        return {t: s.status() for t, s in self._subscriptions.items()}

    def refusals(self) -> dict[str, dict[str, Rejection]]:
        """What the client refuses now, by type and name."""
        return {t: s.rejected for t, s in self._subscriptions.items() if s.rejected}

    def held(self, type_url: str) -> dict[str, str]:
        """Name → version of what the client has, as far as we know."""
        known = self._subscriptions.get(type_url)
        return known.held.snapshot() if known is not None else {}

    def _new(self, type_url: str) -> Subscription:
        known = self._subscriptions[type_url] = Subscription(type_url)
        places = {t: place for place, t in enumerate(self.ORDER)}
        self._ordered.append(known)
        self._ordered.sort(key=lambda s: places.get(s.type_url, len(places)))
        return known

    def _gated(self, type_url: str, now: float) -> bool:
        """Must this type wait for another? Sets `deadline` where it does."""
        if not self._blocked(type_url):
            return False
        if self._gated_since is None:
            self._gated_since = now
        end = self._gated_since + GATE_SECONDS
        if now >= end:
            self._waited()
            return False
        self.deadline = end if self.deadline is None else min(self.deadline, end)
        return True

    def _settled(self) -> bool:
        return not any(known.waiting for known in self._ordered)

    def _next(self, now: float) -> Response | None:
        raise NotImplementedError

    def _blocked(self, type_url: str) -> bool:
        """Is something on its way that this type builds upon?"""
        raise NotImplementedError

    def _waited(self) -> None:
        """As long as anybody waits for others."""

    def _adding(self, type_urls: Iterable[str]) -> bool:
        return any((s := self._subscriptions.get(t)) is not None and s.adding for t in type_urls)
