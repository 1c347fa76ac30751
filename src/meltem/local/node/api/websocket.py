"""WebSocket framing (RFC 6455), the server's side, without I/O.

In: received bytes. Out: whole messages, and bytes to send. Fragments are put together up to `MAX_MESSAGE` bytes.
"""

from __future__ import annotations

import base64
import hashlib
import struct

import msgspec

from meltem.errors import MeltemError

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MAX_MESSAGE = 16 * 1024 * 1024
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketError(MeltemError):
    """The peer does not keep to the protocol; the connection is to be closed."""


class Message(msgspec.Struct, frozen=True):
    data: bytes
    text: bool = False


class Reply(msgspec.Struct, frozen=True):
    """Bytes to send back (an answer to a ping)."""

    data: bytes


class Ended(msgspec.Struct, frozen=True):
    """The client closed; `answer` is to be sent."""

    answer: bytes


Event = Message | Reply | Ended


def accept_key(key: str) -> str:
    """The value of `Sec-WebSocket-Accept`."""
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest()).decode()


def frame(kind: int, data: bytes = b"") -> bytes:
    """One unfragmented, unmasked frame."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | kind, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | kind, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | kind, 127, size)
    return head + data


class Decoder:
    def __init__(self) -> None:
        self._received = bytearray()
        self._parts = bytearray()
        self._kind = 0

    def receive(self, data: bytes) -> list[Event]:
        """Events of the complete frames; raises WebSocketError."""
        self._received += data
        events: list[Event] = []
        while (parsed := self._next()) is not None:
            event = self._take(*parsed)
            if event is not None:
                events.append(event)
        return events

    def _next(self) -> tuple[int, bool, bytes] | None:
        buffer = self._received
        if len(buffer) < 2:
            return None
        size, at = buffer[1] & 0x7F, 2
        if not buffer[1] & 0x80:
            raise WebSocketError("a client's frames must be masked")
        if size == 126:
            if len(buffer) < 4:
                return None
            size, at = struct.unpack_from("!H", buffer, 2)[0], 4
        elif size == 127:
            if len(buffer) < 10:
                return None
            size, at = struct.unpack_from("!Q", buffer, 2)[0], 10
        if size > MAX_MESSAGE:
            raise WebSocketError(f"a message is larger than {MAX_MESSAGE} bytes")
        if len(buffer) < at + 4 + size:
            return None
        kind, final = buffer[0] & 0x0F, bool(buffer[0] & 0x80)
        mask, payload = bytes(buffer[at : at + 4]), bytes(buffer[at + 4 : at + 4 + size])
        del buffer[: at + 4 + size]
        return kind, final, _unmask(payload, mask)

    def _take(self, kind: int, final: bool, payload: bytes) -> Event | None:
        if kind == PING:
            return Reply(frame(PONG, payload))
        if kind == CLOSE:
            return Ended(frame(CLOSE, payload[:2]))
        if kind == PONG:
            return None
        if kind in (TEXT, BINARY):
            self._kind, self._parts = kind, bytearray()
        elif kind != 0 or not self._kind:
            raise WebSocketError(f"a frame of kind {kind} is not expected here")
        self._parts += payload
        if len(self._parts) > MAX_MESSAGE:
            raise WebSocketError(f"a message is larger than {MAX_MESSAGE} bytes")
        if not final:
            return None
        message = Message(bytes(self._parts), self._kind == TEXT)
        self._kind, self._parts = 0, bytearray()
        return message


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    if not size:
        return data
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")
