"""HTTP connections, and the ones that become something else: exec, attach and port-forward take the raw bytes over.

kubectl asks for an upgrade to SPDY/3.1 or WebSocket. aiohttp stops parsing only for `websocket`, so the first request
head of each connection is read here, and an upgrade to SPDY/3.1 is shown to aiohttp as `websocket`, with the real name
in `X-Meltem-Upgrade` (removed when a client sends it). `tunnel` then gives a handler the connection's bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

UPGRADE_HEADER = "X-Meltem-Upgrade"
_MAX_HEAD = 65536
_SPDY = re.compile(rb"(?im)^upgrade:[ \t]*(spdy/[0-9.]+)[ \t]*\r$")
_OURS = re.compile(rb"(?im)^x-meltem-upgrade:[^\n]*\n")
_HEAD_SECONDS = 30.0
_HIGH_WATER = 1 << 20
_PATIENCE = 60_000


class _Handler(RequestHandler):  # pyright: ignore[reportMissingTypeArgument]
    """aiohttp's connection, whose first head is looked at before it is parsed."""

    __slots__ = ("_head",)

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop) -> None:  # pyright: ignore[reportMissingTypeArgument]
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=120.0,
            max_line_size=32768,
            max_field_size=32768,
            lingering_time=2.0,
        )
        self._head: bytes | None = b""

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            super().data_received(data)
            return
        head = self._head + data
        if b"\r\n\r\n" not in head and len(head) < _MAX_HEAD and head[:1].isalpha():
            if not self._head:
                asyncio.get_running_loop().call_later(_HEAD_SECONDS, self._give_up)
            self._head = head
            return
        self._head = None
        super().data_received(_show_spdy_as_websocket(head))

    def _give_up(self) -> None:
        """Ends a connection whose first request head has not come whole in time."""
        if self._head is not None and self.transport is not None:
            self.transport.abort()


def _show_spdy_as_websocket(data: bytes) -> bytes:
    head, separator, rest = data.partition(b"\r\n\r\n")
    head = _OURS.sub(b"", head + b"\r\n")
    found = _SPDY.search(head)
    if found:
        name = found.group(1)
        head = head[: found.start()] + b"Upgrade: websocket\r\nX-Meltem-Upgrade: " + name + b"\r" + head[found.end() :]
    return head[:-2] + separator + rest


class KubeServer(web.Server):  # pyright: ignore[reportMissingTypeArgument]
    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler)

    def __call__(self) -> RequestHandler:  # pyright: ignore[reportMissingTypeArgument]
        return _Handler(self, loop=asyncio.get_running_loop())


def wanted_upgrade(request: web.BaseRequest) -> str:
    """The protocol that the client asks to go over to; empty when it asks for none."""
    if "upgrade" not in request.headers.get("Connection", "").lower():
        return ""
    return request.headers.get(UPGRADE_HEADER) or request.headers.get("Upgrade", "")


class Tunnel:
    """The raw connection after an upgrade: what the client sends goes to `writer`; `write` sends to the client."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writer: asyncio.StreamWriter | None = None
        self.ended = asyncio.Event()

    # What aiohttp calls

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._writer is not None and data:
            self._writer.write(data)
            if self._writer.transport.get_write_buffer_size() > _HIGH_WATER:
                self._transport.pause_reading()
                asyncio.get_running_loop().create_task(self._resume())
        return False, b""

    def feed_eof(self) -> None:
        self.ended.set()

    # What handlers call

    def start(self, request: web.BaseRequest, writer: asyncio.StreamWriter) -> None:
        """From here on the client's bytes go to `writer`, those that have come already first."""
        self._writer = writer
        request.protocol.set_parser(cast("object", self))  # pyright: ignore[reportArgumentType]

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            self.ended.set()
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        for _ in range(_PATIENCE):  # aiohttp owns the connection's flow control callbacks
            if self._transport.get_write_buffer_size() <= _HIGH_WATER or self._transport.is_closing():
                return
            await asyncio.sleep(0.005)
        self._transport.abort()
        raise ConnectionResetError("the client does not read")

    async def finish(self) -> None:
        """Lets what is written reach the client, then closes the connection."""
        for _ in range(400):
            if self._transport.is_closing() or self._transport.get_write_buffer_size() == 0:
                break
            await asyncio.sleep(0.005)
        if not self._transport.is_closing():
            self._transport.close()

    async def _resume(self) -> None:
        try:
            if self._writer is not None:
                await self._writer.drain()
        except ConnectionError:
            self.ended.set()
        if not self._transport.is_closing():
            self._transport.resume_reading()


def tunnel(request: web.BaseRequest) -> Tunnel:
    """Raises ConnectionResetError when the client has gone."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    return Tunnel(transport)


class Hijacked(web.Response):
    """What a handler returns after it has used the raw connection: aiohttp must write nothing and close it."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None
