"""What equal clients share: what each of them is sent must be the same as if it were alone, however they deviate."""

from __future__ import annotations

import random

import pytest
from delta_client import Client, Content
from hypothesis import given, settings
from hypothesis import strategies as st

from meltem.envoyapi import CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST, discovery, encoded
from meltem.xds.batches import FEW, Batch, Batches, joined
from meltem.xds.held import Held, Names
from meltem.xds.wire import DeltaReader, DeltaRequest

MANY = 2 * FEW + 1
NAMES = [f"n{i}" for i in range(MANY)]
HOSTS = [*(f"p/{n}" for n in NAMES), *(f"q/{n}" for n in NAMES[:3])]


def large_mesh(upper: bool = True) -> Content:
    """More of everything than is dealt with one by one; what a proxy has alone stands in the upper layer."""
    content = Content()
    for name in NAMES:
        content.put(CLUSTER, name, f"cluster {name}", lower=True)
        content.put(ENDPOINT, name, f"endpoints {name}", lower=True)
    for host in HOSTS:
        content.put(VIRTUAL_HOST, host, f"host {host}", lower=True)
    for name in ("p", "q"):
        content.put(LISTENER, name, f"listener {name}", lower=True)
        content.put(ROUTE, name, f"route {name}", lower=True)
    if upper:
        content.put(CLUSTER, "inbound", "cluster inbound")
        content.put(LISTENER, "inbound", "listener inbound")
    return content


def connected(content: Content, batches: Batches) -> Client:
    client = Client(content, batches=batches)
    client.start()
    client.settle()
    assert client.has == client.expected()
    return client


def test_a_thousand_names_are_joined_once_for_all_equal_clients() -> None:
    content, batches = large_mesh(), Batches()
    first, second = connected(content, batches), Client(content, batches=batches)
    second.start()
    while second.has[VIRTUAL_HOST] == {}:
        for message in list(second.messages()):
            second.take(message)
    second.settle()
    for type_url in (CLUSTER, ENDPOINT, VIRTUAL_HOST):
        one, other = (c.session._subscriptions[type_url].held._bases[0] for c in (first, second))
        assert one is other, "both lean on one mapping"
        assert len(one) >= MANY


def test_messages_of_equal_clients_are_one_object() -> None:
    content, batches = large_mesh(upper=False), Batches()
    first, second = (Client(content, batches=batches) for _ in range(2))
    for client in (first, second):
        client.start()
    one, other = first.session.next(0.0), second.session.next(0.0)
    assert one is not None
    assert one is other


def test_a_reconnect_with_everything_leans_on_what_others_share_and_is_sent_nothing() -> None:
    content, batches = large_mesh(), Batches()
    client = connected(content, batches)
    again = client.reconnect(batches)
    again.settle()
    assert all(not names for _, names, _ in again.log)
    for type_url in (CLUSTER, ENDPOINT, VIRTUAL_HOST):
        one, other = (c.session._subscriptions[type_url].held._bases[0] for c in (client, again))
        assert one is other


def test_names_that_nobody_has_are_answered_among_many() -> None:
    content = large_mesh()
    client = Client(content, batches=Batches())
    client.ask(ENDPOINT, *NAMES, "nowhere")
    client.settle()
    assert client.log == [(ENDPOINT, tuple(sorted(NAMES)), ("nowhere",))]


def test_names_that_a_client_makes_up_are_not_kept_for_others() -> None:
    content, batches = large_mesh(), Batches()
    layers = content.layers(ENDPOINT)
    made_up = frozenset(f"no-{n}" for n in NAMES) | {"n1"}
    assert [r.name for r in batches.select(layers, made_up).batch] == ["n1"]
    assert batches.select(layers, made_up).batch is not batches.select(layers, made_up).batch
    usual = batches.names(NAMES)
    assert batches.select(layers, usual).batch is batches.select(layers, usual).batch


def test_a_name_that_is_left_before_the_answer_is_not_answered() -> None:
    content = large_mesh()
    client = Client(content, batches=Batches())
    client.ask(ENDPOINT, *NAMES)
    client.session.request(DeltaRequest(ENDPOINT, (), ("n3",)), 0.0)
    client.settle()
    assert set(client.log[0][1]) == set(NAMES) - {"n3"}


def test_send_again_sends_all_of_it_once() -> None:
    client = connected(large_mesh(), Batches())
    client.log.clear()
    client.session.send_again(client.now)
    client.settle()
    sent: dict[str, list[str]] = {}
    for type_url, names, gone in client.log:
        assert set(gone) <= {"inbound"}, "nobody has endpoints or routes of that name"
        sent.setdefault(type_url, []).extend(names)
    assert {t: len(names) for t, names in sent.items()} == {t: len(some) for t, some in client.has.items()}


def test_large_types_come_in_pieces_that_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meltem.xds.session.CHUNK", 1000)
    content, batches = large_mesh(), Batches()
    first, second = connected(content, batches), connected(content, batches)
    pieces = [names for t, names, _ in first.log if t == CLUSTER]
    assert len(pieces) > 2
    assert pieces == [names for t, names, _ in second.log if t == CLUSTER]
    held = [c.session._subscriptions[CLUSTER].held for c in (first, second)]
    assert all(len(h) == MANY + 1 for h in held)


def test_a_batch_is_split_without_loss_whatever_the_limit() -> None:
    some = [Batch(tuple(encoded(CLUSTER, f"{p}{n}", b"x" * n) for n in range(1, 9))) for p in "abc"]
    whole = joined(some)
    for limit in range(1, whole.size + 2):
        rest: Batch | None = whole
        got: list[str] = []
        while rest is not None:
            head, rest = rest.split(limit)
            assert head.count == 1 or head.size <= limit
            got += [r.name for r in head]
        assert got == [r.name for r in whole]


def test_the_bytes_are_those_of_the_message() -> None:
    parts = [Batch(tuple(encoded(CLUSTER, f"{p}{n}", p.encode() * n) for n in range(3))) for p in "ab"]
    for batch in (parts[0], joined(parts)):
        made = discovery.DeltaDiscoveryResponse.FromString(bytes(batch.delta(CLUSTER, "7", ("gone",))))
        assert [(r.name, r.version, r.resource.type_url, r.resource.value) for r in made.resources] == [
            (r.name, r.version, CLUSTER, r.body) for r in batch
        ]
        assert (made.nonce, list(made.removed_resources), made.type_url) == ("7", ["gone"], CLUSTER)
        whole = discovery.DiscoveryResponse.FromString(bytes(batch.state(CLUSTER, "8", "v")))
        assert [(r.type_url, r.value) for r in whole.resources] == [(CLUSTER, r.body) for r in batch]


def test_equal_requests_are_read_once_and_their_answers_differ_when_they_do() -> None:
    reader = DeltaReader()
    made = discovery.DeltaDiscoveryRequest(type_url=ENDPOINT, resource_names_subscribe=[n * 20 for n in NAMES * 3])
    one, other = reader.read(made.SerializeToString()), reader.read(made.SerializeToString())
    assert one is other
    made.resource_names_subscribe.append("one more")
    assert reader.read(made.SerializeToString()).subscribe == (*one.subscribe, "one more")


def test_what_was_made_of_a_layer_ends_with_its_next_change() -> None:
    content, batches = large_mesh(), Batches()
    layers = content.layers(ENDPOINT)
    names = batches.names(NAMES)
    before = batches.select(layers, names)
    assert batches.select(layers, names).batch.leaves[0] is before.batch.leaves[0]
    content.put(ENDPOINT, "n5", "moved", lower=True)
    after = batches.select(layers, names)
    changed = {r.name for r in after.batch if before.batch.versions[r.name] != r.version}
    assert changed == {"n5"}
    content.drop(ENDPOINT, "n5")
    assert batches.select(layers, names).missing == {"n5"}
    assert "n5" not in batches.whole(layers).versions


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("paglh"), st.integers(0, 2**20)), max_size=12))
def test_held_is_a_dictionary(steps: list[tuple[str, int]]) -> None:
    """Whatever is done to it, it holds what a plain dictionary would."""
    held, plain = Held(), dict[str, str]()
    for what, seed in steps:
        chance = random.Random(seed)
        names = chance.sample([f"k{i}" for i in range(120)], chance.choice([1, 5, 40, 70, 110]))
        some = {n: str(chance.randint(1, 3)) for n in names}
        if what == "p":
            held.put_all(some)
            plain.update(some)
        elif what == "a":
            for name in names[:50]:
                held.drop(name)
                plain.pop(name, None)
        elif what == "l":
            held.lean_on((some,))
        elif what == "h":
            assert held.holds((some,)) == (plain == some)
            half = len(plain) // 2
            items = list(plain.items())
            assert held.holds((dict(items[:half]), dict(items[half:])))
        assert held.snapshot() == plain
        assert len(held) == len(plain)
        assert bool(held) == bool(plain)
        assert all(held.get(f"k{i}") == plain.get(f"k{i}", "") for i in range(120))


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 9)), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=20))
def test_names_are_a_set(base: set[int], steps: list[tuple[bool, int]]) -> None:
    names, plain = Names(frozenset(map(str, base))), set(map(str, base))
    everything = frozenset(map(str, range(13)))
    for adds, number in steps:
        (names.add if adds else names.discard)(str(number))
        (plain.add if adds else plain.discard)(str(number))
        assert set(names) == plain
        assert len(names) == len(plain)
        assert {n for n in everything if n in names} == plain == set(names.among(everything))


_types = st.sampled_from([CLUSTER, ENDPOINT, LISTENER, ROUTE, VIRTUAL_HOST])
_step = st.one_of(
    st.tuples(st.just("connect"), st.booleans()),
    st.tuples(st.just("reconnect"), st.integers(0, 9)),
    st.tuples(st.just("change"), st.lists(st.tuples(_types, st.integers(0, 99), st.integers(0, 3)), min_size=1)),
    st.tuples(st.just("all"), st.tuples(_types, st.integers(1, 3))),
    st.tuples(st.just("messages"), st.integers(1, 4)),
    st.tuples(st.just("again"), st.integers(0, 9)),
    st.tuples(st.just("settle"), st.just(0)),
)


def _name(type_url: str, number: int) -> str:
    some = {VIRTUAL_HOST: HOSTS, LISTENER: ["p", "q", "r"], ROUTE: ["p", "q", "r"]}.get(type_url, [*NAMES, "new"])
    return some[number % len(some)]


@settings(max_examples=150, deadline=None)
@given(st.lists(_step, max_size=20), st.sampled_from([700, 1 << 20]))
def test_any_history_of_several_clients_ends_with_exactly_the_content(
    steps: list[tuple[str, object]], chunk: int
) -> None:
    """Clients come, go and come again with what they have, in the middle of changes of one thing or of everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meltem.xds.session.CHUNK", chunk)
        content, batches = large_mesh(), Batches()
        clients: list[Client] = []
        for what, detail in steps:
            _take_step(what, detail, content, batches, clients)
        for client in clients:
            client.settle()
            assert client.has == client.expected()
            assert client.session.current
            assert client.current()


def _take_step(what: str, detail: object, content: Content, batches: Batches, clients: list[Client]) -> None:
    if what == "connect":
        client = Client(content, batches=batches)
        client.start()
        if detail:
            client.settle()
        clients.append(client)
    elif what == "reconnect" and clients:
        place = int(str(detail)) % len(clients)
        clients[place] = clients[place].reconnect(batches)
    elif what == "again" and clients:
        client = clients[int(str(detail)) % len(clients)]
        client.session.send_again(client.now)
    elif what == "settle":
        for client in clients:
            client.settle()
    elif what == "messages":
        for client in clients:
            for _ in range(int(str(detail))):
                if (message := client.session.next(client.now)) is not None:
                    client.take(discovery.DeltaDiscoveryResponse.FromString(bytes(message)))
    elif what in ("change", "all"):
        changes = (
            [(t, _name(t, n), v) for t, n, v in detail]
            if what == "change"
            else [(detail[0], n, detail[1]) for n in dict.fromkeys(_name(detail[0], i) for i in range(99))]
        )
        for type_url, name, version in changes:
            if version:
                content.put(type_url, name, f"{name} {version}", lower=True)
            else:
                content.drop(type_url, name)
        for client in clients:
            client.change(*((t, n) for t, n, _ in changes))


def test_removals_of_two_types_are_two_messages_whoever_sent_the_other_before() -> None:
    """Clusters and their endpoints have the same names, and messages that only remove share one batch of nothing."""
    nothing = Batches().of(())
    for type_url in (ENDPOINT, CLUSTER, ENDPOINT):
        made = discovery.DeltaDiscoveryResponse.FromString(bytes(nothing.delta(type_url, "13", ("gone",))))
        assert made.type_url == type_url
        assert list(made.removed_resources) == ["gone"]
