"""Go's fmt for template values: `%v` printing, and `printf` with Go's verbs, flags, width and precision.

`print_value` is what `{{ x }}` writes; `sprintf`, `sprint` and `sprintln` are the functions of those names.
"""

from __future__ import annotations

import math
import re

from meltem.gotemplate.literals import quote
from meltem.gotemplate.values import MISSING, GoStruct, Value, go_type, is_list, is_map, sorted_keys

MAX_WIDTH = 100_000
_VERB = re.compile(r"%([-+# 0]*)(?:\[(\d+)\])?(\*|\d+)?(?:\.(?:\[(\d+)\])?(\*|\d+)?)?(?:\[(\d+)\])?(.?)", re.DOTALL)


def format_float(value: float, verb: str = "g", precision: int = -1) -> str:
    """strconv.FormatFloat for e, E, f, F, g, G; precision -1 is the shortest that reads back."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if verb in "fF":
        return f"{value:.{precision}f}" if precision >= 0 else _shortest_fixed(value)
    if verb in "eE":
        text = f"{value:.{precision}e}" if precision >= 0 else _shortest_exponent(value)
        return text.upper() if verb == "E" else text
    shortest = precision < 0
    text = _shortest_exponent(value) if shortest else f"{value:.{max(precision, 1) - 1}e}"
    digits, _, exponent_text = text.partition("e")
    exponent = int(exponent_text)
    count = len(digits.replace(".", "").lstrip("-").rstrip("0")) or 1
    limit = 6 if shortest else max(precision, 1)
    if not shortest and limit > count >= exponent + 1:
        limit = count
    if exponent < -4 or exponent >= limit:
        mantissa = digits.rstrip("0").rstrip(".") if "." in digits else digits
        out = f"{mantissa}e{exponent_text}"
        return out.upper() if verb == "G" else out
    if shortest:
        return _shortest_fixed(value)
    fixed = f"{value:.{max(max(precision, 1) - 1 - exponent, 0)}f}"
    return fixed.rstrip("0").rstrip(".") if "." in fixed else fixed


def _shortest_exponent(value: float) -> str:
    sign = "-" if math.copysign(1, value) < 0 else ""
    digits, exponent = _digits(abs(value))
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _shortest_fixed(value: float) -> str:
    sign = "-" if math.copysign(1, value) < 0 else ""
    digits, exponent = _digits(abs(value))
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    rest = digits[exponent + 1 :]
    return f"{sign}{whole}{'.' + rest if rest else ''}"


def _digits(value: float) -> tuple[str, int]:
    """(significant digits, decimal exponent of the first)."""
    if value == 0:
        return "0", 0
    mantissa, _, exponent = repr(value).lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    shift = int(exponent or 0)
    digits = whole + fraction
    leading = len(digits) - len(digits.lstrip("0"))
    point = len(whole) + shift - leading - 1
    return (digits.lstrip("0").rstrip("0") or "0"), point


def default_float(value: float) -> str:
    """`%v` of a float64: the shortest `%g`."""
    return format_float(value, "g", -1)


def print_value(value: Value) -> str:
    """What `{{ value }}` writes."""
    if value is None or value is MISSING:
        return "<no value>"
    return format_value(value)


def format_value(value: Value) -> str:
    """`%v`."""
    if isinstance(value, str):
        return value
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return default_float(value)
    if is_list(value):
        return "[" + " ".join(format_value(v) for v in value) + "]"
    if is_map(value):
        return "map[" + " ".join(f"{k}:{format_value(value[k])}" for k in sorted_keys(value)) + "]"
    if isinstance(value, GoStruct):
        if value.text is not None:
            return value.text
        body = "{" + " ".join(format_value(v) for v in value.fields.values()) + "}"
        return "&" + body if value.type_name.startswith("*") else body
    return "<func>"


def format_go_syntax(value: Value) -> str:
    """`%#v`."""
    if isinstance(value, str):
        return quote(value)
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, float):
        return default_float(value)
    if is_list(value):
        return f"{go_type(value)}{{" + ", ".join(_element(v) for v in value) + "}"
    if is_map(value):
        inner = ", ".join(f"{quote(k)}:{_element(value[k])}" for k in sorted_keys(value))
        return f"map[string]interface {{}}{{{inner}}}"
    return format_value(value)


def _element(value: Value) -> str:
    return "interface {}(nil)" if value is None else format_go_syntax(value)


def sprint(values: list[Value]) -> str:
    """fmt.Sprint: a space between operands when neither is a string."""
    out: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out.append(" ")
        out.append(format_value(value))
    return "".join(out)


def sprintln(values: list[Value]) -> str:
    return " ".join(format_value(v) for v in values) + "\n"


class _Arguments:
    def __init__(self, values: list[Value]) -> None:
        self.values = values
        self.position = 0
        self.reordered = False

    def go_to(self, index: str | None) -> bool:
        if index is None:
            return True
        self.reordered = True
        if not 1 <= int(index) <= len(self.values):
            return False
        self.position = int(index) - 1
        return True

    def take_int(self) -> int | None:
        value = self.values[self.position] if self.position < len(self.values) else None
        self.position += 1
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WIDTH:
            return value
        return None


def sprintf(layout: str, values: list[Value]) -> str:
    """fmt.Sprintf, its error marks (`%!d(string=x)`, `%!v(MISSING)`, `%!(EXTRA int=1)`) included."""
    out: list[str] = []
    arguments = _Arguments(values)
    position = 0
    for match in _VERB.finditer(layout):
        out.append(layout[position : match.start()])
        position = match.end()
        out.append(_directive(match, arguments))
    out.append(layout[position:])
    if not arguments.reordered and arguments.position < len(values):
        extra = ["<nil>" if v is None else f"{go_type(v)}={format_value(v)}" for v in values[arguments.position :]]
        out.append(f"%!(EXTRA {', '.join(extra)})")
    return "".join(out)


def _directive(match: re.Match[str], arguments: _Arguments) -> str:
    flags, first, width_text, second, precision_text, third, verb = match.groups()
    note = ""
    in_range = arguments.go_to(first)
    width: int | None = None
    if width_text == "*":
        width = arguments.take_int()
        if width is None:
            note += "%!(BADWIDTH)"
        elif width < 0:
            flags, width = flags + "-", -width
    elif width_text:
        width = min(int(width_text), MAX_WIDTH)
    in_range = arguments.go_to(second) and in_range
    precision: int | None = None
    if precision_text == "*":
        precision = arguments.take_int()
        if precision is None or precision < 0:
            precision, note = None, note + ("%!(BADPREC)" if precision is None else "")
    elif precision_text:
        precision = min(int(precision_text), MAX_WIDTH)
    elif "." in match.group(0)[:-1]:
        precision = 0
    in_range = arguments.go_to(third) and in_range
    if not verb:
        return note + "%!(NOVERB)"
    if verb == "%":
        return note + "%"
    if not in_range:
        return f"{note}%!{verb}(BADINDEX)"
    if arguments.position >= len(arguments.values):
        return f"{note}%!{verb}(MISSING)"
    value = arguments.values[arguments.position]
    arguments.position += 1
    return note + _Directive(flags, width, precision).render(verb, value)


class _Directive:
    """One verb with its flags; `render` formats a value, nested ones element by element."""

    def __init__(self, flags: str, width: int | None, precision: int | None) -> None:
        self.flags = flags
        self.width = width
        self.precision = precision

    def pad(self, text: str, *, numeric: bool = False) -> str:
        if self.width is None or len(text) >= self.width:
            return text
        if "-" in self.flags:
            return text.ljust(self.width)
        if "0" in self.flags:
            sign = text[:1] if numeric and text[:1] in ("+", "-", " ") else ""
            return sign + text[len(sign) :].rjust(self.width - len(sign), "0")
        return text.rjust(self.width)

    def signed(self, text: str) -> str:
        if text.startswith(("-", "+")):
            return text
        return "+" + text if "+" in self.flags else " " + text if " " in self.flags else text

    def bad(self, verb: str, value: Value) -> str:
        return f"%!{verb}(<nil>)" if value is None else f"%!{verb}({go_type(value)}={format_value(value)})"

    def render(self, verb: str, value: Value) -> str:
        if value is MISSING:
            value = None
        if verb == "T":
            return self.pad(go_type(value))
        if value is None:
            return self.pad("<nil>") if verb == "v" else self.bad(verb, None)
        if verb == "v" and "#" in self.flags:
            return self.pad(format_go_syntax(value))
        if isinstance(value, bool):
            return self.pad("true" if value else "false") if verb in "tv" else self.bad(verb, value)
        if isinstance(value, int):
            return self._integer(verb, value)
        if isinstance(value, float):
            return self._float(verb, value)
        if isinstance(value, str):
            return self._string(verb, value)
        if is_list(value):
            return "[" + " ".join(self.element(verb, v) for v in value) + "]"
        if is_map(value):
            pairs = (f"{self.render(verb, k)}:{self.element(verb, value[k])}" for k in sorted_keys(value))
            return "map[" + " ".join(pairs) + "]"
        return self.pad(format_value(value)) if verb in "vs" else self.bad(verb, value)

    def element(self, verb: str, value: Value) -> str:
        return self.pad("<nil>") if value is None and verb == "v" else self.render(verb, value)

    def _integer(self, verb: str, value: int) -> str:
        match verb:
            case "d" | "v":
                return self._digits(value, "d", "")
            case "b":
                return self._digits(value, "b", "0b" if "#" in self.flags else "")
            case "o":
                return self._digits(value, "o", "0" if "#" in self.flags else "")
            case "O":
                return self._digits(value, "o", "0o")
            case "x" | "X":
                return self._digits(value, verb, ("0" + verb) if "#" in self.flags else "")
            case "c":
                return self.pad(_character(value))
            case "q":
                return self.pad(quote(_character(value), mark="'", ascii_only="+" in self.flags))
            case "U":
                text = f"U+{value:04X}"
                return self.pad(text + (f" '{_character(value)}'" if "#" in self.flags else ""))
            case _:
                return self.bad(verb, value)

    def _digits(self, value: int, base: str, prefix: str) -> str:
        digits = format(abs(int(value)), base)
        if self.precision is not None:
            digits = "" if self.precision == 0 and value == 0 else digits.rjust(self.precision, "0")
        text = self.signed(("-" if value < 0 else "") + prefix + digits)
        if self.precision is not None and "0" in self.flags:
            return _Directive(self.flags.replace("0", ""), self.width, None).pad(text)
        return self.pad(text, numeric=True)

    def _float(self, verb: str, value: float) -> str:
        if verb not in "vgGeEfF":
            return self.bad(verb, value)
        default = -1 if verb in "vgG" else 6
        precision = default if self.precision is None else self.precision
        text = format_float(value, "g" if verb == "v" else verb, precision)
        if text == "+Inf" and "+" not in self.flags:
            text = "+Inf"
        return self.pad(self.signed(text), numeric=math.isfinite(value))

    def _string(self, verb: str, value: str) -> str:
        cut = value if self.precision is None else value[: self.precision]
        match verb:
            case "s" | "v":
                return self.pad(cut)
            case "q":
                if "#" in self.flags and "`" not in cut and cut.isprintable():
                    return self.pad(f"`{cut}`")
                return self.pad(quote(cut, ascii_only="+" in self.flags))
            case "x" | "X":
                raw = value.encode("utf-8", "surrogateescape")
                raw = raw if self.precision is None else raw[: self.precision]
                separator = " " if " " in self.flags else ""
                text = raw.hex(separator) if separator else raw.hex()
                if "#" in self.flags and raw:
                    text = " ".join("0x" + b for b in text.split(" ")) if separator else "0x" + text
                return self.pad(text.upper() if verb == "X" else text)
            case _:
                return self.bad(verb, value)


def _character(code: int) -> str:
    return chr(code) if 0 <= code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
