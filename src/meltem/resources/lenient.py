"""Reading JSON as protobuf's JSON mapping allows it, with the exact place of every mistake.

In: a JSON value and the struct that it should be. Out: the value in the form that msgspec decodes strictly, and the
problems found. Istio reads its resources with protobuf's rules: numbers as strings, enumerations by number, snake_case
names, and null for "not set" are all accepted. What is wrong is reported field by field; nothing here raises.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from meltem.objects import Json
from meltem.resources.base import BASE64, Duration, Message

MAX_PROBLEMS = 20


class Problem(msgspec.Struct, frozen=True):
    """One mistake: where (`spec.http[0].timeout`), what it is, what to write instead. `unknown`: an unknown field."""

    path: str
    what: str
    remedy: str = ""
    unknown: bool = False


class StructNode(msgspec.Struct, frozen=True):
    """A struct, by name; resolved late, since structs may nest."""

    struct: type[Message]


class ListNode(msgspec.Struct, frozen=True):
    """A list."""

    item: Node


class MapNode(msgspec.Struct, frozen=True):
    """An object with free keys."""

    value: Node


class EnumNode(msgspec.Struct, frozen=True):
    """One of some words, in the order of their numbers."""

    words: tuple[str, ...]


class ScalarNode(msgspec.Struct, frozen=True):
    """`str`, `base64`, `int`, `float`, `bool`, `duration`, `int-or-string` or `any`; and what a number may be."""

    name: str
    low: float = -math.inf
    high: float = math.inf


Node: TypeAlias = StructNode | ListNode | MapNode | EnumNode | ScalarNode
_SCALARS: Mapping[object, str] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    Duration: "duration",
    object: "any",
}
_WORDS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}


def node_of(annotation: object) -> Node:
    """The node of a type annotation (as `typing.get_type_hints(..., include_extras=True)` gives it)."""
    origin = get_origin(annotation)
    args = cast("tuple[object, ...]", get_args(annotation))
    if origin is Annotated:
        return _marked(node_of(args[0]), [m for m in args[1:] if isinstance(m, msgspec.Meta)])
    if origin in (types.UnionType, Union):
        rest = [a for a in args if a is not type(None)]
        return node_of(rest[0]) if len(rest) == 1 else ScalarNode("int-or-string")
    if origin is tuple:
        return ListNode(node_of(args[0]))
    if origin is dict:
        return MapNode(node_of(args[1]))
    if origin is Literal:
        return EnumNode(cast("tuple[str, ...]", args))
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return StructNode(annotation)
    return ScalarNode(_SCALARS[annotation])


def _marked(node: Node, marks: Iterable[msgspec.Meta]) -> Node:
    """The node with what decoding heeds of a field's marks."""
    for mark in marks:
        if not isinstance(node, ScalarNode):
            return node
        if mark is BASE64:
            node = ScalarNode("base64")
        low = node.low if mark.ge is None else max(node.low, mark.ge)
        high = node.high if mark.le is None else min(node.high, mark.le)
        node = msgspec.structs.replace(node, low=low, high=high)
    return node


class FieldPlan(msgspec.Struct, frozen=True):
    """One field: its JSON name, its shape, whether it must be there."""

    name: str
    node: Node
    required: bool


class StructPlan(msgspec.Struct, frozen=True):
    """A struct's fields by every name under which they are read."""

    fields: dict[str, FieldPlan]
    required: tuple[str, ...]
    names: tuple[str, ...]


@cache
def plan_of(struct: type[Message]) -> StructPlan:
    """The fields of a struct; made once a struct."""
    hints = get_type_hints(struct, include_extras=True)
    fields: dict[str, FieldPlan] = {}
    snake: dict[str, FieldPlan] = {}
    required: list[str] = []
    for info in msgspec.structs.fields(struct):
        plan = FieldPlan(info.encode_name, node_of(hints[info.name]), info.required)
        fields[info.encode_name] = plan
        snake.setdefault(info.name.rstrip("_"), plan)
        if info.required:
            required.append(info.encode_name)
    return StructPlan({**snake, **fields}, tuple(required), tuple(fields))


def normalize(value: Json, struct: type[Message], path: str = "") -> tuple[Json, list[Problem]]:
    """`value` in strict form, and every problem (at most `MAX_PROBLEMS`). Unknown fields are left out and reported."""
    problems: list[Problem] = []
    return _struct(value, struct, path, problems), problems


def _read(value: Json, node: Node, path: str, problems: list[Problem]) -> Json:
    match node:
        case StructNode():
            return _struct(value, node.struct, path, problems)
        case ListNode():
            if not isinstance(value, list):
                _wrong(problems, path, "a list", value)
                return []
            return [_read(v, node.item, f"{path}[{i}]", problems) for i, v in enumerate(value)]
        case MapNode():
            if not isinstance(value, dict):
                _wrong(problems, path, "an object", value)
                return {}
            return {k: _read(v, node.value, f"{path}[{k!r}]", problems) for k, v in value.items()}
        case EnumNode():
            return _enum(value, node.words, path, problems)
        case ScalarNode():
            read = _scalar(value, node.name, path, problems)
            if isinstance(read, int | float) and not node.low <= read <= node.high:
                limits = f"Write a number from {node.low:.0f} to {node.high:.0f}."
                _add(problems, Problem(path, f"{read!r:.32} is out of range", limits))
            return read


def _struct(value: Json, struct: type[Message], path: str, problems: list[Problem]) -> Json:
    if not isinstance(value, dict):
        _wrong(problems, path, "an object", value)
        return {}
    plan = plan_of(struct)
    out: dict[str, Json] = {}
    for key, item in value.items():
        field = plan.fields.get(key)
        here = f"{path}.{key}" if path else key
        if field is None:
            _add(problems, _unknown(here, key, plan.names))
        elif item is not None:
            if field.name in out and field.name != key:
                _add(problems, Problem(here, f"is the same field as {field.name!r}, which is set too"))
            out[field.name] = _read(item, field.node, here, problems)
    for group in struct.one_of:
        given = [name for name in group if name in out]
        if len(given) > 1:
            _add(problems, Problem(path, f"{given[0]} and {given[1]} exclude each other", "Keep one of them."))
    for name in plan.required:
        if name not in out:
            _add(problems, Problem(f"{path}.{name}" if path else name, "is required but missing"))
    return out


def _unknown(path: str, key: str, names: tuple[str, ...]) -> Problem:
    near = nearest(key, names)
    remedy = f"Did you mean {near!r}?" if near else f"Known here: {', '.join(sorted(names)[:30])}."
    return Problem(path, f"unknown field {key[:64]!r}", remedy, unknown=True)


def nearest(word: str, known: tuple[str, ...]) -> str:
    """The known name that looks most like `word`, or an empty string."""
    lower = {k.lower().replace("_", ""): k for k in known}
    plain = word[:64].lower().replace("_", "").replace("-", "")
    found = difflib.get_close_matches(plain, list(lower), n=1, cutoff=0.6)
    return lower[found[0]] if found else ""


def _enum(value: Json, words: tuple[str, ...], path: str, problems: list[Problem]) -> Json:
    if isinstance(value, str) and value in words:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(words):
        return words[value]
    near = nearest(value, words) if isinstance(value, str) else ""
    remedy = f"Did you mean {near!r}?" if near else ""
    _add(problems, Problem(path, f"{_show(value)} is none of {', '.join(words)}", remedy))
    return words[0]


def _scalar(value: Json, name: str, path: str, problems: list[Problem]) -> Json:
    if name == "any":
        return value
    if name == "bool" or isinstance(value, bool):
        if name == "bool" and isinstance(value, bool):
            return value
        _wrong(problems, path, _WORDS.get(name, "a string"), value)
        return False if name == "bool" else 0 if name in ("int", "float", "int-or-string") else ""
    match name:
        case "str" if isinstance(value, str):
            return value
        case "base64" if isinstance(value, str):
            if re.fullmatch(BASE64.pattern or "", value) is None:
                _add(problems, Problem(path, "is not base64"))
            return value
        case "int-or-string" if isinstance(value, int | str):
            return value
        case "int":
            number = _integer(value)
            if number is not None:
                return number
        case "float":
            real = _number(value)
            if real is not None:
                return real
        case "duration" if isinstance(value, str):
            try:
                Duration.span(value)
            except ValueError as error:
                _add(problems, Problem(path, str(error)))
                return "0s"
            return value
        case _:
            pass
    _wrong(problems, path, {"duration": "a duration such as 5s", **_WORDS}.get(name, "an integer or a string"), value)
    return {"int": 0, "float": 0.0, "duration": "0s"}.get(name, "")


def _integer(value: Json) -> int | None:
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if isinstance(value, str) and len(value) <= 20 and value.lstrip("-").isascii() and value.lstrip("-").isdigit():
        return int(value) if value.count("-") <= 1 else None
    return None


def _number(value: Json) -> float | None:
    if not isinstance(value, int | float | str) or (isinstance(value, str) and len(value) > 32):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _wrong(problems: list[Problem], path: str, expected: str, got: Json) -> None:
    _add(problems, Problem(path or "(the whole)", f"expected {expected}, got {_show(got)}"))


def _show(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case str():
            return f"the string {value[:64]!r}"
        case int() | float():
            return f"the number {value!r:.32}"
        case list():
            return "a list"
        case dict():
            return "an object"


def _add(problems: list[Problem], problem: Problem) -> None:
    if len(problems) < MAX_PROBLEMS:
        problems.append(problem)
