"""The parsed template: immutable nodes, each knowing its place and how Go would write it back (errors quote it).

The root of a template is a `ListNode`; `Tree` adds the name and the source that positions refer to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TextNode:
    position: int
    text: str


@dataclass(frozen=True, slots=True)
class DotNode:
    position: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class NilNode:
    position: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class BoolNode:
    position: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(frozen=True, slots=True)
class NumberNode:
    """`integer` is None where the number has no exact integer value, `is_float` where it was written as a float."""

    position: int
    text: str
    integer: int | None
    real: float
    is_float: bool

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class StringNode:
    position: int
    quoted: str
    value: str

    def __str__(self) -> str:
        return self.quoted


@dataclass(frozen=True, slots=True)
class FieldNode:
    position: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join("." + n for n in self.names)


@dataclass(frozen=True, slots=True)
class VariableNode:
    """`$x.a.b`: names[0] has the dollar sign."""

    position: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.names)


@dataclass(frozen=True, slots=True)
class IdentifierNode:
    position: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ChainNode:
    """A parenthesized term followed by fields."""

    position: int
    term: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.term})" if isinstance(self.term, PipeNode) else str(self.term)
        return inner + "".join("." + n for n in self.names)


@dataclass(frozen=True, slots=True)
class CommandNode:
    position: int
    arguments: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({a})" if isinstance(a, PipeNode) else str(a) for a in self.arguments)


@dataclass(frozen=True, slots=True)
class PipeNode:
    position: int
    variables: tuple[str, ...]
    assigns: bool
    commands: tuple[CommandNode, ...]

    def __str__(self) -> str:
        declared = f"{', '.join(self.variables)} {'=' if self.assigns else ':='} " if self.variables else ""
        return declared + " | ".join(str(c) for c in self.commands)


@dataclass(frozen=True, slots=True)
class ActionNode:
    position: int
    pipe: PipeNode

    def __str__(self) -> str:
        return f"{{{{{self.pipe}}}}}"


@dataclass(frozen=True, slots=True)
class BranchNode:
    """`if`, `with` or `range`."""

    position: int
    keyword: str
    pipe: PipeNode
    body: ListNode
    otherwise: ListNode | None


@dataclass(frozen=True, slots=True)
class TemplateNode:
    position: int
    name: str
    pipe: PipeNode | None

    def __str__(self) -> str:
        return f'{{{{template "{self.name}"{f" {self.pipe}" if self.pipe else ""}}}}}'


@dataclass(frozen=True, slots=True)
class BreakNode:
    position: int


@dataclass(frozen=True, slots=True)
class ContinueNode:
    position: int


@dataclass(frozen=True, slots=True)
class ListNode:
    position: int
    nodes: tuple[Statement, ...]


Operand: TypeAlias = (
    DotNode
    | NilNode
    | BoolNode
    | NumberNode
    | StringNode
    | FieldNode
    | VariableNode
    | IdentifierNode
    | ChainNode
    | PipeNode
)
Statement: TypeAlias = TextNode | ActionNode | BranchNode | TemplateNode | BreakNode | ContinueNode


@dataclass(frozen=True, slots=True)
class Tree:
    """One template: `name` is what `template` and `include` call it, `source_name` the text it was parsed from."""

    name: str
    source_name: str
    text: str
    root: ListNode

    def place(self, position: int) -> str:
        """`NAME:LINE:COLUMN`; the column counts bytes from 0, as in Go."""
        before = self.text[:position]
        line_start = before.rfind("\n") + 1
        column = len(before[line_start:].encode("utf-8", "surrogatepass"))
        return f"{self.source_name}:{before.count(chr(10)) + 1}:{column}"
