"""A client of delta sessions without a network: it does with configuration what Envoy does.

In: a `Content` (what the client should have). Out: a `Client` whose `has` must end equal to its `expected()`.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.envoyapi import CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST, Resource, discovery, encoded
from meltem.generate.bundle import Layer
from meltem.xds.batches import Batches, find, merged
from meltem.xds.session import DeltaSession
from meltem.xds.subscription import SyncState
from meltem.xds.wire import DeltaRequest


class Content:
    """What the client should have, in two layers, as an attachment shows it."""

    def __init__(self) -> None:
        self.upper: dict[str, Layer] = {}
        self.lower: dict[str, Layer] = {}

    def put(self, type_url: str, name: str, body: str, *, lower: bool = False) -> None:
        layer = self.lower if lower else self.upper
        layer.setdefault(type_url, Layer()).put(name, encoded(type_url, name, body.encode()))

    def drop(self, type_url: str, name: str) -> None:
        for layer in self.layers(type_url):
            layer.drop(name)

    def get(self, type_url: str, name: str) -> Resource | None:
        return find(self.layers(type_url), name)

    def layers(self, type_url: str) -> list[Layer]:
        return [x for layer in (self.upper, self.lower) if (x := layer.get(type_url)) is not None]

    def names(self, type_url: str) -> set[str]:
        return set(merged(self.layers(type_url)))


class Quiet:
    """An observer that remembers refusals."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, ...]] = []

    def sent(self, type_url: str, resources: int, size: int) -> None: ...
    def acknowledged(self, type_url: str, seconds: float) -> None: ...
    def rejected(self, type_url: str, names: tuple[str, ...], error: str) -> None:
        self.refused.append(names)

    def expired_nonce(self, type_url: str) -> None: ...


class Client:
    """Does what Envoy does with a delta stream: applies, acknowledges, asks for what its clusters and listeners name.

    `refuses`: resource bodies that it does not take; a response that holds one is refused as a whole.
    """

    def __init__(
        self, content: Content, refuses: frozenset[bytes] = frozenset(), batches: Batches | None = None
    ) -> None:
        self.content = content
        self.observer = Quiet()
        self.session = DeltaSession(content, Batches() if batches is None else batches, self.observer)
        self.has: dict[str, dict[str, bytes]] = {t: {} for t in (CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST)}
        self.versions: dict[str, dict[str, str]] = {t: {} for t in self.has}
        self.asked: dict[str, set[str]] = {ENDPOINT: set(), ROUTE: set()}
        self.refuses = refuses
        self.now = 0.0
        self.log: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        self.vhds = False

    def ask(self, type_url: str, *names: str, **more: object) -> None:
        self.session.request(DeltaRequest(type_url, tuple(names), **more), self.now)

    def start(self) -> None:
        self.ask(CLUSTER)
        self.ask(LISTENER)

    def reconnect(self, batches: Batches) -> Client:
        """A new stream, which brings along what the old one left."""
        again = Client(self.content, batches=batches)
        again.has, again.versions, again.asked, again.vhds = self.has, self.versions, self.asked, self.vhds
        for type_url in (CLUSTER, LISTENER):
            again.ask(type_url, initial=dict(self.versions[type_url]))
        for type_url in (ENDPOINT, ROUTE):
            if self.asked[type_url]:
                again.ask(type_url, *self.asked[type_url], initial=dict(self.versions[type_url]))
        if self.vhds:
            again.ask(VIRTUAL_HOST, initial=dict(self.versions[VIRTUAL_HOST]))
        return again

    def change(self, *what: tuple[str, str]) -> None:
        changed: dict[str, frozenset[str]] = {}
        for type_url, name in what:
            changed[type_url] = changed.get(type_url, frozenset()) | {name}
        self.session.notice(changed, self.now)

    def current(self) -> bool:
        """Whether it has acknowledged everything, by the states that people are shown."""
        states = {t: s.state for t, s in self.session.statuses().items()}
        started = states.get(CLUSTER, SyncState.NOT_SENT) is not SyncState.NOT_SENT
        return started and SyncState.STALE not in states.values()

    def messages(self) -> Iterator[discovery.DeltaDiscoveryResponse]:
        while (message := self.session.next(self.now)) is not None:
            yield discovery.DeltaDiscoveryResponse.FromString(bytes(message))

    def settle(self) -> None:
        """Take and answer messages until there are none, waiting where the session says so."""
        for _ in range(200):
            waiting = list(self.messages())
            if not waiting:
                if self.session.deadline is None:
                    return
                self.now = self.session.deadline
                continue
            for message in waiting:
                self.take(message)
        raise AssertionError("the session does not come to rest")

    def take(self, message: discovery.DeltaDiscoveryResponse) -> None:
        type_url = message.type_url
        names = tuple(r.name for r in message.resources)
        self.log.append((type_url, names, tuple(message.removed_resources)))
        if any(r.resource.value in self.refuses for r in message.resources):
            self.session.request(DeltaRequest(type_url, nonce=message.nonce, error="not that"), self.now)
            return
        if type_url in self.has:
            for resource in message.resources:
                if resource.name not in self.asked.get(type_url, (resource.name,)):
                    continue  # under way while it was unsubscribed: nobody in Envoy waits for it
                self._apply(type_url, resource.name, resource.resource.value)
                self.versions[type_url][resource.name] = resource.version
            for name in message.removed_resources:
                self._forget(type_url, name)
        self.session.request(DeltaRequest(type_url, nonce=message.nonce), self.now)
        self._follow(type_url)

    def _apply(self, type_url: str, name: str, body: bytes) -> None:
        if type_url == VIRTUAL_HOST and name.rpartition("/")[0] not in self.has[ROUTE]:
            return  # Envoy drops it
        self.has[type_url][name] = body

    def _forget(self, type_url: str, name: str) -> None:
        self.has[type_url].pop(name, None)
        self.versions[type_url].pop(name, None)
        if type_url == ROUTE:  # its virtual hosts are part of it
            for host in [h for h in self.has[VIRTUAL_HOST] if h.rpartition("/")[0] == name]:
                del self.has[VIRTUAL_HOST][host]

    def _follow(self, type_url: str) -> None:
        """Clusters name endpoints of the same name; a listener names the route configuration of its name."""
        target = {CLUSTER: ENDPOINT, LISTENER: ROUTE}.get(type_url)
        if target is not None:
            wanted = set(self.has[type_url])
            new, old = wanted - self.asked[target], self.asked[target] - wanted
            if new or old:
                self.asked[target] = wanted
                for name in old:
                    self._forget(target, name)
                self.session.request(DeltaRequest(target, tuple(sorted(new)), tuple(sorted(old))), self.now)
        if type_url == ROUTE and self.has[ROUTE] and not self.vhds:
            self.vhds = True
            self.ask(VIRTUAL_HOST)

    def expected(self) -> dict[str, dict[str, bytes]]:
        content, found = self.content, {}
        for type_url in self.has:
            names = content.names(type_url)
            if type_url == ENDPOINT:
                names &= content.names(CLUSTER)
            if type_url == ROUTE:
                names &= content.names(LISTENER)
            if type_url == VIRTUAL_HOST:
                routes = content.names(ROUTE) & content.names(LISTENER)
                names = {n for n in names if n.rpartition("/")[0] in routes}
            found[type_url] = {n: content.get(type_url, n).body for n in names}
        return found
