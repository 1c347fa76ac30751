"""WebSocket (RFC 6455), the server's side, as much as an echo needs.

What goes in: a request that asks for the upgrade. What comes out: the 101 answer, and `messages`, which yields whole
text and binary messages while it answers pings and the closing handshake.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

from tinyhttp import Request, Response, as_text
from wire import Wire

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
MAX_MESSAGE = 1024 * 1024
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class _Ended(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def frame(opcode: int, payload: bytes) -> bytes:
    """One unmasked final frame."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, size])
    elif size < 65536:
        head = bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big")
    return head + payload


def _read_frame(wire: Wire) -> tuple[bool, int, bytes]:
    one, two = wire.exactly(2)
    final, opcode, size = bool(one & 0x80), one & 0x0F, two & 0x7F
    if one & 0x70 or not two & 0x80:
        raise _Ended(1002)  # reserved bits, or a client frame without its mask
    if opcode >= CLOSE and (size > 125 or not final):
        raise _Ended(1002)
    if size == 126:
        size = int.from_bytes(wire.exactly(2), "big")
    elif size == 127:
        size = int.from_bytes(wire.exactly(8), "big")
    if size > MAX_MESSAGE:
        raise _Ended(1009)
    mask = int.from_bytes((wire.exactly(4) * (size // 4 + 1))[:size], "big")
    payload = (int.from_bytes(wire.exactly(size), "big") ^ mask).to_bytes(size, "big")
    return final, opcode, payload


def messages(wire: Wire) -> Iterator[tuple[int, bytes]]:
    """Whole messages as (TEXT or BINARY, payload) until the peer closes; protocol errors close with their code."""
    kind, parts, total = 0, list[bytes](), 0
    try:
        while True:
            final, opcode, payload = _read_frame(wire)
            if opcode == PING:
                wire.send(frame(PONG, payload))
            elif opcode == CLOSE:
                raise _Ended(1000)
            elif opcode in (TEXT, BINARY, 0):
                if (opcode == 0) != bool(kind):
                    raise _Ended(1002)
                kind = kind or opcode
                parts.append(payload)
                total += len(payload)
                if total > MAX_MESSAGE:
                    raise _Ended(1009)
                if final:
                    yield kind, b"".join(parts)
                    kind, parts, total = 0, [], 0
            elif opcode != PONG:
                raise _Ended(1002)
    except _Ended as ended:
        wire.send(frame(CLOSE, ended.code.to_bytes(2, "big")))


def echo(wire: Wire) -> None:
    """Send every message back as it came."""
    for kind, payload in messages(wire):
        wire.send(frame(kind, payload))


def accept(request: Request, upgrade: Callable[[Wire], None] = echo) -> Response:
    """The 101 answer that hands the connection to `upgrade`; 400 or 426 where the request does not ask properly."""
    key = request.header("sec-websocket-key")
    if request.method != "GET" or request.header("upgrade").lower() != "websocket":
        return as_text("this path speaks WebSocket: ask with an Upgrade header\n", 400)
    if request.header("sec-websocket-version") != "13" or not key:
        return as_text("WebSocket version 13 with a key is needed\n", 426, [("Sec-WebSocket-Version", "13")])
    import hashlib  # brings OpenSSL, 4 MiB: only once somebody asks

    digest = hashlib.sha1(key.encode("latin-1") + GUID, usedforsecurity=False).digest()
    accepted = base64.b64encode(digest).decode()
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accepted)]
    return Response(101, b"", headers, upgrade=upgrade)
