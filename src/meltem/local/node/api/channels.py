"""The streams of an exec or attach, whichever way the client speaks: WebSocket channels or SPDY/3.1 streams.

In: an upgraded connection. Out: `Channels`: the client's input, resizes, and writers for output and the final status.
Protocol facts: channel numbers 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; v5 closes a channel with the bytes 255,
n.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Protocol, cast

import msgspec

from meltem.errors import MeltemError
from meltem.local.node.api import spdy, websocket

STDIN, STDOUT, STDERR, ERROR, RESIZE = 0, 1, 2, 3, 4
_CLOSE_CHANNEL = 255
_NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
_STREAM_WAIT = 30.0
WEBSOCKET_PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
)
SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
_INPUT_LIMIT = 64


class Channels(Protocol):
    """What an exec needs. `input` gives chunks, then None at its end; `resizes` (columns, rows); `gone` is set when the
    client has left."""

    input: asyncio.Queue[bytes | None]
    resizes: asyncio.Queue[tuple[int, int]]
    gone: asyncio.Event

    async def write(self, channel: int, data: bytes) -> None: ...

    async def finish(self, status: bytes) -> None:
        """Sends the final Status (JSON) and ends the session."""
        ...


class WebSocketChannels:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: str) -> None:
        self.input: asyncio.Queue[bytes | None] = asyncio.Queue(_INPUT_LIMIT)
        self.resizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._base64 = "base64" in protocol
        self._statuses = protocol.startswith(("v4", "v5"))
        self._decoder = websocket.Decoder()

    async def run(self) -> None:
        """Reads until the client leaves."""
        try:
            while data := await self._reader.read(65536):
                for event in self._decoder.receive(data):
                    match event:
                        case websocket.Message():
                            await self._message(event)
                        case websocket.Reply():
                            self._writer.write(event.data)
                        case websocket.Ended():
                            self._writer.write(event.answer)
                            return
        except (OSError, MeltemError):
            pass
        finally:
            self.gone.set()

    async def write(self, channel: int, data: bytes) -> None:
        if self._base64:
            payload = websocket.frame(websocket.TEXT, str(channel).encode() + base64.b64encode(data))
        else:
            payload = websocket.frame(websocket.BINARY, bytes((channel,)) + data)
        self._writer.write(payload)
        await self._writer.drain()

    async def finish(self, status: bytes) -> None:
        await self.write(ERROR, status if self._statuses else _plain(status))
        self._writer.write(websocket.frame(websocket.CLOSE, (1000).to_bytes(2, "big")))
        await self._writer.drain()

    async def _message(self, message: websocket.Message) -> None:
        data = message.data
        if not data:
            return
        if self._base64:
            channel, payload = data[0] - ord("0"), base64.b64decode(data[1:])
        else:
            channel, payload = data[0], data[1:]
        if channel == STDIN and payload:
            await self.input.put(payload)
        elif channel == RESIZE:
            _resize(payload, self.resizes)
        elif channel == _CLOSE_CHANNEL and payload[:1] == bytes((STDIN,)):
            await self.input.put(None)


class SpdyChannels:
    """`wanted`: how many streams the client is to open, from the request's parameters."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: str, wanted: set[int]
    ) -> None:
        self.input: asyncio.Queue[bytes | None] = asyncio.Queue(_INPUT_LIMIT)
        self.resizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._statuses = protocol.startswith("v4")
        self._session = spdy.ServerSession()
        self._streams: dict[int, int] = {}
        self._channels: dict[int, int] = {}
        self._wanted = wanted
        self._complete = asyncio.Event()

    async def opened(self) -> None:
        """Returns when the client has opened all its streams; raises TimeoutError."""
        async with asyncio.timeout(_STREAM_WAIT):
            complete = asyncio.create_task(self._complete.wait())
            gone = asyncio.create_task(self.gone.wait())
            try:
                await asyncio.wait({complete, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                complete.cancel()
                gone.cancel()

    async def run(self) -> None:
        try:
            while data := await self._reader.read(65536):
                for event in self._session.receive(data):
                    await self._event(event)
        except (OSError, MeltemError):
            pass
        finally:
            self.gone.set()

    async def write(self, channel: int, data: bytes) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            self._writer.write(spdy.data_frame(stream, data))
            await self._writer.drain()

    async def finish(self, status: bytes) -> None:
        stream = self._streams.get(ERROR)
        if stream is not None:
            self._writer.write(spdy.data_frame(stream, status if self._statuses else _plain(status), end=True))
        for channel in (STDOUT, STDERR):
            if channel in self._streams:
                self._writer.write(spdy.data_frame(self._streams[channel], b"", end=True))
        await self._writer.drain()

    async def _event(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened():
                channel = _NAMES.get(event.headers.get("streamtype", ""))
                if channel is None or channel in self._streams:
                    self._writer.write(spdy.reset_frame(event.stream))
                    return
                self._streams[channel] = event.stream
                self._channels[event.stream] = channel
                self._writer.write(self._session.reply(event.stream, {}))
                if self._wanted <= set(self._streams):
                    self._complete.set()
                if event.end and channel == STDIN:
                    await self.input.put(None)
            case spdy.Data():
                channel = self._channels.get(event.stream)
                if channel == STDIN:
                    if event.data:
                        await self.input.put(event.data)
                    if event.end:
                        await self.input.put(None)
                elif channel == RESIZE and event.data:
                    _resize(event.data, self.resizes)
            case spdy.Pinged():
                self._writer.write(event.answer)
            case spdy.Reset():
                if self._channels.get(event.stream) == STDIN:
                    await self.input.put(None)
            case spdy.Closed():
                pass


def status_object(code: int, message: str = "") -> bytes:
    """The Status that ends an exec: success, an exit code, or (code below 0) a failure to start."""
    if code == 0:
        return msgspec.json.encode({"metadata": {}, "status": "Success"})
    if code < 0:
        return msgspec.json.encode(
            {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}
        )
    return msgspec.json.encode(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit status {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    )


def _plain(status: bytes) -> bytes:
    """Older protocols have only text, and nothing for success."""
    found = cast("dict[str, str]", msgspec.json.decode(status))
    return found.get("message", "").encode()


def _resize(payload: bytes, queue: asyncio.Queue[tuple[int, int]]) -> None:
    try:
        size = cast("dict[str, int]", msgspec.json.decode(payload))
        queue.put_nowait((int(size["Width"]), int(size["Height"])))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return
