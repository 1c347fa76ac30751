"""Field paths as people read them (`spec.http[0].match`), as steps into an object."""

from __future__ import annotations

import re

from meltem.objects import Step

_STEP = re.compile(r"\[(\d+)\]|\['?([^\]']+)'?\]|([^.\[\]]+)")


def path_of(text: str) -> tuple[Step, ...]:
    """The steps of `spec.http[0].route['x']`; empty for what is no path."""
    out: list[Step] = []
    for index, quoted, name in _STEP.findall(text):
        out.append(int(index) if index else (quoted or name))
    return tuple(out)
