"""One delta stream as a state machine without I/O: events in, messages out.

    session = DeltaSession(content, batches, observer)
    session.request(request, now)      the client asked, acknowledged or refused
    session.notice(changed, now)       these resources may differ now
    session.next(now)                  the next message to send, or None; ask until None
    session.deadline                   ask again at this moment, even if nothing happens

Rules: one response under way a type. Clusters and their endpoints go first; listeners, then routes, then virtual hosts
wait until these are acknowledged (make before break), at most `GATE_SECONDS`; clusters are removed last. A cluster that
is sent again takes its endpoints along, for which Envoy waits. A refused response is taken apart until the resource at
fault stands alone; that one is not sent again before it changes. Envoy asks for virtual hosts once, with no names, and
keeps those of the route configurations that it has at that moment: they are sent after each route configuration.

Protocol: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from meltem.envoyapi import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, SECRET, VIRTUAL_HOST
from meltem.generate.bundle import Layer
from meltem.xds.base import NAMED_TYPES, REPORT_TYPES, BaseSession
from meltem.xds.batches import CHUNK, FEW, Batch, Batches, Response, find
from meltem.xds.held import Names
from meltem.xds.subscription import Content, InFlight, Observer, Rejection, Subscription
from meltem.xds.virtual_hosts import VirtualHostScopes
from meltem.xds.wire import DeltaRequest

_REMOVALS = "removal of clusters"
_CHUNKED = frozenset({CLUSTER, ENDPOINT})
_NAMES_CULPRITS = frozenset({CLUSTER, LISTENER})
"""Types of which Envoy takes the good resources of a response and names the bad ones in its error."""
_KEPT = frozenset({EXTENSION_CONFIG})
"""Types whose resources are not taken away: filters that serve until their listener has drained would have nothing."""


class DeltaSession(BaseSession):
    """See the module's head."""

    ORDER: ClassVar[tuple[str, ...]] = (SECRET, EXTENSION_CONFIG, CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST)

    def __init__(self, content: Content, batches: Batches, observer: Observer) -> None:
        super().__init__(content, batches, observer)
        self._hosts = VirtualHostScopes()
        self._awaited: set[str] = set()  # clusters sent whose endpoints the client has yet to ask for

    # Events

    def request(self, request: DeltaRequest, now: float) -> None:
        """A message of the client."""
        if not request.type_url or request.type_url in REPORT_TYPES:
            return
        known = self._subscriptions.get(request.type_url)
        if known is None:
            known = self._subscribe_first(request)
        elif request.nonce:
            self._answered(known, request, now)
        if not request.acknowledges:
            self.quiet = False
        fresh = not request.nonce and known.since is None
        self._subscribe(known, request)
        self._unsubscribe(known, request)
        if fresh and (known.undecided or known.respond):
            known.since = now
        if request.initial and known.inflight is None:
            self._resolve(known)  # at once, so that the client's own copy is not kept

    # Output

    def _settled(self) -> bool:
        return super()._settled() and not self._hosts.pending

    def _next(self, now: float) -> Response | None:
        idle = [known for known in self._ordered if known.inflight is None]
        hosts = self._hosts.pending
        for known in idle:
            if known.undecided or (hosts and known.type_url == VIRTUAL_HOST):
                self._resolve(known)
        for known in idle:
            gone = known.gone and known.type_url != CLUSTER
            if not (gone or known.respond or known.batches or known.out):
                continue
            if self._gated(known.type_url, now):
                continue
            return self._send(known, now)
        if not self._blocked(VIRTUAL_HOST):
            self._gated_since = None
        return self._remove_clusters(now)

    def send_again(self, now: float) -> None:
        """Everything that is subscribed to, whatever the client has."""
        for known in self._subscriptions.values():
            self._one_by_one(known)
            names = {*known.held, *known.names}
            self.quiet = False
            known.must |= {n for n in names if known.type_url != VIRTUAL_HOST or self._hosts.covers(n)}
            known.since = now

    # Requests

    def _subscribe_first(self, request: DeltaRequest) -> Subscription:
        known = self._new(request.type_url)
        if request.initial:
            known.brought = True
            known.held.put_all(request.initial)
        if not request.subscribe and request.type_url not in NAMED_TYPES:
            self._begin_wildcard(known)
        if request.type_url == ROUTE:
            for name in request.subscribe:
                if name in request.initial:
                    self._hosts.enter(name, client_has_it=True)
        elif request.type_url == VIRTUAL_HOST:
            self._hosts.asked_for()
        return known

    def _begin_wildcard(self, known: Subscription) -> None:
        known.wildcard = True
        known.everything = True
        known.respond = True

    def _subscribe(self, known: Subscription, request: DeltaRequest) -> None:
        if not request.subscribe:
            return
        is_endpoint = known.type_url == ENDPOINT
        if _all_at_once(known, request):
            known.asked = self._batches.names(request.subscribe)
            known.names = Names(known.asked)
            if is_endpoint:
                if known.brought:
                    known.must |= self._awaited & known.asked
                self._awaited = self._awaited - known.asked
            return
        layers = self._content.layers(known.type_url)
        for asked in request.subscribe:
            if asked == "*":
                if not known.wildcard:
                    self._begin_wildcard(known)
                continue
            found = find(layers, asked)
            name = found.name if found is not None else asked  # one string for all the sessions
            waited = is_endpoint and name in self._awaited  # its cluster was sent anew before the client came to ask
            if name in request.initial and name not in known.names and not waited:
                known.dirty.add(name)
            else:
                known.must.add(name)
            known.names.add(name)
            if is_endpoint:
                self._awaited.discard(name)

    def _one_by_one(self, known: Subscription) -> None:
        """Deal with the names of the first request as with those of others."""
        asked, known.asked = known.asked or (), None
        for name in asked:
            (known.dirty if known.brought and name in known.held else known.must).add(name)

    def _unsubscribe(self, known: Subscription, request: DeltaRequest) -> None:
        if request.unsubscribe:
            self._one_by_one(known)
        for name in request.unsubscribe:
            if name == "*":
                known.wildcard = known.everything = False
                for held in [h for h in known.held if h not in known.names]:
                    known.held.drop(held)
                continue
            known.names.discard(name)
            if known.wildcard:
                continue
            known.held.drop(name)
            known.must.discard(name)
            known.dirty.discard(name)
            known.out.drop(name)
            known.gone.pop(name, None)
            known.rejected.pop(name, None)
            if known.type_url == ROUTE:
                self._hosts.leave(name)

    def _answered(self, known: Subscription, request: DeltaRequest, now: float) -> None:
        sent = known.inflight
        if sent is None or sent.nonce != request.nonce:
            self._observer.expired_nonce(known.type_url)
            return
        known.inflight = None
        if request.error is not None:
            self._refused(known, sent, request.error)
            return
        known.acked_nonce, known.acked_version, known.acked_at = sent.nonce, sent.batch.version, now
        if known.rejected:
            for name in (*sent.batch.versions, *sent.removed):
                known.rejected.pop(name, None)
        if known.type_url == ROUTE:
            self._hosts.installed(sent.batch.versions)
        if known.since is not None and not known.adding and not known.gone:
            self._observer.acknowledged(known.type_url, now - known.since)
            known.since = None

    def _refused(self, known: Subscription, sent: InFlight, error: str) -> None:
        self.refused = True
        versions = sent.batch.versions
        names = tuple(versions)
        culprits = names
        if len(names) > 1:
            named = tuple(n for n in names if n in error) if known.type_url in _NAMES_CULPRITS else ()
            if named and len(named) < len(names):
                culprits = named
            else:
                half = len(names) // 2
                known.batches.extend((names[:half], names[half:]))
                culprits = ()
        if known.type_url == ROUTE:
            for held in self._hosts.not_installed(names, self._virtual_hosts_held()):
                self._subscriptions[VIRTUAL_HOST].held.drop(held)
        known.since = None
        if culprits or not names:
            for name in culprits:
                known.rejected[name] = Rejection(versions[name], error)
            self._observer.rejected(known.type_url, culprits, error)

    def _virtual_hosts_held(self) -> Iterable[str]:
        known = self._subscriptions.get(VIRTUAL_HOST)
        return known.held if known is not None else ()

    # What to send

    def _resolve(self, known: Subscription) -> None:
        """Compare what may differ with what the client has."""
        layers = self._content.layers(known.type_url)
        is_host = known.type_url == VIRTUAL_HOST
        if is_host:
            self._hosts.resolve(known, layers, self._batches)
        if known.everything:
            self._resolve_everything(known, layers)
        if known.asked is not None:
            self._resolve_asked(known, known.asked, layers)
        held, must, out = known.held, known.must, known.out
        for name in known.dirty | must if known.dirty and must else known.dirty or must:
            found = find(layers, name)
            if found is not None and is_host and not self._hosts.covers(name):
                found = None
            if found is None:
                out.drop(name)
                if known.type_url in _KEPT:
                    continue
                if name in must or held.get(name):
                    known.gone[name] = None
                else:
                    known.gone.pop(name, None)
                continue
            known.gone.pop(name, None)
            if name in must or name in out or held.get(name) != found.version:
                out.put(found)
        known.dirty.clear()
        known.must.clear()

    def _resolve_everything(self, known: Subscription, layers: list[Layer]) -> None:
        known.everything = False
        if known.type_url == VIRTUAL_HOST:
            return
        content = self._batches.whole(layers)
        if not known.held:
            known.out.put_all(content)
            return
        known.out.clear()
        known.gone = {}
        held, versions = known.held, [part.versions for part in content.leaves]
        if held.holds(versions):
            return
        held.lean_on(versions)
        for resource in content:
            if held.get(resource.name) != resource.version:
                known.out.put(resource)
        known.gone = {n: None for n in held if not any(n in some for some in versions)}

    def _resolve_asked(self, known: Subscription, asked: frozenset[str], layers: list[Layer]) -> None:
        """The names of a first request, all at once where the client has none of them, or has them all already."""
        chosen = self._batches.select(layers, asked)
        versions = [part.versions for part in chosen.batch.leaves]
        if not known.brought:
            known.asked = None
            known.out.put_all(chosen.batch)
            if known.type_url not in _KEPT:
                known.gone.update(dict.fromkeys(chosen.missing))
        elif not chosen.missing and known.held.holds(versions):
            known.asked = None
        else:
            known.held.lean_on(versions)
            self._one_by_one(known)

    def _send(self, known: Subscription, now: float) -> Response:
        removed: tuple[str, ...] = ()
        if known.batches:
            names = known.batches.popleft()
            batch = self._batches.of([r for n in names if (r := self._content.get(known.type_url, n)) is not None])
            for name in names:
                known.out.drop(name)
        else:
            batch = known.out.take(self._batches, CHUNK if known.type_url in _CHUNKED else None)
            if known.type_url != CLUSTER:
                removed = tuple(known.gone)
                known.gone = {}
        known.respond = False
        return self._sent(known, batch, removed, now)

    def _sent(self, known: Subscription, batch: Batch, removed: tuple[str, ...], now: float) -> Response:
        self._nonce += 1
        nonce = str(self._nonce)
        for part in batch.leaves:
            if part.count:
                known.held.put_all(part.versions)
        for name in removed:
            known.held.drop(name)
        if known.type_url == CLUSTER:
            self._clusters_sent(batch, now)
        elif known.type_url == ROUTE:
            for name in batch.versions:
                self._hosts.enter(name, client_has_it=False)
            for name in removed:
                self._hosts.leave(name)
        known.inflight = InFlight(nonce, batch, removed, now)
        known.sent_nonce, known.sent_version, known.sent_at = nonce, batch.version, now
        made = batch.delta(known.type_url, nonce, removed)
        self._observer.sent(known.type_url, batch.count, made.size)
        return made

    def _clusters_sent(self, batch: Batch, now: float) -> None:
        """Envoy warms a cluster until it is told its endpoints, also when it had them for the cluster's old version."""
        endpoints = self._subscriptions.get(ENDPOINT)
        layers = self._content.layers(ENDPOINT)
        for part in batch.leaves:
            names = part.versions.keys()
            again = endpoints.names.among(names) if endpoints is not None else frozenset[str]()
            if endpoints is not None and again:
                endpoints.must |= again
                if endpoints.since is None:
                    endpoints.since = now
            for layer in layers:
                self._awaited |= (names & layer.resources.keys()) - again

    def _remove_clusters(self, now: float) -> Response | None:
        """Last of all: nothing that the client has may still name them."""
        known = self._subscriptions.get(CLUSTER)
        if known is None or not known.gone or known.inflight is not None:
            return None
        if self._gated(_REMOVALS, now):
            return None
        removed = tuple(known.gone)
        known.gone = {}
        self._awaited.difference_update(removed)
        return self._sent(known, self._batches.of(()), removed, now)

    # Order among types

    def _waited(self) -> None:
        self._awaited.clear()

    def _blocked(self, type_url: str) -> bool:
        mine = self._subscriptions
        if type_url == _REMOVALS:
            return any((s := mine.get(t)) is not None and (s.adding or s.gone) for t in (LISTENER, ROUTE, VIRTUAL_HOST))
        if type_url not in (LISTENER, ROUTE, VIRTUAL_HOST):
            return False
        if self._awaited:
            return True
        if self._adding((CLUSTER, ENDPOINT)):
            return True
        before = {ROUTE: LISTENER, VIRTUAL_HOST: ROUTE}.get(type_url)
        earlier = mine.get(before) if before else None
        return earlier is not None and (bool(earlier.out) or bool(earlier.batches))


def _all_at_once(known: Subscription, request: DeltaRequest) -> bool:
    """May the names that are asked for be treated as one set that many share?"""
    if len(request.subscribe) <= FEW or known.names or known.undecided or known.out or known.gone:
        return False
    return known.type_url != VIRTUAL_HOST and "*" not in request.subscribe
