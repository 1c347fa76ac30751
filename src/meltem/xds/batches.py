"""Resources put together for responses, once for all the proxies that need the same ones.

In: layers (`meltem.generate.bundle.Layer`), names that clients ask for. Out: `Batch`es, whose bytes are joined once,
and even the whole message where nonces agree, as they do after the same history. What is made from a layer as a whole
is kept until the layer changes: a thousand proxies that connect cost one joining a type and a few lookups each.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

import msgspec

from meltem.envoyapi import Resource
from meltem.generate.bundle import Layer
from meltem.xds.wire import field

CHUNK = 1 << 20
"""Bytes of one response where a type may be sent in several."""
FEW = 16
"""So many resources or names are dealt with one by one."""
_CACHED_BYTES = 16 << 20
_CACHED_BATCHES = 2048
_CACHED_SELECTIONS = 64
_CACHED_NAMES = 1 << 18


class Response:
    """A message in pieces. What is joined for one client alone is joined only while it is written: a thousand messages
    that wait for their turn hold what they share, and hardly anything else."""

    __slots__ = ("_made", "_pieces", "_shared", "size")

    def __init__(self, pieces: tuple[bytes, ...], *, shared: bool) -> None:
        """`shared`: others will send the same, so that the joined bytes are kept."""
        self._pieces = pieces
        self._shared = shared
        self._made = b""
        self.size = sum([len(piece) for piece in pieces])

    def __bytes__(self) -> bytes:
        if self._made:
            return self._made
        made = b"".join(self._pieces)
        if self._shared:
            self._made, self._pieces = made, ()
        return made


class Batch:
    """Some resources of one type, joined once for all who need exactly these. `parts`: batches that it is put together
    from, without a name in common, which keep their joined bytes themselves."""

    __slots__ = (
        "_entries", "_last", "_resources", "_split", "_state", "_version", "_versions", "count", "parts", "size",
    )  # fmt: skip

    def __init__(self, resources: tuple[Resource, ...], parts: tuple[Batch, ...] = ()) -> None:
        self.parts = parts
        self._resources = resources
        self.count = sum([p.count for p in parts]) if parts else len(resources)
        self.size = sum([p.size for p in parts]) if parts else sum([len(r.entry) for r in resources])
        self._entries = b""
        self._state = b""
        self._version = ""
        self._versions: Mapping[str, str] | None = None
        self._last: tuple[tuple[str, str, tuple[str, ...]], Response] | None = None
        self._split: tuple[int, Batch, Batch] | None = None

    def __iter__(self) -> Iterator[Resource]:
        if not self.parts:
            yield from self._resources
        for part in self.parts:
            yield from part

    @property
    def leaves(self) -> tuple[Batch, ...]:
        """The parts, or the batch itself where it has none."""
        return self.parts or (self,)

    @property
    def version(self) -> str:
        """A hash of the content, equal in every process that puts the same parts together."""
        if not self._version:
            digest = blake2b(digest_size=8)
            texts = [p.version for p in self.parts] or [f"{r.name}\0{r.version}" for r in self._resources]
            for text in sorted(texts):
                digest.update(text.encode())
            self._version = digest.hexdigest()
        return self._version

    @property
    def versions(self) -> Mapping[str, str]:
        """Name → version; shared: never written to."""
        if self._versions is None:
            self._versions = {r.name: r.version for r in self}
        return self._versions

    def delta(self, type_url: str, nonce: str, removed: Sequence[str]) -> Response:
        """A DeltaDiscoveryResponse."""
        gone = tuple(removed)
        asked = type_url, nonce, gone  # the type too: what only removes has no resource that would say it
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        head = field(1, self.version.encode()) + field(4, type_url.encode()) + field(5, nonce.encode())
        content = [p.entries for p in self.parts] or [r.entry for r in self._resources]
        pieces = (head, *content, *[field(6, name.encode()) for name in gone])
        made = Response(pieces, shared=not self.parts)
        if not self.parts:
            self._last = asked, made
        return made

    @property
    def entries(self) -> bytes:
        """The resources as they stand in a DeltaDiscoveryResponse."""
        if not self._entries:
            self._entries = b"".join([r.entry for r in self])
        return self._entries

    def state(self, type_url: str, nonce: str, version: str) -> Response:
        """A DiscoveryResponse (state of the world)."""
        if not self._state:
            self._state = b"".join([field(2, field(1, r.type_url.encode()) + field(2, r.body)) for r in self])
        head = field(1, version.encode()) + field(4, type_url.encode()) + field(5, nonce.encode())
        return Response((head, self._state), shared=False)

    def split(self, limit: int) -> tuple[Batch, Batch | None]:
        """As much of it as fits into `limit` bytes, at least one resource, and the rest; the same for everybody."""
        if self.size <= limit or self.count < 2:
            return self, None
        if self.parts:
            first, *others = self.parts
            head, rest = first.split(limit)
            return head, joined([*([] if rest is None else [rest]), *others])
        if self._split is None or self._split[0] != limit:
            some, size = self._resources, 0
            count = 0
            for count, resource in enumerate(some):
                size += len(resource.entry)
                if count and size > limit:
                    break
            self._split = (limit, Batch(some[:count]), Batch(some[count:]))
        return self._split[1], self._split[2]


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch of several that have no name in common."""
    leaves = [leaf for part in parts for leaf in part.leaves if leaf.count]
    return leaves[0] if len(leaves) == 1 else Batch((), tuple(leaves))


class Selection(msgspec.Struct, frozen=True):
    """What some names came to, and which of them nobody has."""

    batch: Batch
    missing: frozenset[str]


class Pending:
    """What is to be sent: a batch that others are sent as well, or resources of its own by name."""

    __slots__ = ("_batch", "_own")

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._own: dict[str, Resource] = {}

    def __bool__(self) -> bool:
        return self._batch is not None or bool(self._own)

    def __contains__(self, name: object) -> bool:
        return name in self._own or (self._batch is not None and any(name in p.versions for p in self._batch.leaves))

    def put(self, resource: Resource) -> None:
        self._by_name()[resource.name] = resource

    def drop(self, name: str) -> None:
        if name in self:
            del self._by_name()[name]

    def put_all(self, batch: Batch) -> None:
        if not batch.count:
            return
        if self:
            self._by_name().update((r.name, r) for r in batch)
        else:
            self._batch = batch

    def clear(self) -> None:
        self._batch, self._own = None, {}

    def take(self, batches: Batches, limit: int | None) -> Batch:
        """The next to be sent, of as many bytes as the limit allows; what is left stays."""
        batch = self._batch if self._batch is not None else batches.of(self._own.values())
        head, rest = batch.split(limit) if limit is not None else (batch, None)
        self._own = {}
        self._batch = rest
        return head

    def _by_name(self) -> dict[str, Resource]:
        if self._batch is not None:
            self._own = {r.name: r for r in self._batch}
            self._batch = None
        return self._own


class _Made:
    """What was made from one layer as it stood in one generation."""

    __slots__ = ("by_route", "generation", "selections", "whole")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.whole: Batch | None = None
        self.by_route: dict[str, Batch] | None = None
        self.selections: dict[frozenset[str], Selection] = {}


class Batches:
    """All that sessions share. Small batches are remembered by the identity of their resources (which a batch keeps
    alive), large ones with the layer that they come from."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], Batch] = OrderedDict()
        self._bytes = 0
        self._of_layer: weakref.WeakKeyDictionary[Layer, _Made] = weakref.WeakKeyDictionary()
        self._names: OrderedDict[frozenset[str], frozenset[str]] = OrderedDict()
        self._named = 0

    def of(self, resources: Iterable[Resource]) -> Batch:
        """Exactly these."""
        some = tuple(resources)
        key = tuple(map(id, some))
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        made = Batch(some)
        self._known[key] = made
        self._bytes += made.size
        while len(self._known) > 1 and (self._bytes > _CACHED_BYTES or len(self._known) > _CACHED_BATCHES):
            _, old = self._known.popitem(last=False)
            self._bytes -= old.size
        return made

    def whole(self, layers: Sequence[Layer]) -> Batch:
        """Everything in these layers; where two have a name, the one that comes first wins."""
        large = [layer for layer in layers if len(layer.resources) > FEW]
        if not large or _overlap(layers):
            return self.of(merged(layers).values())
        few = [r for layer in layers if len(layer.resources) <= FEW for r in layer.resources.values()]
        return joined([*[self._whole(layer) for layer in large], *([self.of(few)] if few else [])])

    def select(self, layers: Sequence[Layer], names: frozenset[str]) -> Selection:
        """What these names stand for; a name that several layers have, for the first one's."""
        if len(names) <= FEW:
            found = [r for n in names if (r := find(layers, n)) is not None]
            missing = names - {r.name for r in found} if len(found) < len(names) else frozenset[str]()
            return Selection(self.of(found), missing)
        parts: list[Batch] = []
        for layer in layers:
            made = self._made(layer)
            one = made.selections.get(names)
            if one is None:
                mine = layer.resources.keys() & names
                one = Selection(Batch(tuple([layer.resources[n] for n in sorted(mine)])), names - mine)
                if len(one.missing) <= len(mine):  # a client that makes names up keeps them to itself
                    if len(made.selections) >= _CACHED_SELECTIONS:
                        del made.selections[next(iter(made.selections))]
                    made.selections[names] = one
            parts.append(one.batch)
            names = one.missing
            if not names:
                break
        return Selection(joined(parts), names)

    def hosts(self, layers: Sequence[Layer], route: str) -> Batch:
        """All virtual hosts of a route configuration."""
        parts = [part for layer in layers if (part := self._by_route(layer).get(route)) is not None]
        if len(parts) > 1 and _overlap(layers):
            return self.of([r for n, r in merged(layers).items() if route_of(n) == route])
        return joined(parts)

    def names(self, names: Iterable[str]) -> frozenset[str]:
        """The names as a set, one for all who have asked for the same of late."""
        made = frozenset(names)
        found = self._names.get(made)
        if found is not None:
            self._names.move_to_end(found)
            return found
        self._names[made] = made
        self._named += len(made)
        while len(self._names) > 1 and self._named > _CACHED_NAMES:
            self._named -= len(self._names.popitem(last=False)[0])
        return made

    @property
    def bytes(self) -> int:
        """Serialized bytes of the resources in the batches that are remembered one by one."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._known)

    def _made(self, layer: Layer) -> _Made:
        made = self._of_layer.get(layer)
        if made is None or made.generation != layer.generation:
            made = self._of_layer[layer] = _Made(layer.generation)
        return made

    def _whole(self, layer: Layer) -> Batch:
        made = self._made(layer)
        if made.whole is None:
            made.whole = Batch(tuple(layer.resources.values()))
        return made.whole

    def _by_route(self, layer: Layer) -> Mapping[str, Batch]:
        made = self._made(layer)
        if made.by_route is None:
            found: dict[str, list[Resource]] = {}
            for name, resource in layer.resources.items():
                found.setdefault(route_of(name), []).append(resource)
            made.by_route = {route: Batch(tuple(some)) for route, some in found.items()}
        return made.by_route


def route_of(name: str) -> str:
    """The route configuration that a virtual host belongs to: `<route configuration>/<domain>`."""
    return name.rpartition("/")[0]


def find(layers: Sequence[Layer], name: str) -> Resource | None:
    """The first layer's that has the name."""
    for layer in layers:
        found = layer.resources.get(name)
        if found is not None:
            return found
    return None


def merged(layers: Sequence[Layer]) -> dict[str, Resource]:
    """Everything by name, the first layer's where several have it."""
    found: dict[str, Resource] = {}
    for layer in reversed(layers):
        found.update(layer.resources)
    return found


def _overlap(layers: Sequence[Layer]) -> bool:
    return any(
        not one.resources.keys().isdisjoint(other.resources.keys())
        for place, one in enumerate(layers)
        for other in layers[place + 1 :]
    )
