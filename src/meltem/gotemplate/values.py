"""The values that templates compute with, seen as Go would see them.

Plain JSON is Go's `nil`, `bool`, `int`, `float64`, `string`, `[]interface {}` and `map[string]interface {}`; three more
exist: `MISSING` (Go's invalid value: an absent map key), `Int64` (sprig's arithmetic makes int64, which Go keeps apart
from int) and `GoStruct` (an object with fields and methods, such as helm's `.Files`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeGuard

Value: TypeAlias = object
Items: TypeAlias = list[object]
Map: TypeAlias = dict[str, object]


class Missing:
    """Go's invalid reflect.Value: prints as `<no value>`."""

    __slots__ = ()


MISSING: Final = Missing()


class Int64(int):
    """An int64; arithmetic on it gives plain ints, so functions wrap their results."""

    __slots__ = ()


class Strings(list[object]):
    """A `[]string`: a list that holds strings only and whose type Go names differently."""


@dataclass(frozen=True, slots=True, eq=False)
class GoStruct:
    """A Go struct: `fields` by name, `methods` by name (functions of this value), `text` where it prints itself."""

    type_name: str
    fields: Mapping[str, Value] = field(default_factory=dict[str, Value])
    methods: Mapping[str, Function] = field(default_factory=dict[str, "Function"])
    text: str | None = None


class FunctionError(Exception):
    """A template function refused: the evaluator adds name and place."""


_GO_TYPES = {
    "str": "string",
    "int": "int",
    "Int64": "int64",
    "float": "float64",
    "bool": "bool",
    "Items": "[]interface {}",
    "Map": "map[string]interface {}",
    "Value": "interface {}",
    "object": "interface {}",
    "Raw": "reflect.Value",
    "FileMap": "engine.files",
}
Raw: TypeAlias = object
"""Annotates a parameter that takes MISSING as it is."""


@dataclass(frozen=True, slots=True)
class Function:
    """A Go function: `parameters` are Go type names; the last repeats where `variadic`."""

    call: Callable[..., Value]
    parameters: tuple[str, ...]
    variadic: bool


def function(call: Callable[..., Value]) -> Function:
    """A Function whose Go signature is read from the annotations of `call` (positional parameters only)."""
    code = call.__code__  # pyright: ignore[reportFunctionMemberAccess]
    variadic = bool(code.co_flags & 0x04)
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount + (1 if variadic else 0)]
    annotations = call.__annotations__
    kept = [n for n in names if n != "self"]
    return Function(call, tuple(_GO_TYPES[str(annotations[n]).strip("'\"")] for n in kept), variadic)


def functions(**named: Callable[..., Value]) -> dict[str, Function]:
    """A table of functions; a trailing underscore in a name is dropped (`and_`, `list_`)."""
    return {name.rstrip("_"): function(call) for name, call in named.items()}


def is_list(value: Value) -> TypeGuard[Items]:
    return isinstance(value, list)


def is_map(value: Value) -> TypeGuard[Map]:
    return isinstance(value, dict)


def is_nil(value: Value) -> bool:
    return value is None or value is MISSING


def truth(value: Value) -> bool:
    """Go's truthiness: zero numbers, empty strings and collections, nil and missing are false; structs are true."""
    if value is None or value is MISSING:
        return False
    if is_list(value) or is_map(value):
        return len(value) > 0
    return bool(value) if isinstance(value, (bool, int, float, str)) else True


def go_type(value: Value) -> str:
    """`%T`."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case Int64():
            return "int64"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case Strings():
            return "[]string"
        case list():
            return "[]interface {}"
        case dict():
            return "map[string]interface {}"
        case GoStruct():
            return value.type_name
        case _:
            return "func"


def go_kind(value: Value) -> str:
    """reflect.Kind's name (sprig's kindOf)."""
    match value:
        case None | Missing():
            return "invalid"
        case list():
            return "slice"
        case dict():
            return "map"
        case GoStruct():
            return "ptr" if value.type_name.startswith("*") else "struct"
        case _:
            return go_type(value)


def sorted_keys(value: Mapping[str, Value]) -> list[str]:
    """Keys in Go's order: by bytes of their UTF-8."""
    return sorted(value, key=lambda k: k.encode("utf-8", "surrogateescape"))
