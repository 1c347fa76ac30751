"""CEL text to a syntax tree.

In: an expression. Out: a `Node`; UserError, saying where, for text that is no expression. Sizes and depths are
bounded, because expressions come from users.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from meltem.errors import UserError

_MAX_LENGTH = 64 << 10
_MAX_DEPTH = 60
Literal: TypeAlias = "bool | int | float | str | bytes | None"

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<string>(?:[rR][bB]?|[bB][rR]?)?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<quoted>`[A-Za-z0-9_.\-/ ]+`)
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<op>\.\?|\[\?|&&|\|\||==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_RESERVED = frozenset(
    [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL)


class Node(msgspec.Struct, frozen=True):
    """`kind`: literal, uint, name, select, index, call, member, list, map, optselect, optindex. `args`: operands."""

    kind: str
    value: Literal = None
    args: tuple[Node, ...] = ()
    flags: tuple[bool, ...] = ()


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    at: int


def parse(expression: str) -> Node:
    """The tree of an expression."""
    if len(expression) > _MAX_LENGTH:
        raise UserError(f"the expression is longer than {_MAX_LENGTH} characters")
    parser = _Parser(expression, _tokens(expression))
    node = parser.expression(0)
    parser.expect("end", "")
    return node


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise _syntax(text, at, f"token recognition error at: {text[at]!r}")
        if match.lastgroup != "space":
            found.append(_Token(match.lastgroup, match.group(), at))
        at = match.end()
    found.append(_Token("end", "", at))
    return found


def _syntax(text: str, at: int, detail: str) -> UserError:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return UserError(f"compilation failed: ERROR: <input>:{line}:{column}: Syntax error: {detail}")


_LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",),
    ("&&",),
    ("<", "<=", ">=", ">", "==", "!=", "in"),
    ("+", "-"),
    ("*", "/", "%"),
)


class _Parser:
    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.at = 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def accept(self, text: str) -> bool:
        token = self.now
        if token.kind in ("op", "name") and token.text == text:
            self.at += 1
            return True
        return False

    def expect(self, kind: str, text: str) -> _Token:
        token = self.now
        if token.kind != kind or (text and token.text != text):
            raise _syntax(self.text, token.at, f"found '{token.text or '<EOF>'}', expected '{text or kind}'")
        return self.take()

    def expression(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise _syntax(self.text, self.now.at, f"nested more than {_MAX_DEPTH} levels deep")
        condition = self.binary(0, depth)
        if not self.accept("?"):
            return condition
        yes = self.binary(0, depth + 1)
        self.expect("op", ":")
        no = self.expression(depth + 1)
        return Node("call", "?:", (condition, yes, no))

    def binary(self, level: int, depth: int) -> Node:
        if level == len(_LEVELS):
            return self.unary(depth)
        left = self.binary(level + 1, depth)
        count = 0
        while self.now.kind in ("op", "name") and self.now.text in _LEVELS[level]:
            count += 1
            if count > 500:
                raise _syntax(self.text, self.now.at, "more than 500 operands in a row")
            operator = self.take().text
            left = Node("call", operator, (left, self.binary(level + 1, depth)))
        return left

    def unary(self, depth: int) -> Node:
        operators: list[str] = []
        while self.now.kind == "op" and self.now.text in ("!", "-"):
            operators.append(self.take().text)
        if operators and operators[-1] == "-" and self.now.kind in ("int", "float"):
            operators.pop()
            node = self.member(depth, negative=True)
        else:
            node = self.member(depth, negative=False)
        for operator in reversed(operators[-_MAX_DEPTH:]):
            node = Node("call", f"{operator}_", (node,))
        return node

    def member(self, depth: int, *, negative: bool) -> Node:
        node = self.primary(depth, negative=negative)
        count = 0
        while True:
            count += 1
            if count > 200:
                raise _syntax(self.text, self.now.at, "more than 200 selections in a row")
            if self.accept("."):
                token = self.field()
                name = token.text.strip("`")
                if token.kind == "name" and self.accept("("):
                    node = Node("member", name, (node, *self.arguments(")", depth)[0]))
                else:
                    node = Node("select", name, (node,))
            elif self.accept(".?"):
                node = Node("optselect", self.field().text.strip("`"), (node,))
            elif self.accept("["):
                index = self.expression(depth + 1)
                self.expect("op", "]")
                node = Node("index", None, (node, index))
            elif self.accept("[?"):
                index = self.expression(depth + 1)
                self.expect("op", "]")
                node = Node("optindex", None, (node, index))
            else:
                return node

    def field(self) -> _Token:
        token = self.now
        if token.kind not in ("name", "quoted"):
            raise _syntax(self.text, token.at, f"found '{token.text or '<EOF>'}', expected a field")
        return self.take()

    def arguments(self, close: str, depth: int) -> tuple[tuple[Node, ...], tuple[bool, ...]]:
        """Expressions up to the closing bracket, each with whether `?` marks it as optional."""
        found: list[Node] = []
        flags: list[bool] = []
        while not self.accept(close):
            flags.append(close == "]" and self.accept("?"))
            found.append(self.expression(depth + 1))
            if not self.accept(","):
                self.expect("op", close)
                break
        return tuple(found), tuple(flags)

    def primary(self, depth: int, *, negative: bool) -> Node:
        token = self.take()
        sign = "-" if negative else ""
        match token.kind:
            case "int":
                return self.integer(token, sign)
            case "float":
                return Node("literal", float(sign + token.text))
            case "string":
                return Node("literal", self.string(token))
            case "name":
                return self.named(token, depth)
            case _:
                pass
        match token.text:
            case "(":
                node = self.expression(depth + 1)
                self.expect("op", ")")
                return node
            case "[":
                items, flags = self.arguments("]", depth)
                return Node("list", None, items, flags)
            case "[?":
                self.tokens[self.at - 1] = _Token("op", "?", token.at)
                self.at -= 1
                items, flags = self.arguments("]", depth)
                return Node("list", None, items, flags)
            case "{":
                return self.map(depth)
            case ".":
                name = self.expect("name", "")
                return self.named(name, depth)
            case _:
                raise _syntax(self.text, token.at, f"mismatched input '{token.text or '<EOF>'}'")

    def integer(self, token: _Token, sign: str) -> Node:
        unsigned = token.text[-1] in "uU"
        digits = token.text.rstrip("uU")
        value = int(sign + digits, 16 if digits[:2].lower() == "0x" else 10)
        if unsigned:
            if not 0 <= value < 1 << 64:
                raise _syntax(self.text, token.at, "invalid uint literal")
            return Node("uint", value)
        if not -(1 << 63) <= value < 1 << 63:
            raise _syntax(self.text, token.at, "invalid int literal")
        return Node("literal", value)

    def named(self, token: _Token, depth: int) -> Node:
        match token.text:
            case "true" | "false":
                return Node("literal", token.text == "true")
            case "null":
                return Node("literal", None)
            case name if name in _RESERVED or name == "in":
                raise _syntax(self.text, token.at, f"reserved identifier: {name}")
            case name:
                if self.accept("("):
                    return Node("call", name, self.arguments(")", depth)[0])
                return Node("name", name)

    def map(self, depth: int) -> Node:
        items: list[Node] = []
        flags: list[bool] = []
        while not self.accept("}"):
            flags.append(self.accept("?"))
            items.append(self.expression(depth + 1))
            self.expect("op", ":")
            items.append(self.expression(depth + 1))
            if not self.accept(","):
                self.expect("op", "}")
                break
        return Node("map", None, tuple(items), tuple(flags))

    def string(self, token: _Token) -> str | bytes:
        text = token.text
        prefix = text[: min(i for i in (text.find("'"), text.find('"')) if i >= 0)].lower()
        body = text[len(prefix) :]
        size = 3 if body[:3] in ('"""', "'''") else 1
        body = body[size:-size]
        binary = "b" in prefix
        if "r" not in prefix:
            body = _ESCAPE.sub(lambda m: self.escape(m, token, binary=binary), body)
        return body.encode("utf-8", "surrogateescape") if binary else body

    def escape(self, match: re.Match[str], token: _Token, *, binary: bool) -> str:
        hexadecimal, short, long, octal, simple = match.groups()
        if simple is not None:
            if simple in _ESCAPES:
                return _ESCAPES[simple]
            if simple in "\\'\"`?":
                return simple
            raise _syntax(self.text, token.at, f"unable to unescape string: \\{simple}")
        number = int(octal, 8) if octal else int(hexadecimal or short or long, 16)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise _syntax(self.text, token.at, "unable to unescape string: no such code point")
        if binary and (octal or hexadecimal) and number > 127:
            return bytes([number]).decode("utf-8", "surrogateescape")
        return chr(number)
