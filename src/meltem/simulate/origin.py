"""Where an object came from: a file with lines, or the cluster.

In: YAML files and directories as people name them. Out: objects with their `Origin`; the line of any field.
"""

# The stubs of what is imported here leave some types open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import msgspec
import yaml

from meltem import yamlio
from meltem.errors import UserError
from meltem.objects import JsonObject, Step, namespace_of, objects_at, str_at
from meltem.resources.kinds import find_kind

SUFFIXES = (".yaml", ".yml", ".json")


class Origin(msgspec.Struct, frozen=True):
    """`file` is empty for what the cluster has; `index` counts the file's documents."""

    file: str = ""
    text: str = ""
    index: int = 0
    item: int = -1
    """Place in a List's items."""

    def line(self, *path: Step) -> int:
        """The line (from 1) of a field, or of the nearest thing above it that is there; 0: not from a file."""
        if not self.file:
            return 0
        start: tuple[Step, ...] = ("items", self.item) if self.item >= 0 else ()
        return _line(_documents(self.text), self.index, (*start, *path))

    def place(self, *path: Step) -> str:
        """`mesh.yaml:12`, or empty."""
        line = self.line(*path)
        return f"{self.file}:{line}" if line else ""


class Placed(msgspec.Struct, frozen=True):
    obj: JsonObject
    origin: Origin = Origin()


@functools.lru_cache(maxsize=64)
def _documents(text: str) -> tuple[yaml.Node, ...]:
    """The documents' nodes; the text was read by `yamlio` before, so it is known to be sane."""
    return tuple(n for n in yaml.compose_all(text, Loader=yaml.CSafeLoader) if not _empty(n))


def _empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~")


def _line(documents: Sequence[yaml.Node], index: int, path: Iterable[Step]) -> int:
    if index >= len(documents):
        return 0
    node = documents[index]
    line = cast(int, node.start_mark.line)
    for step in path:
        if isinstance(node, yaml.MappingNode) and isinstance(step, str):
            pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
            found = next(((k, v) for k, v in pairs if k.value == step), None)
            if found is None:
                break
            line, node = cast(int, found[0].start_mark.line), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            items = cast("list[yaml.Node]", node.value)
            if not 0 <= step < len(items):
                break
            node = items[step]
            line = cast(int, node.start_mark.line)
        else:
            break
    return line + 1


def files_of(paths: Sequence[str], *, recursive: bool = True) -> list[Path]:
    """Every YAML or JSON file that the paths name; a directory stands for those in it."""
    out: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            inside = path.rglob("*") if recursive else path.glob("*")
            out.extend(sorted(p for p in inside if p.suffix in SUFFIXES and p.is_file()))
        elif path.exists():
            out.append(path)
        else:
            raise UserError("does not exist", where=text)
    return out


def read_files(paths: Sequence[str], namespace: str, *, recursive: bool = True) -> tuple[list[Placed], list[UserError]]:
    """Every object of the files (`-`: standard input); objects without a namespace get `namespace`. What cannot be
    read is an error of that file alone."""
    out: list[Placed] = []
    errors: list[UserError] = []
    named = [p for p in paths if p != "-"]
    texts: list[tuple[str, str]] = [("stdin", sys.stdin.read())] if "-" in paths else []
    for path in files_of(named, recursive=recursive):
        try:
            texts.append((str(path), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            errors.append(UserError(f"cannot be read: {error}", where=str(path)))
    for name, text in texts:
        try:
            out.extend(read_text(text, name, namespace))
        except UserError as error:
            errors.append(error)
    return out, errors


def read_text(text: str, name: str, namespace: str) -> list[Placed]:
    """Every object of a YAML text. Raises UserError when it is no YAML."""
    out: list[Placed] = []
    for index, document in enumerate(yamlio.load_all(text, source=name)):
        if not isinstance(document, dict):
            raise UserError("is no Kubernetes object", where=name)
        if str_at(document, "kind") == "List":
            items = objects_at(document, "items")
            out.extend(Placed(_homed(o, namespace), Origin(name, text, index, i)) for i, o in enumerate(items))
        else:
            out.append(Placed(_homed(document, namespace), Origin(name, text, index)))
    return out


def _homed(obj: JsonObject, namespace: str) -> JsonObject:
    info = find_kind(str_at(obj, "apiVersion"), str_at(obj, "kind"))
    metadata = obj.get("metadata")
    if (info is not None and not info.namespaced) or namespace_of(obj) or not isinstance(metadata, dict):
        return obj
    return {**obj, "metadata": {**metadata, "namespace": namespace}}
