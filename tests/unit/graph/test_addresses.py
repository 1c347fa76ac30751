"""Automatic addresses: what a ServiceEntry's status says stays, and what it does not say depends on no history."""

from __future__ import annotations

import itertools

import mesh_files as files

from meltem.engine import Engine
from meltem.graph.addresses import OPT_OUT, Pairs, candidate, slot

NAMESPACE = "default"


def same_slot(count: int) -> list[str]:
    """Hosts that want the same address, in the order of their names."""
    by_slot: dict[int, list[str]] = {}
    for i in itertools.count():
        host = f"h{i}.test"
        found = by_slot.setdefault(slot((NAMESPACE, host)), [])
        found.append(host)
        if len(found) == count:
            return sorted(found)
    raise AssertionError


def put(engine: Engine, host: str, *, status: Pairs = (), created: int = 0, more: str = "", labels: str = "{}") -> None:
    said = ", ".join(f"{{host: {h}, value: '{a}'}}" for h, a in status)
    files.load(
        engine,
        f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  {{name: {host}, namespace: {NAMESPACE}, creationTimestamp: "2026-01-01T00:00:{created:02}Z", labels: {labels}}}
spec: {{hosts: [{host}], ports: [{{number: 9000, name: tcp}}], resolution: DNS{more}}}
status: {{addresses: [{said}]}}
""",
    )


def unwritten(engine: Engine) -> dict[str, Pairs]:
    return {key[2]: pairs for key, pairs in engine.mesh.addresses.unwritten.items()}


def test_what_is_written_stays_when_a_rival_comes() -> None:
    first, second = same_slot(2)
    engine = Engine()
    put(engine, second)
    given = unwritten(engine)[second]
    assert [a for _, a in given] == list(candidate((NAMESPACE, second), 0))
    put(engine, second, status=given)
    assert unwritten(engine) == {}
    put(engine, first)  # comes first by its name, and finds the place taken
    assert [a for _, a in unwritten(engine)[first]] == list(candidate((NAMESPACE, first), 1))
    assert second not in unwritten(engine)


def test_without_a_status_the_order_of_arrival_does_not_count() -> None:
    hosts = same_slot(3)
    found = []
    for order in (hosts, hosts[::-1]):
        engine = Engine()
        for host in order:
            put(engine, host)
        found.append(unwritten(engine))
    assert found[0] == found[1]
    assert len({pairs[0][1] for pairs in found[0].values()}) == 3


def test_of_two_that_say_the_same_the_older_keeps_it_and_a_persons_word_goes_before_both() -> None:
    engine = Engine()
    put(engine, "old.test", status=(("old.test", "240.240.1.1"),), created=1)
    put(engine, "new.test", status=(("new.test", "240.240.1.1"),), created=2)
    assert "old.test" not in unwritten(engine)
    assert unwritten(engine)["new.test"][0][1] != "240.240.1.1"
    put(engine, "person.test", more=", addresses: [240.240.1.1/32]", created=3)
    assert unwritten(engine)["old.test"][0][1] != "240.240.1.1"


def test_what_needs_no_address_any_more_loses_it() -> None:
    engine = Engine()
    status = (("a.test", "240.240.1.1"),)
    put(engine, "a.test", status=status)
    assert unwritten(engine) == {}
    put(engine, "a.test", status=status, labels=f'{{{OPT_OUT}: "false"}}')
    assert unwritten(engine) == {"a.test": ()}
    put(engine, "a.test", status=status, more=", addresses: [10.0.0.1]")
    assert unwritten(engine) == {"a.test": ()}
