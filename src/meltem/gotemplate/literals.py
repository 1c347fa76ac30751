"""Go's literals: strings, characters and numbers, read and written.

`unquote` reads what stands between `"`, `'` or back-quotes; `quote` writes as strconv.Quote does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_SIMPLE = {v: k for k, v in _ESCAPES.items() if k not in "'\""}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_UNDERSCORES = re.compile(r"_")


def unquote(literal: str) -> str:
    """The string a quoted literal stands for; raises ValueError where it is not well formed."""
    mark, body = literal[0], literal[1:-1]
    if mark == "`":
        return body.replace("\r", "")
    out = bytearray()
    position = 0
    while position < len(body):
        character = body[position]
        position += 1
        if character != "\\":
            out += character.encode("utf-8", "surrogatepass")
            continue
        escape = body[position : position + 1]
        position += 1
        if escape in _HEX_DIGITS:
            digits = body[position : position + _HEX_DIGITS[escape]]
            position += len(digits)
            if len(digits) < _HEX_DIGITS[escape]:
                raise ValueError("invalid syntax")
            code = int(digits, 16)
            out += bytes([code]) if escape == "x" else chr(code).encode("utf-8", "surrogatepass")
        elif escape and escape in "01234567":
            digits = body[position - 1 : position + 2]
            position += 2
            code = int(digits, 8)
            if len(digits) < 3 or code > 255:
                raise ValueError("invalid syntax")
            out.append(code)
        elif escape in _ESCAPES and not (escape == "'" and mark == '"') and not (escape == '"' and mark == "'"):
            out += _ESCAPES[escape].encode()
        else:
            raise ValueError("invalid syntax")
    return out.decode("utf-8", "surrogateescape")


def quote(text: str, *, ascii_only: bool = False, mark: str = '"') -> str:
    """`text` as a Go string literal (strconv.Quote, QuoteToASCII)."""
    out: list[str] = [mark]
    for character in text:
        code = ord(character)
        if character == mark or character == "\\":
            out.append("\\" + character)
        elif character in _SIMPLE:
            out.append("\\" + _SIMPLE[character])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")  # a byte that is no UTF-8
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\x{code:02x}")
        elif code < 0x7F or (character.isprintable() and not ascii_only):
            out.append(character)
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    out.append(mark)
    return "".join(out)


@dataclass(frozen=True, slots=True)
class Number:
    integer: int | None
    real: float
    is_float: bool


def parse_number(text: str) -> Number | None:
    """A Go number constant; None where it is none. An integral float (`1e3`) has an integer value as well."""
    lower = text.lower()
    hexadecimal = lower.lstrip("+-").startswith("0x")
    if any(c in lower for c in ("p" if hexadecimal else ".e")) or (hexadecimal and "." in lower):
        return _float(lower, hexadecimal)
    digits = lower.replace("_", "")
    sign, digits = (-1, digits[1:]) if digits[:1] == "-" else (1, digits.removeprefix("+"))
    try:
        legacy_octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        value = sign * (int(digits, 8) if legacy_octal else int(digits, 0))
    except ValueError:
        return None
    return Number(value, float(value), is_float=False) if abs(value) < 1 << 1023 else None


def _float(lower: str, hexadecimal: bool) -> Number | None:
    digits = _UNDERSCORES.sub("", lower)
    try:
        real = float.fromhex(digits) if hexadecimal else float(digits)
    except (ValueError, OverflowError):
        return None
    if real in (float("inf"), float("-inf")):
        return None
    whole = int(real) if real == int(real) and abs(real) < 1 << 63 else None
    return Number(whole, real, is_float=True)
