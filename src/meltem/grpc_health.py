"""One gRPC health check (grpc.health.v1.Health/Check), with as much of HTTP/2 as one call needs.

The agent and the local node probe every few seconds, the agent from a source address that the capture rules let pass.
grpcio cannot bind one, costs what stays resident 15 MiB, and starting a process that imports it takes longer than a
probe's usual second; so the few frames are written here. Headers are sent as literals, those of answers are not
decoded: the status is in the message.

In: where, which service, from which address. Out: the serving status. Bounded: bytes and frames; time is the caller's.

Source: RFC 9113 (frames), RFC 7541 6.2.2 (header fields without indexing), gRPC over HTTP/2, grpc.health.v1.
"""

from __future__ import annotations

import asyncio

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_STREAM = 1
_MAX_FRAMES = 100
_MAX_FRAME = 16_384
_MAX_SERVICE = 8_000
SERVING = "SERVING"
_STATES = {0: "UNKNOWN", 1: SERVING, 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


async def check(host: str, port: int, service: str, *, agent: str, source: str = "") -> str:
    """`SERVING` or another status; empty where the server answered without one (an error of gRPC's: it has no health
    service, or none of that name). `agent`: the `user-agent`; `source`: the address to call from.

    Raises OSError where nobody answers, or not in HTTP/2; ValueError for a service name that is too long.
    """
    name = service.encode()
    if len(name) > _MAX_SERVICE:
        raise ValueError("the service name is too long")
    reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0) if source else None)
    try:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _request(authority, name, agent))
        await writer.drain()
        return _status(await _answer(reader, writer))
    except asyncio.IncompleteReadError:
        raise ConnectionError("the connection was closed before the answer; is it gRPC?") from None
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The data of our stream."""
    data = bytearray()
    for _ in range(_MAX_FRAMES):
        head = await reader.readexactly(9)
        size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
        stream = int.from_bytes(head[5:]) & 0x7FFF_FFFF
        if size > _MAX_FRAME:
            raise ConnectionError("the answer is no HTTP/2")
        payload = await reader.readexactly(size)
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY or (kind == _RESET and stream == _STREAM):
            raise ConnectionError("the call was refused")
        elif stream == _STREAM and kind in (_DATA, _HEADERS):
            if kind == _DATA:
                data += payload[1 : size - payload[0]] if flags & _PADDED and payload else payload
            if flags & _END_STREAM:
                return bytes(data)
    raise ConnectionError("the answer does not end")


def _status(data: bytes) -> str:
    """`data`: one gRPC message, which is a field `status` or, for UNKNOWN, nothing."""
    if len(data) < 5:
        return ""
    message = data[5 : 5 + int.from_bytes(data[1:5])]
    state = message[1] if len(message) == 2 and message[0] == 0x08 else 0
    return _STATES.get(state, "UNKNOWN")


def _request(authority: str, service: bytes, agent: str) -> bytes:
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", agent),
    )
    headers = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
    message = b"\x0a" + _varint(len(service)) + service if service else b""
    body = b"\x00" + len(message).to_bytes(4) + message
    return _frame(_HEADERS, _END_HEADERS, _STREAM, headers) + _frame(_DATA, _END_STREAM, _STREAM, body)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _text(text: str) -> bytes:
    """A string of HPACK as it is; ours are shorter than the 127 bytes from which lengths take more than one byte."""
    raw = text.encode()
    return bytes((len(raw),)) + raw


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))
