"""A container's log file in the CRI format: `<RFC 3339 nano> <stdout|stderr> <F|P> <text>`, one line each.

In: chunks as the program wrote them. Out: lines appended to the file, a chunk's unfinished line kept until its end
comes (or 16 KiB of it, then written as partial, `P`). At `LIMIT` bytes the file is moved aside; `KEPT` older ones stay.
"""

from __future__ import annotations

import contextlib
import os
import time

LIMIT = 10 * 1024 * 1024
KEPT = 4
_LINE = 16 * 1024


def stamp(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


class LogFile:
    """Appends to `path`; `open` makes the directory and the file."""

    def __init__(self, path: str, *, limit: int = LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._fd = -1
        self._size = 0
        self._rest: dict[str, bytes] = {}

    def open(self) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, chunk: bytes) -> None:
        head = f"{stamp(time.time_ns())} {stream} ".encode()
        lines = (self._rest.pop(stream, b"") + chunk).split(b"\n")
        rest = lines.pop()
        out = [self._split(head, line) for line in lines]
        while len(rest) >= _LINE:
            out.append(head + b"P " + rest[:_LINE] + b"\n")
            rest = rest[_LINE:]
        if rest:
            self._rest[stream] = rest
        self._append(b"".join(out))

    def finish(self, stream: str) -> None:
        """The stream ended: its unfinished line becomes a line."""
        rest = self._rest.pop(stream, b"")
        if rest:
            self._append(f"{stamp(time.time_ns())} {stream} F ".encode() + rest + b"\n")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @staticmethod
    def _split(head: bytes, line: bytes) -> bytes:
        parts: list[bytes] = []
        while len(line) > _LINE:
            parts += (head, b"P ", line[:_LINE], b"\n")
            line = line[_LINE:]
        return b"".join((*parts, head, b"F ", line, b"\n"))

    def _append(self, data: bytes) -> None:
        if not data or self._fd < 0:
            return
        with contextlib.suppress(OSError):  # a full disk costs log lines, not the container
            self._size += os.write(self._fd, data)
        if self._size >= self._limit:
            self._rotate()

    def _rotate(self) -> None:
        with contextlib.suppress(OSError):
            self.close()
            for number in range(KEPT, 0, -1):
                older = f"{self.path}.{number}"
                if os.path.exists(older):
                    os.rename(older, f"{self.path}.{number + 1}")
            os.rename(self.path, f"{self.path}.1")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}.{KEPT + 1}")
        self.open()
