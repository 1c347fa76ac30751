"""Just enough of HTTP/1.1 for one peer that we trust, the API server: a request head in, answers out.

In: a connection. Out: `Request`; `answer` for whole answers, `begin_stream` for chunked ones, `upgrade` for 101. Every
connection carries one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from meltem.errors import MeltemError

_MAX_HEAD = 128 * 1024
_REASONS = {
    101: "Switching Protocols", 200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 500: "Internal Server Error",
}  # fmt: skip


class HttpError(MeltemError):
    """Answered with `status` and the message as text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(msgspec.Struct, frozen=True):
    """Header names are lower case; a header given several times is joined by commas."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]

    def one(self, *names: str) -> str:
        """The first value of the first parameter that is there, or empty."""
        for name in names:
            if self.query.get(name):
                return self.query[name][0]
        return ""

    def flag(self, *names: str) -> bool:
        return self.one(*names).lower() in ("1", "true", "t")

    def upgrades_to(self) -> str:
        if "upgrade" not in self.headers.get("connection", "").lower():
            return ""
        return self.headers.get("upgrade", "").lower()

    def offered(self, header: str) -> list[str]:
        return [part.strip() for part in self.headers.get(header, "").split(",") if part.strip()]


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """None when the connection ends first; raises HttpError for what is no request."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise HttpError(400, "the request head is too large") from None
    if len(head) > _MAX_HEAD:
        raise HttpError(400, "the request head is too large")
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3:
        raise HttpError(400, "this is no HTTP request")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
    url = urlsplit(parts[1])
    return Request(
        method=parts[0],
        path=tuple(unquote(p) for p in url.path.split("/") if p),
        query=parse_qs(url.query, keep_blank_values=True),
        headers=headers,
    )


async def answer(
    writer: asyncio.StreamWriter, status: int, body: bytes, kind: str = "text/plain; charset=utf-8"
) -> None:
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


class Stream:
    """A chunked answer; the head goes out with the first chunk, so that an error can still have a status of its own."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._begun = False

    async def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            )
            await self._writer.drain()

    async def write(self, data: bytes) -> None:
        await self.begin()
        if data:
            self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await self._writer.drain()

    async def end(self) -> None:
        await self.begin()
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


async def upgrade(writer: asyncio.StreamWriter, headers: Mapping[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{lines}\r\n".encode())
    await writer.drain()
