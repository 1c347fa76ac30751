"""One call of grpc.health.v1.Health/Check over plain HTTP/2, without a gRPC library (that would cost 15 MiB).

In: address, port, service name. Out: the serving status. Only what a unary call needs of RFC 9113 is here: headers are
sent as literals, answers' headers are not decoded (the status is in the message), flow control never fills up.
"""

from __future__ import annotations

import asyncio
import struct

from meltem.local.config import url_host

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_MAX_FRAME = 1 << 20
STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


async def check(host: str, port: int, service: str, *, agent: str) -> str:
    """`SERVING` or another status; `""` when the server answered without a message (an error status). Raises
    OSError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        headers = b"".join(
            _header(name, value)
            for name, value in (
                (":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"),
                (":authority", f"{url_host(host)}:{port}"), ("content-type", "application/grpc"), ("te", "trailers"),
                ("user-agent", agent),
            )
        )  # fmt: skip
        name = service.encode()
        message = b"\x0a" + _varint(len(name)) + name if name else b""
        writer.write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, headers)
            + _frame(_DATA, _END_STREAM, 1, b"\0" + struct.pack(">I", len(message)) + message)
        )
        await writer.drain()
        return await _answer(reader, writer)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    body = b""
    while True:
        head = await reader.readexactly(9)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if length > _MAX_FRAME:
            raise ConnectionError("the server does not speak gRPC")
        payload = await reader.readexactly(length)
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY or (kind == _RST and stream == 1):
            raise ConnectionError("the server closed the call")
        elif kind == _DATA and stream == 1:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            body += payload
        if stream == 1 and kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            return _status(body)


def _status(body: bytes) -> str:
    if len(body) < 5:
        return ""
    message = body[5 : 5 + int.from_bytes(body[1:5], "big")]
    if not message:
        return STATUSES[0]
    return STATUSES.get(message[1], "UNKNOWN") if len(message) > 1 and message[0] == 0x08 else "UNKNOWN"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header(name: str, value: str) -> bytes:
    """A literal header field without indexing, not Huffman-coded (RFC 7541, 6.2.2); both parts under 127 bytes."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value[:126]),)) + value[:126].encode()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
