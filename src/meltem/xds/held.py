"""Names and versions by the thousand, most of them shared with the clients that have the same.

In: batches that were sent, versions that a client declared, names that it asked for. Out: lookups. A thousand proxies
with equal configuration keep one mapping of versions and one set of names, and a small difference each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

_FEW = 32
_MOST_BASES = 16


class Held:
    """What a client has of one type: name → version. Shared bases without a name in common, with own changes on top; an
    empty version in the changes means "not there"."""

    __slots__ = ("_bases", "_over")

    def __init__(self) -> None:
        self._bases: tuple[Mapping[str, str], ...] = ()
        self._over: dict[str, str] = {}

    def get(self, name: str) -> str:
        """The version, empty when the client does not have it."""
        found = self._over.get(name)
        if found is not None:
            return found
        for base in self._bases:
            found = base.get(name)
            if found is not None:
                return found
        return ""

    def put_all(self, versions: Mapping[str, str]) -> None:
        """`versions` may be kept: nobody may write to it afterwards."""
        over = self._over
        if len(versions) <= _FEW and (self._bases or over):
            over.update(versions)
            return
        if not self._bases and not over:
            self._bases = (versions,)
            return
        kept: list[Mapping[str, str]] = []
        left: dict[str, str] = {}
        for base in self._bases:
            common = base.keys() & versions.keys()
            if not common:
                kept.append(base)
            elif len(common) * 2 < len(base):
                over.update(versions)
                return
            elif len(common) < len(base):
                left.update((n, base[n]) for n in base.keys() - common)
        if over or left:
            self._over = {n: v for n, v in (left | over).items() if n not in versions}
        self._bases = (versions, *kept)
        if len(self._bases) > _MOST_BASES:
            self._bases = ({n: v for b in self._bases for n, v in b.items()},)

    def drop(self, name: str) -> None:
        if any(name in base for base in self._bases):
            self._over[name] = ""
        else:
            self._over.pop(name, None)

    def holds(self, parts: Iterable[Mapping[str, str]]) -> bool:
        """Is it exactly this? If so, the given mappings take the place of its own. `parts` have no name in common."""
        some = tuple(parts)
        if len(self) != sum(map(len, some)):
            return False
        if not self._over and len(self._bases) == 1:
            base = self._bases[0]
            same = all(p.items() <= base.items() for p in some)
        else:
            same = all(self.get(n) == v for p in some for n, v in p.items())
        if same:
            self._bases, self._over = some, {}
        return same

    def lean_on(self, parts: Iterable[Mapping[str, str]]) -> None:
        """The same content, but kept as its differences from these mappings (without a name in common)."""
        over = self.snapshot()
        some = tuple(parts)
        for part in some:
            for name, version in part.items():
                mine = over.get(name)
                if mine == version:
                    del over[name]
                elif mine is None:
                    over[name] = ""
        self._bases, self._over = some, over

    def __iter__(self) -> Iterator[str]:
        over = self._over
        for base in self._bases:
            for name in base:
                if name not in over:
                    yield name
        for name, version in over.items():
            if version:
                yield name

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get(name))

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def __len__(self) -> int:
        count = sum(map(len, self._bases))
        for name, version in self._over.items():
            count += bool(version) - any(name in base for base in self._bases)
        return count

    def snapshot(self) -> dict[str, str]:
        return {n: self.get(n) for n in self}


class Names:
    """A set of names: a shared one, with own additions and removals."""

    __slots__ = ("_base", "_less", "_more")

    def __init__(self, base: frozenset[str] = frozenset()) -> None:
        self._base = base
        self._more: set[str] = set()
        self._less: set[str] = set()

    def add(self, name: str) -> None:
        if name in self._base:
            self._less.discard(name)
        else:
            self._more.add(name)

    def discard(self, name: str) -> None:
        if name in self._base:
            self._less.add(name)
        else:
            self._more.discard(name)

    def among(self, names: Set[str]) -> Set[str]:
        """Which of `names` are in it."""
        found = names & self._base
        if self._less:
            found = found - self._less
        return found | (names & self._more) if self._more else found

    def __contains__(self, name: object) -> bool:
        return name in self._more or (name in self._base and name not in self._less)

    def __iter__(self) -> Iterator[str]:
        for name in self._base:
            if name not in self._less:
                yield name
        yield from self._more

    def __len__(self) -> int:
        return len(self._base) - len(self._less) + len(self._more)
