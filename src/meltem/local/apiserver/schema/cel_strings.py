"""CEL's string library (version 2 with `format`, `quote` and `reverse`), and Kubernetes' `find` and `findAll`.

In: argument values, the receiver first. Out: a value; `CelError` where there is no such overload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from meltem.local.apiserver.schema import cel_values as v
from meltem.local.apiserver.schema import regex
from meltem.local.apiserver.schema.cel_values import CelError, Value

_LIMIT = 1 << 20
Function: TypeAlias = Callable[[list[Value]], Value]


def _char_at(args: list[Value]) -> Value:
    match args:
        case [str() as text, int() as index]:
            if not 0 <= index <= len(text):
                raise CelError(f"index out of range: {index}")
            return text[index : index + 1]
        case _:
            raise v.no_overload("charAt", *args)


def _substring(args: list[Value]) -> Value:
    match args:
        case [str() as text, int() as start]:
            end = len(text)
        case [str() as text, int() as start, int() as end]:
            pass
        case _:
            raise v.no_overload("substring", *args)
    if not 0 <= start <= end <= len(text):
        raise CelError(f"invalid substring range. start: {start}, end: {end}")
    return text[start:end]


def _replace(args: list[Value]) -> Value:
    match args:
        case [str() as text, str() as old, str() as new]:
            count = -1
        case [str() as text, str() as old, str() as new, int() as count]:
            pass
        case _:
            raise v.no_overload("replace", *args)
    found = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + found * len(new) > _LIMIT:
        raise CelError("the text that replace makes is too long")
    return text.replace(old, new, count)


def _split(args: list[Value]) -> Value:
    match args:
        case [str() as text, str() as separator]:
            limit = -1
        case [str() as text, str() as separator, int() as limit]:
            pass
        case _:
            raise v.no_overload("split", *args)
    if limit == 0:
        return []
    if separator == "":
        return list[Value](text) if limit < 0 or limit >= len(text) else [*text[: limit - 1], text[limit - 1 :]]
    return list[Value](text.split(separator, limit - 1 if limit > 0 else -1))


def _join(args: list[Value]) -> Value:
    match args:
        case [list() as items]:
            separator = ""
        case [list() as items, str() as separator]:
            pass
        case _:
            raise v.no_overload("join", *args)
    texts: list[str] = []
    for item in items:
        if not isinstance(item, str):
            raise v.no_overload("join", item)
        texts.append(item)
    if len(separator) * len(texts) > _LIMIT:
        raise CelError("the text that join makes is too long")
    return separator.join(texts)


def _one(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        match args:
            case [str() as text]:
                if name == "trim":
                    return text.strip()
                if name == "reverse":
                    return text[::-1]
                return "".join((c.lower() if name == "lowerAscii" else c.upper()) if c.isascii() else c for c in text)
            case [list() as items] if name == "reverse":
                return items[::-1]
            case _:
                raise v.no_overload(name, *args)

    return run


def _quote(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            escapes = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
            body = "".join(escapes.get(c) or ("\\" + c if c in '"\\' else c) for c in text)
            return f'"{body}"'
        case _:
            raise v.no_overload("strings.quote", *args)


def _find(args: list[Value]) -> Value:
    match args:
        case [str() as text, str() as pattern]:
            found = _program(pattern).search(text)
            return found.group(0) if found else ""
        case _:
            raise v.no_overload("find", *args)


def _find_all(args: list[Value]) -> Value:
    match args:
        case [str() as text, str() as pattern]:
            limit = -1
        case [str() as text, str() as pattern, int() as limit]:
            pass
        case _:
            raise v.no_overload("findAll", *args)
    found: list[Value] = []
    for match_ in _program(pattern).finditer(text):
        if 0 <= limit <= len(found):
            break
        found.append(match_.group(0))
    return found


def _program(pattern: str) -> regex.Pattern:
    found = regex.compiled(pattern)
    if isinstance(found, regex.Refused):
        raise CelError(f"error parsing regexp: {found.reason}")
    return found


def _format(args: list[Value]) -> Value:
    match args:
        case [str() as text, list() as values]:
            pass
        case _:
            raise v.no_overload("format", *args)
    out: list[str] = []
    at = used = 0
    while at < len(text):
        here = text.find("%", at)
        if here < 0:
            out.append(text[at:])
            break
        out.append(text[at:here])
        at = here + 1
        if text[at : at + 1] == "%":
            out.append("%")
            at += 1
            continue
        precision = -1
        if text[at : at + 1] == ".":
            end = at + 1
            while end < len(text) and text[end].isdigit():
                end += 1
            precision = min(int(text[at + 1 : end] or "0"), 100)
            at = end
        verb = text[at : at + 1]
        at += 1
        if used >= len(values):
            raise CelError(f"index {used} out of range")
        out.append(_verb(verb, values[used], precision))
        used += 1
    return "".join(out)


def _verb(verb: str, value: Value, precision: int) -> str:
    match verb, value:
        case "s", _:
            return _shown(value)
        case "d", int() if not isinstance(value, bool):
            return str(int(value))
        case "f", int() | float() if not isinstance(value, bool):
            return f"{value:.{6 if precision < 0 else precision}f}"
        case "e", int() | float() if not isinstance(value, bool):
            return f"{value:.{6 if precision < 0 else precision}e}"
        case "b", int():
            return f"{int(value):b}"
        case "o", int() if not isinstance(value, bool):
            return f"{int(value):o}"
        case (("x" | "X"), int()) if not isinstance(value, bool):
            return f"{int(value):{verb}}"
        case (("x" | "X"), str() | bytes()):
            data = value.encode() if isinstance(value, str) else value
            return data.hex() if verb == "x" else data.hex().upper()
        case _:
            raise CelError(f'error during formatting: unrecognized formatting clause "{verb}" for {v.type_of(value)}')


def _shown(value: Value) -> str:
    from meltem.local.apiserver.schema import cel_functions as functions

    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return "[" + ", ".join(_shown(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{_shown(k)}: {_shown(item)}" for k, item in sorted(value.items(), key=str)) + "}"
        case float():
            return functions.double_text(value)
        case bytes():
            return value.decode("utf-8", "replace")
        case _:
            return str(functions.as_json(value))


def _index(args: list[Value], *, last: bool) -> Value:
    name = "lastIndexOf" if last else "indexOf"
    match args:
        case [str() as text, str() as part]:
            return text.rfind(part) if last else text.find(part)
        case [str() as text, str() as part, int() as start]:
            if not 0 <= start <= len(text):
                raise CelError(f"index out of range: {start}")
            return text.rfind(part, 0, start + len(part)) if last else text.find(part, start)
        case [list() as items, wanted]:
            order = range(len(items) - 1, -1, -1) if last else range(len(items))
            return next((i for i in order if v.equal(items[i], wanted)), -1)
        case _:
            raise v.no_overload(name, *args)


def global_functions() -> dict[str, Function]:
    return {"strings.quote": _quote}


def member_functions() -> dict[str, Function]:
    return {
        "charAt": _char_at,
        "substring": _substring,
        "replace": _replace,
        "split": _split,
        "join": _join,
        "lowerAscii": _one("lowerAscii"),
        "upperAscii": _one("upperAscii"),
        "trim": _one("trim"),
        "reverse": _one("reverse"),
        "find": _find,
        "findAll": _find_all,
        "format": _format,
        "indexOf": lambda args: _index(args, last=False),
        "lastIndexOf": lambda args: _index(args, last=True),
    }
