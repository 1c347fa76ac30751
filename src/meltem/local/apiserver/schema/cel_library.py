"""CEL's list, set, math and optional libraries, and Kubernetes' lists, quantities, semantic versions and formats.

In: argument values, the receiver first. Out: a value; `CelError` where there is no such overload.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cmp_to_key
from itertools import pairwise
from typing import TypeAlias

from meltem.errors import InvalidResource
from meltem.local.apiserver.schema import cel_values as v
from meltem.local.apiserver.schema import formats, quantity
from meltem.local.apiserver.schema.cel_values import CelError, Format, Optional, Quantity, SemVer, Value

Function: TypeAlias = Callable[[list[Value]], Value]
_SEMVER = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?\Z")
_FORMATS: dict[str, Callable[[str], str]] = {
    "dns1123Label": formats.dns_label_problem,
    "dns1123Subdomain": formats.dns_subdomain_problem,
    "dns1035Label": formats.dns1035_problem,
    "qualifiedName": formats.qualified_name_problem,
    "dns1123LabelPrefix": lambda t: formats.dns_label_problem(f"{t[:-1]}a" if t.endswith("-") else t),
    "dns1123SubdomainPrefix": lambda t: formats.dns_subdomain_problem(f"{t[:-1]}a" if t.endswith("-") else t),
    "dns1035LabelPrefix": lambda t: formats.dns1035_problem(f"{t[:-1]}a" if t.endswith("-") else t),
    "labelValue": formats.label_value_problem,
    "uri": lambda t: _by_format("uri", t),
    "uuid": lambda t: _by_format("uuid", t),
    "byte": lambda t: _by_format("byte", t),
    "date": lambda t: _by_format("date", t),
    "datetime": lambda t: _by_format("date-time", t),
}


def _by_format(name: str, text: str) -> str:
    return "" if formats.format_checks()[name](text) else f"{name} does not match {text}"


def _list(args: list[Value], name: str) -> list[Value]:
    if not args or not isinstance(args[0], list):
        raise v.no_overload(name, *args)
    return args[0]


def _is_sorted(args: list[Value]) -> Value:
    items = _list(args, "isSorted")
    return all(v.compare(a, b, "<=") <= 0 for a, b in pairwise(items))


def _sum(args: list[Value]) -> Value:
    items = _list(args, "sum")
    if not items:
        return 0
    total = items[0]
    for item in items[1:]:
        total = v.add(total, item)
    return total


def _extreme(name: str, sign: int) -> Function:
    def run(args: list[Value]) -> Value:
        items = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        if not items:
            raise CelError(f"{name} called on empty list")
        best = items[0]
        for item in items[1:]:
            if v.compare(item, best, "<") * sign > 0:
                best = item
        return best

    return run


def _slice(args: list[Value]) -> Value:
    match args:
        case [list() as items, int() as start, int() as end]:
            if not 0 <= start <= end <= len(items):
                raise CelError(f"cannot slice({start}, {end}), list is length {len(items)}")
            return items[start:end]
        case _:
            raise v.no_overload("slice", *args)


def _flatten(args: list[Value]) -> Value:
    depth = args[1] if len(args) > 1 and isinstance(args[1], int) else 1
    return _flat(_list(args, "flatten"), min(depth, 50))


def _flat(items: list[Value], depth: int) -> list[Value]:
    out: list[Value] = []
    for item in items:
        if isinstance(item, list) and depth > 0:
            out.extend(_flat(item, depth - 1))
        else:
            out.append(item)
    return out


def _distinct(args: list[Value]) -> Value:
    items = _list(args, "distinct")
    if len(items) > 2000:
        raise CelError("distinct on a list of more than 2000 items")
    out: list[Value] = []
    for item in items:
        if not any(v.equal(item, seen) for seen in out):
            out.append(item)
    return out


def _sort(args: list[Value]) -> Value:
    return sorted(_list(args, "sort"), key=cmp_to_key(lambda a, b: v.compare(a, b, "<")))


def _end(name: str, at: int) -> Function:
    def run(args: list[Value]) -> Value:
        items = _list(args, name)
        return Optional(True, items[at]) if items else Optional(False)

    return run


def _range(args: list[Value]) -> Value:
    match args:
        case [int() as count] if 0 <= count <= 100_000:
            return list[Value](range(count))
        case _:
            raise v.no_overload("lists.range", *args)


def _set(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        match args:
            case [list() as a, list() as b]:
                if len(a) * len(b) > 1_000_000:
                    raise CelError(f"sets.{name} on lists that are too long")
                inside = [any(v.equal(x, y) for y in a) for x in b]
                if name == "intersects":
                    return any(inside)
                if name == "contains":
                    return all(inside)
                return all(inside) and all(any(v.equal(x, y) for y in b) for x in a)
            case _:
                raise v.no_overload(f"sets.{name}", *args)

    return run


def _math(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        numbers = [a for a in args if isinstance(a, int | float) and not isinstance(a, bool)]
        if len(numbers) != len(args) or not args:
            raise v.no_overload(f"math.{name}", *args)
        match name, numbers:
            case "abs", [x]:
                return abs(x)
            case "ceil", [float() as x]:
                return float(math.ceil(x))
            case "floor", [float() as x]:
                return float(math.floor(x))
            case "round", [float() as x]:
                return float(math.floor(x + 0.5)) if x >= 0 else float(math.ceil(x - 0.5))
            case "trunc", [float() as x]:
                return float(math.trunc(x))
            case "sign", [x]:
                return type(x)((x > 0) - (x < 0))
            case "isNaN", [float() as x]:
                return math.isnan(x)
            case "isInf", [float() as x]:
                return math.isinf(x)
            case "isFinite", [float() as x]:
                return math.isfinite(x)
            case _:
                raise v.no_overload(f"math.{name}", *args)

    return run


def _quantity(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            try:
                return Quantity(quantity.parse(text))
            except InvalidResource:
                raise CelError("quantities must match the regular expression") from None
        case _:
            raise v.no_overload("quantity", *args)


def _is_quantity(args: list[Value]) -> Value:
    match args:
        case [str() as text]:
            return formats.is_quantity(text)
        case _:
            raise v.no_overload("isQuantity", *args)


def _arithmetic(name: str, sign: int) -> Function:
    def run(args: list[Value]) -> Value:
        match args:
            case [Quantity() as a, Quantity() as b]:
                return Quantity(a.value + sign * b.value)
            case [Quantity() as a, int() as b]:
                return Quantity(a.value + sign * b)
            case _:
                raise v.no_overload(name, *args)

    return run


def _compared(name: str, check: Callable[[int], Value]) -> Function:
    def run(args: list[Value]) -> Value:
        match args:
            case [Quantity() as a, Quantity() as b]:
                return check((a > b) - (a < b))
            case [SemVer() as a, SemVer() as b]:
                x, y = a.order(), b.order()
                return check((x > y) - (x < y))
            case _:
                raise v.no_overload(name, *args)

    return run


def _of_quantity(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        if len(args) != 1 or not isinstance(args[0], Quantity):
            raise v.no_overload(name, *args)
        value = args[0].value
        whole = value == value.to_integral_value()
        match name:
            case "sign":
                return int(value > 0) - int(value < 0)
            case "isInteger":
                return whole and -(1 << 63) <= value < 1 << 63
            case "asInteger":
                if not whole or not -(1 << 63) <= value < 1 << 63:
                    raise CelError("cannot convert value to integer")
                return int(value)
            case _:
                return float(value)

    return run


def _semver(args: list[Value]) -> Value:
    match args:
        case [str() as text] | [str() as text, bool()]:
            text = text.removeprefix("v") if len(args) == 2 and args[1] else text
            found = _SEMVER.match(text)
            if found is None:
                raise CelError(f"no semantic version: {text}")
            return SemVer(
                int(found[1]), int(found[2]), int(found[3]), tuple((found[4] or "").split(".")) if found[4] else ()
            )
        case _:
            raise v.no_overload("semver", *args)


def _is_semver(args: list[Value]) -> Value:
    try:
        _semver(args)
    except CelError:
        if args and isinstance(args[0], str):
            return False
        raise
    return True


def _part(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        if len(args) != 1 or not isinstance(args[0], SemVer):
            raise v.no_overload(name, *args)
        return {"major": args[0].major, "minor": args[0].minor, "patch": args[0].patch}[name]

    return run


def _optional_of(args: list[Value]) -> Value:
    return Optional(True, args[0])


def _optional_of_non_zero(args: list[Value]) -> Value:
    return Optional(bool(args[0]), args[0] if args[0] else None)


def _optional_none(args: list[Value]) -> Value:
    if args:
        raise v.no_overload("optional.none", *args)
    return Optional(False)


def _of_optional(name: str) -> Function:
    def run(args: list[Value]) -> Value:
        if not args or not isinstance(args[0], Optional):
            raise v.no_overload(name, *args)
        box = args[0]
        match name, args[1:]:
            case "hasValue", []:
                return box.present
            case "value", []:
                if not box.present:
                    raise CelError("optional.none() dereference")
                return box.value
            case "orValue", [other]:
                return box.value if box.present else other
            case "or", [Optional() as other]:
                return box if box.present else other
            case _:
                raise v.no_overload(name, *args)

    return run


def _format(name: str) -> Function:
    return lambda args: Format(name)


def _format_named(args: list[Value]) -> Value:
    match args:
        case [str() as name]:
            return Optional(True, Format(name)) if name in _FORMATS else Optional(False)
        case _:
            raise v.no_overload("format.named", *args)


def _validate(args: list[Value]) -> Value:
    match args:
        case [Format() as form, str() as text]:
            problem = _FORMATS[form.name](text)
            problems: list[Value] = [problem]
            return Optional(True, problems) if problem else Optional(False)
        case _:
            raise v.no_overload("validate", *args)


def global_functions() -> dict[str, Function]:
    maths = ("abs", "ceil", "floor", "round", "trunc", "sign", "isNaN", "isInf", "isFinite")
    return {
        "lists.range": _range,
        **{f"sets.{n}": _set(n) for n in ("contains", "intersects", "equivalent")},
        **{f"math.{n}": _math(n) for n in maths},
        "math.greatest": _extreme("math.greatest", 1),
        "math.least": _extreme("math.least", -1),
        "quantity": _quantity,
        "isQuantity": _is_quantity,
        "semver": _semver,
        "isSemver": _is_semver,
        "optional.of": _optional_of,
        "optional.ofNonZeroValue": _optional_of_non_zero,
        "optional.none": _optional_none,
        "format.named": _format_named,
        **{f"format.{n}": _format(n) for n in _FORMATS},
    }


def member_functions() -> dict[str, Function]:
    return {
        "isSorted": _is_sorted,
        "sum": _sum,
        "min": _extreme("min", -1),
        "max": _extreme("max", 1),
        "slice": _slice,
        "flatten": _flatten,
        "distinct": _distinct,
        "sort": _sort,
        "first": _end("first", 0),
        "last": _end("last", -1),
        "add": _arithmetic("add", 1),
        "sub": _arithmetic("sub", -1),
        "compareTo": _compared("compareTo", lambda order: order),
        "isGreaterThan": _compared("isGreaterThan", lambda order: order > 0),
        "isLessThan": _compared("isLessThan", lambda order: order < 0),
        **{n: _of_quantity(n) for n in ("sign", "isInteger", "asInteger", "asApproximateFloat")},
        **{n: _part(n) for n in ("major", "minor", "patch")},
        **{n: _of_optional(n) for n in ("hasValue", "value", "orValue", "or")},
        "validate": _validate,
    }
