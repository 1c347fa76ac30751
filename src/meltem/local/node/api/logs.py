"""Reading container logs as `kubectl logs` asks for them: tail, since, timestamps, limit, follow, across rotation.

In: the log's path (CRI format) and `LogOptions`. Out: chunks of text to a writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from meltem.clock import parse_rfc3339
from meltem.local.node.runtime.logfile import KEPT

_POLL = 0.15
_CHUNK = 256 * 1024


class LogOptions(msgspec.Struct, frozen=True):
    """`tail`: the last lines only, or None for all; `since`: seconds since the epoch; `limit`: bytes, or None."""

    follow: bool = False
    tail: int | None = None
    since: float = 0.0
    timestamps: bool = False
    limit: int | None = None
    stream: str = ""
    """`stdout` or `stderr`; empty for both."""


class _Done(Exception):
    """The limit is reached."""


class LogReader:
    def __init__(self, path: Path, options: LogOptions, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._path = path
        self._options = options
        self._write = write
        self._left = options.limit
        self._continued = False

    async def run(self, ended: Callable[[], bool]) -> None:
        """Writes what there is; with `follow` goes on until `ended()` and everything is read."""
        offset, inode = 0, 0
        try:
            if self._options.tail is not None:
                offset, inode = await self._tail(self._options.tail)
            else:
                for older in reversed(self._older()):
                    await self._read(older, 0)
            while True:
                over = ended()
                offset, inode = await self._advance(offset, inode)
                if not self._options.follow or over:
                    return
                await asyncio.sleep(_POLL)
        except _Done:
            return

    def _older(self) -> list[Path]:
        """Rotated files, the newest first."""
        found = [self._path.with_name(f"{self._path.name}.{n}") for n in range(1, KEPT + 1)]
        return [p for p in found if p.exists()]

    async def _advance(self, offset: int, inode: int) -> tuple[int, int]:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return offset, inode
        if inode and now.st_ino != inode:
            older = next((p for p in self._older() if p.stat().st_ino == inode), None)
            if older is not None:
                await self._read(older, offset)
            offset = 0
        return await self._read(self._path, offset), now.st_ino

    async def _read(self, path: Path, offset: int) -> int:
        """Writes the whole lines from `offset`; returns where it stopped."""
        try:
            with path.open("rb") as file:
                file.seek(offset)
                rest = b""
                while chunk := file.read(_CHUNK):
                    complete, newline, rest = (rest + chunk).rpartition(b"\n")
                    if newline:
                        await self._lines(complete.split(b"\n"))
                        offset += len(complete) + 1
        except FileNotFoundError:
            pass
        return offset

    async def _tail(self, count: int) -> tuple[int, int]:
        """Writes the last `count` lines of all files; returns offset and inode of the current file."""
        try:
            inode = self._path.stat().st_ino
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0, 0
        offset = data.rfind(b"\n") + 1
        lines = self._wanted(data[:offset])
        for older in self._older():
            if _ends(lines) >= count:
                break
            lines = self._wanted(older.read_bytes()) + lines
        if count == 0:
            return offset, inode
        start, seen = len(lines), 0
        while start > 0:
            if _full(lines[start - 1]):
                if seen == count:
                    break
                seen += 1
            start -= 1
        await self._lines(lines[start:])
        return offset, inode

    def _wanted(self, data: bytes) -> list[bytes]:
        return [line for line in data.split(b"\n") if line and self._matches(line)]

    def _matches(self, line: bytes) -> bool:
        if self._options.stream and line.split(b" ", 2)[1].decode(errors="replace") != self._options.stream:
            return False
        if self._options.since:
            try:
                return parse_rfc3339(_micros(line.split(b" ", 1)[0].decode())) >= self._options.since
            except ValueError:
                return True
        return True

    async def _lines(self, lines: list[bytes]) -> None:
        out = bytearray()
        for text in self._shown(lines):
            out += text
            if self._left is not None and len(out) >= self._left:
                await self._write(bytes(out[: self._left]))
                raise _Done
        if out:
            if self._left is not None:
                self._left -= len(out)
            await self._write(bytes(out))

    def _shown(self, lines: list[bytes]) -> Iterator[bytes]:
        for line in lines:
            if not line or not self._matches(line):
                continue
            parts = line.split(b" ", 3)
            if len(parts) < 3:
                continue
            text = parts[3] if len(parts) > 3 else b""
            full = parts[2] != b"P"
            head = parts[0] + b" " if self._options.timestamps and not self._continued else b""
            self._continued = not full
            yield head + text + (b"\n" if full else b"")


def _full(line: bytes) -> bool:
    return line.split(b" ", 3)[2:3] != [b"P"]


def _ends(lines: list[bytes]) -> int:
    return sum(1 for line in lines if _full(line))


def _micros(stamp: str) -> str:
    """Nanoseconds are cut to what Python reads."""
    whole, dot, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}{dot}{fraction[:6]}Z" if dot else stamp
