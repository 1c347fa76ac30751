"""YAML in and out, in one place, with guards.

The C loader overflows its stack on deeply nested input, so the event stream is counted first: more than `MAX_DEPTH`
levels or `MAX_ALIASES` aliases is refused. What a bare word means is as kubectl and helm read it (sigs.k8s.io/yaml):
timestamps and `22:30` are text, `y`, `yes` and `on` are booleans, `1e3` is a number. Keys are always text, as in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import cast

import yaml

from meltem.errors import UserError
from meltem.objects import Json

MAX_DEPTH = 100
MAX_ALIASES = 100

_STR, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "bool", "int", "float"))
_OWN = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value", _BOOL, _INT, _FLOAT}
"""Left to text, or resolved by the expressions below in place of PyYAML's."""
_RESOLVERS = (
    (_BOOL, re.compile(r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF")),
    (_INT, re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")),
    (_FLOAT, re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?")),
)


class _Loader(yaml.CSafeLoader):
    """CSafeLoader with the scalars of sigs.k8s.io/yaml and text keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        made = super().construct_mapping(node, deep)
        if all(isinstance(key, str) for key in made):
            return made
        return {key if isinstance(key, str) else _key_text(key): value for key, value in made.items()}


def _key_text(key: Hashable) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def _construct_bool(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> bool:
    return node.value.lower() in ("y", "yes", "true", "on")


def _construct_int(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    if digits.startswith("0o") or (digits.startswith("0") and digits[1:].isdigit()):
        return sign * int(digits.removeprefix("0o"), 8)
    return sign * int(digits, 0)


def _construct_float(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> float | int:
    text = node.value.replace("_", "").lower()
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_Loader.yaml_implicit_resolvers = {
    key: [(tag, regexp) for tag, regexp in resolvers if tag not in _OWN]
    for key, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _RESOLVERS:
    _starts = list("yYnNtTfFoO") if _tag == _BOOL else list("-+0123456789.")
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern.pattern})$"), _starts)  # pyright: ignore[reportUnknownMemberType]
_Loader.add_constructor(_BOOL, _construct_bool)
_Loader.add_constructor(_INT, _construct_int)
_Loader.add_constructor(_FLOAT, _construct_float)


def load_all(text: str | bytes, *, source: str = "input") -> list[Json]:
    """Every document that is not empty; raises UserError with line and column for what is no YAML."""
    try:
        _guard(text, source)
        documents = yaml.load_all(text, Loader=_Loader)
        return [cast(Json, d) for d in documents if d is not None]
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"is not valid YAML: {_place(error)}", where=source) from None


def load(text: str | bytes, *, source: str = "input") -> Json:
    """The one document (None when empty); raises UserError for more than one."""
    documents = load_all(text, source=source)
    if len(documents) > 1:
        raise UserError("has more than one YAML document", where=source)
    return documents[0] if documents else None


def dump(value: Json) -> str:
    """Block style, keys in their order, no aliases."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=10_000, allow_unicode=True)


def dump_all(values: list[Json]) -> str:
    return "---\n".join(dump(v) for v in values)


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(dumper: yaml.CSafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value and not any(line.endswith(" ") for line in value.split("\n")) else None
    # PyYAML leaves `y`, `1e3` and `09` bare; kubectl, helm and this module would read a boolean or a number.
    tag = cast(str, dumper.resolve(yaml.ScalarNode, value, (True, False)))  # pyright: ignore[reportUnknownMemberType]
    if tag == _STR and any(pattern.fullmatch(value) for _, pattern in _RESOLVERS):
        style = '"'
    return dumper.represent_scalar(_STR, value, style=style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _string)


def _guard(text: str | bytes, source: str) -> None:
    depth = aliases = 0
    events = cast("Iterator[yaml.Event]", yaml.parse(text, Loader=yaml.CSafeLoader))  # pyright: ignore[reportUnknownMemberType]
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise UserError(f"is nested deeper than {MAX_DEPTH} levels", where=source)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > MAX_ALIASES:
                raise UserError(f"has more than {MAX_ALIASES} aliases", where=source)


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else str(problem)
