"""CEL's standard functions, and the table of all functions: global ones by name, methods by name with the receiver
first.

In: the argument values. Out: a value; `CelError` where CEL has no overload for them, ValueError for text that cannot
be read.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from meltem.clock import rfc3339
from meltem.local.apiserver.schema import cel_values as v
from meltem.local.apiserver.schema import regex
from meltem.local.apiserver.schema.cel_values import CelError, Duration, Optional, Timestamp, Type, UInt, Value
from meltem.objects import Json

Function: TypeAlias = Callable[[list[Value]], Value]
_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "μs": 10**3, "ns": 1}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|μs|ns)")
_OFFSET = re.compile(r"([+-]?)(\d\d):(\d\d)\Z")


def parse_duration(text: str) -> Duration:
    """Go's form: `1h30m`, `-1.5s`."""
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("+-") if text[:1] in "+-" else text
    if rest == "0":
        return Duration(0)
    total, at = 0, 0
    while at < len(rest):
        part = _DURATION_PART.match(rest, at)
        if part is None:
            break
        whole, _, fraction = part[1].partition(".")
        unit = _UNITS[part[2]]
        total += int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        at = part.end()
    if not rest or at != len(rest):
        raise CelError(f'invalid duration argument: "{text}"')
    return Duration(sign * total)


def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", text)
    if found is None:
        raise CelError(f'parsing time "{text}" as RFC 3339 failed')
    moment = datetime.fromisoformat(found[1].upper() + found[3].upper().replace("Z", "+00:00"))
    return Timestamp(int(moment.timestamp()) * 10**9 + int((found[2] or "").ljust(9, "0")))


def duration_text(value: Duration) -> str:
    seconds, rest = divmod(abs(value.nanos), 10**9)
    text = f"{seconds}.{rest:09d}".rstrip("0").rstrip(".") if rest else str(seconds)
    return f"{'-' if value.nanos < 0 else ''}{text}s"


def timestamp_text(value: Timestamp) -> str:
    seconds, rest = divmod(value.nanos, 10**9)
    text = rfc3339(seconds)
    return f"{text[:-1]}.{f'{rest:09d}'.rstrip('0')}Z" if rest else text


def double_text(value: float) -> str:
    if value == int(value) if abs(value) < 1e21 else False:
        return str(int(value))
    return repr(value).replace("inf", "+Inf").replace("-+", "-").replace("nan", "NaN")


def as_json(value: Value) -> Json:
    """A CEL value as JSON; what JSON lacks becomes text, a missing optional becomes null."""
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return int(value)
        case list():
            return [as_json(item) for item in value]
        case dict():
            return {str(as_json(k)): as_json(item) for k, item in value.items()}
        case bytes():
            return base64.b64encode(value).decode()
        case Duration():
            return duration_text(value)
        case Timestamp():
            return timestamp_text(value)
        case Optional():
            return as_json(value.value) if value.present else None
        case Type():
            return value.name
        case _:
            return str(value)


def _size(args: list[Value]) -> Value:
    if len(args) == 1 and isinstance(args[0], str | bytes | list | dict):
        return len(args[0])
    raise v.no_overload("size", *args)


def _string(args: list[Value]) -> Value:
    match args:
        case [str()]:
            return args[0]
        case [bool()]:
            return "true" if args[0] else "false"
        case [float() as number]:
            return double_text(number)
        case [int() as number]:
            return str(int(number))
        case [bytes() as data]:
            return data.decode()
        case [Duration() as value]:
            return duration_text(value)
        case [Timestamp() as value]:
            return timestamp_text(value)
        case [v.Address() as address]:
            return str(address.value)
        case [v.Network() as network]:
            return str(network.value)
        case _:
            raise v.no_overload("string", *args)


def _int(args: list[Value]) -> Value:
    match args:
        case [bool()]:
            raise v.no_overload("int", *args)
        case [int() as number]:
            value = int(number)
        case [float() as number]:
            value = int(number)
        case [str() as text] if re.fullmatch(r"[+-]?\d{1,19}", text):
            value = int(text)
        case [str() as text]:
            raise CelError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        case [Timestamp() as moment]:
            value = moment.nanos // 10**9
        case [Duration() as span]:
            value = span.nanos
        case _:
            raise v.no_overload("int", *args)
    if not -(1 << 63) <= value < 1 << 63:
        raise CelError("integer overflow")
    return value


def _uint(args: list[Value]) -> Value:
    match args:
        case [int() | float() | str()]:
            value = _int(args)
            if not isinstance(value, int) or value < 0:
                raise CelError("unsigned integer overflow")
            return UInt(value)
        case _:
            raise v.no_overload("uint", *args)


def _double(args: list[Value]) -> Value:
    match args:
        case [bool()]:
            raise v.no_overload("double", *args)
        case [(int() | float() | str()) as value]:
            return float(value)
        case _:
            raise v.no_overload("double", *args)


def _bool(args: list[Value]) -> Value:
    match args:
        case [bool()]:
            return args[0]
        case ["true" | "TRUE" | "True" | "t" | "1"]:
            return True
        case ["false" | "FALSE" | "False" | "f" | "0"]:
            return False
        case _:
            raise v.no_overload("bool", *args)


def _bytes(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            return text.encode()
        case [bytes()]:
            return args[0]
        case _:
            raise v.no_overload("bytes", *args)


def _duration(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            return parse_duration(text)
        case [Duration()]:
            return args[0]
        case _:
            raise v.no_overload("duration", *args)


def _timestamp(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            return parse_timestamp(text)
        case [Timestamp()]:
            return args[0]
        case [bool()]:
            raise v.no_overload("timestamp", *args)
        case [int() as seconds]:
            return Timestamp(seconds * 10**9)
        case _:
            raise v.no_overload("timestamp", *args)


def _type(args: list[Value]) -> Value:
    if len(args) != 1:
        raise v.no_overload("type", *args)
    return Type(v.type_of(args[0]))


def _dyn(args: list[Value]) -> Value:
    if len(args) != 1:
        raise v.no_overload("dyn", *args)
    return args[0]


def matches(args: list[Value]) -> Value:
    match args:
        case [str() as text, str() as pattern]:
            if problem := regex.problem(pattern):
                raise CelError(f"error parsing regexp: {problem}")
            return regex.matches(pattern, text)
        case _:
            raise v.no_overload("matches", *args)


def _in_zone(moment: Timestamp, zone: str) -> datetime:
    offset = _OFFSET.match(zone)
    if offset:
        sign = -1 if offset[1] == "-" else 1
        return moment.moment() + sign * timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    try:
        return moment.moment().astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CelError(f"unknown time zone {zone}") from None


def _clock(read: Callable[[datetime], int], unit: int = 0) -> Function:
    """A getter of timestamps; with a unit (nanoseconds) also of durations, in whole units."""

    def get(args: list[Value]) -> Value:
        match args:
            case [Timestamp() as moment]:
                return read(moment.moment())
            case [Timestamp() as moment, str() as zone]:
                return read(_in_zone(moment, zone))
            case [Duration() as span] if unit:
                whole = abs(span.nanos) // unit
                return whole if span.nanos >= 0 else -whole
            case _:
                raise v.no_overload("get", *args)

    return get


def _text(check: Callable[[str, str], bool], name: str) -> Function:
    def run(args: list[Value]) -> Value:
        match args:
            case [str() as text, str() as other]:
                return check(text, other)
            case _:
                raise v.no_overload(name, *args)

    return run


@cache
def global_functions() -> dict[str, Function]:
    from meltem.local.apiserver.schema import cel_library, cel_network, cel_strings

    return {
        "size": _size,
        "string": _string,
        "int": _int,
        "uint": _uint,
        "double": _double,
        "bool": _bool,
        "bytes": _bytes,
        "duration": _duration,
        "timestamp": _timestamp,
        "type": _type,
        "dyn": _dyn,
        "matches": matches,
        **cel_strings.global_functions(),
        **cel_library.global_functions(),
        **cel_network.global_functions(),
    }


@cache
def member_functions() -> dict[str, Function]:
    from meltem.local.apiserver.schema import cel_library, cel_network, cel_strings

    return {
        "size": _size,
        "matches": matches,
        "contains": _text(lambda a, b: b in a, "contains"),
        "startsWith": _text(str.startswith, "startsWith"),
        "endsWith": _text(str.endswith, "endsWith"),
        "getFullYear": _clock(lambda m: m.year),
        "getMonth": _clock(lambda m: m.month - 1),
        "getDate": _clock(lambda m: m.day),
        "getDayOfMonth": _clock(lambda m: m.day - 1),
        "getDayOfWeek": _clock(lambda m: m.isoweekday() % 7),
        "getDayOfYear": _clock(lambda m: m.timetuple().tm_yday - 1),
        "getHours": _clock(lambda m: m.hour, _UNITS["h"]),
        "getMinutes": _clock(lambda m: m.minute, _UNITS["m"]),
        "getSeconds": _clock(lambda m: m.second, _UNITS["s"]),
        "getMilliseconds": _clock(lambda m: m.microsecond // 1000, _UNITS["ms"]),
        **cel_strings.member_functions(),
        **cel_library.member_functions(),
        **cel_network.member_functions(),
    }
