"""SPDY/3.1 framing, the server's side, without I/O: what kubectl 1.30 and older stream through.

In: received bytes. Out: events, and bytes to send. Flow control windows are not kept: Kubernetes' implementations do
not keep them either. Source: the SPDY/3.1 draft (frame layouts in 2.2 and 2.6; the compression dictionary in 2.6.10.1).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import msgspec

from meltem.errors import MeltemError

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_FIN = 1
_VERSION = 3
_MAX_BLOCK = 64 * 1024
_MAX_STREAMS = 4096

_WORDS = (  # noqa: SIM905 (one name a line would be a page)
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
).split()
_MORE = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """Length-prefixed words, then text. zlib knows it by its checksum, 0xe3c6a7c2."""
    out = b""
    for word in (*_WORDS, *_MORE):
        out += struct.pack("!I", len(word)) + word.encode()
    return out + _TAIL.encode()


DICTIONARY = _dictionary()


class SpdyError(MeltemError):
    """The peer does not keep to the protocol; the connection is to be closed."""


class Opened(msgspec.Struct, frozen=True):
    """The client opened a stream; header names are lower case. `end`: it will send nothing on it."""

    stream: int
    headers: Mapping[str, str]
    end: bool


class Data(msgspec.Struct, frozen=True):
    stream: int
    data: bytes
    end: bool


class Reset(msgspec.Struct, frozen=True):
    stream: int


class Pinged(msgspec.Struct, frozen=True):
    answer: bytes
    """To be sent back."""


class Closed(msgspec.Struct, frozen=True):
    """The client said goodbye (GOAWAY)."""


Event = Opened | Data | Reset | Pinged | Closed


class ServerSession:
    def __init__(self) -> None:
        self._received = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._streams = 0

    def receive(self, data: bytes) -> list[Event]:
        """Events of the complete frames; raises SpdyError."""
        self._received += data
        events: list[Event] = []
        while len(self._received) >= 8:
            length = int.from_bytes(self._received[5:8], "big")
            if len(self._received) < 8 + length:
                break
            frame = bytes(self._received[: 8 + length])
            del self._received[: 8 + length]
            event = self._control(frame) if frame[0] & 0x80 else _data(frame)
            if event is not None:
                events.append(event)
        return events

    def reply(self, stream: int, headers: Mapping[str, str], *, end: bool = False) -> bytes:
        """SYN_REPLY: the stream is accepted."""
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            block += struct.pack("!I", len(name)) + name.encode() + struct.pack("!I", len(value)) + value.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _frame(SYN_REPLY, _FIN if end else 0, struct.pack("!I", stream) + packed)

    def _control(self, frame: bytes) -> Event | None:
        version, kind = struct.unpack("!HH", frame[:4])
        if version & 0x7FFF != _VERSION:
            raise SpdyError(f"SPDY version {version & 0x7FFF} is not spoken here")
        flags, body = frame[4], frame[8:]
        if kind == SYN_STREAM:
            if len(body) < 10:
                raise SpdyError("a SYN_STREAM frame is too short")
            self._streams += 1
            if self._streams > _MAX_STREAMS:
                raise SpdyError(f"more than {_MAX_STREAMS} streams in one connection")
            stream = struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF
            return Opened(stream, self._headers(body[10:]), bool(flags & _FIN))
        if kind in (SYN_REPLY, HEADERS):
            self._headers(body[4:])  # keeps the shared compression state right
            return None
        if kind == RST_STREAM and len(body) >= 4:
            return Reset(struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF)
        if kind == PING and len(body) >= 4:
            odd = struct.unpack("!I", body[:4])[0] & 1  # even numbers are answers to the server's own pings
            return Pinged(_frame(PING, 0, body[:4])) if odd else None
        return Closed() if kind == GOAWAY else None

    def _headers(self, packed: bytes) -> dict[str, str]:
        try:
            block = self._inflate.decompress(packed, _MAX_BLOCK)
        except zlib.error as error:
            raise SpdyError(f"a header block cannot be unpacked: {error}") from None
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"a header block is larger than {_MAX_BLOCK} bytes")
        result: dict[str, str] = {}
        try:
            count, at = struct.unpack_from("!I", block)[0], 4
            for _ in range(count):
                parts: list[str] = []
                for _ in range(2):
                    size = struct.unpack_from("!I", block, at)[0]
                    text = block[at + 4 : at + 4 + size]
                    if len(text) != size:
                        raise SpdyError("a header block is cut short")
                    parts.append(text.decode("latin-1"))
                    at += 4 + size
                result[parts[0].lower()] = parts[1]
        except struct.error:
            raise SpdyError("a header block is cut short") from None
        return result


def data_frame(stream: int, data: bytes, *, end: bool = False) -> bytes:
    return struct.pack("!I", stream) + bytes((_FIN if end else 0,)) + len(data).to_bytes(3, "big") + data


def reset_frame(stream: int, status: int = 1) -> bytes:
    return _frame(RST_STREAM, 0, struct.pack("!II", stream, status))


def _frame(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("!HH", 0x8000 | _VERSION, kind) + bytes((flags,)) + len(body).to_bytes(3, "big") + body


def _data(frame: bytes) -> Data:
    stream = struct.unpack("!I", frame[:4])[0] & 0x7FFFFFFF
    return Data(stream, frame[8:], bool(frame[4] & _FIN))
