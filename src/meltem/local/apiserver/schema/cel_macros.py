"""CEL's macros over lists, maps and optionals: all, exists, exists_one, map, filter, sortBy, transform…, optMap.

In: the builder of sub-expressions, the macro's name and operands. Out: its code, or None where the name is no macro.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cmp_to_key
from typing import TypeAlias

from meltem.cel_parse import Node
from meltem.errors import UserError
from meltem.local.apiserver.schema import cel_values as v
from meltem.local.apiserver.schema.cel_scope import Code, Scope
from meltem.local.apiserver.schema.cel_values import CelError, Optional, Value

Build: TypeAlias = Callable[[Node, frozenset[str]], Code]
_Items: TypeAlias = Callable[[Scope], Iterator[tuple[Value, Value]]]
_ONE = {"all": (2,), "exists": (2,), "exists_one": (2,), "map": (2, 3), "filter": (2,), "sortBy": (2,)}
_TWO = {
    "all": (3,),
    "exists": (3,),
    "existsOne": (3,),
    "transformList": (3, 4),
    "transformMap": (3, 4),
    "transformMapEntry": (3, 4),
}
_OPTIONAL = ("optMap", "optFlatMap")


def comprehension(
    build: Build, name: str, receiver: Node, args: tuple[Node, ...], bound: frozenset[str]
) -> Code | None:
    count = len(args)
    if name == "existsOne" and count == 2:
        name = "exists_one"
    if name in _OPTIONAL and count == 2:
        variable = _variable(args[0])
        return _optional(
            build(receiver, bound), variable, build(args[1], bound | {variable}), flat=name == "optFlatMap"
        )
    if count in _ONE.get(name, ()):
        variable = _variable(args[0])
        inner = bound | {variable}
        bodies = [build(a, inner) for a in args[1:]]
        return _run(name, _one_variable(build(receiver, bound), variable, index=False), bodies)
    if count in _TWO.get(name, ()) and args[1].kind == "name":
        first, second = _variable(args[0]), _variable(args[1])
        bodies = [build(a, bound | {first, second}) for a in args[2:]]
        return _run(name, _two_variables(build(receiver, bound), first, second), bodies)
    return None


def _variable(node: Node) -> str:
    if node.kind != "name":
        raise UserError("compilation failed: ERROR: argument must be a simple name")
    return str(node.value)


def _one_variable(target: Code, name: str, *, index: bool) -> _Items:
    del index

    def each(scope: Scope) -> Iterator[tuple[Value, Value]]:
        value = target(scope)
        if not isinstance(value, list | dict):
            raise CelError(f"expression of type '{v.type_of(value)}' cannot be range of a comprehension")
        before = scope.variables.get(name)
        had = name in scope.variables
        try:
            for item in list(value):
                scope.spend(2)
                scope.variables[name] = item
                yield item, item
        finally:
            _restore(scope, name, before, had)

    return each


def _two_variables(target: Code, first: str, second: str) -> _Items:
    def each(scope: Scope) -> Iterator[tuple[Value, Value]]:
        value = target(scope)
        if isinstance(value, dict):
            pairs: list[tuple[Value, Value]] = list(value.items())
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        else:
            raise CelError(f"expression of type '{v.type_of(value)}' cannot be range of a comprehension")
        saved = [(n, scope.variables.get(n), n in scope.variables) for n in (first, second)]
        try:
            for key, item in pairs:
                scope.spend(2)
                scope.variables[first] = key
                scope.variables[second] = item
                yield key, item
        finally:
            for name, before, had in saved:
                _restore(scope, name, before, had)

    return each


def _restore(scope: Scope, name: str, before: Value, had: bool) -> None:
    if had:
        scope.variables[name] = before
    else:
        scope.variables.pop(name, None)


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise v.no_overload("predicate", value)
    return value


def _run(name: str, each: _Items, bodies: list[Code]) -> Code:
    last = bodies[-1]
    test = bodies[0] if len(bodies) == 2 else None
    match name:
        case "all":
            return _quantifier(each, last, stop=False)
        case "exists":
            return _quantifier(each, last, stop=True)
        case "exists_one" | "existsOne":
            return lambda scope: sum(_truth(last(scope)) for _ in each(scope)) == 1
        case "filter":
            return lambda scope: [item for item, _ in each(scope) if _truth(last(scope))]
        case "map" | "transformList":
            return lambda scope: [last(scope) for _ in each(scope) if test is None or _truth(test(scope))]
        case "sortBy":
            return lambda scope: _sorted([(last(scope), item) for item, _ in each(scope)])
        case "transformMap":
            return lambda scope: {key: last(scope) for key, _ in each(scope) if test is None or _truth(test(scope))}
        case _:
            return _entries(each, last, test)


def _sorted(keyed: list[tuple[Value, Value]]) -> Value:
    ordered = sorted(keyed, key=cmp_to_key(lambda a, b: v.compare(a[0], b[0], "<")))
    return [item for _, item in ordered]


def _entries(each: _Items, body: Code, test: Code | None) -> Code:
    def run(scope: Scope) -> Value:
        made: dict[Value, Value] = {}
        for _ in each(scope):
            if test is None or _truth(test(scope)):
                entry = body(scope)
                if not isinstance(entry, dict):
                    raise v.no_overload("transformMapEntry", entry)
                made.update(entry)
        return made

    return run


def _quantifier(each: _Items, body: Code, *, stop: bool) -> Code:
    def run(scope: Scope) -> Value:
        failure: CelError | None = None
        for _ in each(scope):
            try:
                if _truth(body(scope)) is stop:
                    return stop
            except CelError as error:
                if scope.spent():
                    raise
                failure = error
        if failure is not None:
            raise failure
        return not stop

    return run


def _optional(target: Code, name: str, body: Code, *, flat: bool) -> Code:
    def run(scope: Scope) -> Value:
        value = target(scope)
        if not isinstance(value, Optional):
            raise v.no_overload("optMap", value)
        if not value.present:
            return value
        result = scope.bind(name, value.value, body)
        if not flat:
            return Optional(True, result)
        if not isinstance(result, Optional):
            raise v.no_overload("optFlatMap", result)
        return result

    return run
