"""The functions that Go's text/template defines itself (`and`, `or` and `call` belong to the evaluator).

Values in and out as in `values`; a refusal is a FunctionError with Go's words.
"""

from __future__ import annotations

from urllib.parse import quote_plus

from meltem.gotemplate.gofmt import format_value, sprint, sprintf, sprintln
from meltem.gotemplate.values import (
    MISSING,
    Function,
    FunctionError,
    GoStruct,
    Raw,
    Strings,
    Value,
    functions,
    go_type,
    is_list,
    is_map,
    is_nil,
    truth,
)

_HTML = {'"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "�"}
_JS = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}


def _basic_kind(value: Value) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
        case _:
            raise FunctionError("invalid type for comparison")


def _incompatible(first: Value, second: Value) -> FunctionError:
    return FunctionError(f"incompatible types for comparison: {go_type(first)} and {go_type(second)}")


def _equal_one(first: Value, second: Value) -> bool:
    if is_nil(first) or is_nil(second):
        return is_nil(first) and is_nil(second)
    if isinstance(first, (bool, int, float, str)) and isinstance(second, (bool, int, float, str)):
        if _basic_kind(first) != _basic_kind(second):
            raise _incompatible(first, second)
        return first == second
    if isinstance(first, GoStruct) and isinstance(second, GoStruct):
        return first is second
    for value in (first, second):
        if (is_list(value) or is_map(value)) and go_type(first) == go_type(second):
            raise FunctionError(f"non-comparable type {format_value(value)}: {go_type(value)}")
    raise _incompatible(first, second)


def eq(first: Raw, *others: Raw) -> bool:
    if not others:
        raise FunctionError("missing argument for comparison")
    return any(_equal_one(first, other) for other in others)


def ne(first: Raw, second: Raw) -> bool:
    return not eq(first, second)


def lt(first: Raw, second: Raw) -> bool:
    kind = _basic_kind(first)
    if kind != _basic_kind(second):
        raise _incompatible(first, second)
    if isinstance(first, str) and isinstance(second, str):
        return first.encode("utf-8", "surrogateescape") < second.encode("utf-8", "surrogateescape")
    if isinstance(first, (int, float)) and isinstance(second, (int, float)) and kind != "bool":
        return first < second
    raise FunctionError("invalid type for comparison")


def le(first: Raw, second: Raw) -> bool:
    return lt(first, second) or eq(first, second)


def gt(first: Raw, second: Raw) -> bool:
    return not le(first, second)


def ge(first: Raw, second: Raw) -> bool:
    return not lt(first, second)


def not_(value: Raw) -> bool:
    return not truth(value)


def len_(value: Raw) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if is_list(value) or is_map(value):
        return len(value)
    raise FunctionError("len of nil pointer" if is_nil(value) else f"len of type {go_type(value)}")


def _position(index: Value, length: int, *, inclusive: bool = False) -> int:
    if is_nil(index):
        raise FunctionError("cannot index slice/array with nil")
    if not isinstance(index, int) or isinstance(index, bool):
        raise FunctionError(f"cannot index slice/array with type {go_type(index)}")
    if index < 0 or (index > length if inclusive else index >= length):
        raise FunctionError(f"index out of range: {index}")
    return index


def index(item: Raw, *indexes: Raw) -> Value:
    if is_nil(item):
        raise FunctionError("index of untyped nil")
    for step in indexes:
        if is_list(item):
            item = item[_position(step, len(item))]
        elif isinstance(item, str):
            raw = item.encode("utf-8", "surrogateescape")
            item = raw[_position(step, len(raw))]
        elif is_map(item):
            if is_nil(step):
                raise FunctionError("value is nil; should be of type string")
            if not isinstance(step, str):
                raise FunctionError(f"value has type {go_type(step)}; should be string")
            item = item.get(step)
        elif item is None:
            raise FunctionError("index of nil pointer")
        else:
            raise FunctionError(f"can't index item of type {go_type(item)}")
    return item


def slice_(item: Raw, *indexes: Raw) -> Value:
    if is_nil(item):
        raise FunctionError("slice of untyped nil")
    if len(indexes) > 3:
        raise FunctionError(f"too many slice indexes: {len(indexes)}")
    if isinstance(item, str):
        if len(indexes) == 3:
            raise FunctionError("cannot 3-index slice a string")
        raw = item.encode("utf-8", "surrogateescape")
        start, end = _bounds(indexes, len(raw))
        return raw[start:end].decode("utf-8", "surrogateescape")
    if is_list(item):
        start, end = _bounds(indexes, len(item))
        return Strings(item[start:end]) if isinstance(item, Strings) else item[start:end]
    raise FunctionError(f"can't slice item of type {go_type(item)}")


def _bounds(indexes: tuple[Value, ...], length: int) -> tuple[int, int]:
    places = [_position(i, length, inclusive=True) for i in indexes]
    start = places[0] if places else 0
    end = places[1] if len(places) > 1 else length
    if start > end:
        raise FunctionError(f"invalid slice index: {start} > {end}")
    if len(places) == 3 and end > places[2]:
        raise FunctionError(f"invalid slice index: {end} > {places[2]}")
    return start, end


def _text(values: tuple[Value, ...]) -> str:
    if len(values) == 1:
        return "<no value>" if is_nil(values[0]) else format_value(values[0])
    return sprint(["<no value>" if v is MISSING else v for v in values])


def html(*values: Value) -> str:
    return "".join(_HTML.get(c, c) for c in _text(values))


def js(*values: Value) -> str:
    out: list[str] = []
    for character in _text(values):
        if character in _JS:
            out.append(_JS[character])
        elif ord(character) < 0x20:
            out.append(f"\\u{ord(character):04X}")
        elif ord(character) < 0x7F or character.isprintable():
            out.append(character)
        else:
            out.append(f"\\u{ord(character):04X}")
    return "".join(out)


def urlquery(*values: Value) -> str:
    return quote_plus(_text(values), safe="", errors="surrogateescape")


def print_(*values: Value) -> str:
    return sprint(list(values))


def printf(layout: str, *values: Value) -> str:
    return sprintf(layout, list(values))


def println(*values: Value) -> str:
    return sprintln(list(values))


def and_(first: Raw, *others: Raw) -> Value:
    """Only for its signature: the evaluator stops at the first false argument."""
    return next((v for v in (first, *others) if not truth(v)), (first, *others)[-1])


def or_(first: Raw, *others: Raw) -> Value:
    return next((v for v in (first, *others) if truth(v)), (first, *others)[-1])


def call(target: Raw, *arguments: Raw) -> Value:
    if is_nil(target):
        raise FunctionError("call of nil")
    raise FunctionError(f"non-function {format_value(target)} of type {go_type(target)}")


def builtin_functions() -> dict[str, Function]:
    return functions(
        and_=and_,
        or_=or_,
        call=call,
        eq=eq,
        ne=ne,
        lt=lt,
        le=le,
        gt=gt,
        ge=ge,
        not_=not_,
        len=len_,
        index=index,
        slice=slice_,
        html=html,
        js=js,
        urlquery=urlquery,
        print_=print_,
        printf=printf,
        println=println,
    )
