"""The little HTTP/1.1 client side that speaks to the node: an answer's head, and its body as it comes.

A whole HTTP client is in the way here: after `101 Switching Protocols` the raw stream is what is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import msgspec

_MAX_HEAD = 65536
_CHUNK = 65536


class Head(msgspec.Struct, frozen=True):
    """`headers` by lower-case name; `raw` is the head as it came, to its empty line."""

    status: int
    headers: Mapping[str, str]
    raw: bytes


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next answer's head; raises ValueError for what is none, IncompleteReadError when the other side goes."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise ValueError("the head of the answer is too long") from None
    if len(raw) > _MAX_HEAD:
        raise ValueError("the head of the answer is too long")
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
        raise ValueError(f"not an HTTP answer: {first[:100]!r}")
    headers = {n.strip().lower(): v.strip() for n, colon, v in (line.partition(":") for line in lines) if colon}
    return Head(int(parts[1]), headers, raw)


async def body_of(head: Head, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body in the pieces in which it arrives: chunked, of a known length, or to the end of the connection."""
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        async for part in _chunks(reader):
            yield part
        return
    length = head.headers.get("content-length")
    left = int(length) if length is not None else -1
    while left != 0:
        data = await reader.read(_CHUNK if left < 0 else min(_CHUNK, left))
        if not data:
            return
        left = left - len(data) if left > 0 else left
        yield data


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        size = int((await reader.readline()).split(b";")[0].strip() or b"0", 16)
        if size == 0:
            return
        while size:
            data = await reader.read(min(_CHUNK, size))
            if not data:
                return
            size -= len(data)
            yield data
        await reader.readline()
