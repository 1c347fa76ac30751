"""A text that a regular expression takes, for calls that are to meet a match.

In: an expression as Envoy reads it (RE2). Out: a short text that the whole of it takes, or `UnknownExample`.
"""

# Python's own parse tree of an expression is not public and has no types; what comes of it is tried on RE2.
# pyright: reportAttributeAccessIssue=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from re import _parser
from typing import cast

import re2

parse = _parser.parse


class UnknownExample(Exception):
    """No text is known that the expression takes."""


def example(expression: str) -> str:
    """A text that the whole of an expression takes. Raises `UnknownExample`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Python may read otherwise one day
            found = _of_pattern(parse(expression))
        if re2.fullmatch(expression, found) is not None:
            return found
    except (re.error, re2.error, RecursionError, OverflowError, KeyError, TypeError, ValueError):
        pass
    raise UnknownExample


def _of_pattern(nodes: object) -> str:
    return "".join(_of_node(code, value) for code, value in cast("Iterable[tuple[object, object]]", nodes))


_CLASSES = {
    "CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a",
    "CATEGORY_NOT_DIGIT": "a", "CATEGORY_NOT_SPACE": "a", "CATEGORY_NOT_WORD": "-",
}  # fmt: skip
_FREE = "a1-_ ~"


def _of_node(code: object, value: object) -> str:
    """One node of Python's own parse tree of an expression (`re._parser`)."""
    match str(code):
        case "LITERAL":
            return chr(cast(int, value))
        case "NOT_LITERAL":
            return next(c for c in _FREE if ord(c) != value)
        case "ANY":
            return "a"
        case "IN":
            return _of_class(cast("list[tuple[object, object]]", value))
        case "BRANCH":
            return _of_pattern(cast("tuple[object, list[object]]", value)[1][0])
        case "SUBPATTERN":
            return _of_pattern(cast("tuple[object, ...]", value)[-1])
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, inner = cast("tuple[int, int, object]", value)
            return _of_pattern(inner) * min(max(least, 1), most, 100)
        case "AT":
            return ""
        case _:
            raise UnknownExample


def _of_class(members: list[tuple[object, object]]) -> str:
    code, value = members[0]
    match str(code):
        case "NEGATE":
            return next(c for c in _FREE if not any(_has(c, *m) for m in members[1:]))
        case "LITERAL":
            return chr(cast(int, value))
        case "RANGE":
            return chr(cast("tuple[int, int]", value)[0])
        case "CATEGORY":
            return _CLASSES[str(value)]
        case _:
            raise UnknownExample


def _has(character: str, code: object, value: object) -> bool:
    if str(code) == "RANGE":
        low, high = cast("tuple[int, int]", value)
        return low <= ord(character) <= high
    return str(code) == "CATEGORY" or ord(character) == value
