"""Writes a bug report: collects every item, some at a time, and packs what came.

In: items, how many at once, how long in all. Out: the files below `bug-report/` of a `.tar.gz`, and a `Gathered`: what
is in it, and why what is not there is missing.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from meltem.cli.bug_report.collect import Item
from meltem.errors import MeltemError, UserError

ROOT = "bug-report"


class Gathered(msgspec.Struct, frozen=True):
    """Path below `bug-report/` → content, or why there is none. `logs` are the paths of logs."""

    files: Mapping[str, bytes]
    errors: Mapping[str, str]
    logs: tuple[str, ...]


async def gather(items: Iterable[Item], *, at_once: int, seconds: float) -> Gathered:
    """What does not come within `seconds` is missing."""
    files: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    wanted = list(items)
    room = asyncio.Semaphore(at_once)

    async def one(item: Item) -> None:
        async with room:
            try:
                files[item.path] = await item.get()
            except (MeltemError, OSError) as error:
                errors[item.path] = str(error)

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for item in wanted:
                group.create_task(one(item))
    except TimeoutError:
        late = [i.path for i in wanted if i.path not in files and i.path not in errors]
        errors |= dict.fromkeys(late, f"was not there after {seconds:g} s (--timeout)")
    return Gathered(files, errors, tuple(i.path for i in wanted if i.log))


def pack(path: Path, gathered: Gathered, *, moment: float) -> None:
    """Raises UserError where the archive cannot be written. Empty answers are left out."""
    errors = "".join(f"{p}: {why}\n" for p, why in sorted(gathered.errors.items()))
    files = {**gathered.files, **({"errors.txt": errors.encode()} if errors else {})}
    try:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in sorted(files.items()):
                if not content:
                    continue
                entry = tarfile.TarInfo(f"{ROOT}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(moment), 0o600
                archive.addfile(entry, io.BytesIO(content))
        path.chmod(0o600)  # configuration dumps and logs are nobody else's business
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from None
