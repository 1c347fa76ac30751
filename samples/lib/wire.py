"""Bytes on a socket, and HTTP/1.1 messages in them.

What goes in: a connected socket. What comes out: lines, blocks, headers and bodies, all bounded in size and time, for
the sample servers (`tinyhttp.py`) and the sample client (`fetch.py`). The samples are many small processes on one
machine, so this file and its neighbours import little: a sample that serves stays near 12 MiB (asyncio alone would be
20).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

HeaderList = list[tuple[str, str]]

MAX_LINE = 16 * 1024
MAX_HEADERS = 200
MAX_BODY = 16 * 1024 * 1024

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class BadMessage(Exception):
    """The peer sent what is not HTTP/1.1, or too much of it; `status` is the answer that a server gives."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Closed(Exception):
    """The peer closed the connection."""


class Wire:
    """A socket with a read buffer and a deadline (seconds on the monotonic clock, None for none)."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline: float | None = None
        self._buffer = bytearray()

    def within(self, seconds: float | None) -> None:
        """All that follows has to be done within so many seconds from now."""
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def _arm(self) -> None:
        if self.deadline is None:
            self.sock.settimeout(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer took too long")
        self.sock.settimeout(left)

    def wait(self) -> None:
        """Return once at least one byte can be read; raises Closed at the end of the stream."""
        if not self._buffer:
            self._fill()

    def _fill(self) -> None:
        self._arm()
        data = self.sock.recv(65536)
        if not data:
            raise Closed
        self._buffer += data

    def line(self, limit: int = MAX_LINE) -> bytes:
        """One line without its line end; raises BadMessage(431) past `limit` bytes."""
        start = 0
        while True:
            end = self._buffer.find(b"\n", start)
            if end >= 0:
                found = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return found[:-1] if found.endswith(b"\r") else found
            start = len(self._buffer)
            if start > limit:
                raise BadMessage(431, "a line is too long")
            self._fill()

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self._buffer) < count:
            self._fill()
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def rest(self, limit: int = MAX_BODY) -> bytes:
        """Everything up to the end of the stream."""
        try:
            while len(self._buffer) <= limit:
                self._fill()
        except Closed:
            found = bytes(self._buffer)
            self._buffer.clear()
            return found
        raise BadMessage(413, "the body is too long")

    def send(self, data: bytes) -> None:
        self._arm()
        self.sock.sendall(data)


def first(headers: Iterable[tuple[str, str]], name: str, default: str = "") -> str:
    """The first value of a header, whatever its case; `default` where there is none."""
    wanted = name.lower()
    for key, value in headers:
        if key.lower() == wanted:
            return value
    return default


def every(headers: Iterable[tuple[str, str]], name: str) -> list[str]:
    """Every value of a header, in order."""
    wanted = name.lower()
    return [value for key, value in headers if key.lower() == wanted]


def read_headers(wire: Wire) -> HeaderList:
    """Header lines up to the empty one; raises BadMessage for anything that two readers could read differently."""
    headers: HeaderList = []
    while True:
        line = wire.line()
        if not line:
            return headers
        if len(headers) >= MAX_HEADERS:
            raise BadMessage(431, "too many headers")
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise BadMessage(400, "a header line has no valid name")
        if b"\r" in value or b"\0" in value:
            raise BadMessage(400, "a header value holds a control character")
        headers.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))


def content_length(headers: HeaderList) -> int | None:
    """The body's length as the headers tell it; None where they tell none."""
    values = {value.strip() for text in every(headers, "content-length") for value in text.split(",")}
    if not values:
        return None
    if len(values) > 1:
        raise BadMessage(400, "more than one Content-Length")
    text = values.pop()
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise BadMessage(400, "Content-Length is not a number")
    return int(text)


def read_chunks(wire: Wire, limit: int = MAX_BODY) -> bytes:
    """A chunked body, its trailers read and dropped."""
    body = bytearray()
    while True:
        text = wire.line(256).partition(b";")[0].strip()
        if not text or len(text) > 8 or not frozenset(b"0123456789abcdefABCDEF").issuperset(text):
            raise BadMessage(400, "a chunk has no valid size")
        size = int(text, 16)
        if size == 0:
            read_headers(wire)
            return bytes(body)
        if len(body) + size > limit:
            raise BadMessage(413, "the body is too long")
        body += wire.exactly(size)
        if wire.line(2):
            raise BadMessage(400, "a chunk does not end where it said")
