"""Delta sessions: what a client is sent, in which order, and that it always ends with exactly what it should have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltem.envoyapi import CLUSTER, ENDPOINT, LISTENER, PREFIX, ROUTE, VIRTUAL_HOST, Resource, discovery, encoded
from meltem.xds.session import GATE_SECONDS, DeltaSession
from meltem.xds.subscription import SyncState
from meltem.xds.wire import Batches, DeltaRequest


class Content:
    """What the client should have, in two layers, as an attachment shows it."""

    def __init__(self) -> None:
        self.upper: dict[str, dict[str, Resource]] = {}
        self.lower: dict[str, dict[str, Resource]] = {}

    def put(self, type_url: str, name: str, body: str, *, lower: bool = False) -> None:
        layer = self.lower if lower else self.upper
        layer.setdefault(type_url, {})[name] = encoded(type_url, name, body.encode())

    def drop(self, type_url: str, name: str) -> None:
        self.upper.get(type_url, {}).pop(name, None)
        self.lower.get(type_url, {}).pop(name, None)

    def get(self, type_url: str, name: str) -> Resource | None:
        return next((x for layer in self.layers(type_url) if (x := layer.get(name)) is not None), None)

    def layers(self, type_url: str) -> list[Mapping[str, Resource]]:
        return [x for layer in (self.upper, self.lower) if (x := layer.get(type_url))]

    def names(self, type_url: str) -> set[str]:
        return {n for layer in self.layers(type_url) for n in layer}


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

    def __init__(self, content: Content, refuses: frozenset[bytes] = frozenset()) -> None:
        self.content = content
        self.observer = Quiet()
        self.session = DeltaSession(content, Batches(), self.observer)
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

    def change(self, *what: tuple[str, str]) -> None:
        changed: dict[str, frozenset[str]] = {}
        for type_url, name in what:
            changed[type_url] = changed.get(type_url, frozenset()) | {name}
        self.session.notice(changed, self.now)

    def messages(self) -> Iterator[discovery.DeltaDiscoveryResponse]:
        while (message := self.session.next(self.now)) is not None:
            yield discovery.DeltaDiscoveryResponse.FromString(message)

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
                self.has[type_url].pop(name, None)
                self.versions[type_url].pop(name, None)
        self.session.request(DeltaRequest(type_url, nonce=message.nonce), self.now)
        self._follow(type_url)

    def _apply(self, type_url: str, name: str, body: bytes) -> None:
        if type_url == VIRTUAL_HOST and name.rpartition("/")[0] not in self.has[ROUTE]:
            return  # Envoy drops it
        self.has[type_url][name] = body

    def _follow(self, type_url: str) -> None:
        """Clusters name endpoints of the same name; a listener names the route configuration of its name."""
        target = {CLUSTER: ENDPOINT, LISTENER: ROUTE}.get(type_url)
        if target is not None:
            wanted = set(self.has[type_url])
            new, old = wanted - self.asked[target], self.asked[target] - wanted
            if new or old:
                self.asked[target] = wanted
                for name in old:
                    self.has[target].pop(name, None)
                    self.versions[target].pop(name, None)
                    if target == ROUTE:
                        for host in [h for h in self.has[VIRTUAL_HOST] if h.rpartition("/")[0] == name]:
                            del self.has[VIRTUAL_HOST][host]
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


def small_mesh() -> Content:
    content = Content()
    for name in ("a", "b"):
        content.put(CLUSTER, name, f"cluster {name}")
        content.put(ENDPOINT, name, f"endpoints {name}")
    content.put(LISTENER, "80", "listener")
    content.put(ROUTE, "80", "route")
    content.put(VIRTUAL_HOST, "80/a", "host a")
    return content


@pytest.fixture
def client() -> Client:
    made = Client(small_mesh())
    made.start()
    made.settle()
    made.log.clear()
    return made


def test_everything_arrives_clusters_before_listeners_before_routes() -> None:
    client = Client(small_mesh())
    client.start()
    client.settle()
    assert client.has == client.expected()
    assert [t for t, _, _ in client.log] == [CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST]


def test_a_change_sends_that_resource_and_nothing_else(client: Client) -> None:
    client.content.put(ENDPOINT, "a", "moved")
    client.change((ENDPOINT, "a"))
    client.settle()
    assert client.log == [(ENDPOINT, ("a",), ())]


def test_a_notice_without_difference_sends_nothing(client: Client) -> None:
    client.change((CLUSTER, "a"), (VIRTUAL_HOST, "80/a"))
    client.settle()
    assert client.log == []


def test_a_cluster_that_is_sent_again_takes_its_endpoints_along(client: Client) -> None:
    client.content.put(CLUSTER, "a", "cluster a, new timeout")
    client.change((CLUSTER, "a"))
    client.settle()
    assert client.log == [(CLUSTER, ("a",), ()), (ENDPOINT, ("a",), ())]


def test_new_clusters_come_before_the_host_that_uses_them_and_old_ones_go_after_it(client: Client) -> None:
    content = client.content
    content.put(CLUSTER, "c", "cluster c")
    content.put(ENDPOINT, "c", "endpoints c")
    content.put(VIRTUAL_HOST, "80/a", "host a, to c")
    content.drop(CLUSTER, "a")
    client.change((VIRTUAL_HOST, "80/a"), (CLUSTER, "a"), (CLUSTER, "c"), (ENDPOINT, "c"))
    client.settle()
    assert client.log == [
        (CLUSTER, ("c",), ()),
        (ENDPOINT, ("c",), ()),
        (VIRTUAL_HOST, ("80/a",), ()),
        (CLUSTER, (), ("a",)),
    ]
    assert client.now == 0.0  # nobody had to wait for a deadline


def test_a_client_that_never_acknowledges_clusters_still_gets_its_listeners_in_the_end() -> None:
    client = Client(small_mesh())
    client.start()
    first = [m.type_url for m in client.messages()]
    assert first == [CLUSTER]
    assert client.session.deadline == GATE_SECONDS
    client.now = GATE_SECONDS
    assert [m.type_url for m in client.messages()] == [LISTENER]


def test_one_response_of_a_type_is_under_way_and_changes_meanwhile_become_one(client: Client) -> None:
    client.content.put(ENDPOINT, "a", "1")
    client.change((ENDPOINT, "a"))
    under_way = list(client.messages())
    for number in ("2", "3", "4"):
        client.content.put(ENDPOINT, "a", number)
        client.change((ENDPOINT, "a"))
    assert list(client.messages()) == []
    client.take(under_way[0])
    client.settle()
    assert len(client.log) == 2
    assert client.has[ENDPOINT]["a"] == b"4"


def test_asking_for_what_is_not_there_is_answered(client: Client) -> None:
    client.ask(ENDPOINT, "nowhere")
    client.settle()
    assert client.log == [(ENDPOINT, (), ("nowhere",))]


def test_an_unknown_type_is_answered_with_nothing_so_that_nobody_waits(client: Client) -> None:
    client.ask(PREFIX + "istio.networking.nds.v1.NameTable")
    client.settle()
    assert client.log == [(PREFIX + "istio.networking.nds.v1.NameTable", (), ())]


def test_health_reports_of_istio_agents_get_no_answer(client: Client) -> None:
    client.ask(PREFIX + "istio.v1.HealthInformation")
    client.settle()
    assert client.log == []


def test_a_reconnecting_client_with_everything_is_sent_almost_nothing(client: Client) -> None:
    again = Client(client.content)
    again.has, again.asked, again.vhds = client.has, client.asked, True
    for type_url in (CLUSTER, LISTENER, VIRTUAL_HOST):
        again.ask(type_url, initial=dict(client.versions[type_url]))
    for type_url in (ENDPOINT, ROUTE):
        again.ask(type_url, *client.asked[type_url], initial=dict(client.versions[type_url]))
    again.settle()
    assert all(not names and not gone for _, names, gone in again.log)
    assert again.has == again.expected()


def test_a_reconnecting_client_is_sent_what_changed_meanwhile(client: Client) -> None:
    content = client.content
    content.put(VIRTUAL_HOST, "80/a", "host a anew")
    content.put(VIRTUAL_HOST, "80/b", "host b")
    content.drop(CLUSTER, "b")
    content.drop(ENDPOINT, "b")
    again = Client(content)
    again.has, again.versions, again.asked, again.vhds = client.has, client.versions, client.asked, True
    for type_url in (CLUSTER, LISTENER, VIRTUAL_HOST):
        again.ask(type_url, initial=dict(client.versions[type_url]))
    for type_url in (ENDPOINT, ROUTE):
        again.ask(type_url, *client.asked[type_url], initial=dict(client.versions[type_url]))
    again.settle()
    assert again.has == again.expected()


def test_the_refused_resource_is_found_and_the_others_arrive() -> None:
    content = small_mesh()
    for name in "cdefg":
        content.put(VIRTUAL_HOST, f"80/{name}", f"host {name}")
    client = Client(content, refuses=frozenset({b"host e"}))
    client.start()
    client.settle()
    assert client.observer.refused == [("80/e",)]
    assert set(client.has[VIRTUAL_HOST]) == {f"80/{n}" for n in "acdfg"}
    status = client.session.statuses()[VIRTUAL_HOST]
    assert status.state is SyncState.ERROR
    assert status.rejected["80/e"].error == "not that"

    count = len(client.log)
    client.change((VIRTUAL_HOST, "80/e"))
    client.settle()
    assert len(client.log) == count, "the same refused resource is not sent in a loop"

    content.put(VIRTUAL_HOST, "80/e", "host e, mended")
    client.change((VIRTUAL_HOST, "80/e"))
    client.settle()
    assert client.has == client.expected()
    assert client.session.statuses()[VIRTUAL_HOST].state is SyncState.SYNCED


def test_hosts_of_a_route_configuration_come_with_it_each_time_it_is_new(client: Client) -> None:
    content = client.content
    content.put(LISTENER, "81", "listener 81")
    content.put(ROUTE, "81", "route 81")
    content.put(VIRTUAL_HOST, "81/x", "host x")
    client.change((VIRTUAL_HOST, "81/x"), (ROUTE, "81"), (LISTENER, "81"))
    client.settle()
    assert client.has == client.expected()
    content.drop(LISTENER, "81")
    client.change((LISTENER, "81"))
    client.settle()
    assert client.has == client.expected()
    content.put(LISTENER, "81", "listener 81")
    client.change((LISTENER, "81"))
    client.settle()
    assert client.has == client.expected()


_NAMES = {CLUSTER: "abc", ENDPOINT: "abc", LISTENER: "pqr", ROUTE: "pqr"}
_change = st.one_of(
    *(st.tuples(st.just(t), st.sampled_from(names), st.integers(0, 3)) for t, names in _NAMES.items()),
    st.tuples(st.just(VIRTUAL_HOST), st.sampled_from(["p/x", "p/y", "q/x", "r/z"]), st.integers(0, 3)),
)
_step = st.one_of(st.lists(_change, min_size=1, max_size=4), st.just("one message"), st.just("settle"))


@settings(max_examples=300, deadline=None)
@given(st.lists(_step, max_size=25), st.booleans())
def test_any_history_ends_with_exactly_the_content(steps: list[object], lower: bool) -> None:
    """Changes come in any batches, while messages are under way or not; 0 removes a resource."""
    client = Client(Content())
    client.start()
    waiting: list[discovery.DeltaDiscoveryResponse] = []
    for step in steps:
        if step == "one message":
            waiting += list(client.messages())
            if waiting:
                client.take(waiting.pop(0))
        elif step == "settle":
            for message in waiting:
                client.take(message)
            waiting = []
            client.settle()
        else:
            for type_url, name, version in step:
                if version:
                    client.content.put(type_url, name, f"{name} {version}", lower=lower)
                else:
                    client.content.drop(type_url, name)
            client.change(*((t, n) for t, n, _ in step))
    for message in waiting:
        client.take(message)
    client.settle()
    assert client.has == client.expected()
    assert all(s.state is not SyncState.STALE for s in client.session.statuses().values())
