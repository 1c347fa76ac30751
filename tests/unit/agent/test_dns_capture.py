"""The agent's DNS: addresses from Envoy, the rest from the pod's own servers, and what Envoy says wrongly put right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest

from meltem.agent.dns import Address, DnsProxy, question_end, reply, serve

Answer = Callable[[str, str], list[str] | None]
"""name and type → records; None: no such name"""


class _Server(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        query = dns.message.from_wire(data)
        name, kind = query.question[0].name.to_text(True), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind))
        found = self.answer(name, kind)
        response = dns.message.make_response(query)
        if found is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found:
            response.answer.append(dns.rrset.from_text_list(query.question[0].name, 30, "IN", kind, found))
        self.transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[_Server, Address]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Server(answer), local_addr=("127.0.0.1", 0))
    yield protocol, transport.get_extra_info("sockname")
    transport.close()


def envoy(name: str, kind: str) -> list[str] | None:
    """As Envoy's DNS filter: a name without an address of the asked family is no name to it."""
    return {("four.test", "A"): ["240.240.0.1"], ("six.test", "AAAA"): ["2001:2::1"]}.get((name, kind))


def real(name: str, kind: str) -> list[str] | None:
    return {("four.test", "SRV"): ["0 0 80 x.test."], ("four.test", "A"): ["192.0.2.9"]}.get((name, kind))


@pytest.mark.parametrize(
    ("name", "kind", "code", "records"),
    [
        ("four.test", "A", "NOERROR", ["240.240.0.1"]),
        ("four.test", "AAAA", "NOERROR", []),
        ("six.test", "A", "NOERROR", []),
        ("six.test", "AAAA", "NOERROR", ["2001:2::1"]),
        ("none.test", "A", "NXDOMAIN", []),
        ("four.test", "SRV", "NOERROR", ["0 0 80 x.test."]),
        ("none.test", "SRV", "NXDOMAIN", []),
    ],
)
async def test_each_question_is_asked_of_who_can_answer_it(name: str, kind: str, code: str, records: list[str]) -> None:
    async with server(envoy) as (_, mesh), server(real) as (others, own):
        wire = await DnsProxy(mesh, [own]).answer(dns.message.make_query(name, kind).to_wire())
        assert wire is not None
        found = dns.message.from_wire(wire)
        assert dns.rcode.to_text(found.rcode()) == code
        assert [str(r) for rrset in found.answer for r in rrset] == records
        assert all(asked == "SRV" for _, asked in others.asked)


async def test_without_envoy_the_real_servers_are_asked_one_after_the_other() -> None:
    async with server(real) as (_, own), server(real) as (_, closed):
        pass
    async with server(real) as (_, own):
        wire = await DnsProxy(closed, [closed, own]).answer(dns.message.make_query("four.test", "A").to_wire())
        assert wire is not None
        assert str(dns.message.from_wire(wire).answer[0][0]) == "192.0.2.9"
    wire = await DnsProxy(closed, []).answer(dns.message.make_query("four.test", "A").to_wire())
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("wire", [b"", b"x", bytes(12), bytes(40), b"\x12\x34\x81\x00" + b"\xff" * 40, b"\xff" * 600])
async def test_what_is_no_query_gets_no_answer(wire: bytes) -> None:
    assert await DnsProxy(("127.0.0.1", 1), []).answer(wire) is None


def test_a_reply_repeats_number_and_question() -> None:
    query = dns.message.make_query("a.test", "AAAA", use_edns=True)
    wire = query.to_wire()
    assert question_end(wire) < len(wire)
    answer = dns.message.from_wire(reply(wire, 0))
    assert answer.id == query.id
    assert answer.question == query.question


async def test_clients_are_answered_over_the_wire() -> None:
    async with server(envoy) as (_, mesh):
        transports = await serve(DnsProxy(mesh, []), [("127.0.0.1", 0)])
        try:
            proxy = DnsProxy(transports[0].get_extra_info("sockname"), [])
            wire = await proxy.answer(dns.message.make_query("four.test", "A").to_wire())
            assert wire is not None and dns.message.from_wire(wire).answer
        finally:
            for transport in transports:
                transport.close()
