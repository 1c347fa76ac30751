"""What a `Graph` is made of: collections, indexes, and the derivations between them.

In: made and driven by `meltem.collections.graph.Graph`. Out: the classes that its users read: `Collection`, `Source`,
`Index`, `Reader`, `Change`, `Failure`. How they work together stands in that module.
"""

# The classes in here are one mechanism and reach into each other; nothing outside does.
# pyright: reportPrivateUsage=false
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from meltem.collections.graph import Graph

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
K2 = TypeVar("K2", bound=Hashable)
V2 = TypeVar("V2")
IK = TypeVar("IK", bound=Hashable)


class Change(NamedTuple, Generic[V]):
    """What became of one key: `old` None = added, `new` None = removed."""

    old: V | None
    new: V | None


Changes = Mapping[K, Change[V]]

_Reading = tuple["Readable", Hashable]
_Task = tuple["Derived", Hashable]


class _AllKeys:
    """Stands for "the whole collection" in the records of what was read."""


_ALL = _AllKeys()


class Failure(NamedTuple):
    """A derivation that raised: which collection, for which input key, and what."""

    collection: str
    key: Hashable
    error: Exception


class Readable:
    """Something whose keys can be read and depended upon."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name
        self.rank = graph._register(self)
        self._readers: dict[Hashable, dict[_Task, None]] = {}

    def _wake(self, key: Hashable) -> None:
        readers = self._readers.get(key)
        if readers:
            for node, task in readers:
                node._dirty.add(task)
                self.graph._touch(node)

    def _add_reader(self, key: Hashable, task: _Task) -> None:
        self._readers.setdefault(key, {})[task] = None

    def _drop_reader(self, key: Hashable, task: _Task) -> None:
        readers = self._readers.get(key)
        if readers is not None:
            readers.pop(task, None)
            if not readers:
                del self._readers[key]

    def _settle(self) -> None:
        """Bring this node up to date; everything of lower rank is."""

    def _clear(self) -> None:
        """Forget the changes of this transaction."""


class Collection(Readable, Generic[K, V]):
    """Immutable values by key. Read-only from outside; see `Source` for the writable kind."""

    def __init__(self, graph: Graph, name: str) -> None:
        super().__init__(graph, name)
        self._values: dict[K, V] = {}
        self._changes: dict[K, Change[V]] = {}
        self._indexes: list[Index[Hashable, K, V]] = []
        self._products: list[tuple[Pairing, bool]] = []
        self._derivations: list[Derived] = []
        self._unions: list[Readable] = []

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def items(self) -> Iterable[tuple[K, V]]:
        return self._values.items()

    def values(self) -> Iterable[V]:
        return self._values.values()

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def snapshot(self) -> dict[K, V]:
        """A copy of the content, for comparing."""
        return dict(self._values)

    def _put(self, key: K, new: V | None) -> None:
        old = self._values.get(key)
        if old is new or (old is not None and new is not None and old == new):
            return
        if new is None:
            del self._values[key]
        else:
            self._values[key] = new
        first = self._changes.get(key)
        before = first.old if first is not None else old
        if before is None and new is None:
            self._changes.pop(key, None)
        else:
            self._changes[key] = Change(before, new)

    def _announce(self) -> None:
        """Tell the readers, indexes and derivations what this transaction changed here."""
        if not self._changes:
            return
        readers = self._readers
        if readers:
            for key in self._changes:
                if key in readers:
                    self._wake(key)
            if _ALL in readers:
                self._wake(_ALL)
        for node in self._derivations:
            node._dirty.update(self._changes)
            self.graph._touch(node)
        for index in self._indexes:
            index._update(self._changes)
        for union in self._unions:
            self.graph._touch(union)
        for product, left in self._products:
            product.input_changed(left, self._changes)

    def _settle(self) -> None:
        self._announce()

    def _clear(self) -> None:
        self._changes = {}


class Source(Collection[K, V]):
    """A collection that is written from outside, inside `graph.transaction()`."""

    def set(self, key: K, value: V) -> None:
        self.graph._writable(self)
        self.graph._touch(self)
        self._put(key, value)

    def delete(self, key: K) -> None:
        self.graph._writable(self)
        self.graph._touch(self)
        self._put(key, None)

    def replace(self, content: Mapping[K, V]) -> None:
        """Make the content exactly this; only real differences count as changes."""
        self.graph._writable(self)
        self.graph._touch(self)
        for key in [k for k in self._values if k not in content]:
            self._put(key, None)
        for key, value in content.items():
            self._put(key, value)


class Index(Readable, Generic[IK, K, V]):
    """Secondary keys of a collection: `lookup(ik)` gives the entries whose value has that secondary key."""

    def __init__(self, graph: Graph, name: str, over: Collection[K, V], keys: Callable[[K, V], Iterable[IK]]) -> None:
        super().__init__(graph, name)
        self._over = over
        self._keys = keys
        self._entries: dict[IK, dict[K, V]] = {}
        over._indexes.append(cast("Index[Hashable, K, V]", self))
        self._update({k: Change(None, v) for k, v in over.items()})

    def lookup(self, key: IK) -> Mapping[K, V]:
        return self._entries.get(key, {})

    def keys(self) -> Iterable[IK]:
        return self._entries.keys()

    def _update(self, changes: Changes[K, V]) -> None:
        touched: set[IK] = set()
        for key, change in changes.items():
            before = set(self._keys(key, change.old)) if change.old is not None else set[IK]()
            after = set(self._keys(key, change.new)) if change.new is not None else set[IK]()
            for gone in before - after:
                entries = self._entries[gone]
                entries.pop(key, None)
                if not entries:
                    del self._entries[gone]
            if change.new is not None:
                for one in after:
                    self._entries.setdefault(one, {})[key] = change.new
            touched |= before | after
        for one in touched:
            self._wake(one)


class Reader:
    """What a derivation reads through; every read is remembered as a dependency of the key being computed."""

    __slots__ = ("_node", "_reads")

    def __init__(self, node: Derived) -> None:
        self._node = node
        self._reads: set[_Reading] = set()

    def get(self, collection: Collection[K, V], key: K) -> V | None:
        self._record(collection, key)
        return collection.get(key)

    def lookup(self, index: Index[IK, K, V], key: IK) -> Mapping[K, V]:
        self._record(index, key)
        return index.lookup(key)

    def all(self, collection: Collection[K, V]) -> Mapping[K, V]:
        """Everything in it: the key is computed again at any change of that collection."""
        self._record(collection, _ALL)
        return collection._values

    def _record(self, readable: Readable, key: Hashable) -> None:
        if readable.rank >= self._node.rank:
            raise RuntimeError(f"{self._node.name} may not read {readable.name}, which was made after it")
        self._reads.add((readable, key))

    @property
    def reads(self) -> set[_Reading]:
        return self._reads


class Derived:
    """What `derive` and `product` share: dirty input keys, records of reads, outputs by input key."""

    rank: int
    name: str

    _dirty: set[Hashable]
    _reads: dict[Hashable, set[_Reading]]
    _failures: dict[tuple[str, Hashable], Failure]

    def _forget_reads(self, key: Hashable, keep: set[_Reading]) -> None:
        task: _Task = (self, key)
        for reading in self._reads.pop(key, ()):
            if reading not in keep:
                reading[0]._drop_reader(reading[1], task)

    def _record_reads(self, key: Hashable, reads: set[_Reading]) -> None:
        task: _Task = (self, key)
        before = self._reads.get(key)
        if before is not None:
            if before == reads:
                return
            self._forget_reads(key, reads)
        for readable, read_key in reads if before is None else reads - before:
            readable._add_reader(read_key, task)
        if reads:
            self._reads[key] = reads


_NOBODY = object()


class _Rivals(Generic[V]):
    """Several inputs that yield the same output key; `agreed` while all their values are equal."""

    __slots__ = ("agreed", "offers")

    def __init__(self, offers: dict[Hashable, V], *, agreed: bool) -> None:
        self.offers = offers
        self.agreed = agreed


class _Derivation(Collection[K2, V2], Derived):
    """A derived collection: computes the outputs of dirty input keys, merges them by output key."""

    def __init__(self, graph: Graph, name: str) -> None:
        super().__init__(graph, name)
        self._dirty = set()
        self._reads = {}
        self._failures = graph._failures
        self._outputs: dict[Hashable, Mapping[K2, V2]] = {}
        self._rivals: dict[K2, _Rivals[V2]] = {}
        self._owner: dict[K2, Hashable] = {}

    def _compute(self, reader: Reader, key: Hashable) -> Mapping[K2, V2] | None:
        """The outputs of one input key, or None when the input is gone."""
        raise RuntimeError("a derivation computes")

    def _settle(self) -> None:
        dirty, self._dirty = self._dirty, set()
        reader = Reader(self)
        for key in dirty:
            try:
                outputs = self._compute(reader, key)
                if self._failures:
                    self._failures.pop((self.name, key), None)
            except Exception as error:
                self.graph._fail(Failure(self.name, key, error))
                outputs = {}
            if reader.reads or key in self._reads:
                self._record_reads(key, reader.reads if outputs is not None else set())
                reader = Reader(self)
            if outputs or key in self._outputs:
                self._replace_outputs(key, outputs or {})
        self._announce()

    def _replace_outputs(self, key: Hashable, outputs: Mapping[K2, V2]) -> None:
        before = self._outputs.get(key)
        if before is not None:
            for out in before:
                if out not in outputs:
                    self._withdraw(out, key)
        if outputs:
            self._outputs[key] = outputs
            for out, value in outputs.items():
                self._offer(out, key, value)
        elif before is not None:
            del self._outputs[key]

    def _offer(self, out: K2, key: Hashable, value: V2) -> None:
        rivals = self._rivals.get(out)
        if rivals is None:
            owner = self._owner.get(out, _NOBODY)
            if owner is _NOBODY or owner == key:
                self._owner[out] = key
                self._put(out, value)
                return
            rivals = self._rivals[out] = _Rivals({owner: self._values[out]}, agreed=True)
        rivals.offers[key] = value
        if rivals.agreed and value == self._values[out]:
            return  # whoever is first, the value is the same
        rivals.agreed = False
        self._elect(out, rivals)

    def _withdraw(self, out: K2, key: Hashable) -> None:
        rivals = self._rivals.get(out)
        if rivals is None:
            self._owner.pop(out, None)
            self._put(out, None)
            return
        rivals.offers.pop(key, None)
        if not rivals.agreed:
            self._elect(out, rivals)
        if len(rivals.offers) == 1:
            del self._rivals[out]
            self._owner[out] = next(iter(rivals.offers))

    def _elect(self, out: K2, rivals: _Rivals[V2]) -> None:
        self._put(out, rivals.offers[min(rivals.offers, key=repr)])


class Map(_Derivation[K2, V2], Generic[K, V, K2, V2]):
    def __init__(
        self,
        graph: Graph,
        name: str,
        over: Collection[K, V],
        function: Callable[[Reader, K, V], Mapping[K2, V2]],
    ) -> None:
        super().__init__(graph, name)
        self._over = over
        self._function = function
        over._derivations.append(self)
        self._dirty.update(over)

    def _compute(self, reader: Reader, key: Hashable) -> Mapping[K2, V2] | None:
        value = self._over.get(cast(K, key))
        return None if value is None else self._function(reader, cast(K, key), value)


class Union(Collection[K, V]):
    """Several collections as one; where two have a key, the one named first wins."""

    def __init__(self, graph: Graph, name: str, parts: tuple[Collection[K, V], ...]) -> None:
        super().__init__(graph, name)
        self._parts = parts
        for part in parts:
            part._unions.append(self)
            self._take(part)

    def _take(self, keys: Iterable[K]) -> None:
        for key in keys:
            self._put(key, next((v for p in self._parts if (v := p.get(key)) is not None), None))

    def _settle(self) -> None:
        for part in self._parts:
            self._take(part._changes)
        self._announce()


class Pairing:
    """The part of a product that its two inputs talk to."""

    def input_changed(self, is_left: bool, keys: Iterable[Hashable]) -> None:
        raise RuntimeError("a product takes changes")


class Product(_Derivation[K2, V2], Pairing):
    """Every pair of a left and a right entry."""

    def __init__(
        self,
        graph: Graph,
        name: str,
        left: Collection[Hashable, object],
        right: Collection[Hashable, object],
        function: Callable[[Reader, Hashable, object, Hashable, object], Mapping[K2, V2]],
    ) -> None:
        super().__init__(graph, name)
        self._left = left
        self._right = right
        self._function = function
        left._products.append((self, True))
        right._products.append((self, False))
        self.input_changed(True, left)

    def input_changed(self, is_left: bool, keys: Iterable[Hashable]) -> None:
        # Pairs with keys that the other side lost in this same transaction are dirty as well: whichever side settles
        # last sees the changes of both.
        other = self._right if is_left else self._left
        others = {*other, *other._changes}
        self.graph._touch(self)
        if is_left:
            self._dirty.update((lk, rk) for lk in keys for rk in others)
        else:
            self._dirty.update((lk, rk) for rk in keys for lk in others)

    def _compute(self, reader: Reader, key: Hashable) -> Mapping[K2, V2] | None:
        lk, rk = cast("tuple[Hashable, Hashable]", key)
        left, right = self._left.get(lk), self._right.get(rk)
        return None if left is None or right is None else self._function(reader, lk, left, rk, right)
