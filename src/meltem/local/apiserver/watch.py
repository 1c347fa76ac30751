"""Watches: committed changes in, one ordered stream of events for each watcher out.

`Hub.subscribe` starts at a resourceVersion without a gap or a repetition: registration and the read of the history up
to the newest committed change happen in one step of the event loop. A watcher whose reader does not keep up is
dropped at `QUEUE_LIMIT` events; it costs only itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from meltem.local.apiserver.selectors import Predicate
from meltem.local.apiserver.storage import Change, Entry, Store

QUEUE_LIMIT = 8192


class Event(NamedTuple):
    """What a watcher sees of a change. `entry` is the state to show; `change` carries the shared encodings."""

    kind: str
    entry: Entry
    rv: int
    change: Change | None


class Interest(NamedTuple):
    """What is watched: a resource, perhaps one namespace or name, perhaps only objects that match."""

    resource: str
    namespace: str
    name: str
    matches: Predicate | None


def select(interest: Interest, change: Change) -> Event | None:
    """The event that `change` is for this watcher: leaving the selection is DELETED, entering it is ADDED."""
    key = change.entry.key
    if (interest.namespace and key.namespace != interest.namespace) or (interest.name and key.name != interest.name):
        return None
    rv = change.entry.rv
    if interest.matches is None:
        return Event(change.kind, change.entry, rv, change)
    was = change.before is not None and interest.matches(change.before.object)
    now = change.kind != "DELETED" and interest.matches(change.entry.object)
    if now:
        return Event("MODIFIED" if was else "ADDED", change.entry, rv, change)
    return Event("DELETED", change.entry, rv, change) if was else None


class Watcher:
    """One stream. `take` waits for events; `dropped` is set when the reader was too slow."""

    def __init__(self, interest: Interest, on_drop: Callable[[], None]) -> None:
        self.interest = interest
        self.dropped = False
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._on_drop = on_drop

    def preload(self, events: list[Event]) -> None:
        """Events that come before everything live; not counted against the limit."""
        self._queue.extend(events)
        if events:
            self._wake.set()

    def offer(self, change: Change) -> None:
        if self.dropped:
            return
        event = select(self.interest, change)
        if event is None:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped = True
            self._queue.clear()
            self._wake.set()
            self._on_drop()
            return
        self._queue.append(event)
        self._wake.set()

    async def take(self, seconds: float) -> list[Event]:
        """Every event at hand, waiting at most `seconds` for the first; empty when there is none or when dropped."""
        if not self._queue and not self.dropped:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return []
        self._wake.clear()
        events = list(self._queue)
        self._queue.clear()
        return events

    def stop(self) -> None:
        """Ends the stream: the next `take` returns what is left."""
        self.dropped = True
        self._wake.set()


class Hub:
    """All watchers of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: dict[str, set[Watcher]] = {}
        store.listen(self._publish)

    def subscribe(self, interest: Interest, after: int, on_drop: Callable[[], None]) -> Watcher:
        """A watcher of every change over `after`; raises Gone when some of them are forgotten."""
        watcher = Watcher(interest, on_drop)
        events = [event for c in self._store.history(interest.resource, after) if (event := select(interest, c))]
        watcher.preload(events)
        self._watchers.setdefault(interest.resource, set()).add(watcher)
        return watcher

    def unsubscribe(self, watcher: Watcher) -> None:
        self._watchers.get(watcher.interest.resource, set()).discard(watcher)

    def end(self, resource: str) -> None:
        """Ends all watches of a resource that is no longer served."""
        for watcher in list(self._watchers.get(resource, ())):
            watcher.stop()

    def count(self) -> int:
        return sum(len(watchers) for watchers in self._watchers.values())

    def _publish(self, change: Change) -> None:
        for watcher in list(self._watchers.get(change.entry.key.resource, ())):
            watcher.offer(change)
