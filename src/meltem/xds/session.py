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

from collections.abc import Callable, Iterable, Mapping

from meltem.envoyapi import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    PREFIX,
    ROUTE,
    SECRET,
    VIRTUAL_HOST,
    Resource,
)
from meltem.xds.subscription import Content, InFlight, Observer, Rejection, Subscription, TypeStatus
from meltem.xds.virtual_hosts import VirtualHostScopes
from meltem.xds.wire import CHUNK, Batch, Batches, DeltaRequest

GATE_SECONDS = 2.0
NAMED_TYPES = frozenset({ENDPOINT, ROUTE, SECRET, EXTENSION_CONFIG})
"""Types that are only ever asked for by name: a first request without names asks for nothing."""
REPORT_TYPES = frozenset({PREFIX + "istio.v1.HealthInformation"})
"""Types in which clients tell, and expect no answer."""
_ORDER = (SECRET, EXTENSION_CONFIG, CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST)
_REMOVALS = "removal of clusters"
_CHUNKED = frozenset({CLUSTER, ENDPOINT})
_NAMES_CULPRITS = frozenset({CLUSTER, LISTENER})
"""Types of which Envoy takes the good resources of a response and names the bad ones in its error."""


class DeltaSession:
    """See the module's head."""

    def __init__(self, content: Content, batches: Batches, observer: Observer) -> None:
        self._content = content
        self._batches = batches
        self._observer = observer
        self._subscriptions: dict[str, Subscription] = {}
        self._others: list[Subscription] = []
        self._hosts = VirtualHostScopes()
        self._nonce = 0
        self._awaited: set[str] = set()  # clusters sent whose endpoints the client has yet to ask for
        self._gated_since: float | None = None
        self.deadline: float | None = None

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
        fresh = not request.nonce and known.since is None
        self._subscribe(known, request)
        self._unsubscribe(known, request)
        if fresh and (known.undecided or known.respond):
            known.since = now

    def notice(self, changed: Mapping[str, frozenset[str]], now: float) -> bool:
        """Resources that may differ from what was sent. True where the client is concerned."""
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

    # Output

    def next(self, now: float) -> bytes | None:
        """The next message to send, or None for now."""
        self.deadline = None
        for known in self._subscriptions.values():
            if known.inflight is None and (known.undecided or self._hosts.pending):
                self._resolve(known)
        for known in self._in_order():
            if known.inflight is not None:
                continue
            gone = known.gone and known.type_url != CLUSTER
            if not (known.out or gone or known.respond or known.batches):
                continue
            if self._gated(known.type_url, now):
                continue
            return self._send(known, now)
        if not self._blocked(VIRTUAL_HOST):
            self._gated_since = None
        return self._remove_clusters(now)

    def statuses(self) -> dict[str, TypeStatus]:
        return {t: s.status() for t, s in self._subscriptions.items()}

    def refusals(self) -> dict[str, dict[str, Rejection]]:
        """What the client refuses now, by type and name."""
        return {t: s.rejected for t, s in self._subscriptions.items() if s.rejected}

    def held(self, type_url: str) -> dict[str, str]:
        """Name → version of what the client has, as far as we know."""
        known = self._subscriptions.get(type_url)
        return known.held.snapshot() if known is not None else {}

    def send_again(self, now: float) -> None:
        """Everything that is subscribed to, whatever the client has."""
        for known in self._subscriptions.values():
            names = set(known.held) | known.names
            known.must |= {n for n in names if known.type_url != VIRTUAL_HOST or self._hosts.covers(n)}
            known.since = now

    # Requests

    def _subscribe_first(self, request: DeltaRequest) -> Subscription:
        known = Subscription(request.type_url)
        self._subscriptions[request.type_url] = known
        if request.type_url not in _ORDER:
            self._others.append(known)
        if request.initial:
            known.declared = request.initial
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
        find = _finder(self._content.layers(known.type_url))
        is_endpoint = known.type_url == ENDPOINT
        for asked in request.subscribe:
            if asked == "*":
                if not known.wildcard:
                    self._begin_wildcard(known)
                continue
            found = find(asked)
            name = found.name if found is not None else asked  # one string for all the sessions
            if name in known.declared and name not in known.names:
                known.dirty.add(name)
            else:
                known.must.add(name)
            known.names.add(name)
            if is_endpoint:
                self._awaited.discard(name)

    def _unsubscribe(self, known: Subscription, request: DeltaRequest) -> None:
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
            known.out.pop(name, None)
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
        if known.type_url == VIRTUAL_HOST:
            self._hosts.resolve(known, self._content.layers(VIRTUAL_HOST))
        layers = self._content.layers(known.type_url)
        if known.everything:
            self._resolve_everything(known, layers)
        if not known.dirty and not known.must:
            return
        find = _finder(layers)
        is_host = known.type_url == VIRTUAL_HOST
        held, must, out = known.held, known.must, known.out
        for name in known.dirty | must if known.dirty and must else known.dirty or must:
            found = find(name)
            if found is not None and is_host and not self._hosts.covers(name):
                found = None
            if found is None:
                out.pop(name, None)
                if name in must or held.get(name):
                    known.gone[name] = None
                else:
                    known.gone.pop(name, None)
            elif name in must or held.get(name) != found.version:
                out[name] = found
                known.gone.pop(name, None)
            else:
                out.pop(name, None)
                known.gone.pop(name, None)
        known.dirty.clear()
        known.must.clear()

    def _resolve_everything(self, known: Subscription, layers: list[Mapping[str, Resource]]) -> None:
        known.everything = False
        if known.type_url == VIRTUAL_HOST:
            return
        content: Mapping[str, Resource] = layers[0] if len(layers) == 1 else _merged(layers)
        if not known.held:
            known.out = dict(content)
            return
        held = known.held
        known.out = {n: r for n, r in content.items() if held.get(n) != r.version}
        known.gone = {n: None for n in held if n not in content}
        if not known.out and not known.gone:  # share the versions instead of the client's own copy
            known.held.put_all(self._batches.of(content.values()).versions)

    def _in_order(self) -> Iterable[Subscription]:
        mine = self._subscriptions
        for type_url in _ORDER:
            known = mine.get(type_url)
            if known is not None:
                yield known
        yield from self._others

    def _send(self, known: Subscription, now: float) -> bytes:
        removed: tuple[str, ...] = ()
        if known.batches:
            names = known.batches.popleft()
            some = [r for n in names if (r := self._content.get(known.type_url, n)) is not None]
            batch = self._batches.of(some)
        else:
            batch = self._batches.of(known.out.values())
            if known.type_url in _CHUNKED:
                batch = self._batches.first_chunk(batch, CHUNK)
            if known.type_url != CLUSTER:
                removed = tuple(known.gone)
                known.gone = {}
        if len(batch.resources) == len(known.out):
            known.out = {}
        else:
            for resource in batch.resources:
                known.out.pop(resource.name, None)
        known.respond = False
        return self._sent(known, batch, removed, now)

    def _sent(self, known: Subscription, batch: Batch, removed: tuple[str, ...], now: float) -> bytes:
        self._nonce += 1
        nonce = str(self._nonce)
        if batch.resources:
            known.held.put_all(batch.versions)
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
        self._observer.sent(known.type_url, len(batch.resources), len(made))
        return made

    def _clusters_sent(self, batch: Batch, now: float) -> None:
        """Envoy warms a cluster until it is told its endpoints, also when it had them for the cluster's old version."""
        endpoints = self._subscriptions.get(ENDPOINT)
        asked = endpoints.names if endpoints is not None else set[str]()
        layers = self._content.layers(ENDPOINT)
        for name in batch.versions:
            if endpoints is not None and name in asked:
                endpoints.must.add(name)
                if endpoints.since is None:
                    endpoints.since = now
            elif any(name in layer for layer in layers):
                self._awaited.add(name)

    def _remove_clusters(self, now: float) -> bytes | None:
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

    def _gated(self, type_url: str, now: float) -> bool:
        """Must this type wait for another? Sets `deadline` where it does."""
        if not self._blocked(type_url):
            return False
        if self._gated_since is None:
            self._gated_since = now
        end = self._gated_since + GATE_SECONDS
        if now >= end:
            self._awaited.clear()
            return False
        self.deadline = end if self.deadline is None else min(self.deadline, end)
        return True

    def _blocked(self, type_url: str) -> bool:
        mine = self._subscriptions
        if type_url == _REMOVALS:
            return any((s := mine.get(t)) is not None and (s.adding or s.gone) for t in (LISTENER, ROUTE, VIRTUAL_HOST))
        if type_url not in (LISTENER, ROUTE, VIRTUAL_HOST):
            return False
        if self._awaited:
            return True
        if any((s := mine.get(t)) is not None and s.adding for t in (CLUSTER, ENDPOINT)):
            return True
        before = {ROUTE: LISTENER, VIRTUAL_HOST: ROUTE}.get(type_url)
        earlier = mine.get(before) if before else None
        return earlier is not None and (bool(earlier.out) or bool(earlier.batches))


def _finder(layers: list[Mapping[str, Resource]]) -> Callable[[str], Resource | None]:
    """Look a name up in the first layer that has it."""
    if len(layers) == 1:
        return layers[0].get

    def find(name: str) -> Resource | None:
        for layer in layers:
            found = layer.get(name)
            if found is not None:
                return found
        return None

    return find


def _merged(layers: list[Mapping[str, Resource]]) -> dict[str, Resource]:
    merged: dict[str, Resource] = {}
    for layer in reversed(layers):
        merged.update(layer)
    return merged
