"""DNS capture, the pod's end: every query of the pod comes here and goes on to who can answer it.

In: queries over UDP on loopback port 15053, whither the capture rules lead them. Out: answers. Envoy's DNS listener
(port 15054) knows the mesh's names and asks the real DNS about others, but only for addresses, and it says of a name
without an address of the asked family that there is no such name, which some resolvers take at its word. So:

- addresses (A, AAAA) are asked of Envoy; a name that has only the other family exists, without an answer;
- everything else (SRV, TXT, …), and all of it while Envoy does not answer, is asked of the pod's own name servers.

DNS over TCP is not captured. An answer that is cut (TC) is fetched again over TCP by the client itself.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

CAPTURE_PORT = 15053
ENVOY_PORT = 15054
PATIENCE = 6.0
AT_ONCE = 1000

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2
_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")

Address = tuple[str, int]


def question_end(message: bytes) -> int:
    """Where the only question of a query ends; 0 for what is no query with one question."""
    if len(message) < _HEADER.size + 5:
        return 0
    _, flags, questions, _, _, _ = _HEADER.unpack_from(message)
    if flags & 0x8000 or questions != 1:
        return 0
    at = _HEADER.size
    while at < len(message) and message[at]:
        if message[at] > 63:
            return 0
        at += message[at] + 1
    end = at + 1 + _QUESTION.size
    return end if end <= len(message) else 0


def code_of(answer: bytes) -> int:
    return answer[3] & 15


def answers_of(answer: bytes) -> int:
    return int.from_bytes(answer[6:8], "big")


def reply(query: bytes, code: int) -> bytes:
    """An answer to the query that has no records."""
    end = question_end(query)
    number, flags, *_ = _HEADER.unpack_from(query)
    # response, recursion available; opcode and "recursion desired" as asked
    head = _HEADER.pack(number, 0x8080 | flags & 0x7900 | code, 1, 0, 0, 0)
    return head + query[_HEADER.size : end]


class DnsProxy:
    """`servers`: the pod's own name servers."""

    def __init__(self, envoy: Address, servers: Sequence[Address]) -> None:
        self._envoy = envoy
        self._servers = servers

    async def answer(self, query: bytes) -> bytes | None:
        """None for what deserves no answer."""
        end = question_end(query)
        if not end:
            return None
        kind, _ = _QUESTION.unpack_from(query, end - _QUESTION.size)
        found = await self._from_envoy(query, end, kind) if kind in (A, AAAA) else None
        for server in self._servers if found is None else ():
            found = await ask(server, query)
            if found is not None:
                break
        return found if found is not None else reply(query, SERVFAIL)

    async def _from_envoy(self, query: bytes, end: int, kind: int) -> bytes | None:
        found = await ask(self._envoy, query)
        if found is None or code_of(found) not in (0, NXDOMAIN):
            return None
        if code_of(found) == NXDOMAIN:
            other = AAAA if kind == A else A
            at = end - _QUESTION.size
            changed = query[:at] + other.to_bytes(2, "big") + query[at + 2 :]
            sibling = await ask(self._envoy, changed)
            if sibling is not None and code_of(sibling) == 0 and answers_of(sibling):
                return reply(query, 0)
        return found


async def ask(server: Address, query: bytes) -> bytes | None:
    """The server's answer to the query; None where it gives none in time."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Asking(query, answered), remote_addr=server)
    except OSError:
        return None
    try:
        async with asyncio.timeout(PATIENCE):
            return await answered
    except (TimeoutError, OSError):
        return None
    finally:
        transport.close()


class _Asking(asyncio.DatagramProtocol):
    """One query under way: the first answer with its number ends it."""

    def __init__(self, query: bytes, answered: asyncio.Future[bytes]) -> None:
        self._query = query
        self._answered = answered

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        transport.sendto(self._query)

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if len(data) >= _HEADER.size and data[:2] == self._query[:2] and not self._answered.done():
            self._answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)


class _Serving(asyncio.DatagramProtocol):
    """Queries of the pod; so many at once, the others are dropped and asked again by their clients."""

    def __init__(self, proxy: DnsProxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if len(self._tasks) < AT_ONCE:
            task = asyncio.ensure_future(self._answer(data, addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def error_received(self, exc: Exception) -> None:
        """A client went away before its answer came: nothing to do."""

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    async def _answer(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        found = await self._proxy.answer(data)
        if found is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(found, addr)


async def serve(proxy: DnsProxy, addresses: Sequence[Address]) -> list[asyncio.DatagramTransport]:
    """Answers on these addresses until the transports are closed; raises OSError where one cannot be bound."""
    loop = asyncio.get_running_loop()
    made: list[asyncio.DatagramTransport] = []
    try:
        for address in addresses:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Serving(proxy), local_addr=address)
            made.append(transport)
    except OSError:
        for transport in made:
            transport.close()
        raise
    return made


__all__ = ["CAPTURE_PORT", "ENVOY_PORT", "DnsProxy", "ask", "question_end", "reply", "serve"]
