"""One analysis: the analyzers that are asked for, over one world.

In: a `Context`, names of analyzers, suppressions. Out: messages, most severe first, each once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from meltem.analyze.analyzers import ANALYZERS
from meltem.analyze.context import Context
from meltem.analyze.messages import Message, Suppression
from meltem.objects import annotations_of

SUPPRESS = "galley.istio.io/analyze-suppress"


def run(
    context: Context,
    *,
    only: Sequence[str] = (),
    suppressions: Iterable[Suppression] = (),
    more: Iterable[Message] = (),
) -> list[Message]:
    """An analyzer that fails costs only itself: it becomes an IST0001. `more`: what was found by other means."""
    found: set[Message] = set(more)
    wanted = [n for n in ANALYZERS if not only or any(n == o or n.startswith(f"{o}.") for o in map(_base, only))]
    for name in wanted:
        try:
            found.update(ANALYZERS[name][0](context))
        except Exception as error:
            found.add(Message("IST0001", "Analyzer", "", name, f"{type(error).__name__}: {error}. Please report it."))
    hidden = list(suppressions)
    kept = [m for m in found if not any(s.takes(m) for s in hidden) and not _annotated(context, m)]
    return sorted(kept, key=lambda m: (-m.level, m.code, m.namespace, m.kind, m.name, m.text))


def _base(name: str) -> str:
    """`schema.ValidationAnalyzer.Gateway` is part of one analyzer of ours."""
    return "schema.ValidationAnalyzer" if name.startswith("schema.ValidationAnalyzer") else name


def _annotated(context: Context, one: Message) -> bool:
    """Whether the object itself asks not to be told (codes, with wildcards)."""
    placed = context.world.find(one.kind, one.namespace, one.name)
    if placed is None:
        return False
    patterns = annotations_of(placed.obj).get(SUPPRESS, "")
    return any(fnmatch.fnmatchcase(one.code, p.strip()) for p in patterns.split(",") if p.strip())
