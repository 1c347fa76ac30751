"""Automatic addresses for hosts of ServiceEntries that have none, so that TCP to them can be told apart.

In: the host's key and the keys that share its slot. Out: one IPv4 of 240.240.0.0/12's upper half and one IPv6 of
2001:2::/48 (ranges that nobody routes). An address depends only on which hosts there are, never on when they came.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

_LEVELS = 15


def slot(key: tuple[str, str]) -> int:
    """Two bytes of the key's hash."""
    return int.from_bytes(blake2b("/".join(key).encode(), digest_size=2).digest(), "big")


def allocate(key: tuple[str, str], rivals: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The first host of a slot (in the order of names) gets 240.240.x.y, the second 240.241.x.y, and so on; past the
    fifteenth there is none."""
    level = sorted(rivals).index(key)
    if level >= _LEVELS:
        return ()
    high, low = divmod(slot(key), 256)
    return (f"240.{240 + level}.{high}.{low}", f"2001:2::f0f0:{level:x}:{high:02x}{low:02x}")
