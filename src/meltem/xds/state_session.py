"""One state-of-the-world stream as a state machine without I/O; same events and rules as `DeltaSession`.

A response of clusters or listeners holds all of them; of endpoints, routes and the like it holds the ones that changed,
or all that a request newly names. The version is a hash of the whole content of that type, so that a client that comes
back with the version that it has already is sent nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import ClassVar

from meltem.envoyapi import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, SECRET, Resource
from meltem.xds.base import NAMED_TYPES, REPORT_TYPES, BaseSession
from meltem.xds.batches import Response, find, merged
from meltem.xds.held import Names
from meltem.xds.subscription import InFlight, Rejection, Subscription
from meltem.xds.wire import StateRequest

_WHOLE = frozenset({CLUSTER, LISTENER})


class StateSession(BaseSession):
    """Methods as those of `DeltaSession`."""

    ORDER: ClassVar[tuple[str, ...]] = (SECRET, EXTENSION_CONFIG, CLUSTER, ENDPOINT, LISTENER, ROUTE)

    def request(self, request: StateRequest, now: float) -> None:
        """A message of the client."""
        if not request.type_url or request.type_url in REPORT_TYPES:
            return
        self.quiet = False
        known = self._subscriptions.get(request.type_url)
        if known is None:
            known = self._new(request.type_url)
            self._first(known, request, now)
            return
        if request.nonce != known.sent_nonce:  # about an older response: the client will write again
            if request.nonce:
                self._observer.expired_nonce(known.type_url)
                return
        elif known.inflight is not None:
            self._answered(known, request, now)
        self._names(known, request, now)

    def _next(self, now: float) -> Response | None:
        for known in self._ordered:
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

    def send_again(self, now: float) -> None:
        for known in self._subscriptions.values():
            self.quiet = False
            known.must.update(known.names)
            known.everything = known.wildcard
            known.respond = True
            known.since = now

    def _first(self, known: Subscription, request: StateRequest, now: float) -> None:
        known.wildcard = not request.names and known.type_url not in NAMED_TYPES
        known.names = Names(self._batches.names(request.names))
        known.since = now
        some = self._wanted(known)
        if request.version and some and request.version == _version_of(some):
            known.brought = True
            known.held.put_all(self._batches.of(some).versions)
            known.since = None
            return
        known.must.update(known.names)
        known.everything = known.respond = known.wildcard

    def _names(self, known: Subscription, request: StateRequest, now: float) -> None:
        if known.wildcard and not request.names:
            return
        asked = self._batches.names(request.names)
        known.wildcard = False
        new = asked - known.names.among(asked)
        for name in [n for n in known.names if n not in asked]:
            known.held.drop(name)
            known.dirty.discard(name)
            known.must.discard(name)
            known.rejected.pop(name, None)
        known.names = Names(asked)
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
            self.refused = True
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
            return list(merged(layers).values())
        return [r for n in sorted(known.names) if (r := find(layers, n)) is not None]

    def _send(self, known: Subscription, now: float) -> Response | None:
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
        self._observer.sent(known.type_url, batch.count, message.size)
        return message

    def _endpoints_again(self, known: Subscription, content: list[Resource], now: float) -> None:
        """Envoy warms a changed cluster until it is told its endpoints."""
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is None:
            return
        changed = endpoints.names.among({r.name for r in content if known.held.get(r.name) != r.version})
        if changed:
            endpoints.must |= changed
            endpoints.since = endpoints.since if endpoints.since is not None else now

    def _blocked(self, type_url: str) -> bool:
        if type_url not in (LISTENER, ROUTE):
            return False
        if self._adding((CLUSTER, ENDPOINT)):
            return True
        listeners = self._subscriptions.get(LISTENER)
        return type_url == ROUTE and listeners is not None and listeners.undecided


def _version_of(resources: Iterable[Resource]) -> str:
    digest = blake2b(digest_size=8)
    for text in sorted(f"{r.name}\0{r.version}" for r in resources):
        digest.update(text.encode())
    return digest.hexdigest()
