"""Template text in, tokens out: the lexical half of Go's text/template syntax.

Text outside `{{ }}` becomes TEXT tokens with trim markers already applied; inside, one token an item, spaces included
(the parser needs them to tell `.a .b` from `.a.b`). Raises `TemplateSyntaxError` with the line, as Go words it.
Source of the grammar: the documentation of Go's text/template package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from meltem.errors import UserError

_SPACE = " \t\r\n"
_OPEN, _CLOSE = "{{", "}}"
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]+)?|0[bB][01_]+|0[oO][0-7_]+"
    r"|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]+)?)"
)
_KEYWORDS = frozenset(("block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with"))


class Kind(Enum):
    TEXT = auto()
    LEFT = auto()
    RIGHT = auto()
    SPACE = auto()
    ASSIGN = auto()
    DECLARE = auto()
    PIPE = auto()
    STRING = auto()
    RAW = auto()
    CHARACTER = auto()
    NUMBER = auto()
    BOOL = auto()
    VARIABLE = auto()
    FIELD = auto()
    DOT = auto()
    IDENTIFIER = auto()
    KEYWORD = auto()
    PUNCTUATION = auto()
    OPEN_PAREN = auto()
    CLOSE_PAREN = auto()
    EOF = auto()


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    position: int

    def describe(self) -> str:
        """As Go names a token in an error."""
        if self.kind is Kind.EOF:
            return "EOF"
        if self.kind in (Kind.KEYWORD, Kind.DOT):
            return f"<{self.text}>"
        return go_quote_short(self.text)


class TemplateSyntaxError(UserError):
    """The template is not well formed: `template: NAME:LINE: what`."""


def go_quote_short(text: str) -> str:
    """`"text"` cut to ten characters, as Go shows tokens."""
    escaped = text[:10].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"...' if len(text) > 10 else f'"{escaped}"'


def _rune(character: str) -> str:
    return f"U+{ord(character):04X} '{character}'" if character.isprintable() else f"U+{ord(character):04X}"


def is_alphanumeric(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdigit()


class _Lexer:
    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.position = 0
        self.tokens: list[Token] = []
        self.parens = 0

    def fail(self, what: str, position: int) -> TemplateSyntaxError:
        line = self.text.count("\n", 0, position) + 1
        return TemplateSyntaxError(what, where=f"template: {self.name}:{line}")

    def emit(self, kind: Kind, text: str) -> None:
        self.tokens.append(Token(kind, text, self.position))
        self.position += len(text)

    def run(self) -> list[Token]:
        while self.position < len(self.text):
            start = self.text.find(_OPEN, self.position)
            if start < 0:
                self.emit(Kind.TEXT, self.text[self.position :])
                break
            text = self.text[self.position : start]
            trimmed = self._opens_with_trim(start)
            if trimmed:
                text = text.rstrip(_SPACE)
            if text:
                self.emit(Kind.TEXT, text)
            self.position = start
            inside = start + (4 if trimmed else 2)
            if self.text.startswith("/*", inside):
                self._comment(inside)
            else:
                self._action(inside)
        self.tokens.append(Token(Kind.EOF, "", self.position))
        return self.tokens

    def _opens_with_trim(self, start: int) -> bool:
        return self.text.startswith("-", start + 2) and self.text[start + 3 : start + 4] in tuple(_SPACE)

    def _closing(self, position: int) -> tuple[bool, bool]:
        """(an action ends here, with a trim marker)."""
        if self.text.startswith(_CLOSE, position):
            return True, False
        if self.text[position : position + 1] in tuple(_SPACE) and self.text.startswith("-" + _CLOSE, position + 1):
            return True, True
        return False, False

    def _after_trim(self, position: int) -> int:
        while position < len(self.text) and self.text[position] in _SPACE:
            position += 1
        return position

    def _comment(self, start: int) -> None:
        end = self.text.find("*/", start)
        if end < 0:
            raise self.fail("unclosed comment", start)
        end += 2
        closes, trim = self._closing(end)
        if not closes:
            raise self.fail("comment ends before closing delimiter", start)
        self.position = self._after_trim(end + 4) if trim else end + 2

    def _action(self, inside: int) -> None:
        self.tokens.append(Token(Kind.LEFT, _OPEN, self.position))
        self.position = inside
        self.parens = 0
        while True:
            closes, trim = self._closing(self.position)
            if closes:
                if self.parens:
                    raise self.fail("unclosed left paren", self.position)
                self.tokens.append(Token(Kind.RIGHT, _CLOSE, self.position))
                self.position = self._after_trim(self.position + 4) if trim else self.position + 2
                return
            if self.position >= len(self.text):
                raise self.fail("unclosed action", self.position)
            self._item(self.text[self.position])

    def _item(self, character: str) -> None:
        following = self.text[self.position + 1 : self.position + 2]
        if character in _SPACE:
            self._spaces()
        elif character == "=":
            self.emit(Kind.ASSIGN, "=")
        elif character == ":":
            if following != "=":
                raise self.fail("expected :=", self.position)
            self.emit(Kind.DECLARE, ":=")
        elif character == "|":
            self.emit(Kind.PIPE, "|")
        elif character == '"':
            self._quoted('"', "unterminated quoted string", Kind.STRING)
        elif character == "'":
            self._quoted("'", "unterminated character constant", Kind.CHARACTER)
        elif character == "`":
            end = self.text.find("`", self.position + 1)
            if end < 0:
                raise self.fail("unterminated raw quoted string", self.position)
            self.emit(Kind.RAW, self.text[self.position : end + 1])
        elif character == "$":
            self._field(Kind.VARIABLE)
        elif character == "." and not following.isdigit():
            self._field(Kind.FIELD)
        elif character in "+-." or character.isdigit():
            self._number()
        elif is_alphanumeric(character):
            self._word()
        elif character == "(":
            self.parens += 1
            self.emit(Kind.OPEN_PAREN, "(")
        elif character == ")":
            self.parens -= 1
            if self.parens < 0:
                raise self.fail("unexpected right paren", self.position)
            self.emit(Kind.CLOSE_PAREN, ")")
        elif character.isascii() and character.isprintable():
            self.emit(Kind.PUNCTUATION, character)
        else:
            raise self.fail(f"unrecognized character in action: {_rune(character)}", self.position)

    def _spaces(self) -> None:
        end = self.position
        while end < len(self.text) and self.text[end] in _SPACE:
            end += 1
        if self.text.startswith("-" + _CLOSE, end):
            end -= 1  # the last space belongs to the trim marker
        if end > self.position:
            self.emit(Kind.SPACE, self.text[self.position : end])

    def _quoted(self, quote: str, unterminated: str, kind: Kind) -> None:
        end = self.position + 1
        while end < len(self.text) and self.text[end] not in (quote, "\n"):
            end += 2 if self.text[end] == "\\" and self.text[end + 1 : end + 2] != "\n" else 1
        if end >= len(self.text) or self.text[end] != quote:
            raise self.fail(unterminated, self.position)
        self.emit(kind, self.text[self.position : end + 1])

    def _run(self, start: int) -> int:
        end = start
        while end < len(self.text) and is_alphanumeric(self.text[end]):
            end += 1
        return end

    def _terminated(self, position: int) -> bool:
        following = self.text[position : position + 1]
        return not following or following in _SPACE + ".,|:)(" or self.text.startswith(_CLOSE, position)

    def _field(self, kind: Kind) -> None:
        end = self._run(self.position + 1)
        if end == self.position + 1 and self._terminated(end):
            self.emit(Kind.VARIABLE if kind is Kind.VARIABLE else Kind.DOT, self.text[self.position])
            return
        if not self._terminated(end):
            raise self.fail(f"bad character {_rune(self.text[end])}", end)
        self.emit(kind, self.text[self.position : end])

    def _number(self) -> None:
        found = _NUMBER.match(self.text, self.position)
        end = found.end() if found else self.position
        if end == self.position or (end < len(self.text) and is_alphanumeric(self.text[end])):
            raise self.fail(f"bad number syntax: {go_quote_short(self.text[self.position : end + 1])}", self.position)
        self.emit(Kind.NUMBER, self.text[self.position : end])

    def _word(self) -> None:
        end = self._run(self.position)
        if not self._terminated(end):
            raise self.fail(f"bad character {_rune(self.text[end])}", end)
        word = self.text[self.position : end]
        if word in _KEYWORDS:
            self.emit(Kind.KEYWORD, word)
        elif word in ("true", "false"):
            self.emit(Kind.BOOL, word)
        else:
            self.emit(Kind.IDENTIFIER, word)


def lex(name: str, text: str) -> list[Token]:
    """All tokens, the last one EOF."""
    return _Lexer(name, text).run()
