"""The Common Expression Language as Kubernetes speaks it.

In: an expression, then values. Out: a value. `compile_cel` turns text into nested functions once; evaluating counts
steps, and stops an expression that takes too many.

An evaluator of our own, because neither Python implementation serves: the Rust binding is imported as `cel`, the name
of a package in xds-protos, and has no way to add optionals, macros or Kubernetes' libraries; `cel-python` has those
hooks, but takes most of a second to import, raises on optional syntax, and cannot bound an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias, cast

from meltem.cel_parse import Node, parse
from meltem.errors import UserError
from meltem.local.apiserver.schema import cel_values as v
from meltem.local.apiserver.schema.cel_functions import as_json, global_functions, member_functions
from meltem.local.apiserver.schema.cel_macros import comprehension
from meltem.local.apiserver.schema.cel_scope import Code, Scope
from meltem.local.apiserver.schema.cel_values import CelError, Optional, Value
from meltem.objects import Json

__all__ = ["CelError", "Program", "compile_cel"]
_BUDGET = 200_000
_Operator: TypeAlias = Callable[[Value, Value], Value]

_OPERATORS: dict[str, _Operator] = {
    "+": v.add,
    "-": v.subtract,
    "*": v.multiply,
    "/": v.divide,
    "%": v.modulo,
    "==": v.equal,
    "!=": lambda a, b: not v.equal(a, b),
    "<": lambda a, b: v.compare(a, b, "<") < 0,
    "<=": lambda a, b: v.compare(a, b, "<=") <= 0,
    ">": lambda a, b: v.compare(a, b, ">") > 0,
    ">=": lambda a, b: v.compare(a, b, ">=") >= 0,
    "in": v.contains,
}
_TYPE_NAMES = ("bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type")
_ESCAPED = {
    "__dot__": ".",
    "__dash__": "-",
    "__slash__": "/",
    "__underscores__": "__",
}


class Program:
    """A compiled expression. `variables`: the names that it reads and that its macros do not bind."""

    def __init__(self, expression: str, code: Code, variables: frozenset[str]) -> None:
        self.expression = expression
        self.variables = variables
        self._code = code

    def run(self, variables: Mapping[str, Value], *, budget: int = _BUDGET) -> Value:
        """The value, in CEL's own types; CelError where it has none, or where it takes more than `budget` steps."""
        scope = Scope(dict(variables), budget)
        try:
            return self._code(scope)
        except RecursionError:
            raise CelError("the expression is nested too deeply") from None

    def evaluate(self, variables: Mapping[str, Json], *, budget: int = _BUDGET) -> Json:
        """The value as JSON."""
        return as_json(self.run(cast(Mapping[str, Value], variables), budget=budget))


@lru_cache(maxsize=2048)
def compile_cel(expression: str) -> Program:
    """The program of an expression. Raises UserError with the place of the first mistake."""
    compiler = _Compiler()
    code = compiler.build(parse(expression), frozenset())
    return Program(expression, code, frozenset(compiler.free))


class _Compiler:
    def __init__(self) -> None:
        self.free: set[str] = set()

    def build(self, node: Node, bound: frozenset[str]) -> Code:
        match node.kind:
            case "literal":
                value = node.value
                return lambda scope: value
            case "uint":
                number = v.UInt(cast(int, node.value))
                return lambda scope: number
            case "name":
                return self._name(str(node.value), bound)
            case "select":
                return self._select(node, bound)
            case "optselect":
                return _optional_select(self.build(node.args[0], bound), _unescape(str(node.value)))
            case "index" | "optindex":
                target, index = (self.build(a, bound) for a in node.args)
                return _index(target, index) if node.kind == "index" else _optional_index(target, index)
            case "list":
                return _list([self.build(a, bound) for a in node.args], node.flags)
            case "map":
                return _map([self.build(a, bound) for a in node.args], node.flags)
            case "member":
                return self._member(node, bound)
            case _:
                return self._call(node, bound)

    def _name(self, name: str, bound: frozenset[str]) -> Code:
        if name not in bound and name in _TYPE_NAMES:
            kind = v.Type(name)
            return lambda scope: kind
        if name not in bound:
            self.free.add(name)

        def read(scope: Scope) -> Value:
            try:
                return scope.variables[name]
            except KeyError:
                raise CelError(f"undeclared reference to '{name}' (in container '')") from None

        return read

    def _select(self, node: Node, bound: frozenset[str]) -> Code:
        dotted = _dotted(node)
        if dotted in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            kind = v.Type(dotted)
            return lambda scope: kind
        target = self.build(node.args[0], bound)
        return _select(target, _unescape(str(node.value)))

    def _member(self, node: Node, bound: frozenset[str]) -> Code:
        name, receiver = str(node.value), node.args[0]
        made = comprehension(self.build, name, receiver, node.args[1:], bound)
        if made is not None:
            return made
        if receiver.kind == "name" and str(receiver.value) not in bound:
            space = f"{receiver.value}.{name}"
            if space == "cel.bind":
                return self._bind(node, bound)
            if space in global_functions():
                return _function(global_functions()[space], [self.build(a, bound) for a in node.args[1:]])
        function = member_functions().get(name)
        if function is None:
            raise UserError(f"compilation failed: ERROR: undeclared reference to '{name}' (in container '')")
        return _function(function, [self.build(a, bound) for a in node.args])

    def _bind(self, node: Node, bound: frozenset[str]) -> Code:
        if len(node.args) != 4 or node.args[1].kind != "name":
            raise UserError("compilation failed: ERROR: cel.bind() takes a name, its value and an expression")
        name = str(node.args[1].value)
        init, body = self.build(node.args[2], bound), self.build(node.args[3], bound | {name})
        return lambda scope: scope.bind(name, init(scope), body)

    def _call(self, node: Node, bound: frozenset[str]) -> Code:
        name = str(node.value)
        if name == "has":
            return self._has(node, bound)
        args = [self.build(a, bound) for a in node.args]
        match name:
            case "&&":
                return _logic(args[0], args[1], stop=False)
            case "||":
                return _logic(args[0], args[1], stop=True)
            case "?:":
                return _conditional(*args)
            case "!_":
                return lambda scope: not _boolean(args[0](scope), "!_")
            case "-_":
                return lambda scope: v.negate(args[0](scope))
            case _ if name in _OPERATORS and len(args) == 2:
                return _binary(_OPERATORS[name], args[0], args[1])
            case _:
                function = global_functions().get(name)
                if function is None:
                    raise UserError(f"compilation failed: ERROR: undeclared reference to '{name}' (in container '')")
                return _function(function, args)

    def _has(self, node: Node, bound: frozenset[str]) -> Code:
        if len(node.args) != 1 or node.args[0].kind not in ("select", "optselect"):
            raise UserError("compilation failed: ERROR: invalid argument to has() macro")
        target, field = self.build(node.args[0].args[0], bound), _unescape(str(node.args[0].value))

        def has(scope: Scope) -> Value:
            value = target(scope)
            if isinstance(value, Optional):
                value = value.value if value.present else {}
            if not isinstance(value, dict):
                raise CelError(f"no such key: {field}" if value is None else f"type '{v.type_of(value)}' has no fields")
            return field in value

        return has


def _dotted(node: Node) -> str:
    if node.kind == "name":
        return str(node.value)
    return f"{_dotted(node.args[0])}.{node.value}" if node.kind == "select" else ""


def _unescape(name: str) -> str:
    if not name.startswith("__") and "__" not in name:
        return name
    for escaped, plain in _ESCAPED.items():
        if escaped != "__underscores__":
            name = name.replace(escaped, plain)
    if name.startswith("__") and name.endswith("__") and len(name) > 4 and name != "__underscores__":
        return name[2:-2]  # a reserved word as a field: __namespace__
    return name.replace("__underscores__", "__")


def _boolean(value: Value, name: str) -> bool:
    if not isinstance(value, bool):
        raise v.no_overload(name, value)
    return value


def _select(target: Code, field: str) -> Code:
    def select(scope: Scope) -> Value:
        scope.spend(1)
        value = target(scope)
        if isinstance(value, dict):
            if field in value:
                return value[field]
            raise CelError(f"no such key: {field}")
        if isinstance(value, Optional):
            return _opt_field(value, field)
        raise CelError(f"no such key: {field}")

    return select


def _opt_field(value: Value, field: Value) -> Optional:
    if isinstance(value, Optional):
        if not value.present:
            return value
        value = value.value
    if isinstance(value, dict) and not isinstance(field, list | dict):
        return Optional(True, value[field]) if field in value else Optional(False)
    if isinstance(value, list) and isinstance(field, int):
        return Optional(True, value[field]) if 0 <= field < len(value) else Optional(False)
    return Optional(False)


def _optional_select(target: Code, field: str) -> Code:
    return lambda scope: _opt_field(target(scope), field)


def _optional_index(target: Code, index: Code) -> Code:
    return lambda scope: _opt_field(target(scope), index(scope))


def _index(target: Code, index: Code) -> Code:
    def at(scope: Scope) -> Value:
        scope.spend(1)
        value, key = target(scope), index(scope)
        if isinstance(value, Optional):
            return _opt_field(value, key)
        if isinstance(value, dict):
            if isinstance(key, list | dict) or key not in value:
                raise CelError(f"no such key: {key}")
            return value[key]
        if isinstance(value, list) and isinstance(key, int | float) and not isinstance(key, bool) and key == int(key):
            if not 0 <= key < len(value):
                raise CelError(f"index out of bounds: {int(key)}")
            return value[int(key)]
        raise v.no_overload("_[_]", value, key)

    return at


def _list(items: list[Code], flags: tuple[bool, ...]) -> Code:
    def make(scope: Scope) -> Value:
        scope.spend(1 + len(items))
        made: list[Value] = []
        for item, optional in zip(items, flags, strict=True):
            value = item(scope)
            if not optional:
                made.append(value)
            elif isinstance(value, Optional):
                made.extend([value.value] if value.present else [])
            else:
                raise v.no_overload("[?]", value)
        return made

    return make


def _map(items: list[Code], flags: tuple[bool, ...]) -> Code:
    pairs = list(zip(items[::2], items[1::2], flags, strict=True))

    def make(scope: Scope) -> Value:
        scope.spend(1 + len(pairs))
        made: dict[Value, Value] = {}
        for left, right, optional in pairs:
            key, value = left(scope), right(scope)
            if not isinstance(key, str | int | bool):
                raise v.no_overload("{_:_}", key)
            if optional:
                if not isinstance(value, Optional):
                    raise v.no_overload("{?_:_}", value)
                if not value.present:
                    continue
                value = value.value
            if key in made:
                raise CelError(f"map key conflict: {key}")
            made[key] = value
        return made

    return make


def _binary(operator: _Operator, left: Code, right: Code) -> Code:
    def run(scope: Scope) -> Value:
        a, b = left(scope), right(scope)
        scope.spend(min(v.cost_of(a), v.cost_of(b)) + 1)
        result = operator(a, b)
        if not isinstance(result, bool):
            scope.spend(v.cost_of(result))
        return result

    return run


def _conditional(condition: Code, yes: Code, no: Code) -> Code:
    return lambda scope: yes(scope) if _boolean(condition(scope), "_?_:_") else no(scope)


def _logic(left: Code, right: Code, *, stop: bool) -> Code:
    """`&&` (stop on false) and `||` (stop on true): either side may decide, whatever becomes of the other."""
    name = "_||_" if stop else "_&&_"

    def run(scope: Scope) -> Value:
        scope.spend(1)
        failure: CelError | None = None
        try:
            if _boolean(left(scope), name) is stop:
                return stop
        except CelError as error:
            if scope.spent():
                raise
            failure = error
        if _boolean(right(scope), name) is stop:
            return stop
        if failure is not None:
            raise failure
        return not stop

    return run


def _function(function: Callable[[list[Value]], Value], args: list[Code]) -> Code:
    def call(scope: Scope) -> Value:
        values = [a(scope) for a in args]
        scope.spend(1 + sum(v.cost_of(x) for x in values))
        try:
            result = function(values)
        except (ValueError, OverflowError, ArithmeticError) as error:
            raise CelError(str(error)) from None
        scope.spend(v.cost_of(result))
        return result

    return call
