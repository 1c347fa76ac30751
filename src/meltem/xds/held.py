"""What a client has of one type: name → version, most of it shared with the clients that have the same.

In: batches that were sent, versions that a client declared. Out: lookups. A thousand proxies with equal configuration
keep one mapping and a small difference each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_NOTHING: Mapping[str, str] = {}


class Held:
    """A shared base with own changes on top; an empty version in the changes means "not there"."""

    __slots__ = ("_base", "_over")

    def __init__(self) -> None:
        self._base = _NOTHING
        self._over: dict[str, str] = {}

    def get(self, name: str) -> str:
        """The version, empty when the client does not have it."""
        found = self._over.get(name)
        return self._base.get(name, "") if found is None else found

    def put_all(self, versions: Mapping[str, str]) -> None:
        """`versions` may be kept: nobody may write to it afterwards."""
        if not self._base and not self._over:
            self._base = versions
        elif len(versions) > 32 and len(versions) >= len(self._base) and self._base.keys() <= versions.keys():
            self._base = versions
            self._over = {n: v for n, v in self._over.items() if n not in versions}
        else:
            self._over.update(versions)

    def drop(self, name: str) -> None:
        if name in self._base:
            self._over[name] = ""
        else:
            self._over.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        over = self._over
        for name in self._base:
            if name not in over:
                yield name
        for name, version in over.items():
            if version:
                yield name

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get(name))

    def __len__(self) -> int:
        if not self._over:
            return len(self._base)
        return sum(1 for _ in self)

    def snapshot(self) -> dict[str, str]:
        return {n: self.get(n) for n in self}
