"""The paths of `--set`: `values.global.proxy.image=x`, `components.ingressGateways[0].enabled=true`,
`components.ingressGateways[name:istio-ingressgateway].enabled=false`, `meshConfig.defaultConfig.a\\.b=c`.

A path is keys joined by dots; `\\.` is a dot in a key; `[n]` picks or appends (n is the length, or -1) an item of a
list, `[key:value]` the item with that value. Used by `--set`, and by the patches of k8s overlays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from meltem.errors import UserError
from meltem.objects import Json, JsonObject

_INTEGER = re.compile(r"[-+]?\d+")
_FLOAT = re.compile(r"[-+]?\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Match:
    """Picks the items of a list whose `key` is `value`; an item that is no map by its own value (empty key)."""

    key: str
    value: str

    def fits(self, item: Json) -> bool:
        found = item.get(self.key) if self.key and isinstance(item, dict) else item
        return isinstance(found, (str, int, float)) and str(found) == self.value


Step: TypeAlias = str | int | Match


def parse_path(text: str) -> list[Step]:
    """The steps of a path; raises UserError for an empty one or an open bracket."""
    steps: list[Step] = []
    current = ""
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\" and position + 1 < len(text):
            current += text[position + 1]
            position += 2
            continue
        if character in ".[":
            if current:
                steps.append(current)
                current = ""
            if character == "[":
                end = text.find("]", position)
                if end < 0:
                    raise UserError("has a bracket that is not closed", where=f"path {text}")
                steps.append(_bracket(text[position + 1 : end], text))
                position = end + 1
                continue
        else:
            current += character
        position += 1
    if current:
        steps.append(current)
    if not steps:
        raise UserError("is empty", where=f"path {text!r}", remedy="write it as values.global.tag=1.0")
    return steps


def _bracket(inner: str, whole: str) -> Step:
    if _INTEGER.fullmatch(inner):
        return int(inner)
    key, colon, value = inner.partition(":")
    if colon:
        return Match(key.strip(), value.strip().strip('"'))
    return inner.strip('"')


def parse_value(text: str) -> Json:
    """`true`, `false`, `null`, numbers, `[a,b]`-style lists in braces (`{a,b}`); all else is text, quotes taken off."""
    if text in ("true", "false"):
        return text == "true"
    if text == "null":
        return None
    if _INTEGER.fullmatch(text) and len(text) < 19 and not (len(text) > 1 and text.lstrip("+-").startswith("0")):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text.startswith("{") and text.endswith("}"):
        return [parse_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def set_at(root: JsonObject, path: str, value: Json) -> None:
    """Puts `value` at `path`, making what is missing on the way. Raises UserError where the path does not fit."""
    steps = parse_path(path)
    here: Json = root
    for index, step in enumerate(steps[:-1]):
        following = steps[index + 1]
        empty: Json = {} if isinstance(following, str) else []
        here = _enter(here, step, empty, path)
    _store(here, steps[-1], value, path)


def _enter(here: Json, step: Step, empty: Json, path: str) -> Json:
    if isinstance(step, str):
        if not isinstance(here, dict):
            raise _misfit(path, step, "a map")
        if here.get(step) is None:
            here[step] = empty
        return here[step]
    if not isinstance(here, list):
        raise _misfit(path, step, "a list")
    place = _index(here, step)
    if place is None:
        here.append({step.key: step.value} if isinstance(step, Match) else empty)
        place = len(here) - 1
    if here[place] is None:
        here[place] = empty
    return here[place]


def _index(here: list[Json], step: int | Match) -> int | None:
    """Where the item is; None where it is to be appended."""
    if isinstance(step, Match):
        return next((i for i, item in enumerate(here) if step.fits(item)), None)
    if step == -1 or step == len(here):
        return None
    if not 0 <= step < len(here):
        raise UserError(f"has no item {step}: the list has {len(here)}", where=f"path [{step}]")
    return step


def _store(here: Json, step: Step, value: Json, path: str) -> None:
    if isinstance(step, str):
        if not isinstance(here, dict):
            raise _misfit(path, step, "a map")
        here[step] = value
        return
    if not isinstance(here, list):
        raise _misfit(path, step, "a list")
    place = _index(here, step)
    if place is None:
        here.append(value)
    else:
        here[place] = value


def remove_at(root: JsonObject, path: str) -> bool:
    """Takes away what stands at `path`; False where nothing did."""
    steps = parse_path(path)
    here: Json = root
    for step in steps[:-1]:
        if isinstance(step, str):
            here = here.get(step) if isinstance(here, dict) else None
        else:
            place = _index(here, step) if isinstance(here, list) else None
            here = here[place] if isinstance(here, list) and place is not None else None
    last = steps[-1]
    if isinstance(last, str):
        if isinstance(here, dict) and last in here:
            del here[last]
            return True
        return False
    place = _index(here, last) if isinstance(here, list) else None
    if isinstance(here, list) and place is not None:
        del here[place]
        return True
    return False


def _misfit(path: str, step: Step, wanted: str) -> UserError:
    shown = step if isinstance(step, (str, int)) else f"[{step.key}:{step.value}]"
    return UserError(f"does not fit: what {shown} looks into is not {wanted}", where=f"path {path}")
