"""Names that are not the cluster's: asked of the host's own name servers, from the host's own network.

In: the host's `resolv.conf`, queries in wire format. Out: answers in wire format, cached by their TTL (at most 30 s).
Without any name server, or when none of them answers, `Upstream.ask` gives None. Sockets are made in the host's network
namespace, so that a stub resolver on 127.0.0.53 answers as well.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
from collections import OrderedDict
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import structlog

from meltem.clock import Clock, SystemClock

HOST_NETWORK = Path("/proc/1/ns/net")
_CLONE_NEWNET = 0x40000000
_TIMEOUT = 2.0
_LONGEST_LIFE = 30.0
_FAILED_LIFE = 2.0
_ENTRIES = 10_000
_IN_FLIGHT = 500

log = structlog.stdlib.get_logger(__name__)

_Key = tuple[str, int, int]


class Upstream:
    """`servers` are addresses, optionally `address:port` for tests."""

    def __init__(
        self, resolv_conf: Path = Path("/etc/resolv.conf"), *, host_network: Path | None = HOST_NETWORK,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._resolv_conf = resolv_conf
        self._host_network = host_network
        self._clock: Clock = clock or SystemClock()
        self._cache: OrderedDict[_Key, tuple[float, bytes]] = OrderedDict()
        self._flying: dict[_Key, asyncio.Future[bytes | None]] = {}
        self._maker = concurrent.futures.ThreadPoolExecutor(1, "host-network", initializer=self._enter)
        self._servers: tuple[float, list[tuple[str, int]]] = (0.0, [])

    async def ask(self, query: dns.message.Message) -> dns.message.Message | None:
        """The answer, with the query's id; None when nobody answered."""
        question = query.question[0]
        key = (question.name.to_text().lower(), int(question.rdtype), int(question.rdclass))
        wire = self._cached(key)
        if wire is None:
            flying = self._flying.get(key)
            if flying is None:
                if len(self._flying) >= _IN_FLIGHT:
                    return None
                flying = asyncio.ensure_future(self._exchange(key, query))
                self._flying[key] = flying
                flying.add_done_callback(lambda _: self._flying.pop(key, None))
            wire = await asyncio.shield(flying)
        if wire is None:
            return None
        answer = dns.message.from_wire(wire)
        answer.id = query.id
        return answer

    @property
    def configured(self) -> bool:
        """Whether the host has a name server at all."""
        return bool(self._name_servers())

    def close(self) -> None:
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _cached(self, key: _Key) -> bytes | None:
        found = self._cache.get(key)
        if found is None or found[0] <= self._clock.monotonic():
            return None
        self._cache.move_to_end(key)
        return found[1]

    async def _exchange(self, key: _Key, query: dns.message.Message) -> bytes | None:
        forwarded = dns.message.make_query(query.question[0].name, query.question[0].rdtype, query.question[0].rdclass)
        forwarded.use_edns(0, payload=1232)
        for host, port in self._name_servers():
            try:
                async with asyncio.timeout(_TIMEOUT):
                    wire = await self._udp(host, port, forwarded.to_wire())
                    answer = dns.message.from_wire(wire)
                    if answer.flags & dns.flags.TC:
                        wire = await self._tcp(host, port, forwarded.to_wire())
                        answer = dns.message.from_wire(wire)
            except (OSError, TimeoutError, dns.exception.DNSException, EOFError) as error:
                log.debug("a name server did not answer", server=host, error=str(error))
                continue
            if answer.id != forwarded.id or answer.question != forwarded.question:
                continue
            if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self._keep(key, wire, _life(answer))
                return wire
        return None

    def _keep(self, key: _Key, wire: bytes, life: float) -> None:
        self._cache[key] = (self._clock.monotonic() + life, wire)
        self._cache.move_to_end(key)
        if len(self._cache) > _ENTRIES:
            self._cache.popitem(last=False)

    async def _udp(self, host: str, port: int, wire: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        sock = await loop.run_in_executor(self._maker, self._socket, host, socket.SOCK_DGRAM)
        with contextlib.closing(sock):
            await loop.sock_connect(sock, (host, port))
            await loop.sock_sendall(sock, wire)
            while True:
                answer = await loop.sock_recv(sock, 65535)
                if answer[:2] == wire[:2]:
                    return answer

    async def _tcp(self, host: str, port: int, wire: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        sock = await loop.run_in_executor(self._maker, self._socket, host, socket.SOCK_STREAM)
        with contextlib.closing(sock):
            await loop.sock_connect(sock, (host, port))
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                writer.write(struct.pack("!H", len(wire)) + wire)
                await writer.drain()
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                return await reader.readexactly(length)
            finally:
                writer.close()

    @staticmethod
    def _socket(host: str, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        sock.setblocking(False)
        return sock

    def _enter(self) -> None:
        """The one thread that makes sockets lives in the host's network; a socket keeps the network it was made in."""
        if self._host_network is None:
            return
        try:
            fd = os.open(self._host_network, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("names outside the cluster are asked for from the node's network", error=str(error))

    def _name_servers(self) -> list[tuple[str, int]]:
        now = self._clock.monotonic()
        if self._servers[0] <= now:
            self._servers = (now + 5.0, name_servers(self._resolv_conf))
        return self._servers[1]


def name_servers(resolv_conf: Path) -> list[tuple[str, int]]:
    """The (address, port) of every `nameserver` line; `address#port` is understood as well."""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: list[tuple[str, int]] = []
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        host, _, port = words[1].partition("#")
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.partition("%")[0])
            found.append((host, int(port) if port else 53))
    return found[:3]


def _life(answer: dns.message.Message) -> float:
    ttls = [rrset.ttl for rrset in [*answer.answer, *answer.authority]]
    return min([*ttls, _LONGEST_LIFE]) if ttls else _FAILED_LIFE
