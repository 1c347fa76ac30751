"""Port-forward: pairs of SPDY streams (error, data) joined to ports of a pod, over a raw connection or inside
WebSocket.

In: an upgraded connection and a way to connect to a port in the pod. Out: bytes both ways until the client leaves. A
port that refuses costs its pair of streams only: the reason goes to its error stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from meltem.errors import MeltemError
from meltem.local.node.api import spdy, websocket

_BUFFERED = 64
Connect = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Wire(Protocol):
    """A byte stream to the client."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


class RawWire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


class WebSocketWire:
    """SPDY bytes in binary messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = websocket.Decoder()

    async def read(self) -> bytes:
        while data := await self._reader.read(65536):
            out = bytearray()
            for event in self._decoder.receive(data):
                match event:
                    case websocket.Message():
                        out += event.data
                    case websocket.Reply():
                        self._writer.write(event.data)
                    case websocket.Ended():
                        self._writer.write(event.answer)
                        return bytes(out)
            if out:
                return bytes(out)
        return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(websocket.frame(websocket.BINARY, data))
        await self._writer.drain()


class _Pair(msgspec.Struct):
    """One forwarded connection; a stream number of 0 is not open yet."""

    port: int
    error: int = 0
    data: int = 0
    incoming: asyncio.Queue[bytes | None] | None = None
    task: asyncio.Task[None] | None = None


class PortForward:
    def __init__(self, wire: Wire, connect: Connect) -> None:
        self._wire = wire
        self._connect = connect
        self._session = spdy.ServerSession()
        self._pairs: dict[str, _Pair] = {}
        self._by_stream: dict[int, _Pair] = {}

    async def run(self) -> None:
        """Until the client leaves."""
        try:
            while data := await self._wire.read():
                for event in self._session.receive(data):
                    await self._event(event)
        except (OSError, MeltemError):
            pass
        finally:
            tasks = [p.task for p in self._pairs.values() if p.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _event(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened():
                await self._open(event)
            case spdy.Data():
                pair = self._by_stream.get(event.stream)
                if pair is not None and event.stream == pair.data and pair.incoming is not None:
                    if event.data:
                        await pair.incoming.put(event.data)
                    if event.end:
                        await pair.incoming.put(None)
            case spdy.Reset():
                pair = self._by_stream.pop(event.stream, None)
                if pair is not None and pair.task is not None and event.stream == pair.data:
                    pair.task.cancel()
            case spdy.Pinged():
                await self._wire.write(event.answer)
            case spdy.Closed():
                pass

    async def _open(self, event: spdy.Opened) -> None:
        kind, port = event.headers.get("streamtype", ""), event.headers.get("port", "")
        if kind not in ("error", "data") or not port.isdigit() or not 0 < int(port) < 65536:
            await self._wire.write(spdy.reset_frame(event.stream))
            return
        # Old clients send no request id: their streams come in turn, the error stream first.
        number = event.headers.get("requestid") or str(event.stream if kind == "error" else event.stream - 2)
        pair = self._pairs.setdefault(number, _Pair(int(port)))
        self._by_stream[event.stream] = pair
        await self._wire.write(self._session.reply(event.stream, {}))
        if kind == "error":
            pair.error = event.stream
        else:
            pair.data = event.stream
            pair.incoming = asyncio.Queue(_BUFFERED)
        if pair.error and pair.data and pair.task is None:
            pair.task = asyncio.create_task(self._forward(number, pair))

    async def _forward(self, number: str, pair: _Pair) -> None:
        try:
            try:
                reader, writer = await self._connect(pair.port)
            except OSError as error:
                said = error.strerror or str(error)
                text = f"error forwarding port {pair.port} to pod: connect to localhost:{pair.port}: {said}"
                await self._wire.write(spdy.data_frame(pair.error, text.encode(), end=True))
                await self._wire.write(spdy.data_frame(pair.data, b"", end=True))
                return
            sending = asyncio.create_task(_send(pair, writer))
            try:
                with contextlib.suppress(ConnectionError):
                    while data := await reader.read(32 * 1024):
                        await self._wire.write(spdy.data_frame(pair.data, data))
                await self._wire.write(spdy.data_frame(pair.data, b"", end=True))
                await self._wire.write(spdy.data_frame(pair.error, b"", end=True))
            finally:
                sending.cancel()
                writer.close()
        except OSError:
            return
        finally:
            self._pairs.pop(number, None)
            for stream in (pair.error, pair.data):
                self._by_stream.pop(stream, None)


async def _send(pair: _Pair, writer: asyncio.StreamWriter) -> None:
    queue = pair.incoming
    with contextlib.suppress(OSError):
        while queue is not None:
            data = await queue.get()
            if data is None:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
