"""Cluster DNS: answers queries over UDP and TCP.

In: queries in wire format, a `Zone`, an `Upstream`. Out: answers. What is no query gets no answer (UDP) or a closed
connection (TCP); an answer that does not fit is cut, with TC set, as the client's EDNS says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterable

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import structlog

from meltem.local.kept_sockets import Listen, listen
from meltem.local.network.upstream import Upstream
from meltem.local.network.zone import TTL, Record, Zone

_LARGEST_UDP = 1232
_TCP_IDLE = 10.0
_AT_ONCE = 1000
_FOLLOWED = 8

log = structlog.stdlib.get_logger(__name__)


class DnsServer:
    def __init__(self, zone: Zone, upstream: Upstream) -> None:
        self._zone = zone
        self._upstream = upstream
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def serve(
        self, addresses: Iterable[tuple[str, int]], ready: asyncio.Event | None = None, listen: Listen = listen
    ) -> None:
        """Answers on every (address, port) until cancelled; raises OSError when one cannot be bound."""
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for host, port in addresses:
                datagrams = listen(socket.SOCK_DGRAM, host, port)
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self, group), sock=datagrams)
                stack.callback(transport.close)
                server = await asyncio.start_server(self._connection, sock=listen(socket.SOCK_STREAM, host, port))
                stack.push_async_exit(server)
            if ready is not None:
                ready.set()
            await asyncio.Event().wait()

    async def answer(self, wire: bytes, *, datagram: bool) -> bytes | None:
        """The answer to one query; None for what deserves none."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError, struct.error):
            return _format_error(wire)
        if query.flags & dns.flags.QR:
            return None
        async with self._at_once:
            response = await self._respond(query)
        response.id = query.id
        limit = max(512, min(query.payload, _LARGEST_UDP)) if datagram and query.edns >= 0 else 512
        if not datagram:
            limit = 65535
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            return short.to_wire(max_size=limit)

    async def _respond(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        if len(query.question) != 1 or query.question[0].rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
            response.set_rcode(dns.rcode.FORMERR if len(query.question) != 1 else dns.rcode.REFUSED)
            return response
        question = query.question[0]
        if question.rdtype in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
            response.set_rcode(dns.rcode.REFUSED)
            return response
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        found = self._zone.lookup(name, kind)
        if not found.ours:
            return await self._outside(query, response)
        response.flags |= dns.flags.AA
        _put(response.answer, found.records, question.name)
        if found.follow:
            if kind not in ("CNAME", "ANY"):
                await self._follow(response, found.follow, question.rdtype)
        elif not found.records:
            self._negative(response, kind, name, exists=found.exists)
        _put(response.additional, found.extra, None)
        return response

    async def _follow(self, response: dns.message.Message, target: str, rdtype: dns.rdatatype.RdataType) -> None:
        """Appends what an ExternalName leads to, inside the cluster or outside."""
        for _ in range(_FOLLOWED):
            found = self._zone.lookup(target.lower(), dns.rdatatype.to_text(rdtype))
            if not found.ours:
                query = dns.message.make_query(dns.name.from_text(target), rdtype)
                outside = await self._upstream.ask(query)
                if outside is not None:
                    response.answer.extend(outside.answer)
                return
            _put(response.answer, found.records, None)
            if not found.follow:
                return
            target = found.follow

    async def _outside(self, query: dns.message.Message, response: dns.message.Message) -> dns.message.Message:
        answer = await self._upstream.ask(query)
        if answer is None:
            # Nobody to ask is an answer (an offline machine); somebody who does not answer is a failure.
            failed = self._upstream.configured
            response.set_rcode(dns.rcode.SERVFAIL if failed else dns.rcode.NXDOMAIN)
            return response
        response.set_rcode(answer.rcode())
        response.answer = answer.answer
        response.authority = answer.authority
        return response

    def _negative(self, response: dns.message.Message, kind: str, name: str, *, exists: bool) -> None:
        soa = Record(
            self._zone.domain,
            "SOA",
            f"ns.dns.{self._zone.domain}. hostmaster.{self._zone.domain}. 1 7200 1800 86400 {TTL}",
        )
        if exists and kind == "SOA" and name == self._zone.domain:
            _put(response.answer, (soa,), None)
            return
        if not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        _put(response.authority, (soa,), None)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(_TCP_IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(length)
                answer = await self.answer(wire, datagram=False)
                if answer is None:
                    return
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (TimeoutError, EOFError, OSError):
            return
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer, group: asyncio.TaskGroup) -> None:
        self._server = server
        self._group = group
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._group.create_task(self._answer(data, addr))

    def error_received(self, exc: Exception) -> None:
        """A client went away before its answer came: nothing to do."""

    async def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            answer = await self._server.answer(data, datagram=True)
        except Exception as error:
            log.error("internal error while answering a DNS query", exc_info=error)
            return
        if answer is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)


def _put(section: list[dns.rrset.RRset], records: Iterable[Record], asked: dns.name.Name | None) -> None:
    """Adds records as RRsets, in random order within each; the asked name keeps the client's spelling (0x20)."""
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        groups.setdefault((record.name, record.type), []).append(record.data)
    for (name, kind), data in groups.items():
        random.shuffle(data)
        owner = dns.name.from_text(name)
        if asked is not None and owner == asked:
            owner = asked
        section.append(dns.rrset.from_text_list(owner, TTL, "IN", kind, data))


def _format_error(wire: bytes) -> bytes | None:
    """FORMERR with the same id, when there is at least a header of a query."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    return wire[:2] + bytes([0x80 | (wire[2] & 0x79), 0x80 | int(dns.rcode.FORMERR)]) + bytes(8)
