"""Which lines of a log go into a bug report, and how bad it looks.

In: lines as the API server gives them with `timestamps=true` (`2026-01-02T03:04:05.678901234Z text`). Out: the text of
those within a window, and how many errors are among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec

from meltem.clock import parse_rfc3339

_ERROR = re.compile(
    r"\t(?:error|fatal)\t|\[(?:error|critical)\]|\"level\": ?\"(?:error|fatal|critical)\"", re.IGNORECASE
)
"""What istiod, the agent and Envoy write for an error, as text and as JSON."""
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


class Window(msgspec.Struct, frozen=True):
    """Seconds since the epoch; None is without bound."""

    start: float | None = None
    end: float | None = None

    @property
    def bounded(self) -> bool:
        return self.start is not None or self.end is not None

    def holds(self, moment: float) -> bool:
        return (self.start is None or moment >= self.start) and (self.end is None or moment <= self.end)


class Verdict(msgspec.Struct, frozen=True):
    """`errors` without the ignored ones; `critical` is one that a critical pattern fits."""

    errors: int
    critical: bool


def within(lines: Iterable[str], window: Window) -> list[str]:
    """The lines of the window without their time stamps. A line without one belongs to the line before it."""
    kept: list[str] = []
    inside = not window.bounded
    for line in lines:
        stamp, space, text = line.partition(" ")
        moment = _moment(stamp) if space else None
        if moment is None:
            text = line
        elif window.bounded:
            inside = window.holds(moment)
        if inside:
            kept.append(text)
    return kept


def judge(lines: Iterable[str], critical: Sequence[str], ignored: Sequence[str]) -> Verdict:
    """Patterns are globs over the whole line."""
    errors, worst = 0, False
    for line in lines:
        if not _ERROR.search(line) or any(fnmatchcase(line, p) for p in ignored):
            continue
        errors += 1
        worst = worst or any(fnmatchcase(line, p) for p in critical)
    return Verdict(errors, worst)


def _moment(stamp: str) -> float | None:
    try:
        return parse_rfc3339(_FRACTION.sub(r".\1", stamp))
    except ValueError:
        return None
