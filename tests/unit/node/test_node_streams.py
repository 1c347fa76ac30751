"""The framing that kubectl speaks: SPDY/3.1 and WebSocket, byte by byte."""

from __future__ import annotations

import os
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltem.local.node.api import spdy, websocket


def open_frame(deflate: zlib._Compress, stream: int, headers: dict[str, str], flags: int = 0) -> bytes:
    block = struct.pack("!I", len(headers))
    for name, value in headers.items():
        block += struct.pack("!I", len(name)) + name.encode() + struct.pack("!I", len(value)) + value.encode()
    packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    body = struct.pack("!IIH", stream, 0, 0) + packed
    return struct.pack("!HHI", 0x8003, 1, (flags << 24) | len(body)) + body


def test_the_dictionary_is_the_specifications() -> None:
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_are_found_however_the_bytes_are_cut(cuts: list[int]) -> None:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    wire = open_frame(deflate, 1, {"streamType": "stdin"}) + open_frame(deflate, 3, {"StreamType": "error"}, 1)
    wire += spdy.data_frame(1, b"hello") + spdy.data_frame(1, b"", end=True) + struct.pack("!HHII", 0x8003, 6, 4, 7)
    session, events, at = spdy.ServerSession(), [], 0
    for cut in [*cuts, len(wire)]:
        events += session.receive(wire[at : at + cut])
        at += cut
    assert [type(e).__name__ for e in events] == ["Opened", "Opened", "Data", "Data", "Pinged"]
    assert events[0] == spdy.Opened(1, {"streamtype": "stdin"}, False)
    assert events[1] == spdy.Opened(3, {"streamtype": "error"}, True)
    assert events[3] == spdy.Data(1, b"", True)


def test_a_reply_is_readable_with_the_dictionary() -> None:
    reply = spdy.ServerSession().reply(5, {"a": "b"})
    block = zlib.decompressobj(zdict=spdy.DICTIONARY).decompress(reply[12:])
    assert reply[:4] == b"\x80\x03\x00\x02"
    assert block == struct.pack("!II", 1, 1) + b"a" + struct.pack("!I", 1) + b"b"


def test_a_header_block_that_grows_without_end_is_refused() -> None:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    with pytest.raises(spdy.SpdyError, match="larger than"):
        spdy.ServerSession().receive(open_frame(deflate, 1, {"x": "y" * 1_000_000}))


@given(st.binary(max_size=300))
def test_garbage_ends_in_an_error_or_in_waiting(data: bytes) -> None:
    for receive in (spdy.ServerSession().receive, websocket.Decoder().receive):
        try:
            receive(data)
        except (spdy.SpdyError, websocket.WebSocketError):
            continue


def masked(kind: int, data: bytes, *, final: bool = True) -> bytes:
    mask = os.urandom(4)
    payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", (0x80 if final else 0) | kind, 0x80 | size)
    else:
        head = struct.pack("!BBH", (0x80 if final else 0) | kind, 0x80 | 126, size)
    return head + mask + payload


def test_the_accept_key_of_the_rfc() -> None:
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_fragments_pings_and_the_end() -> None:
    decoder = websocket.Decoder()
    wire = masked(2, b"a" * 200, final=False) + masked(9, b"p") + masked(0, b"b") + masked(8, b"\x03\xe8bye")
    first, second, third = decoder.receive(wire)
    assert first == websocket.Reply(websocket.frame(websocket.PONG, b"p"))
    assert second == websocket.Message(b"a" * 200 + b"b")
    assert third == websocket.Ended(websocket.frame(websocket.CLOSE, b"\x03\xe8"))


def test_unmasked_frames_are_refused() -> None:
    with pytest.raises(websocket.WebSocketError, match="masked"):
        websocket.Decoder().receive(websocket.frame(2, b"x"))
