"""The image table: which command on this machine a container image's name stands for.

In: `images.yaml` of this package and the user's own files (same form, asked first). Out: `ImageTable.find(image)`, an
`Image` with what a registry's image configuration would have (entrypoint, arguments, environment, user), or the reason
why there is none and which file to add it to.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

import meltem
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, at, bool_at, objects_at, str_at, strings_at
from meltem.yamlio import load

_FIELDS = {"match", "command", "args", "env", "workdir", "user", "stopSignal", "init", "requires", "files"}


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, its placeholders filled in. Names follow the OCI image configuration."""

    match: tuple[str, ...]
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    workdir: str = ""
    user: str = ""
    stop_signal: str = "SIGTERM"
    init: bool = False
    requires: tuple[str, ...] = ()
    files: Mapping[str, str] = {}
    """Path in the container → the file of this machine that is seen there."""
    source: str = ""
    """The file it stands in."""


class NoImage(msgspec.Struct, frozen=True):
    """Nothing maps the image: `reason` is a sentence for the pod's event."""

    reason: str


class ImageTable(msgspec.Struct, frozen=True):
    entries: tuple[Image, ...]
    user_file: str
    """Where a person adds an image."""

    def find(
        self, image: str, installed: Callable[[str], bool] = lambda p: shutil.which(p) is not None
    ) -> Image | NoImage:
        """The first entry whose pattern fits and whose programs are installed (by default: on this machine)."""
        missing: list[str] = []
        for entry in self.entries:
            if any(_fits(pattern, image) for pattern in entry.match):
                absent = [p for p in entry.requires if not installed(p)]
                if not absent:
                    return entry
                missing += absent
        if missing:
            return NoImage(
                f"image {image!r} stands for a program that is not installed on this machine: {', '.join(missing)}; "
                f"install it, or say in {self.user_file} which command takes its place"
            )
        return NoImage(
            f"no command is known for image {image!r}: the local cluster pulls no images; "
            f"add an entry for it to {self.user_file} (match, command)"
        )


def load_table(home: Path | None = None, *, places: Mapping[str, str] | None = None) -> ImageTable:
    """The table for a cluster: `$MELTEM_IMAGES`, `<home>/images.yaml`, then the package's own.

    `places` says what `{python}`, `{bin}` and `{samples}` are, where that is not this machine. Raises UserError naming
    file and entry for what cannot be used.
    """
    filling = _Filling(places or placeholders())
    files = table_files(home)
    there = [f for f in files if f.exists() or home is None or f != home / "images.yaml"]
    return ImageTable(tuple(entry for file in there for entry in _read(file, filling)), str(files[0]))


def table_files(home: Path | None = None) -> list[Path]:
    """The files of the table, first to be asked first; a cluster's own need not be there."""
    named = os.environ.get("MELTEM_IMAGES", "")
    own = [Path(named)] if named else []
    return [*own, *([home / "images.yaml"] if home is not None else []), Path(__file__).with_name("images.yaml")]


def samples_directory() -> Path:
    """The sample programs: `samples` of the source tree, else of the installed package."""
    package = Path(meltem.__file__).resolve().parent
    for candidate in (
        package.parent.parent / "samples",
        package / "samples",
        Path(sys.prefix) / "share/meltem/samples",
    ):
        if candidate.is_dir():
            return candidate
    return package.parent.parent / "samples"


def placeholders() -> dict[str, str]:
    return {
        "{python}": sys.executable,
        "{bin}": str(Path(sys.executable).parent),
        "{samples}": str(samples_directory()),
    }


def _read(file: Path, filling: _Filling) -> list[Image]:
    try:
        document = load(file.read_bytes(), source=str(file))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(file)) from None
    if not isinstance(at(document, "images"), list):
        raise UserError("has no list `images`", where=str(file))
    return [
        _entry(item, f"{file}: images[{i}]", str(file), filling)
        for i, item in enumerate(objects_at(document, "images"))
    ]


def _entry(item: JsonObject, where: str, source: str, filling: _Filling) -> Image:
    unknown = sorted(set(item) - _FIELDS)
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r}", where=where, remedy=f"known: {', '.join(sorted(_FIELDS))}")
    match = _strings(item, "match", where)
    if not match:
        raise UserError("has no `match`", where=where)
    env, files = item.get("env", {}), item.get("files", {})
    if not isinstance(env, dict) or not isinstance(files, dict):
        raise UserError(f"`{'files' if isinstance(env, dict) else 'env'}` is no map", where=where)
    return Image(
        match=match,
        command=filling.each(_strings(item, "command", where)),
        args=filling.each(_strings(item, "args", where)),
        env={k: filling.text(_text(v)) for k, v in env.items()},
        files={k: filling.text(_text(v)) for k, v in files.items()},
        workdir=filling.text(str_at(item, "workdir")),
        user=_text(item.get("user", "")),
        stop_signal=str_at(item, "stopSignal", default="SIGTERM"),
        init=bool_at(item, "init"),
        requires=_strings(item, "requires", where),
        source=source,
    )


def _strings(item: JsonObject, key: str, where: str) -> tuple[str, ...]:
    value = item.get(key, [])
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise UserError(f"`{key}` is no list of strings", where=where)
    if any(isinstance(v, list | dict) or v is None for v in value):
        raise UserError(f"`{key}` has an item that is no string", where=where)
    texts = strings_at(item, key)
    return tuple(texts) if len(texts) == len(value) else tuple(_text(v) for v in value)


def _text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class _Filling(msgspec.Struct, frozen=True):
    """Puts places where their names stand."""

    places: Mapping[str, str]

    def text(self, text: str) -> str:
        for name, value in self.places.items():
            text = text.replace(name, value)
        return text

    def each(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.text(t) for t in texts)


def _fits(pattern: str, image: str) -> bool:
    name = image.split("@", 1)[0]
    head, slash, last = name.rpartition("/")
    if ":" not in pattern.rpartition("/")[2]:
        last = last.split(":", 1)[0]
    parts = f"{head}{slash}{last}".split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[i:]), pattern) for i in range(len(parts)))
