"""Sprig's functions on numbers, lists, dictionaries, types and defaults.

Maps are Go maps: `set`, `unset` and `merge` change the one they are given, as in sprig. Where sprig's order is random
(`keys`, `values`) ours is sorted.
"""

from __future__ import annotations

import math
import random
from decimal import Decimal, DivisionByZero, InvalidOperation

from meltem.gotemplate.gofmt import format_value
from meltem.gotemplate.sprig_strings import to_string
from meltem.gotemplate.values import (
    MISSING,
    Function,
    FunctionError,
    GoStruct,
    Int64,
    Items,
    Map,
    Strings,
    Value,
    functions,
    go_kind,
    go_type,
    is_list,
    is_map,
    is_nil,
    sorted_keys,
    truth,
)

MAX_ITEMS = 1_000_000
_INT64_MAX = (1 << 63) - 1


def _wrapped(value: int) -> Int64:
    """Two's complement overflow, as Go's int64 has it."""
    return Int64((value + (1 << 63)) % (1 << 64) - (1 << 63))


def number(value: Value) -> int:
    """Sprig's toInt64: what is no number is 0."""
    if isinstance(value, str):
        digits = value[1:] if value[:1] in ("+", "-") else value
        parsed = int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0
        return parsed if abs(parsed) <= _INT64_MAX else 0
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and abs(value) < 1 << 63 else -(1 << 63)
    return int(value) if isinstance(value, (bool, int)) else 0


def real(value: Value) -> float:
    """Sprig's toFloat64."""
    if isinstance(value, str):
        try:
            return float(value) if value == value.strip() else 0.0
        except ValueError:
            return 0.0
    return float(value) if isinstance(value, (bool, int, float)) else 0.0


def int64(value: Value) -> Int64:
    return _wrapped(number(value))


def int_(value: Value) -> int:
    return number(value)


def float64(value: Value) -> float:
    return real(value)


def to_decimal(value: Value) -> Int64:
    try:
        return Int64(int(format_value(value), 8))
    except ValueError:
        return Int64(0)


def add(*values: Value) -> Int64:
    return _wrapped(sum(number(v) for v in values))


def add1(value: Value) -> Int64:
    return _wrapped(number(value) + 1)


def sub(first: Value, second: Value) -> Int64:
    return _wrapped(number(first) - number(second))


def div(first: Value, second: Value) -> Int64:
    divisor = number(second)
    if divisor == 0:
        raise FunctionError("runtime error: integer divide by zero")
    quotient = abs(number(first)) // abs(divisor)
    return _wrapped(quotient if (number(first) < 0) == (divisor < 0) else -quotient)


def mod(first: Value, second: Value) -> Int64:
    divisor = number(second)
    if divisor == 0:
        raise FunctionError("runtime error: integer divide by zero")
    return _wrapped(int(math.copysign(1, number(first))) * (abs(number(first)) % abs(divisor)))


def mul(first: Value, *others: Value) -> Int64:
    product = number(first)
    for other in others:
        product = int(_wrapped(product * number(other)))
    return Int64(product)


def _decimal(operation: str, first: Value, others: tuple[Value, ...]) -> float:
    result = Decimal(repr(real(first)))
    for other in others:
        operand = Decimal(repr(real(other)))
        try:
            match operation:
                case "+":
                    result += operand
                case "-":
                    result -= operand
                case "*":
                    result *= operand
                case _:
                    result /= operand
        except (DivisionByZero, InvalidOperation):
            raise FunctionError("decimal division by 0") from None
    return float(result)


def addf(*values: Value) -> float:
    return _decimal("+", 0.0, values)


def add1f(value: Value) -> float:
    return _decimal("+", value, (1,))


def subf(first: Value, *others: Value) -> float:
    return _decimal("-", first, others)


def mulf(first: Value, *others: Value) -> float:
    return _decimal("*", first, others)


def divf(first: Value, *others: Value) -> float:
    return _decimal("/", first, others)


def max_(first: Value, *others: Value) -> Int64:
    return Int64(max(number(v) for v in (first, *others)))


def min_(first: Value, *others: Value) -> Int64:
    return Int64(min(number(v) for v in (first, *others)))


def maxf(first: Value, *others: Value) -> float:
    return max(real(v) for v in (first, *others))


def minf(first: Value, *others: Value) -> float:
    return min(real(v) for v in (first, *others))


def ceil(value: Value) -> float:
    return float(math.ceil(real(value)))


def floor(value: Value) -> float:
    return float(math.floor(real(value)))


def round_(value: Value, places: int, *threshold: float) -> float:
    limit = threshold[0] if threshold else 0.5
    power = math.pow(10, places)
    digits = power * real(value)
    fraction, _ = math.modf(digits)
    return (math.ceil(digits) if fraction >= limit else math.floor(digits)) / power


def rand_int(low: int, high: int) -> int:
    if high <= low:
        raise FunctionError("invalid argument to Intn")
    return random.SystemRandom().randrange(low, high)


def _counted(start: int, stop: int, step: int) -> range:
    span = range(start, stop, step)
    if len(span) > MAX_ITEMS:
        raise FunctionError(f"makes a list of more than {MAX_ITEMS} items")
    return span


def until(count: int) -> Items:
    return list(_counted(0, count, -1 if count < 0 else 1))


def until_step(start: int, stop: int, step: int) -> Items:
    if step == 0 or (step < 0) != (stop < start):
        return []
    return list(_counted(start, stop, step))


def seq(*values: int) -> str:
    if len(values) == 1:
        start, stop, step = 1, values[0], -1 if values[0] < 1 else 1
    elif len(values) == 2:
        start, stop = values
        step = -1 if stop < start else 1
    elif len(values) == 3:
        start, step, stop = values
        if step == 0 or (step < 0) != (stop < start):
            return ""
    else:
        return ""
    return " ".join(str(i) for i in _counted(start, stop + (1 if step > 0 else -1), step))


# lists


def list_(*values: Value) -> Items:
    return list(values)


def _items(value: Value, name: str) -> Items:
    if is_list(value):
        return value
    raise FunctionError(f"Cannot {name} on type {go_kind(value)}")


def push(value: Value, item: Value) -> Items:
    if not is_list(value):
        raise FunctionError(f"Cannot push on type {go_kind(value)}")
    return [*value, item]


def prepend(value: Value, item: Value) -> Items:
    if not is_list(value):
        raise FunctionError(f"Cannot prepend on type {go_kind(value)}")
    return [item, *value]


def first(value: Value) -> Value:
    items = _items(value, "find first")
    return items[0] if items else None


def last(value: Value) -> Value:
    items = _items(value, "find last")
    return items[-1] if items else None


def rest(value: Value) -> Items:
    return list(_items(value, "find rest")[1:])


def initial(value: Value) -> Items:
    return list(_items(value, "find initial")[:-1])


def reverse(value: Value) -> Items:
    return list(reversed(_items(value, "find reverse")))


def compact(value: Value) -> Items:
    return [v for v in _items(value, "compact") if truth(v) or isinstance(v, GoStruct)]


def uniq(value: Value) -> Items:
    out: Items = []
    for item in _items(value, "find uniq"):
        if not _in(item, out):
            out.append(item)
    return out


def without(value: Value, *dropped: Value) -> Items:
    return [v for v in _items(value, "find without") if not _in(v, list(dropped))]


def has(needle: Value, haystack: Value) -> bool:
    return False if is_nil(haystack) else _in(needle, _items(haystack, "find has"))


def _in(needle: Value, items: Items) -> bool:
    return any(deep_equal(needle, item) for item in items)


def slice_(value: Value, *indexes: Value) -> Items:
    items = _items(value, "slice")
    if not items:
        return []
    start = number(indexes[0]) if indexes else 0
    end = number(indexes[1]) if len(indexes) > 1 else len(items)
    if not 0 <= start <= end <= len(items):
        raise FunctionError(f"runtime error: slice bounds out of range [{start}:{end}]")
    return items[start:end]


def concat(*lists: Value) -> Items:
    out: Items = []
    for value in lists:
        out += _items(value, "concat type")
    return out


def chunk(size: int, value: Value) -> Items:
    items = _items(value, "chunk type")
    if size <= 0:
        raise FunctionError("chunk size must be positive")
    return [items[i : i + size] for i in range(0, len(items), size)]


# dictionaries


def dict_(*pairs: Value) -> Map:
    out: Map = {}
    for index in range(0, len(pairs), 2):
        out[to_string(pairs[index])] = pairs[index + 1] if index + 1 < len(pairs) else ""
    return out


def get(source: Map, key: str) -> Value:
    return source.get(key, "")


def set_(target: Map, key: str, value: Value) -> Map:
    target[key] = value
    return target


def unset(target: Map, key: str) -> Map:
    target.pop(key, None)
    return target


def has_key(source: Map, key: str) -> bool:
    return key in source


def pluck(key: str, *sources: Map) -> Items:
    return [s[key] for s in sources if key in s]


def keys(*sources: Map) -> Strings:
    return Strings([k for s in sources for k in sorted_keys(s)])


def values(source: Map) -> Items:
    return [source[k] for k in sorted_keys(source)]


def pick(source: Map, *wanted: str) -> Map:
    return {k: source[k] for k in wanted if k in source}


def omit(source: Map, *dropped: str) -> Map:
    return {k: v for k, v in source.items() if k not in dropped}


def merge(target: Map, *sources: Map) -> Map:
    for source in sources:
        _merge(target, source, overwrite=False)
    return target


def merge_overwrite(target: Map, *sources: Map) -> Map:
    for source in sources:
        _merge(target, source, overwrite=True)
    return target


def _merge(target: Map, source: Map, *, overwrite: bool) -> None:
    for key, value in source.items():
        have = target.get(key, MISSING)
        if is_map(have) and is_map(value) and have:
            _merge(have, value, overwrite=overwrite)
        elif value is None:
            if overwrite:
                target[key] = None
        elif overwrite or not truth(have):
            target[key] = value


def deep_copy(value: Value) -> Value:
    if is_map(value):
        return {k: deep_copy(v) for k, v in value.items()}
    if isinstance(value, Strings):
        return Strings(value)
    if is_list(value):
        return [deep_copy(v) for v in value]
    return value


def dig(*path: Value) -> Value:
    if len(path) < 3:
        raise FunctionError("runtime error: dig needs at least three arguments")
    source, default = path[-1], path[-2]
    for step in path[:-2]:
        if not is_map(source) or not isinstance(step, str):
            have = go_type(source if isinstance(step, str) else step)
            want = "map[string]interface {}" if isinstance(step, str) else "string"
            raise FunctionError(f"interface conversion: interface {{}} is {have}, not {want}")
        if step not in source:
            return default
        source = source[step]
    return source


# defaults, types


def default(fallback: Value, *given: Value) -> Value:
    return given[0] if given and truth(given[0]) else fallback


def empty(value: Value) -> bool:
    return not truth(value)


def coalesce(*given: Value) -> Value:
    return next((v for v in given if truth(v)), None)


def all_(*given: Value) -> bool:
    return all(truth(v) for v in given)


def any_(*given: Value) -> bool:
    return any(truth(v) for v in given)


def ternary(yes: Value, no: Value, condition: bool) -> Value:
    return yes if condition else no


def type_of(value: Value) -> str:
    return go_type(value)


def type_is(name: str, value: Value) -> bool:
    return name == go_type(value)


def type_is_like(name: str, value: Value) -> bool:
    return name == go_type(value) or "*" + name == go_type(value)


def kind_of(value: Value) -> str:
    return go_kind(value)


def kind_is(name: str, value: Value) -> bool:
    return name == go_kind(value)


def deep_equal(one: Value, other: Value) -> bool:
    """reflect.DeepEqual: types count, so 1 and 1.0 differ."""
    if is_map(one) and is_map(other):
        return one.keys() == other.keys() and all(deep_equal(v, other[k]) for k, v in one.items())
    if is_list(one) and is_list(other):
        return go_type(one) == go_type(other) and len(one) == len(other) and all(map(deep_equal, one, other))
    if is_nil(one) or is_nil(other):
        return is_nil(one) and is_nil(other)
    return go_type(one) == go_type(other) and one == other


def fail(message: str) -> str:
    raise FunctionError(message)


def hello() -> str:
    return "Hello!"


def data_functions() -> dict[str, Function]:
    table = functions(
        hello=hello, int64=int64, int_=int_, float64=float64, seq=seq, toDecimal=to_decimal, until=until,
        untilStep=until_step, add1=add1, add=add, sub=sub, div=div, mod=mod, mul=mul, randInt=rand_int, add1f=add1f,
        addf=addf, subf=subf, divf=divf, mulf=mulf, biggest=max_, max_=max_, min_=min_, maxf=maxf, minf=minf,
        ceil=ceil, floor=floor, round_=round_, default=default, empty=empty, coalesce=coalesce, all_=all_, any_=any_,
        ternary=ternary, typeOf=type_of, typeIs=type_is, typeIsLike=type_is_like, kindOf=kind_of, kindIs=kind_is,
        deepEqual=deep_equal, tuple=list_, list_=list_, dict_=dict_, get=get, set_=set_, unset=unset, hasKey=has_key,
        pluck=pluck, keys=keys, pick=pick, omit=omit, values=values, concat=concat, dig=dig, fail=fail,
    )  # fmt: skip
    for name, call in (
        ("compact", compact),
        ("deepCopy", deep_copy),
        ("merge", merge),
        ("mergeOverwrite", merge_overwrite),
        ("append", push),
        ("push", push),
        ("prepend", prepend),
        ("first", first),
        ("rest", rest),
        ("last", last),
        ("initial", initial),
        ("reverse", reverse),
        ("uniq", uniq),
        ("without", without),
        ("has", has),
        ("slice", slice_),
        ("chunk", chunk),
    ):
        table |= functions(**{name: call, f"must{name[0].upper()}{name[1:]}": call})
    return table
