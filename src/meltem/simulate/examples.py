"""A text that a regular expression takes, for calls that are to meet a match.

In: an expression as Envoy reads it (RE2). Out: a short text that the whole of it takes, or `UnknownExample`. The reader
here knows what routing rules are written with, and passes over flags and word boundaries: what comes of it is tried on
RE2, so that a wrong guess is no example.

Source: https://github.com/google/re2/wiki/Syntax
"""

# RE2's binding has no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re

import re2

_ANY = "a"
_FREE = "a1-_ ~A"
"""Of these one is taken where only what must not stand there is said."""
_CLASSES = {"d": "0123456789", "s": " \t\n\r\f", "w": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"}
_NAMED = {
    "alpha": "aA", "digit": "0123456789", "alnum": "a1A", "upper": "A", "lower": "a", "space": " \t", "blank": " \t",
    "punct": "-_~", "word": "a1_A", "xdigit": "0123456789abcdefABCDEF", "print": "a1-_ ~A", "graph": "a1-_~A",
}  # fmt: skip
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_REPEAT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_GROUP = re.compile(r"\?(?:P?<\w+>|[imsU-]*:)")
_FLAGS = re.compile(r"\?[imsU-]+\)")
_HEX = re.compile(r"x(?:\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2}))")
_MOST = 100
_DEEPEST = 100


class UnknownExample(Exception):
    """No text is known that the expression takes."""


def example(expression: str) -> str:
    """A text that the whole of an expression takes. Raises `UnknownExample`."""
    found = _Reader(expression).whole()
    try:
        if re2.fullmatch(expression, found) is not None:
            return found
    except re2.error:
        pass
    raise UnknownExample


class _Reader:
    """Reads an expression from left to right; of several ways it takes the first."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> str:
        found = self._choice()
        if self._at < len(self._text):
            raise UnknownExample
        return found

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise UnknownExample
        self._at += 1
        return self._text[self._at - 1]

    def _takes(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _choice(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UnknownExample
        first = self._sequence()
        while self._takes("|"):
            self._sequence()
        self._depth -= 1
        return first

    def _sequence(self) -> str:
        found: list[str] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            one = self._atom()
            found.append(one * self._count())
        return "".join(found)

    def _count(self) -> int:
        count = 1
        if repeat := _REPEAT.match(self._text, self._at):
            self._at = repeat.end()
            least, _, most = repeat.groups()
            count = min(max(int(least), 0 if most == "0" or repeat.group(2) is None else 1), _MOST)
        elif self._at < len(self._text) and self._text[self._at] in "*+?":
            self._at += 1
        else:
            return 1
        self._takes("?")  # as few as possible
        return count

    def _atom(self) -> str:
        character = self._next()
        if character == "(":
            if flags := _FLAGS.match(self._text, self._at):
                self._at = flags.end()
                return ""
            if group := _GROUP.match(self._text, self._at):
                self._at = group.end()
            elif self._takes("?"):
                raise UnknownExample
            inside = self._choice()
            if not self._takes(")"):
                raise UnknownExample
            return inside
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character in "^$":
            return ""
        return _ANY if character == "." else character

    def _escape(self) -> str:
        if self._takes("Q"):
            end = self._text.find("\\E", self._at)
            end = len(self._text) if end < 0 else end
            quoted, self._at = self._text[self._at : end], end + 2
            return quoted
        if self._text.startswith(("A", "z", "B", "b"), self._at):
            self._at += 1
            return ""
        allowed, negated = self._escaped()
        return _one(allowed, negated)

    def _escaped(self) -> tuple[str, bool]:
        """After a backslash: characters, and whether any but these."""
        if code := _HEX.match(self._text, self._at):
            self._at = code.end()
            number = int(code.group(1) or code.group(2), 16)
            if number > 0x10FFFF:
                raise UnknownExample
            return chr(number), False
        character = self._next()
        if character.lower() in _CLASSES:
            return _CLASSES[character.lower()], character.isupper()
        if character in _CONTROL:
            return _CONTROL[character], False
        if character.isalnum():  # \pN, \C, octal numbers
            raise UnknownExample
        return character, False

    def _class(self) -> str:
        negated = self._takes("^")
        members: list[tuple[str, str]] = []  # ranges, both ends within
        first = True
        while first or not self._takes("]"):
            first = False
            low, others = self._member()
            if others:
                members += [(c, c) for c in _FREE if c not in low]
            elif len(low) == 1 and self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high, _ = self._member()
                members.append((low, high[-1]))
            else:
                members += [(c, c) for c in low]
        if not negated:
            return _one("".join(low for low, _ in members), negated=False)
        free = [c for c in _FREE if not any(low <= c <= high for low, high in members)]
        return _one("".join(free), negated=False)

    def _member(self) -> tuple[str, bool]:
        if self._takes("[:"):
            end = self._text.find(":]", self._at)
            name = self._text[self._at : end] if end >= 0 else ""
            if name not in _NAMED:
                raise UnknownExample
            self._at = end + 2
            return _NAMED[name], False
        return self._escaped() if self._takes("\\") else (self._next(), False)


def _one(allowed: str, negated: bool) -> str:
    """The first character that is allowed; `negated`: the first free one that is not in it."""
    for character in _FREE if negated else allowed:
        if not negated or character not in allowed:
            return character
    raise UnknownExample
