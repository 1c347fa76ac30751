"""One state-of-the-world stream as a state machine without I/O; same events and rules as `DeltaSession`.

A response of clusters or listeners holds all of them; of endpoints, routes and the like it holds the ones that changed,
or all that a request newly names. The version is a hash of the whole content of that type, so that a client that comes
back with the version that it has already is sent nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from meltem.envoyapi import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, SECRET, Resource
from meltem.xds.session import GATE_SECONDS, NAMED_TYPES, REPORT_TYPES
from meltem.xds.subscription import Content, InFlight, Observer, Rejection, Subscription, TypeStatus
from meltem.xds.wire import Batches, StateRequest

_ORDER = (SECRET, EXTENSION_CONFIG, CLUSTER, ENDPOINT, LISTENER, ROUTE)
_WHOLE = frozenset({CLUSTER, LISTENER})


class StateSession:
    """Methods as those of `DeltaSession`."""

    def __init__(self, content: Content, batches: Batches, observer: Observer) -> None:
        self._content = content
        self._batches = batches
        self._observer = observer
        self._subscriptions: dict[str, Subscription] = {}
        self._nonce = 0
        self._gated_since: float | None = None
        self.deadline: float | None = None

    def request(self, request: StateRequest, now: float) -> None:
        """A message of the client."""
        if not request.type_url or request.type_url in REPORT_TYPES:
            return
        known = self._subscriptions.get(request.type_url)
        if known is None:
            known = Subscription(request.type_url)
            self._subscriptions[request.type_url] = known
            self._first(known, request, now)
            return
        if request.nonce != known.sent_nonce:  # about an older response: the client will write again
            if request.nonce:
                self._observer.expired_nonce(known.type_url)
                return
        elif known.inflight is not None:
            self._answered(known, request, now)
        self._names(known, request, now)

    def notice(self, changed: Mapping[str, frozenset[str]], now: float) -> bool:
        concerned = False
        for type_url, names in changed.items():
            known = self._subscriptions.get(type_url)
            if known is None:
                continue
            mine = names if known.wildcard else names & known.names
            if mine:
                concerned = True
                known.dirty |= mine
                if known.since is None:
                    known.since = now
        return concerned

    def next(self, now: float) -> bytes | None:
        self.deadline = None
        for known in self._in_order():
            if known.inflight is not None or not (known.undecided or known.respond):
                continue
            if self._gated(known.type_url, now):
                continue
            message = self._send(known, now)
            if message is not None:
                return message
        if not self._blocked(ROUTE):
            self._gated_since = None
        return None

    def statuses(self) -> dict[str, TypeStatus]:
        return {t: s.status() for t, s in self._subscriptions.items()}

    def refusals(self) -> dict[str, dict[str, Rejection]]:
        return {t: s.rejected for t, s in self._subscriptions.items() if s.rejected}

    def held(self, type_url: str) -> dict[str, str]:
        known = self._subscriptions.get(type_url)
        return known.held.snapshot() if known is not None else {}

    def send_again(self, now: float) -> None:
        for known in self._subscriptions.values():
            known.must |= known.names
            known.everything = known.wildcard
            known.respond = True
            known.since = now

    def _first(self, known: Subscription, request: StateRequest, now: float) -> None:
        known.wildcard = not request.names and known.type_url not in NAMED_TYPES
        known.names = set(request.names)
        known.since = now
        some = self._wanted(known)
        if request.version and some and request.version == _version_of(some):
            known.declared = {r.name: r.version for r in some}
            known.held.put_all(known.declared)
            known.since = None
            return
        known.must |= known.names
        known.everything = known.respond = known.wildcard

    def _names(self, known: Subscription, request: StateRequest, now: float) -> None:
        if known.wildcard and not request.names:
            return
        asked = set(request.names)
        known.wildcard = False
        new = asked - known.names
        for name in known.names - asked:
            known.held.drop(name)
            known.dirty.discard(name)
            known.must.discard(name)
            known.rejected.pop(name, None)
        known.names = asked
        if new:
            known.must |= new
            if known.since is None:
                known.since = now

    def _answered(self, known: Subscription, request: StateRequest, now: float) -> None:
        sent = known.inflight
        known.inflight = None
        if sent is None:
            return
        versions = sent.batch.versions
        if request.error is not None:
            known.since = None
            culprits = tuple(n for n in versions if n in request.error) or tuple(versions)
            for name in culprits:
                known.rejected[name] = Rejection(versions[name], request.error)
            self._observer.rejected(known.type_url, culprits, request.error)
            return
        known.acked_nonce, known.acked_version, known.acked_at = sent.nonce, known.sent_version, now
        for name in versions:
            known.rejected.pop(name, None)
        if known.since is not None and not known.adding:
            self._observer.acknowledged(known.type_url, now - known.since)
            known.since = None

    def _wanted(self, known: Subscription) -> list[Resource]:
        layers = self._content.layers(known.type_url)
        if known.wildcard:
            found: dict[str, Resource] = {}
            for layer in reversed(layers):
                found.update(layer)
            return list(found.values())
        names = sorted(known.names)
        return [r for n in names if (r := next((x for y in layers if (x := y.get(n)) is not None), None)) is not None]

    def _send(self, known: Subscription, now: float) -> bytes | None:
        changed, must = known.dirty | known.must, known.must
        everything = known.everything
        known.dirty, known.must, known.everything = set(), set(), False
        some = self._wanted(known)
        if known.wildcard or known.type_url in _WHOLE:
            same = len(some) == len(known.held) and all(known.held.get(r.name) == r.version for r in some)
            if same and not everything and not known.respond and not must:
                known.since = None
                return None
            content = some
        else:
            content = [r for r in some if r.name in changed and (r.name in must or known.held.get(r.name) != r.version)]
            for name in changed - {r.name for r in some}:
                known.held.drop(name)
            if not content and not known.respond:
                known.since = None
                return None
        known.respond = False
        if known.type_url in _WHOLE:
            for name in [n for n in known.held if n not in {r.name for r in some}]:
                known.held.drop(name)
            if known.type_url == CLUSTER:
                self._endpoints_again(known, content, now)
        batch = self._batches.of(content)
        known.held.put_all(batch.versions)
        self._nonce += 1
        nonce = str(self._nonce)
        known.sent_nonce, known.sent_version, known.sent_at = nonce, _version_of(some), now
        known.inflight = InFlight(nonce, batch, (), now)
        message = batch.state(known.type_url, nonce, known.sent_version)
        self._observer.sent(known.type_url, len(batch.resources), len(message))
        return message

    def _endpoints_again(self, known: Subscription, content: list[Resource], now: float) -> None:
        """Envoy warms a changed cluster until it is told its endpoints."""
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is None:
            return
        changed = {r.name for r in content if known.held.get(r.name) != r.version} & endpoints.names
        if changed:
            endpoints.must |= changed
            endpoints.since = endpoints.since if endpoints.since is not None else now

    def _in_order(self) -> list[Subscription]:
        mine = self._subscriptions
        first = [s for t in _ORDER if (s := mine.get(t)) is not None]
        return first if len(first) == len(mine) else [*first, *(s for t, s in mine.items() if t not in _ORDER)]

    def _gated(self, type_url: str, now: float) -> bool:
        if not self._blocked(type_url):
            return False
        if self._gated_since is None:
            self._gated_since = now
        end = self._gated_since + GATE_SECONDS
        if now >= end:
            return False
        self.deadline = end if self.deadline is None else min(self.deadline, end)
        return True

    def _blocked(self, type_url: str) -> bool:
        if type_url not in (LISTENER, ROUTE):
            return False
        mine = self._subscriptions
        if any((s := mine.get(t)) is not None and s.adding for t in (CLUSTER, ENDPOINT)):
            return True
        listeners = mine.get(LISTENER)
        return type_url == ROUTE and listeners is not None and listeners.undecided


def _version_of(resources: list[Resource]) -> str:
    digest = blake2b(digest_size=8)
    for text in sorted(f"{r.name}\0{r.version}" for r in resources):
        digest.update(text.encode())
    return digest.hexdigest()
