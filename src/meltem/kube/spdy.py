"""SPDY/3.1 framing, as far as Kubernetes' port forwarding needs it: streams with headers, data, end. No I/O.

In: bytes received. Out: `Data`, `End`, `Reset` and `Ping` events, and the bytes of frames to send. Header blocks are
written without SPDY's preset dictionary (a zlib stream says itself whether it has one) and received ones are skipped:
nothing in an answer's headers is needed. Source: the SPDY/3.1 draft, sections 2.2 and 2.6.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import msgspec

_VERSION = 0x8003
_SYN_STREAM, _PING = 1, 6
_FIN = 0x01
_LARGEST = 2**24 - 1


class Data(msgspec.Struct, frozen=True):
    stream: int
    data: bytes


class End(msgspec.Struct, frozen=True):
    """The peer has sent all of this stream."""

    stream: int


class Reset(msgspec.Struct, frozen=True):
    """The stream was refused or broken off; stream 0: the whole session ended."""

    stream: int


class Ping(msgspec.Struct, frozen=True):
    """Send `answer` back."""

    answer: bytes


Event = Data | End | Reset | Ping


class Session:
    """The client's side of one session."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj()
        self._received = bytearray()
        self._next = 1

    def open(self, headers: Mapping[str, str], *, end: bool = False) -> tuple[int, bytes]:
        """A new stream's number, and the frame that opens it; with `end` we shall not send on it."""
        stream = self._next
        self._next += 2
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack("!I", len(text)) + text
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return stream, _control(_SYN_STREAM, struct.pack("!IIH", stream, 0, 0) + packed, _FIN if end else 0)

    @staticmethod
    def data(stream: int, data: bytes, *, end: bool = False) -> bytes:
        """The frame that carries data (at most 16 MiB) on a stream."""
        return struct.pack("!II", stream, ((_FIN if end else 0) << 24) | len(data)) + data

    def receive(self, data: bytes) -> list[Event]:
        """What the bytes say; incomplete frames wait for more."""
        self._received += data
        events: list[Event] = []
        while len(self._received) >= 8:
            first, second = struct.unpack_from("!II", self._received)
            length = second & _LARGEST
            if len(self._received) < 8 + length:
                break
            body = bytes(self._received[8 : 8 + length])
            del self._received[: 8 + length]
            if first & 0x80000000:
                events += _control_events(first & 0xFFFF, second >> 24, body)
                continue
            if body:
                events.append(Data(first, body))
            if (second >> 24) & _FIN:
                events.append(End(first))
        return events


def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("!HHI", _VERSION, kind, (flags << 24) | len(body)) + body


def _control_events(kind: int, flags: int, body: bytes) -> list[Event]:
    number = struct.unpack_from("!I", body)[0] if len(body) >= 4 else 0
    match kind:
        case 2:  # SYN_REPLY
            return [End(number & 0x7FFFFFFF)] if flags & _FIN else []
        case 3:  # RST_STREAM
            return [Reset(number & 0x7FFFFFFF)]
        case 6:  # PING: even numbers are the server's own
            return [Ping(_control(_PING, body))] if number % 2 == 0 else []
        case 7:  # GOAWAY
            return [Reset(0)]
        case _:
            return []
