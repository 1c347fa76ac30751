"""YAML in and out, in one place, with guards.

The C loader overflows its stack on deeply nested input, so the event stream is counted first: more than `MAX_DEPTH`
levels or `MAX_ALIASES` aliases is refused. Timestamps stay strings and `y`/`n` stay strings, as in Kubernetes
(sigs.k8s.io/yaml reads YAML 1.1 booleans `yes`/`no`/`on`/`off` as booleans; so do we).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import yaml

from meltem.errors import UserError
from meltem.objects import Json

MAX_DEPTH = 100
MAX_ALIASES = 100
_READ_OTHERWISE = re.compile(r"[yYnN]|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|0o[0-7]+")
"""Text that kubectl and helm would read as a boolean or a number if it stood there bare, and PyYAML would not."""


_UNREAD = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
"""Timestamps stay text, and so does a bare `=`."""


class _Loader(yaml.CSafeLoader):
    """CSafeLoader without timestamps (Kubernetes keeps them as strings)."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, regexp) for tag, regexp in resolvers if tag not in _UNREAD]
    for key, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


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
    if _READ_OTHERWISE.fullmatch(value):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)  # pyright: ignore[reportUnknownMemberType]


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
