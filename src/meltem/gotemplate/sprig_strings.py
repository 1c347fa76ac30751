"""Sprig's string functions (documentation: masterminds.github.io/sprig), plus regexes on RE2 and encodings.

Lengths and indexes count bytes where sprig's do. Nothing here reads the environment or the clock.
"""

from __future__ import annotations

import base64
import random
import string
import unicodedata
from collections.abc import Callable
from typing import Protocol, cast

import re2  # pyright: ignore[reportMissingTypeStubs]

from meltem.gotemplate.gofmt import format_value
from meltem.gotemplate.literals import quote as go_quote
from meltem.gotemplate.values import (
    Function,
    FunctionError,
    Map,
    Strings,
    Value,
    functions,
    is_list,
    is_nil,
)

MAX_TEXT = 16 * 1024 * 1024
_WHITE = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def to_string(value: Value) -> str:
    """Sprig's strval."""
    return value if isinstance(value, str) else format_value(value)


def to_strings(value: Value) -> list[str]:
    """Sprig's strslice: nil elements are left out."""
    if is_list(value):
        return [to_string(v) for v in value if not is_nil(v)]
    return [] if is_nil(value) else [to_string(value)]


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bounded(size: int) -> None:
    if size > MAX_TEXT:
        raise FunctionError(f"makes a text of more than {MAX_TEXT} bytes")


def _trim_space(text: str) -> str:
    return text.strip(_WHITE)


def abbrev(width: int, text: str) -> str:
    return text if width < 4 else _abbreviate(text, 0, width)


def abbrevboth(left: int, right: int, text: str) -> str:
    return text if right < 4 or (left > 0 and right < 7) else _abbreviate(text, left, right)


def _abbreviate(text: str, offset: int, width: int) -> str:
    raw = _raw(text)
    size = len(raw)
    if size <= width:
        return text
    offset = min(offset, size)
    if size - offset < width - 3:
        offset = size - (width - 3)
    if offset <= 4:
        return _text(raw[: width - 3]) + "..."
    if width < 7:
        return ""
    if offset + width - 3 < size:
        return "..." + _abbreviate(_text(raw[offset:]), 0, width - 3)
    return "..." + _text(raw[size - (width - 3) :])


def trunc(count: int, text: str) -> str:
    raw = _raw(text)
    if count < 0 and len(raw) + count > 0:
        return _text(raw[len(raw) + count :])
    return _text(raw[:count]) if 0 <= count < len(raw) else text


def trim(text: str) -> str:
    return _trim_space(text)


def trim_all(cut: str, text: str) -> str:
    return text.strip(cut) if cut else text


def trim_suffix(suffix: str, text: str) -> str:
    return text.removesuffix(suffix)


def trim_prefix(prefix: str, text: str) -> str:
    return text.removeprefix(prefix)


def upper(text: str) -> str:
    return "".join(c.upper() if len(c.upper()) == 1 else c for c in text)


def lower(text: str) -> str:
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _separates(character: str) -> bool:
    if character.isascii():
        return not (character.isalnum() or character == "_")
    return not character.isalnum() and character.isspace()


def title(text: str) -> str:
    previous = " "
    out: list[str] = []
    for character in text:
        out.append(character.title() if _separates(previous) else character)
        previous = character
    return "".join(out)


def untitle(text: str) -> str:
    start = True
    out: list[str] = []
    for character in text:
        out.append(character.lower() if start and not character.isspace() else character)
        start = character.isspace()
    return "".join(out)


def substr(start: int, end: int, text: str) -> str:
    raw = _raw(text)
    if start < 0:
        return _text(_cut(raw, 0, end))
    if end < 0 or end > len(raw):
        return _text(_cut(raw, start, len(raw)))
    return _text(_cut(raw, start, end))


def _cut(raw: bytes, start: int, end: int) -> bytes:
    if not 0 <= start <= end <= len(raw):
        raise FunctionError(f"runtime error: slice bounds out of range [{start}:{end}] with length {len(raw)}")
    return raw[start:end]


def repeat(count: int, text: str) -> str:
    if count < 0:
        raise FunctionError("strings: negative Repeat count")
    _bounded(count * len(text))
    return text * count


def nospace(text: str) -> str:
    return "".join(c for c in text if not c.isspace())


def initials(text: str) -> str:
    return "".join(word[0] for word in text.split())


def swapcase(text: str) -> str:
    out: list[str] = []
    start = True
    for character in text:
        if character.isupper() or character.istitle():
            out.append(character.lower())
            start = False
        elif character.islower():
            out.append(character.title() if start else character.upper())
            start = False
        else:
            out.append(character)
            start = character.isspace()
    return "".join(out)


def contains(part: str, text: str) -> bool:
    return part in text


def has_prefix(prefix: str, text: str) -> bool:
    return text.startswith(prefix)


def has_suffix(suffix: str, text: str) -> bool:
    return text.endswith(suffix)


def quote(*values: Value) -> str:
    return " ".join(go_quote(to_string(v)) for v in values if not is_nil(v))


def squote(*values: Value) -> str:
    return " ".join(f"'{format_value(v)}'" for v in values if not is_nil(v))


def cat(*values: Value) -> str:
    return " ".join(format_value(v) for v in values if not is_nil(v))


def indent(spaces: int, text: str) -> str:
    if spaces < 0:
        raise FunctionError("strings: negative Repeat count")
    _bounded(spaces * (text.count("\n") + 1))
    pad = " " * spaces
    return pad + text.replace("\n", "\n" + pad)


def nindent(spaces: int, text: str) -> str:
    return "\n" + indent(spaces, text)


def replace(old: str, new: str, text: str) -> str:
    _bounded((text.count(old) + 1) * len(new))
    return text.replace(old, new)


def plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many


def split_list(separator: str, text: str) -> Strings:
    return Strings(text.split(separator) if separator else list(text))


def split(separator: str, text: str) -> Map:
    return {f"_{i}": part for i, part in enumerate(split_list(separator, text))}


def splitn(separator: str, count: int, text: str) -> Map:
    if count == 0:
        return {}
    if not separator:
        parts = list(text) if count < 0 or len(text) <= count else [*text[: count - 1], text[count - 1 :]]
    else:
        parts = text.split(separator, count - 1 if count > 0 else -1)
    return {f"_{i}": part for i, part in enumerate(parts)}


def strings_of(value: Value) -> Strings:
    return Strings(to_strings(value))


def join(separator: str, value: Value) -> str:
    return separator.join(to_strings(value))


def sort_alpha(value: Value) -> Strings:
    return Strings(sorted(to_strings(value) if is_list(value) else [to_string(value)], key=_raw))


def wrap(width: int, text: str) -> str:
    return _wrap(text, width, "\n", long_words=False)


def wrap_with(width: int, separator: str, text: str) -> str:
    return _wrap(text, width, separator, long_words=True)


def _wrap(text: str, width: int, separator: str, *, long_words: bool) -> str:
    if not text:
        return ""
    separator = separator or "\n"
    width = max(width, 1)
    raw = _raw(text)
    out: list[bytes] = []
    offset, size = 0, len(raw)
    while size - offset > width:
        if raw[offset : offset + 1] == b" ":
            offset += 1
            continue
        space = raw.rfind(b" ", offset, width + offset + 1)
        if space >= offset:
            out += [raw[offset:space], _raw(separator)]
            offset = space + 1
        elif long_words:
            out += [raw[offset : width + offset], _raw(separator)]
            offset += width
        else:
            space = raw.find(b" ", width + offset)
            if space >= 0:
                out += [raw[offset:space], _raw(separator)]
                offset = space + 1
            else:
                out.append(raw[offset:])
                offset = size
    out.append(raw[offset:])
    return _text(b"".join(out))


# words: snake, kebab and camel case


def _words(text: str) -> list[tuple[str, str]]:
    """(kind, part): kinds `upper`, `lower`, `digit`, `mark` (a separator)."""
    parts: list[tuple[str, str]] = []
    for character in text:
        if character.isdigit():
            kind = "digit"
        elif character.isupper():
            kind = "upper"
        elif character in "_- " or (not character.isalnum() and unicodedata.category(character)[0] in "PZ"):
            kind = "mark"
        else:
            kind = "lower"
        if parts and parts[-1][0] == kind and kind != "mark":
            parts[-1] = (kind, parts[-1][1] + character)
        else:
            parts.append((kind, character))
    return parts


def _joined(text: str, connector: str) -> str:
    """Lower-case words joined by `connector`: a word starts at a capital after a small letter, at the last capital of a
    run that a small letter follows, and at digits that follow letters."""
    words: list[str] = []
    current = ""
    parts = _words(text)
    for index, (kind, part) in enumerate(parts):
        following = parts[index + 1][0] if index + 1 < len(parts) else ""
        previous = parts[index - 1][0] if index else ""
        if kind == "mark":
            words.append(current)
            current = ""
            continue
        if kind == "upper":
            if current and previous != "mark":
                words.append(current)
                current = ""
            if following == "lower" and len(part) > 1:
                words.append(part[:-1])
                current = part[-1]
            else:
                current = part
        elif kind == "digit" and current and following not in ("upper", ""):
            words.append(current)
            current = part
        else:
            current += part
    words.append(current)
    leading = text[: len(text) - len(text.lstrip("_- "))].replace("-", connector).replace(" ", connector)
    return (leading.replace("_", connector) + connector.join(w for w in words if w)).lower()


def snakecase(text: str) -> str:
    return _joined(text, "_")


def kebabcase(text: str) -> str:
    return _joined(text, "-")


def camelcase(text: str) -> str:
    leading = text[: len(text) - len(text.lstrip("_"))]
    parts = [p for p in text.replace("-", "_").replace(" ", "_").split("_") if p]
    return leading + "".join(p[:1].upper() + p[1:].lower() if p.isupper() else p[:1].upper() + p[1:] for p in parts)


# random


def _random(alphabet: str) -> Callable[[int], str]:
    def draw(count: int) -> str:
        _bounded(count)
        source = random.SystemRandom()
        return "".join(source.choice(alphabet) for _ in range(count))

    return draw


def rand_alpha_num(count: int) -> str:
    return _random(string.ascii_letters + string.digits)(count)


def rand_alpha(count: int) -> str:
    return _random(string.ascii_letters)(count)


def rand_numeric(count: int) -> str:
    return _random(string.digits)(count)


def rand_ascii(count: int) -> str:
    return _random("".join(map(chr, range(32, 127))))(count)


def shuffle(text: str) -> str:
    letters = list(text)
    random.SystemRandom().shuffle(letters)
    return "".join(letters)


# regular expressions


class _Match(Protocol):
    def group(self, index: int = 0) -> str | None: ...
    def groups(self) -> tuple[str | None, ...]: ...
    def groupdict(self) -> dict[str, str | None]: ...
    def span(self, index: int = 0) -> tuple[int, int]: ...


class _Pattern(Protocol):
    def search(self, text: str, position: int = 0) -> _Match | None: ...


def _compile(pattern: str) -> _Pattern:
    options = cast("Callable[[], object]", re2.Options)()
    setattr(options, "log_errors", False)  # noqa: B010
    setattr(options, "max_mem", 8 << 20)  # noqa: B010
    try:
        return cast("Callable[..., _Pattern]", re2.compile)(pattern, options)
    except Exception as error:
        raise FunctionError(f"error parsing regexp: {error}: `{pattern}`") from None


def _matches(pattern: str, text: str) -> list[_Match]:
    """Non-overlapping matches as Go finds them: no empty match right after another match."""
    compiled = _compile(pattern)
    found: list[_Match] = []
    position, last_end = 0, -1
    while position <= len(text):
        match = compiled.search(text, position)
        if match is None:
            break
        start, end = match.span()
        if start == end and start == last_end:
            position = end + 1
            continue
        found.append(match)
        last_end = end
        position = end if end > start else end + 1
    return found


def regex_match(pattern: str, text: str) -> bool:
    return _compile(pattern).search(text) is not None


def regex_find(pattern: str, text: str) -> str:
    match = _compile(pattern).search(text)
    return (match.group() or "") if match else ""


def regex_find_all(pattern: str, text: str, count: int) -> Strings:
    found = _matches(pattern, text)
    return Strings([m.group() or "" for m in (found if count < 0 else found[:count])])


def regex_replace_all(pattern: str, text: str, replacement: str) -> str:
    return _replaced(pattern, text, lambda match: _expand(replacement, match))


def regex_replace_all_literal(pattern: str, text: str, replacement: str) -> str:
    return _replaced(pattern, text, lambda _: replacement)


def _replaced(pattern: str, text: str, make: Callable[[_Match], str]) -> str:
    out: list[str] = []
    position = size = 0
    for match in _matches(pattern, text):
        start, end = match.span()
        out += [text[position:start], make(match)]
        size += len(out[-1])
        _bounded(size)
        position = end
    return "".join(out) + text[position:]


def _expand(template: str, match: _Match) -> str:
    """Go's Expand: `$1`, `${1}`, `$name`, `${name}`, `$$`; unknown names are empty."""
    out: list[str] = []
    position = 0
    while (dollar := template.find("$", position)) >= 0:
        out.append(template[position:dollar])
        position = dollar + 1
        if template.startswith("$", position):
            out.append("$")
            position += 1
            continue
        braced = template.startswith("{", position)
        start = position + braced
        end = start
        while end < len(template) and (template[end].isalnum() or template[end] == "_"):
            end += 1
        if end == start or (braced and not template.startswith("}", end)):
            out.append("$")
            continue
        out.append(_group(match, template[start:end]))
        position = end + braced
    return "".join(out) + template[position:]


def _group(match: _Match, name: str) -> str:
    if name.isdigit():
        number = int(name)
        return (match.group(number) or "") if number <= len(match.groups()) else ""
    return match.groupdict().get(name) or ""


def regex_split(pattern: str, text: str, count: int) -> Strings:
    if count == 0:
        return Strings()
    if pattern and not text:
        return Strings([""])
    parts = Strings()
    begin = end = 0
    for match in _matches(pattern, text):
        if count > 0 and len(parts) == count - 1:
            break
        end = match.span()[0]
        if match.span()[1] != 0:
            parts.append(text[begin:end])
        begin = match.span()[1]
    if end != len(text):
        parts.append(text[begin:])
    return parts


def regex_quote_meta(text: str) -> str:
    return "".join("\\" + c if c in "\\.+*?()|[]{}^$" else c for c in text)


# encodings


def b64enc(text: str) -> str:
    return base64.b64encode(_raw(text)).decode()


def b64dec(text: str) -> str:
    compact = text.replace("\n", "").replace("\r", "")
    try:
        return _text(base64.b64decode(compact, validate=True))
    except ValueError:
        return f"illegal base64 data at input byte {_bad_position(compact)}"


def _bad_position(text: str) -> int:
    alphabet = string.ascii_letters + string.digits + "+/"
    for position, character in enumerate(text):
        if character not in alphabet:
            return position
    return len(text) // 4 * 4


def b32enc(text: str) -> str:
    return base64.b32encode(_raw(text)).decode()


def b32dec(text: str) -> str:
    try:
        return _text(base64.b32decode(text.replace("\n", "").replace("\r", "")))
    except ValueError:
        return "illegal base32 data at input byte 0"


def atoi(text: str) -> int:
    digits = text.removeprefix("+").removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0


def string_functions() -> dict[str, Function]:
    table = functions(
        abbrev=abbrev, abbrevboth=abbrevboth, trunc=trunc, trim=trim, upper=upper, lower=lower, title=title,
        untitle=untitle, substr=substr, repeat=repeat, trimall=trim_all, trimAll=trim_all, trimSuffix=trim_suffix,
        trimPrefix=trim_prefix, nospace=nospace, initials=initials, randAlphaNum=rand_alpha_num, randAlpha=rand_alpha,
        randAscii=rand_ascii, randNumeric=rand_numeric, swapcase=swapcase, shuffle=shuffle, snakecase=snakecase,
        camelcase=camelcase, kebabcase=kebabcase, wrap=wrap, wrapWith=wrap_with, contains=contains,
        hasPrefix=has_prefix, hasSuffix=has_suffix, quote=quote, squote=squote, cat=cat, indent=indent,
        nindent=nindent, replace=replace, plural=plural, toString=to_string, toStrings=strings_of, join=join,
        sortAlpha=sort_alpha, splitList=split_list, split=split, splitn=splitn, b64enc=b64enc, b64dec=b64dec,
        b32enc=b32enc, b32dec=b32dec, atoi=atoi, regexQuoteMeta=regex_quote_meta,
    )  # fmt: skip
    for name, call in (
        ("Match", regex_match),
        ("FindAll", regex_find_all),
        ("Find", regex_find),
        ("ReplaceAll", regex_replace_all),
        ("ReplaceAllLiteral", regex_replace_all_literal),
        ("Split", regex_split),
    ):
        table |= functions(**{f"regex{name}": call, f"mustRegex{name}": call})
    return table
