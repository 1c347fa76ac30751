"""Delta sessions: what a client is sent, in which order, and that it always ends with exactly what it should have."""

from __future__ import annotations

import pytest
from delta_client import Client, Content
from hypothesis import given, settings
from hypothesis import strategies as st

from meltem.envoyapi import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, PREFIX, ROUTE, VIRTUAL_HOST, discovery
from meltem.xds.base import GATE_SECONDS
from meltem.xds.batches import Batches
from meltem.xds.subscription import SyncState


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


def test_a_filters_configuration_is_waited_for_and_not_taken_away(client: Client) -> None:
    """Without it a filter that still serves would answer with errors: its listener goes when it has drained."""
    client.ask(EXTENSION_CONFIG, "plugin")
    client.settle()
    assert client.log == []
    client.content.put(EXTENSION_CONFIG, "plugin", "1")
    client.change((EXTENSION_CONFIG, "plugin"))
    client.settle()
    client.content.drop(EXTENSION_CONFIG, "plugin")
    client.change((EXTENSION_CONFIG, "plugin"))
    client.settle()
    assert client.log == [(EXTENSION_CONFIG, ("plugin",), ())]
    client.content.put(EXTENSION_CONFIG, "plugin", "2")
    client.change((EXTENSION_CONFIG, "plugin"))
    client.settle()
    assert client.log == [(EXTENSION_CONFIG, ("plugin",), ())] * 2


def test_an_unknown_type_is_answered_with_nothing_so_that_nobody_waits(client: Client) -> None:
    client.ask(PREFIX + "istio.networking.nds.v1.NameTable")
    client.settle()
    assert client.log == [(PREFIX + "istio.networking.nds.v1.NameTable", (), ())]


def test_health_reports_of_istio_agents_get_no_answer(client: Client) -> None:
    client.ask(PREFIX + "istio.v1.HealthInformation")
    client.settle()
    assert client.log == []


def test_a_reconnecting_client_with_everything_is_sent_almost_nothing(client: Client) -> None:
    again = client.reconnect(Batches())
    again.settle()
    assert all(not names and not gone for _, names, gone in again.log)
    assert again.has == again.expected()


def test_a_reconnecting_client_is_sent_what_changed_meanwhile(client: Client) -> None:
    content = client.content
    content.put(VIRTUAL_HOST, "80/a", "host a anew")
    content.put(VIRTUAL_HOST, "80/b", "host b")
    content.drop(CLUSTER, "b")
    content.drop(ENDPOINT, "b")
    again = client.reconnect(Batches())
    again.settle()
    assert again.has == again.expected()


@pytest.mark.parametrize("others", [0, 40])
def test_a_reconnecting_client_s_changed_cluster_is_not_left_without_its_endpoints(others: int) -> None:
    """Envoy warms it, though the client has these endpoints and comes to ask for them later than it is sent."""
    content = small_mesh()
    for number in range(others):
        content.put(CLUSTER, f"o{number}", "other")
        content.put(ENDPOINT, f"o{number}", "endpoints")
    client = Client(content)
    client.start()
    client.settle()
    content.put(CLUSTER, "a", "cluster a, new timeout")
    again = Client(content)
    again.has, again.asked = client.has, client.asked
    again.ask(CLUSTER, initial=dict(client.versions[CLUSTER]))
    (message,) = again.messages()
    again.ask(ENDPOINT, *client.asked[ENDPOINT], initial=dict(client.versions[ENDPOINT]))
    again.take(message)
    again.settle()
    assert [(t, names) for t, names, _ in again.log if names] == [(CLUSTER, ("a",)), (ENDPOINT, ("a",))]


def test_the_refused_resource_is_found_and_the_others_arrive() -> None:
    content = small_mesh()
    for name in "cdefg":
        content.put(VIRTUAL_HOST, f"80/{name}", f"host {name}")
    client = Client(content, refuses=frozenset({b"host e"}))
    client.start()
    assert not client.session.refused
    client.settle()
    assert client.session.refused
    assert client.session.current, "what is refused is told otherwise"
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
            assert client.session.current is client.current()
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
        assert client.session.current is client.current()
    for message in waiting:
        client.take(message)
    client.settle()
    assert client.has == client.expected()
    assert client.session.current
    assert client.current()
