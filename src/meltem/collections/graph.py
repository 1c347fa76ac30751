"""The one mechanism of incremental computation: sources, derived collections, indexes, transactions.

    graph = Graph()
    pods = graph.source("pods")                                  # Source: written from outside
    by_app = graph.index("pods-by-app", pods, lambda k, v: [v.app])
    apps = graph.derive("apps", services, f)                     # f(reader, key, value) -> {key: value}
    pairs = graph.product("pairs", scopes, services, g)          # g(reader, left key, left, right key, right)
    graph.on_commit(apps, listener)                              # listener({key: Change(old, new)}), once a commit
    with graph.transaction():
        pods.set("a", Pod(...))

A derivation reads other collections only through its `Reader`, which records what was read; when that changes, only
the keys which read it are computed again. A result equal to the former one ends there. Where two inputs yield the same
output key, the input that sorts first wins, whatever the order of events: the content never depends on history. A
derivation that raises costs only its own key: it has no output, and the failure is kept in `graph.failures`.

A collection may read only collections made before it; so the order of creation is a topological order and one pass in
that order per transaction suffices.
"""

# The classes of `nodes` and this one are one mechanism and reach into each other; nothing outside does.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

from meltem.collections.nodes import (
    Changes,
    Collection,
    Derived,
    Failure,
    Index,
    Map,
    Product,
    Readable,
    Reader,
    Source,
    Union,
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
K2 = TypeVar("K2", bound=Hashable)
V2 = TypeVar("V2")
K3 = TypeVar("K3", bound=Hashable)
V3 = TypeVar("V3")
IK = TypeVar("IK", bound=Hashable)


class Graph:
    """Owner of the collections: knows their order, runs transactions, tells listeners."""

    def __init__(self) -> None:
        self._nodes: list[Readable] = []
        self._listeners: dict[
            int, list[tuple[Collection[Hashable, object], Callable[[Changes[Hashable, object]], None]]]
        ] = {}
        self._after: list[Callable[[], None]] = []
        self._pending: list[int] = []
        self._touched: set[int] = set()
        """Ranks of the nodes that the transaction has work for: a heap, and the same as a set."""
        self._failures: dict[tuple[str, Hashable], Failure] = {}
        self._failure_listeners: list[Callable[[Failure], None]] = []
        self._depth = 0
        self._settling = False

    @property
    def failures(self) -> Iterable[Failure]:
        """Derivations that raise at present."""
        return list(self._failures.values())

    def source(self, name: str, key: type[K] | None = None, value: type[V] | None = None) -> Source[K, V]:
        return Source[K, V](self, name)

    def index(self, name: str, over: Collection[K, V], keys: Callable[[K, V], Iterable[IK]]) -> Index[IK, K, V]:
        return Index(self, name, over, keys)

    def derive(
        self, name: str, over: Collection[K, V], function: Callable[[Reader, K, V], Mapping[K2, V2]]
    ) -> Collection[K2, V2]:
        """`function(reader, key, value)` gives the output entries of one input entry."""
        node = Map(self, name, over, function)
        self._settle_new(node)
        return node

    def product(
        self,
        name: str,
        left: Collection[K, V],
        right: Collection[K2, V2],
        function: Callable[[Reader, K, V, K2, V2], Mapping[K3, V3]],
    ) -> Collection[K3, V3]:
        """`function(reader, left key, left, right key, right)` gives the output entries of one pair."""
        node = Product[K3, V3](
            self,
            name,
            cast("Collection[Hashable, object]", left),
            cast("Collection[Hashable, object]", right),
            cast("Callable[[Reader, Hashable, object, Hashable, object], Mapping[K3, V3]]", function),
        )
        self._settle_new(node)
        return node

    def union(self, name: str, *parts: Collection[K, V]) -> Collection[K, V]:
        """Everything of several collections; where two have a key, the one named first wins."""
        node = Union(self, name, parts)
        self._settle_new(node)
        return node

    def on_commit(self, collection: Collection[K, V], listener: Callable[[Changes[K, V]], None]) -> None:
        """`listener(changes)` after every transaction that changed the collection (net: old and new differ)."""
        self._listeners.setdefault(collection.rank, []).append(
            (
                cast("Collection[Hashable, object]", collection),
                cast("Callable[[Changes[Hashable, object]], None]", listener),
            )
        )

    def after_commit(self, action: Callable[[], None]) -> None:
        """`action()` after all listeners of a transaction have been told."""
        self._after.append(action)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Writes to sources; at the end of the outermost one everything derived is brought up to date.

        When the body raises, what was written until then still counts: sources are facts that were observed.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def _commit(self) -> None:
        self._settling = True
        settled: list[Readable] = []
        try:
            while self._pending:  # what a node touches has a higher rank than it has itself
                node = self._nodes[heapq.heappop(self._pending)]
                settled.append(node)
                node._settle()
            notices: list[tuple[Callable[[Changes[Hashable, object]], None], Changes[Hashable, object]]] = []
            for rank in sorted(self._touched & self._listeners.keys()):
                for collection, listener in self._listeners[rank]:
                    if collection._changes:
                        notices.append((listener, collection._changes))
            for node in settled:
                node._clear()
        finally:
            self._settling = False
            self._touched.clear()
        for listener, changes in notices:
            listener(changes)
        for action in self._after:
            action()

    def _settle_new(self, node: Readable) -> None:
        """A node made late starts with what its inputs hold now."""
        if self._depth == 0 and not self._settling:
            node._settle()
            node._clear()
            self._touched.discard(node.rank)
            self._pending = sorted(rank for rank in self._pending if rank != node.rank)

    def on_failure(self, listener: Callable[[Failure], None]) -> None:
        """`listener(failure)` when a derivation raises that did not, or did otherwise, before."""
        self._failure_listeners.append(listener)

    def _fail(self, failure: Failure) -> None:
        known = self._failures.get((failure.collection, failure.key))
        self._failures[(failure.collection, failure.key)] = failure
        if known is None or repr(known.error) != repr(failure.error):
            for listener in self._failure_listeners:
                listener(failure)

    def _touch(self, node: Readable | Derived) -> None:
        """The node has work in this transaction."""
        if node.rank not in self._touched:
            self._touched.add(node.rank)
            heapq.heappush(self._pending, node.rank)

    def _register(self, node: Readable) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _writable(self, source: Collection[K, V]) -> None:
        if self._settling:
            raise RuntimeError(f"{source.name} may not be written while derivations run")
        if self._depth == 0:
            raise RuntimeError(f"{source.name} may be written only inside graph.transaction()")
