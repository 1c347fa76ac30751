"""RE2 behind a typed door: patterns come from users, and RE2 matches in linear time.

In: a pattern. Out: a `Matcher`, or the reason why RE2 refuses it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, cast

import msgspec
import re2


class _Match(Protocol):
    def group(self, index: int = 0) -> str: ...
    def span(self) -> tuple[int, int]: ...


class Pattern(Protocol):
    """The part of RE2's compiled pattern that is used here."""

    def search(self, text: str) -> _Match | None: ...
    def fullmatch(self, text: str) -> _Match | None: ...
    def finditer(self, text: str) -> list[_Match]: ...


class Refused(msgspec.Struct, frozen=True):
    reason: str


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern | Refused:
    """The pattern's program, or why there is none."""
    options = re2.Options()
    options.log_errors = False
    try:
        return cast(Pattern, re2.compile(pattern, options))  # pyright: ignore[reportUnknownMemberType]
    except cast(type[Exception], re2.error) as error:
        reason: object = error.args[0] if error.args else "not a regular expression"
        return Refused(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason))


def problem(pattern: str) -> str:
    """Why RE2 refuses the pattern; empty when it takes it."""
    found = compiled(pattern)
    return found.reason if isinstance(found, Refused) else ""


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern is found anywhere in the text; a refused pattern matches nothing."""
    found = compiled(pattern)
    return not isinstance(found, Refused) and found.search(text) is not None
