"""The simple JSON paths of CRD printer columns, selectable fields and scale subresources.

In: a path such as `.status.conditions[?(@.type=="Ready")].status`, and an object. Out: the values found, in order.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from meltem.errors import InvalidResource
from meltem.objects import Json, JsonObject

_FIELD = re.compile(r"\.((?:[^.\[\]\\]|\\.)+)")
_INDEX = re.compile(r"\[(-?\d+)\]")
_QUOTED = re.compile(r"""\[(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\]""")
_SLICE = re.compile(r"\[(-?\d*):(-?\d*)\]")
_FILTER = re.compile(
    r"""\[\?\(\s*@((?:\.(?:[^.\[\]\\=!<>\s]|\\.)+)+)\s*(?:(==|!=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^)\s]+))?\s*\)\]"""
)
_WILDCARD = re.compile(r"\[\*\]|\.\*")


class _Step(msgspec.Struct, frozen=True):
    kind: str
    name: str = ""
    start: int | None = None
    end: int | None = None
    path: tuple[str, ...] = ()
    negate: bool = False
    wanted: str | bool | float | int | None = None
    compare: bool = False


@lru_cache(maxsize=4096)
def parse(path: str) -> tuple[_Step, ...]:
    """The steps of a path; InvalidResource for one that is no simple path."""
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = text.removeprefix("$")
    if text and text[0] not in ".[":
        raise InvalidResource(f'"{path}" is no JSON path: it must start with "."')
    steps: list[_Step] = []
    position = 0
    while position < len(text):
        step, position = _step(text, position, path)
        steps.append(step)
    return tuple(steps)


def _step(text: str, position: int, path: str) -> tuple[_Step, int]:
    if found := _WILDCARD.match(text, position):
        return _Step("all"), found.end()
    if found := _FIELD.match(text, position):
        return _Step("field", name=_unescape(found[1])), found.end()
    if found := _INDEX.match(text, position):
        return _Step("index", start=int(found[1])), found.end()
    if found := _QUOTED.match(text, position):
        return _Step("field", name=_unescape(found[1] if found[1] is not None else found[2])), found.end()
    if found := _SLICE.match(text, position):
        start, end = (int(v) if v else None for v in (found[1], found[2]))
        return _Step("slice", start=start, end=end), found.end()
    if found := _FILTER.match(text, position):
        names = tuple(_unescape(n) for n in _FIELD.findall(found[1]))
        if found[2] is None:
            return _Step("filter", path=names), found.end()
        step = _Step("filter", path=names, compare=True, negate=found[2] == "!=", wanted=_literal(found[3]))
        return step, found.end()
    raise InvalidResource(f'"{path}" is no simple JSON path (at "{text[position:]}")')


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _literal(text: str) -> str | bool | float | int | None:
    if text[0] in "\"'":
        return _unescape(text[1:-1])
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def find(path: str, obj: JsonObject) -> list[Json]:
    """The values at the path; none where a part of it is missing."""
    found: list[Json] = [obj]
    for step in parse(path):
        found = [value for item in found for value in _apply(step, item)]
        if not found:
            break
    return found


def _apply(step: _Step, value: Json) -> list[Json]:
    match step.kind:
        case "field":
            return [value[step.name]] if isinstance(value, dict) and step.name in value else []
        case "all":
            if isinstance(value, dict):
                return list(value.values())
            return value if isinstance(value, list) else []
        case "index":
            at = step.start or 0
            return [value[at]] if isinstance(value, list) and -len(value) <= at < len(value) else []
        case "slice":
            return value[step.start : step.end] if isinstance(value, list) else []
        case _:
            return [item for item in value if _selected(step, item)] if isinstance(value, list) else []


def _selected(step: _Step, item: Json) -> bool:
    for name in step.path:
        if not isinstance(item, dict) or name not in item:
            return False
        item = item[name]
    return (item == step.wanted) is not step.negate if step.compare else True
