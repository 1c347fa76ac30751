"""The values of CEL that JSON does not have, and the operators over all of them.

Strings, booleans, lists, maps, null and doubles are Python's; `int` is CEL's int; the rest stands here. Operators raise
`CelError` where CEL has no such overload or the result does not fit.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias
from urllib.parse import SplitResult

import msgspec

from meltem.errors import UserError

_NANOS = 1_000_000_000


class CelError(UserError):
    """An expression that compiled cannot be evaluated with these values."""


class UInt(int):
    """CEL's uint."""


class Duration(msgspec.Struct, frozen=True, order=True):
    nanos: int


class Timestamp(msgspec.Struct, frozen=True, order=True):
    """Nanoseconds since the epoch."""

    nanos: int

    def moment(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.nanos // 1000)


class Quantity(msgspec.Struct, frozen=True, order=True):
    value: Decimal


class Address(msgspec.Struct, frozen=True):
    value: ipaddress.IPv4Address | ipaddress.IPv6Address


class Network(msgspec.Struct, frozen=True):
    """A CIDR: the address as written, and its prefix length."""

    value: ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Url(msgspec.Struct, frozen=True):
    parts: SplitResult


class SemVer(msgspec.Struct, frozen=True):
    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    def order(self) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
        parts = tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in self.pre)
        return (self.major, self.minor, self.patch), not self.pre, parts


class Format(msgspec.Struct, frozen=True):
    name: str


class Type(msgspec.Struct, frozen=True):
    name: str


class Optional(msgspec.Struct, frozen=True):
    """A value that may be missing."""

    present: bool
    value: Value = None


_Scalar: TypeAlias = "bool | int | float | str | bytes"
_Object: TypeAlias = "Duration | Timestamp | Quantity | Address | Network | Url | SemVer | Format | Type | Optional"
Value: TypeAlias = "_Scalar | _Object | list[Value] | dict[Value, Value] | None"

_NAMES: dict[type, str] = {
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    dict: "map",
    type(None): "null_type",
    Duration: "google.protobuf.Duration",
    Timestamp: "google.protobuf.Timestamp",
    Type: "type",
    Optional: "optional_type",
    Quantity: "kubernetes.Quantity",
    Address: "net.IP",
    Network: "net.CIDR",
    Url: "kubernetes.URL",
    SemVer: "kubernetes.Semver",
}


def type_of(value: Value) -> str:
    return _NAMES.get(type(value), "dyn")


def no_overload(name: str, *values: Value) -> CelError:
    return CelError(f"no such overload: {name}({', '.join(type_of(v) for v in values)})")


def is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(a: Value, b: Value) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    return a == b


def compare(a: Value, b: Value, name: str) -> int:
    """-1, 0 or 1."""
    if isinstance(a, bool) and isinstance(b, bool):
        return (a > b) - (a < b)
    if (
        isinstance(a, int | float)
        and isinstance(b, int | float)
        and not isinstance(a, bool)
        and not isinstance(b, bool)
    ):
        return (a > b) - (a < b)
    if isinstance(a, str) and isinstance(b, str):
        return (a > b) - (a < b)
    if isinstance(a, bytes) and isinstance(b, bytes):
        return (a > b) - (a < b)
    if isinstance(a, Duration) and isinstance(b, Duration):
        return (a > b) - (a < b)
    if isinstance(a, Timestamp) and isinstance(b, Timestamp):
        return (a > b) - (a < b)
    raise no_overload(f"_{name}_", a, b)


def _whole(value: int, like: int) -> int:
    if isinstance(like, UInt):
        if not 0 <= value < 1 << 64:
            raise CelError("unsigned integer overflow")
        return UInt(value)
    if not -(1 << 63) <= value < 1 << 63:
        raise CelError("integer overflow")
    return value


def add(a: Value, b: Value) -> Value:
    if isinstance(a, bool) or isinstance(b, bool):
        raise no_overload("_+_", a, b)
    if isinstance(a, int) and isinstance(b, int) and isinstance(a, UInt) == isinstance(b, UInt):
        return _whole(int(a) + int(b), a)
    if isinstance(a, float) and isinstance(b, float):
        return a + b
    if isinstance(a, str) and isinstance(b, str):
        return a + b
    if isinstance(a, bytes) and isinstance(b, bytes):
        return a + b
    if isinstance(a, list) and isinstance(b, list):
        return [*a, *b]
    if isinstance(a, Duration) and isinstance(b, Duration):
        return Duration(a.nanos + b.nanos)
    if isinstance(a, Timestamp) and isinstance(b, Duration):
        return Timestamp(a.nanos + b.nanos)
    if isinstance(a, Duration) and isinstance(b, Timestamp):
        return Timestamp(a.nanos + b.nanos)
    raise no_overload("_+_", a, b)


def subtract(a: Value, b: Value) -> Value:
    if isinstance(a, bool) or isinstance(b, bool):
        raise no_overload("_-_", a, b)
    if isinstance(a, int) and isinstance(b, int) and isinstance(a, UInt) == isinstance(b, UInt):
        return _whole(int(a) - int(b), a)
    if isinstance(a, float) and isinstance(b, float):
        return a - b
    if isinstance(a, Duration) and isinstance(b, Duration):
        return Duration(a.nanos - b.nanos)
    if isinstance(a, Timestamp) and isinstance(b, Timestamp):
        return Duration(a.nanos - b.nanos)
    if isinstance(a, Timestamp) and isinstance(b, Duration):
        return Timestamp(a.nanos - b.nanos)
    raise no_overload("_-_", a, b)


def multiply(a: Value, b: Value) -> Value:
    if not isinstance(a, bool) and not isinstance(b, bool):
        if isinstance(a, int) and isinstance(b, int) and isinstance(a, UInt) == isinstance(b, UInt):
            return _whole(int(a) * int(b), a)
        if isinstance(a, float) and isinstance(b, float):
            return a * b
    raise no_overload("_*_", a, b)


def divide(a: Value, b: Value) -> Value:
    if not isinstance(a, bool) and not isinstance(b, bool):
        if isinstance(a, int) and isinstance(b, int) and isinstance(a, UInt) == isinstance(b, UInt):
            if b == 0:
                raise CelError("division by zero")
            quotient = abs(int(a)) // abs(int(b))
            return _whole(quotient if (a < 0) == (b < 0) else -quotient, a)
        if isinstance(a, float) and isinstance(b, float):
            if b == 0.0:
                return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
            return a / b
    raise no_overload("_/_", a, b)


def modulo(a: Value, b: Value) -> Value:
    if isinstance(a, int) and isinstance(b, int) and not isinstance(a, bool) and not isinstance(b, bool):
        if b == 0:
            raise CelError("modulus by zero")
        rest = abs(int(a)) % abs(int(b))
        return _whole(rest if a >= 0 else -rest, a)
    raise no_overload("_%_", a, b)


def negate(a: Value) -> Value:
    if isinstance(a, float):
        return -a
    if isinstance(a, int) and not isinstance(a, bool | UInt):
        return _whole(-a, 0)
    raise no_overload("-_", a)


def contains(needle: Value, hay: Value) -> bool:
    if isinstance(hay, list):
        return any(equal(needle, item) for item in hay)
    if isinstance(hay, dict):
        return not isinstance(needle, list | dict) and needle in hay
    raise no_overload("@in", needle, hay)


def cost_of(value: Value) -> int:
    """How much work a value stands for, roughly: what a step that made it is charged."""
    if isinstance(value, str | bytes):
        return 1 + len(value) // 16
    if isinstance(value, list | dict):
        return 1 + len(value)
    return 1
