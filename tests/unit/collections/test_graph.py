"""Incremental collections: what a derived collection holds never depends on how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltem.collections import Changes, Collection, Graph, Reader, Source, TupleMemo


class Service(NamedTuple):
    app: str
    port: int


class Mesh:
    """Pods and services joined by app; pairs of scopes and services; a contested output."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.pods: Source[str, str] = self.graph.source("pods")
        self.services: Source[str, Service] = self.graph.source("services")
        self.scopes: Source[str, str] = self.graph.source("scopes")
        self.by_app = self.graph.index("pods by app", self.pods, lambda _key, app: [app])
        self.computed: list[str] = []
        self.backends = self.graph.derive("backends", self.services, self._backends)
        self.by_port = self.graph.derive("by port", self.services, lambda _r, k, s: {s.port: k})
        self.pairs = self.graph.product("pairs", self.scopes, self.backends, self._pairs)
        self.total = self.graph.derive("total", self.scopes, self._total)

    def _backends(self, reader: Reader, key: str, service: Service) -> Mapping[str, tuple[str, ...]]:
        self.computed.append(key)
        if service.port == 13:
            raise ValueError("unlucky")
        return {key: tuple(sorted(reader.lookup(self.by_app, service.app)))}

    def _pairs(
        self, reader: Reader, scope: str, tag: str, key: str, pods: tuple[str, ...]
    ) -> Mapping[tuple[str, str], tuple[str, int]]:
        special = reader.get(self.services, f"{key}-{tag}")
        return {(scope, key): (tag, len(pods) + (special.port if special else 0))}

    def _total(self, reader: Reader, scope: str, _tag: str) -> Mapping[str, int]:
        return {scope: sum(len(pods) for pods in reader.all(self.backends).values())}

    def content(self) -> list[dict[object, object]]:
        derived: list[Collection[object, object]] = [self.backends, self.by_port, self.pairs, self.total]  # type: ignore[list-item]
        return [c.snapshot() for c in derived]


names = st.sampled_from(["a", "b", "c", "a-x", "b-x"])
operations = st.one_of(
    st.tuples(st.just("pod"), names, st.one_of(st.none(), names)),
    st.tuples(st.just("service"), names, st.one_of(st.none(), st.builds(Service, names, st.sampled_from([1, 2, 13])))),
    st.tuples(st.just("scope"), names, st.one_of(st.none(), st.sampled_from(["x", "y"]))),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(operations, max_size=6), max_size=8))
def test_any_history_in_any_batches_ends_equal_to_a_build_from_scratch(
    batches: list[list[tuple[str, str, object]]],
) -> None:
    mesh = Mesh()
    followed: dict[str, tuple[str, ...]] = {}

    def follow(changes: Changes[str, tuple[str, ...]]) -> None:
        for key, change in changes.items():
            assert change.old != change.new
            assert followed.get(key) == change.old
            if change.new is None:
                del followed[key]
            else:
                followed[key] = change.new

    mesh.graph.on_commit(mesh.backends, follow)
    final: dict[str, dict[str, object]] = {"pod": {}, "service": {}, "scope": {}}
    for batch in batches:
        with mesh.graph.transaction():
            for kind, key, value in batch:
                source: Source[str, object] = {"pod": mesh.pods, "service": mesh.services, "scope": mesh.scopes}[kind]  # type: ignore[dict-item]
                if value is None:
                    source.delete(key)
                    final[kind].pop(key, None)
                else:
                    source.set(key, value)
                    final[kind][key] = value
    fresh = Mesh()
    with fresh.graph.transaction():
        fresh.pods.replace(final["pod"])  # type: ignore[arg-type]
        fresh.services.replace(final["service"])  # type: ignore[arg-type]
        fresh.scopes.replace(final["scope"])  # type: ignore[arg-type]
    assert mesh.content() == fresh.content()
    assert followed == mesh.backends.snapshot()
    assert {f.key for f in mesh.graph.failures} == {f.key for f in fresh.graph.failures}


def test_a_change_costs_only_what_read_it() -> None:
    mesh = Mesh()
    with mesh.graph.transaction():
        for name in ("a", "b", "c"):
            mesh.services.set(name, Service(name, 1))
    mesh.computed.clear()
    with mesh.graph.transaction():
        mesh.pods.set("pod-1", "b")
    assert mesh.computed == ["b"]


def test_a_change_that_changes_nothing_is_no_change() -> None:
    mesh = Mesh()
    seen: list[object] = []
    mesh.graph.on_commit(mesh.backends, seen.append)
    with mesh.graph.transaction():
        mesh.services.set("a", Service("a", 1))
    with mesh.graph.transaction():
        mesh.services.set("a", Service("a", 2))  # the backends do not depend on the port
    with mesh.graph.transaction():
        mesh.pods.set("p", "a")
        mesh.pods.delete("p")
    assert len(seen) == 1


def test_a_derivation_that_raises_costs_only_its_own_key() -> None:
    mesh = Mesh()
    with mesh.graph.transaction():
        mesh.services.set("bad", Service("bad", 13))
        mesh.services.set("good", Service("good", 1))
    assert set(mesh.backends) == {"good"}
    assert [(f.collection, f.key, str(f.error)) for f in mesh.graph.failures] == [("backends", "bad", "unlucky")]
    with mesh.graph.transaction():
        mesh.services.set("bad", Service("bad", 1))
    assert set(mesh.backends) == {"good", "bad"}
    assert not mesh.graph.failures


def test_sources_are_written_only_inside_a_transaction() -> None:
    mesh = Mesh()
    with pytest.raises(RuntimeError, match="inside graph"):
        mesh.pods.set("a", "b")


def test_a_collection_may_not_read_one_made_after_it() -> None:
    graph = Graph()
    early: Source[str, str] = graph.source("early")
    box: list[Collection[str, str]] = []
    graph.derive("middle", early, lambda r, k, _v: {k: r.get(box[0], k)})
    box.append(graph.source("late"))
    with graph.transaction():
        early.set("a", "b")
    assert [type(f.error) for f in graph.failures] == [RuntimeError]


class Result:
    def __init__(self, of: int) -> None:
        self.of = of


def test_equal_arguments_share_one_result_for_as_long_as_it_is_held() -> None:
    memo: TupleMemo[int, Result] = TupleMemo(lambda n: (Result(n), Result(n + 1)))
    first = memo(1000)
    assert all(one is other for one, other in zip(memo(1000), first, strict=True))
    assert memo.calls == 1
    del first
    assert len(memo) == 0
