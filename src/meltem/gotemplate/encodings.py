"""YAML, JSON and TOML as Go's libraries write them: the functions `toYaml`, `toJson`, `toToml` and their inverses.

`to_yaml` follows sigs.k8s.io/yaml: the value goes through JSON (so `1000000.0` becomes `1000000`), keys are sorted as
yaml.v2 sorts them (digits within names by value), long plain text folds at column 80.
"""

from __future__ import annotations

import base64
import json
import math
import re
from functools import cmp_to_key

import yaml

from meltem import yamlio
from meltem.errors import UserError
from meltem.gotemplate.gofmt import format_float
from meltem.gotemplate.literals import quote
from meltem.gotemplate.values import (
    Function,
    FunctionError,
    GoStruct,
    Items,
    Map,
    Value,
    functions,
    is_list,
    is_map,
    sorted_keys,
)
from meltem.objects import Json

_SPECIAL = frozenset(
    (
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n",
        "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf",
        ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    )
)  # fmt: skip
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASE60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]+)?"
    r"( ?([Zz]|[-+][0-9]{1,2}:[0-9]{2}))?)?"
)


def plain(value: Value) -> Value:
    """What encoding/json makes of `value` and a decoder reads back: structs become maps, integral floats integers."""
    if is_map(value):
        return {k: plain(v) for k, v in value.items()}
    if is_list(value):
        return [plain(v) for v in value]
    if isinstance(value, GoStruct):
        return {k: plain(v) for k, v in value.fields.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FunctionError(f"json: unsupported value: {format_float(value)}")
        return int(value) if value.is_integer() and -(2.0**63) <= value < 2.0**64 else value
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return int(value) if isinstance(value, int) else None


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


class _Text(str):
    """A string whose style `_represent` decides; every other scalar is written as it stands."""

    __slots__ = ()


class _Bare(str):
    """A number, a boolean or null, already in its spelling."""

    __slots__ = ()


_TEXT_TAG = "tag:yaml.org,2002:str"


def _represent_text(dumper: yaml.CSafeDumper, value: _Text) -> yaml.ScalarNode:
    text = str(value)
    if "\n" in text:
        return yaml.ScalarNode(_TEXT_TAG, text, style="|")
    return yaml.ScalarNode(_TEXT_TAG, text, style='"' if resolves_to_other(text) else None)


def _represent_bare(dumper: yaml.CSafeDumper, value: _Bare) -> yaml.ScalarNode:
    return yaml.ScalarNode(_TEXT_TAG, str(value))


_Dumper.add_representer(_Text, _represent_text)
_Dumper.add_representer(_Bare, _represent_bare)
_Dumper.yaml_implicit_resolvers = {}


def resolves_to_other(text: str) -> bool:
    """True where YAML would read the bare text as something other than a string."""
    if text in _SPECIAL or _BASE60.fullmatch(text) or _DATE.fullmatch(text):
        return True
    if text[:1] in "+-.0123456789":
        bare = text.replace("_", "")
        return bool(_INTEGER.fullmatch(bare) or _FLOAT.fullmatch(bare))
    return False


def _natural(one: str, other: str) -> int:
    """yaml.v2's order of keys: letters after all else, runs of digits by their value."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a == b:
            continue
        if a.isalpha() and b.isalpha():
            return -1 if a < b else 1
        if a.isalpha() or b.isalpha():
            return -1 if b.isalpha() else 1
        first, second = _digits(one, index), _digits(other, index)
        leading = one[:index][::-1]
        counted = leading[: len(leading) - len(leading.lstrip("0123456789"))]
        pad = "1" if "0" in (a, b) and counted.strip("0") else ""
        left, right = int(pad + first or "0"), int(pad + second or "0")
        if pad:
            left, right = int("1" + first), int("1" + second)
        if left != right:
            return -1 if left < right else 1
        if len(first) != len(second):
            return -1 if len(first) < len(second) else 1
        return -1 if a < b else 1
    return len(one) - len(other)


def _digits(text: str, start: int) -> str:
    end = start
    while end < len(text) and text[end].isdecimal():
        end += 1
    return text[start:end]


def _prepared(value: Value) -> object:
    if is_map(value):
        return {_Text(k): _prepared(value[k]) for k in sorted(value, key=cmp_to_key(_natural))}
    if is_list(value):
        return [_prepared(v) for v in value]
    if isinstance(value, str):
        return _Text(value)
    if isinstance(value, float):
        return _Bare(format_float(value, "g", -1))
    return _Bare("null" if value is None else str(value).lower())


def marshal_yaml(value: Value) -> str:
    """sigs.k8s.io/yaml Marshal, with the newline at its end."""
    text: str = yaml.dump(
        _prepared(plain(value)), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=80, allow_unicode=True
    )
    return text.removesuffix("...\n")


def to_yaml(value: Value) -> str:
    return marshal_yaml(value).removesuffix("\n")


def floats(value: Json) -> Value:
    """JSON as Go decodes it into interfaces: every number a float64."""
    if isinstance(value, dict):
        return {k: floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [floats(v) for v in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _yaml(text: str) -> Value:
    try:
        return floats(_string_keys(yamlio.load(text, source="yaml")))
    except UserError as error:
        raise FunctionError(str(error)) from None


def _key(key: object) -> str:
    """YAML allows keys that are no strings; JSON text names them."""
    return key if isinstance(key, str) else json.dumps(key)


def _string_keys(value: Json) -> Json:
    if isinstance(value, dict):
        return {_key(k): _string_keys(v) for k, v in value.items()}
    return [_string_keys(v) for v in value] if isinstance(value, list) else value


def from_yaml(text: str) -> Map:
    try:
        value = _yaml(text)
    except FunctionError as error:
        return {"Error": str(error)}
    if value is None or is_map(value):
        return value or {}
    return {"Error": _mismatch(value, "map[string]interface {}")}


def _mismatch(value: Value, wanted: str) -> str:
    return (
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal "
        f"{_json_kind(value)} into Go value of type {wanted}"
    )


def from_yaml_array(text: str) -> Items:
    try:
        value = _yaml(text)
    except FunctionError as error:
        return [str(error)]
    if value is None or is_list(value):
        return value or []
    return [_mismatch(value, "[]interface {}")]


def _json_kind(value: Value) -> str:
    if is_map(value):
        return "object"
    if is_list(value):
        return "array"
    return "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


def marshal_json(value: Value, *, escape_html: bool = True, indent: str = "") -> str:
    """encoding/json's Marshal: keys sorted, `<>&` escaped."""
    out: list[str] = []
    _write_json(value, out, escape_html, indent, "\n")
    return "".join(out)


def _write_json(value: Value, out: list[str], escape_html: bool, indent: str, newline: str) -> None:
    if is_map(value) or isinstance(value, GoStruct):
        source = value if is_map(value) else dict(value.fields) if isinstance(value, GoStruct) else {}
        parts = [(_json_string(k, escape_html) + (": " if indent else ":"), source[k]) for k in sorted_keys(source)]
        opening, closing = "{", "}"
    elif is_list(value):
        parts = [("", v) for v in value]
        opening, closing = "[", "]"
    else:
        out.append(_json_scalar(value, escape_html))
        return
    out.append(opening)
    inner = newline + indent
    for index, (key, item) in enumerate(parts):
        out.append(("," if index else "") + (inner if indent else "") + key)
        _write_json(item, out, escape_html, indent, inner)
    out.append((newline if indent and parts else "") + closing)


def _json_scalar(value: Value, escape_html: bool) -> str:
    if isinstance(value, str):
        return _json_string(value, escape_html)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return json_float(value)
    return "null"


def json_float(value: float) -> str:
    """encoding/json's float: fixed notation from 1e-6 up to 1e21."""
    if not math.isfinite(value):
        raise FunctionError(f"json: unsupported value: {format_float(value)}")
    size = abs(value)
    if size != 0 and (size < 1e-6 or size >= 1e21):
        return re.sub(r"e-0(\d)$", r"e-\1", format_float(value, "e", -1))
    return format_float(value, "f", -1)


def _json_string(text: str, escape_html: bool) -> str:
    out = json.dumps(text, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    out = out.replace("\x7f", "\x7f")
    if escape_html:
        out = out.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return out


def to_json(value: Value) -> str:
    try:
        return marshal_json(value)
    except FunctionError:
        return ""


def to_pretty_json(value: Value) -> str:
    return marshal_json(value, indent="  ")


def to_raw_json(value: Value) -> str:
    return marshal_json(value, escape_html=False)


def must_from_json(text: str) -> Value:
    try:
        return floats(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise FunctionError(_json_problem(text, error)) from None


def _json_problem(text: str, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError) and error.pos < len(text):
        return f"invalid character {quote(text[error.pos], mark=chr(39))} looking for beginning of value"
    return "unexpected end of JSON input"


def from_json(text: str) -> Map:
    try:
        value = must_from_json(text)
    except FunctionError as error:
        return {"Error": str(error)}
    if value is None or is_map(value):
        return value or {}
    return {"Error": f"json: cannot unmarshal {_json_kind(value)} into Go value of type map[string]interface {{}}"}


def from_json_array(text: str) -> Items:
    try:
        value = must_from_json(text)
    except FunctionError as error:
        return [str(error)]
    if value is None or is_list(value):
        return value or []
    return [f"json: cannot unmarshal {_json_kind(value)} into Go value of type []interface {{}}"]


# TOML

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(value: Value) -> str:
    """TOML with tables indented by two spaces, as BurntSushi's encoder writes it."""
    if not is_map(value):
        return "toml: top-level values must be Go maps or structs"
    lines: list[str] = []
    try:
        _toml_table(value, (), lines)
    except FunctionError as error:
        return str(error)
    return "\n".join(lines) + ("\n" if lines else "")


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_string(key)


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_tables(value: Value) -> bool:
    return is_list(value) and bool(value) and all(is_map(v) for v in value)


def _toml_table(table: Map, path: tuple[str, ...], lines: list[str]) -> None:
    pad = "  " * len(path)
    direct = [k for k in sorted_keys(table) if not is_map(table[k]) and not _is_tables(table[k])]
    for key in direct:
        if table[key] is not None:
            lines.append(f"{pad}{_toml_key(key)} = {_toml_value(table[key])}")
    for key in sorted_keys(table):
        value = table[key]
        inner = (*path, key)
        name = ".".join(_toml_key(k) for k in inner)
        if is_map(value):
            if not path and lines:
                lines.append("")
            lines.append(f"{pad}[{name}]")
            _toml_table(value, inner, lines)
        elif is_list(value) and _is_tables(value):
            for item in value:
                if lines:
                    lines.append("")
                lines.append(f"{pad}[[{name}]]")
                _toml_table(item if is_map(item) else {}, inner, lines)


def _toml_value(value: Value) -> str:
    if is_map(value):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(value[k])}" for k in sorted_keys(value)) + "}"
    if is_list(value):
        if any(v is None for v in value):
            raise FunctionError("toml: cannot encode array with nil element")
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = format_float(value, "f", -1)
        return text if "." in text else text + ".0"
    return str(value)


def binary(text: str) -> str:
    """Base64 of text that holds bytes which are no UTF-8."""
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def encoding_functions() -> dict[str, Function]:
    return functions(
        toYaml=to_yaml,
        mustToYaml=to_yaml,
        fromYaml=from_yaml,
        fromYamlArray=from_yaml_array,
        toJson=to_json,
        mustToJson=marshal_json_function,
        toPrettyJson=to_pretty_json,
        mustToPrettyJson=to_pretty_json,
        toRawJson=to_raw_json,
        mustToRawJson=to_raw_json,
        fromJson=from_json,
        fromJsonArray=from_json_array,
        mustFromJson=must_from_json,
        toToml=to_toml,
        mustToToml=to_toml,
    )


def marshal_json_function(value: Value) -> str:
    return marshal_json(value)
