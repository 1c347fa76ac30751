"""Trees and data in, text out: the execution half of text/template.

`Executor` holds everything one rendering may use: trees by name, functions, the `missingkey` option and the limits that
keep a hostile template from using up the machine. Errors are `TemplateError`s with Go's wording:
`template: NAME:LINE:COLUMN: executing "NAME" at <node>: what`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from meltem.errors import UserError
from meltem.gotemplate.gofmt import format_value, print_value
from meltem.gotemplate.literals import quote
from meltem.gotemplate.nodes import (
    ActionNode,
    BoolNode,
    BranchNode,
    BreakNode,
    ChainNode,
    CommandNode,
    ContinueNode,
    DotNode,
    FieldNode,
    IdentifierNode,
    ListNode,
    NilNode,
    NumberNode,
    Operand,
    PipeNode,
    StringNode,
    TemplateNode,
    TextNode,
    Tree,
    VariableNode,
)
from meltem.gotemplate.values import (
    MISSING,
    Function,
    FunctionError,
    GoStruct,
    Int64,
    Value,
    go_type,
    is_list,
    is_map,
    is_nil,
    sorted_keys,
    truth,
)

MissingKey = Literal["default", "zero", "error"]


class TemplateError(UserError):
    """A template failed while it ran; `where` is its place."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one rendering may use: nested templates, evaluated nodes, characters written."""

    depth: int = 60
    steps: int = 5_000_000
    output: int = 64 * 1024 * 1024


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _NoFinal:
    """No value came down the pipe."""


_NO_FINAL: Final = _NoFinal()


class Executor:
    """Runs trees. One per rendering: it counts steps and output."""

    def __init__(
        self,
        trees: Mapping[str, Tree],
        functions: Mapping[str, Function],
        *,
        missing_key: MissingKey = "default",
        limits: Limits | None = None,
    ) -> None:
        self.trees = trees
        self.functions = functions
        self.missing_key: MissingKey = missing_key
        self.limits = limits or Limits()
        self.steps = 0
        self.written = 0
        self.depth = 0

    def execute(self, name: str, data: Value) -> str:
        """What template `name` writes for `data`; raises TemplateError."""
        tree = self.trees.get(name)
        if tree is None:
            raise TemplateError(f"no template {quote(name)} associated with template {quote(name)}")
        out: list[str] = []
        try:
            self.run(tree, data, out)
        except RecursionError:
            raise TemplateError("is nested too deeply", where=f"template: {name}") from None
        return "".join(out)

    def run(self, tree: Tree, data: Value, out: list[str]) -> None:
        self.depth += 1
        try:
            _Frame(self, tree, data, out).walk(data, tree.root)
        finally:
            self.depth -= 1

    def with_trees(self, trees: Mapping[str, Tree], functions: Mapping[str, Function]) -> Executor:
        """The same rendering (counters continue) over other trees: what helm's `tpl` needs."""
        other = Executor(trees, functions, missing_key=self.missing_key, limits=self.limits)
        other.steps, other.written, other.depth = self.steps, self.written, self.depth
        return other


@dataclass(slots=True)
class _Variable:
    name: str
    value: Value


class _Frame:
    """One template being executed: its tree, its variables."""

    def __init__(self, executor: Executor, tree: Tree, data: Value, out: list[str]) -> None:
        self.executor = executor
        self.tree = tree
        self.out = out
        self.variables: list[_Variable] = [_Variable("$", data)]

    def fail(self, node: object, position: int, what: str) -> TemplateError:
        place = f"template: {self.tree.place(position)}"
        return TemplateError(f"executing {quote(self.tree.name)} at <{node}>: {what}", where=place)

    def count(self, node: object, position: int) -> None:
        executor = self.executor
        executor.steps += 1
        if executor.steps > executor.limits.steps:
            raise self.fail(node, position, f"takes more than {executor.limits.steps} steps")

    def write(self, text: str, node: object, position: int) -> None:
        executor = self.executor
        executor.written += len(text)
        if executor.written > executor.limits.output:
            raise self.fail(node, position, f"writes more than {executor.limits.output} characters")
        self.out.append(text)

    # statements

    def walk(self, dot: Value, block: ListNode) -> None:
        for node in block.nodes:
            match node:
                case TextNode():
                    self.write(node.text, "text", node.position)
                case ActionNode():
                    value = self.pipeline(dot, node.pipe)
                    if not node.pipe.variables:
                        self.write(self.printable(value, node), node.pipe, node.position)
                case BranchNode():
                    if node.keyword == "range":
                        self.range(dot, node)
                    else:
                        self.branch(dot, node)
                case TemplateNode():
                    self.template(dot, node)
                case BreakNode():
                    raise _Break
                case ContinueNode():
                    raise _Continue

    def printable(self, value: Value, node: ActionNode) -> str:
        if isinstance(value, Function):
            raise self.fail(node, node.position, f"can't print {node.pipe} of type func")
        return print_value(value)

    def branch(self, dot: Value, node: BranchNode) -> None:
        mark = len(self.variables)
        value = self.pipeline(dot, node.pipe)
        if truth(value):
            self.walk(value if node.keyword == "with" else dot, node.body)
        elif node.otherwise is not None:
            self.walk(dot, node.otherwise)
        del self.variables[mark:]

    def range(self, dot: Value, node: BranchNode) -> None:
        outer = len(self.variables)
        value = self.pipeline(dot, node.pipe)
        pairs: list[tuple[Value, Value]]
        if is_list(value):
            pairs = list(enumerate(value))
        elif is_map(value):
            pairs = [(k, value[k]) for k in sorted_keys(value)]
        elif isinstance(value, GoStruct) and value.type_name == "engine.files":
            pairs = list(value.fields.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            if len(node.pipe.variables) > 1:
                raise self.fail(node.pipe, node.position, f"can't use {value} to iterate over more than one variable")
            pairs = self.integers(value, node)
        elif is_nil(value):
            pairs = []
        else:
            raise self.fail(node.pipe, node.position, f"range can't iterate over {format_value(value)}")
        mark = len(self.variables)
        for key, element in pairs:
            self.count(node.pipe, node.position)
            self.bind(node.pipe, mark, key, element)
            try:
                self.walk(element, node.body)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self.variables[mark:]
        if not pairs and node.otherwise is not None:
            self.walk(dot, node.otherwise)
        del self.variables[outer:]

    def integers(self, count: int, node: BranchNode) -> list[tuple[Value, Value]]:
        if count > self.executor.limits.steps:
            raise self.fail(node.pipe, node.position, f"takes more than {self.executor.limits.steps} steps")
        wrap = Int64 if isinstance(count, Int64) else int
        return [(wrap(i), wrap(i)) for i in range(count)]

    def bind(self, pipe: PipeNode, mark: int, key: Value, element: Value) -> None:
        names = pipe.variables
        if not names:
            return
        values = [element] if len(names) == 1 else [key, element]
        for offset, value in enumerate(values):
            if pipe.assigns:
                self.assign(names[offset], value)
            else:
                self.variables[mark - len(names) + offset].value = value

    def template(self, dot: Value, node: TemplateNode) -> None:
        tree = self.executor.trees.get(node.name)
        if tree is None:
            raise self.fail(node, node.position, f"template {quote(node.name)} not defined")
        if self.executor.depth >= self.executor.limits.depth:
            depth = self.executor.limits.depth
            raise self.fail(node, node.position, f"exceeded maximum template depth ({depth})")
        data = self.pipeline(dot, node.pipe) if node.pipe is not None else MISSING
        self.executor.run(tree, data, self.out)

    def assign(self, name: str, value: Value) -> None:
        for variable in reversed(self.variables):
            if variable.name == name:
                variable.value = value
                return

    # pipelines

    def pipeline(self, dot: Value, pipe: PipeNode) -> Value:
        value: Value = _NO_FINAL
        for command in pipe.commands:
            value = self.command(dot, command, value)
            if value is None:
                value = MISSING  # Go unwraps an empty interface here: a nil one becomes the invalid value
        for name in pipe.variables:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append(_Variable(name, value))
        return value

    def command(self, dot: Value, node: CommandNode, final: Value) -> Value:
        self.count(node, node.position)
        first = node.arguments[0]
        match first:
            case FieldNode():
                return self.fields(dot, first, dot, first.names, node.arguments, final)
            case ChainNode():
                return self.chain(dot, first, node.arguments, final)
            case IdentifierNode():
                return self.function(dot, first, node, node.arguments, final)
            case VariableNode():
                return self.variable(dot, first, node.arguments, final)
            case PipeNode():
                self.no_arguments(first, node, final)
                return self.pipeline(dot, first)
            case _:
                self.no_arguments(first, node, final)
        match first:
            case DotNode():
                return dot
            case NilNode():
                raise self.fail(first, first.position, "nil is not a command")
            case NumberNode():
                return self.constant(first)
            case _:
                return first.value

    def no_arguments(self, first: Operand, node: CommandNode, final: Value) -> None:
        if len(node.arguments) > 1 or final is not _NO_FINAL:
            raise self.fail(first, first.position, f"can't give argument to non-function {first}")

    def constant(self, node: NumberNode) -> Value:
        if node.is_float:
            return node.real
        if node.integer is None or not -(1 << 63) <= node.integer < 1 << 63:
            raise self.fail(node, node.position, f"{node.text} overflows int")
        return node.integer

    def variable(self, dot: Value, node: VariableNode, arguments: tuple[Operand, ...], final: Value) -> Value:
        value = next((v.value for v in reversed(self.variables) if v.name == node.names[0]), MISSING)
        if len(node.names) == 1:
            if len(arguments) > 1 or final is not _NO_FINAL:
                raise self.fail(node, node.position, f"can't give argument to non-function {node}")
            return value
        return self.fields(dot, node, value, node.names[1:], arguments, final)

    def chain(self, dot: Value, node: ChainNode, arguments: tuple[Operand, ...], final: Value) -> Value:
        if isinstance(node.term, NilNode):
            raise self.fail(node, node.position, f"indirection through explicit nil in {node}")
        receiver = self.argument(dot, node.term, "reflect.Value", node)
        return self.fields(dot, node, receiver, node.names, arguments, final)

    def fields(
        self,
        dot: Value,
        node: FieldNode | ChainNode | VariableNode,
        receiver: Value,
        names: tuple[str, ...],
        arguments: tuple[Operand, ...],
        final: Value,
    ) -> Value:
        for index, name in enumerate(names):
            last = index == len(names) - 1
            receiver = self.field(
                dot, node, receiver, name, arguments if last else (), final if last else _NO_FINAL, nested=index > 0
            )
        return receiver

    def field(
        self,
        dot: Value,
        node: FieldNode | ChainNode | VariableNode,
        receiver: Value,
        name: str,
        arguments: tuple[Operand, ...],
        final: Value,
        *,
        nested: bool,
    ) -> Value:
        has_arguments = len(arguments) > 1 or final is not _NO_FINAL
        if receiver is MISSING:
            if self.executor.missing_key == "error":
                raise self.fail(node, node.position, f"nil data; no entry for key {quote(name)}")
            return MISSING
        if receiver is None:
            raise self.fail(node, node.position, f"nil pointer evaluating interface {{}}.{name}")
        if isinstance(receiver, GoStruct):
            method = receiver.methods.get(name)
            if method is not None:
                return self.call(dot, method, name, node, node.position, arguments, final)
            if name in receiver.fields:
                if has_arguments:
                    raise self.fail(node, node.position, f"{name} has arguments but cannot be invoked as function")
                return receiver.fields[name]
        elif is_map(receiver):
            if has_arguments:
                raise self.fail(node, node.position, f"{name} is not a method but has arguments")
            if name in receiver:
                return receiver[name]
            if self.executor.missing_key == "error":
                raise self.fail(node, node.position, f"map has no entry for key {quote(name)}")
            return None if self.executor.missing_key == "zero" else MISSING
        shown = "interface {}" if nested and not isinstance(receiver, GoStruct) else go_type(receiver)
        raise self.fail(node, node.position, f"can't evaluate field {name} in type {shown}")

    # calls

    def function(
        self, dot: Value, node: IdentifierNode, command: object, arguments: tuple[Operand, ...], final: Value
    ) -> Value:
        found = self.executor.functions.get(node.name)
        if found is None:
            raise self.fail(node, node.position, f"{quote(node.name)} is not a defined function")
        if node.name in ("and", "or"):
            return self.short_circuit(dot, node, command, arguments, final)
        if node.name == "call":
            return self.call_value(dot, node, command, arguments, final)
        return self.call(dot, found, node.name, command, node.position, arguments, final)

    def short_circuit(
        self, dot: Value, node: IdentifierNode, command: object, arguments: tuple[Operand, ...], final: Value
    ) -> Value:
        if len(arguments) == 1 and final is _NO_FINAL:
            raise self.fail(command, node.position, f"wrong number of args for {node.name}: want at least 1 got 0")
        value: Value = MISSING
        for argument in arguments[1:]:
            value = self.argument(dot, argument, "reflect.Value", node)
            if truth(value) == (node.name == "or"):
                return value
        return value if final is _NO_FINAL else final

    def call_value(
        self, dot: Value, node: IdentifierNode, command: object, arguments: tuple[Operand, ...], final: Value
    ) -> Value:
        rest = arguments[1:]
        if not rest and final is _NO_FINAL:
            raise self.fail(command, node.position, "wrong number of args for call: want at least 1 got 0")
        target = self.argument(dot, rest[0], "reflect.Value", node) if rest else final
        if isinstance(target, Function):
            left = final if rest else _NO_FINAL
            return self.call(dot, target, "call", command, node.position, rest, left)
        call = self.executor.functions["call"]
        return self.call(dot, call, "call", command, node.position, arguments, final)

    def call(
        self,
        dot: Value,
        target: Function,
        name: str,
        node: object,
        position: int,
        arguments: tuple[Operand, ...],
        final: Value,
    ) -> Value:
        operands = arguments[1:]
        given = len(operands) + (final is not _NO_FINAL)
        fixed = len(target.parameters) - target.variadic
        if target.variadic and given < fixed:
            raise self.fail(node, position, f"wrong number of args for {name}: want at least {fixed} got {given}")
        if not target.variadic and given != fixed:
            raise self.fail(node, position, f"wrong number of args for {name}: want {fixed} got {given}")
        values: list[Value] = []
        for index, operand in enumerate(operands):
            wanted = target.parameters[min(index, len(target.parameters) - 1)]
            values.append(self.argument(dot, operand, wanted, node))
        if final is not _NO_FINAL:
            wanted = target.parameters[min(given - 1, len(target.parameters) - 1)]
            values.append(self.checked(final, wanted, node, position))
        try:
            return target.call(*values)
        except FunctionError as error:
            raise self.fail(node, position, f"error calling {name}: {error}") from None
        except TemplateError as error:
            raise self.fail(node, position, f"error calling {name}: {error}") from None

    def argument(self, dot: Value, node: Operand, wanted: str, at: object) -> Value:
        match node:
            case DotNode():
                return self.checked(dot, wanted, node, node.position)
            case NilNode():
                if wanted in ("interface {}", "reflect.Value", "[]interface {}", "map[string]interface {}"):
                    return None
                raise self.fail(node, node.position, f"cannot assign nil to {wanted}")
            case FieldNode():
                value = self.fields(dot, node, dot, node.names, (node,), _NO_FINAL)
            case VariableNode():
                value = self.variable(dot, node, (), _NO_FINAL)
            case PipeNode():
                value = self.pipeline(dot, node)
            case IdentifierNode():
                value = self.function(dot, node, node, (node,), _NO_FINAL)
            case ChainNode():
                value = self.chain(dot, node, (), _NO_FINAL)
            case NumberNode():
                return self.number_argument(node, wanted)
            case BoolNode() | StringNode():
                have = "bool" if isinstance(node, BoolNode) else "string"
                if wanted not in (have, "interface {}", "reflect.Value"):
                    raise self.fail(node, node.position, f"expected {_noun(wanted)}; found {node}")
                return node.value
        return self.checked(value, wanted, node, node.position)

    def number_argument(self, node: NumberNode, wanted: str) -> Value:
        if wanted in ("interface {}", "reflect.Value"):
            return self.constant(node)
        if wanted == "float64":
            return node.real
        if wanted in ("int", "int64") and node.integer is not None:
            return Int64(node.integer) if wanted == "int64" else node.integer
        raise self.fail(node, node.position, f"expected {_noun(wanted)}; found {node}")

    def checked(self, value: Value, wanted: str, node: object, position: int) -> Value:
        """`value` as an argument of Go type `wanted`, or Go's complaint."""
        if wanted == "reflect.Value":
            return value
        if value is MISSING:
            if wanted in ("interface {}", "[]interface {}", "map[string]interface {}"):
                return None if wanted == "interface {}" else [] if wanted == "[]interface {}" else {}
            raise self.fail(node, position, f"invalid value; expected {wanted}")
        if wanted == "interface {}":
            return value
        have = "interface {}" if value is None else go_type(value)
        if have == wanted or (wanted == "[]interface {}" and have == "[]string"):
            return value
        raise self.fail(node, position, f"wrong type for value; expected {wanted}; got {have}")


def _noun(wanted: str) -> str:
    return {"int": "integer", "int64": "integer", "float64": "float", "bool": "boolean"}.get(wanted, wanted)


def strict(limits: Limits) -> Limits:
    """Limits for text that a stranger wrote."""
    return replace(limits, depth=min(limits.depth, 30), steps=min(limits.steps, 200_000))
