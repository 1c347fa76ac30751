"""What probes and lifecycle hooks do: run a program, make an HTTP request, open a connection, ask gRPC health, sleep.

In: the handler from the pod's spec and a `Target` (whom it is about). Out: `Outcome`: worked or not, and what to tell.
Requests go out from the node's network to the pod's address, as a kubelet's do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Protocol

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from meltem import grpc_health
from meltem.local.config import url_host
from meltem.local.node.runtime_client import RuntimeFailure
from meltem.objects import Json, JsonObject, int_at, object_at, objects_at, str_at, strings_at

AGENT = "kube-probe/1.34"
_MAX_OUTPUT = 10 * 1024
_MAX_REDIRECTS = 10


class Outcome(msgspec.Struct, frozen=True):
    ok: bool
    message: str = ""


class Target(msgspec.Struct, frozen=True):
    """The container: its spec, the address to reach it at."""

    container: JsonObject
    address: str


class Executor(Protocol):
    async def execute(self, argv: list[str], timeout: float) -> tuple[int, bytes]:
        """Runs a program in the container; (exit code, the first of its output). Raises TimeoutError,
        RuntimeFailure."""
        ...


class Actions:
    """Shared by all pods: one HTTP session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def run(self, handler: JsonObject, target: Target, executor: Executor, timeout: float) -> Outcome:
        """Carries out one handler; never raises for what the container does."""
        try:
            if "exec" in handler:
                return await self._exec(strings_at(handler, "exec", "command"), executor, timeout)
            async with asyncio.timeout(timeout):
                if "httpGet" in handler:
                    return await self._http(object_at(handler, "httpGet"), target)
                if "tcpSocket" in handler:
                    return await self._tcp(object_at(handler, "tcpSocket"), target)
                if "grpc" in handler:
                    return await self._grpc(object_at(handler, "grpc"), target)
                if "sleep" in handler:
                    await asyncio.sleep(int_at(handler, "sleep", "seconds"))
                    return Outcome(True)
        except TimeoutError:
            return Outcome(False, f"timed out after {timeout:g}s")
        return Outcome(True)

    async def _exec(self, argv: list[str], executor: Executor, timeout: float) -> Outcome:
        try:
            code, output = await executor.execute(argv, timeout)
        except TimeoutError:
            return Outcome(False, f'command timed out: "{" ".join(argv)}" timed out after {timeout:g}s')
        except RuntimeFailure as error:
            return Outcome(False, str(error))
        return Outcome(code == 0, output.decode(errors="replace").strip())

    async def _http(self, get: JsonObject, target: Target) -> Outcome:
        port = port_number(get.get("port"), target.container)
        if port is None:
            return Outcome(False, f"port {get.get('port')!r} is not one of the container's")
        host = url_host(str_at(get, "host") or target.address)
        scheme = str_at(get, "scheme", default="HTTP").lower()
        path = str_at(get, "path", default="/")
        url = URL(f"{scheme}://{host}:{port}/{path.lstrip('/')}", encoded=True)
        headers: CIMultiDict[str] = CIMultiDict()
        for header in objects_at(get, "httpHeaders"):
            headers.add(str_at(header, "name"), str_at(header, "value"))
        headers.setdefault("User-Agent", AGENT)
        headers.setdefault("Accept", "*/*")
        status, body = 0, b""
        try:
            for _ in range(_MAX_REDIRECTS):
                async with self._session.get(url, headers=headers, allow_redirects=False, ssl=False) as response:
                    status = response.status
                    body = await response.content.read(_MAX_OUTPUT)
                    location = response.headers.get("Location", "")
                if status not in (301, 302, 303, 307, 308) or not location:
                    break
                following = url.join(URL(location))
                if following.host != url.host:
                    break  # a redirect elsewhere counts as an answer
                url = following
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(False, f'Get "{url}": {_said(error)}')
        if 200 <= status < 400:
            return Outcome(True, body.decode(errors="replace"))
        return Outcome(False, f"HTTP probe failed with statuscode: {status}")

    async def _tcp(self, tcp: JsonObject, target: Target) -> Outcome:
        port = port_number(tcp.get("port"), target.container)
        if port is None:
            return Outcome(False, f"port {tcp.get('port')!r} is not one of the container's")
        host = str_at(tcp, "host") or target.address
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            return Outcome(False, f"dial tcp {host}:{port}: {_said(error)}")
        writer.close()
        return Outcome(True)

    async def _grpc(self, grpc: JsonObject, target: Target) -> Outcome:
        port = int_at(grpc, "port")
        try:
            status = await grpc_health.check(target.address, port, str_at(grpc, "service"), agent=AGENT)
        except (OSError, ValueError) as error:
            return Outcome(False, f'failed to connect service "{target.address}:{port}": {_said(error)}')
        if status == grpc_health.SERVING:
            return Outcome(True)
        return Outcome(False, f'service unhealthy (responded with "{status or "an error"}")')


def port_number(port: Json, container: JsonObject) -> int | None:
    """A number, a number as text, or the name of one of the container's ports."""
    if isinstance(port, int):
        return port
    if isinstance(port, str):
        if port.isdigit():
            return int(port)
        for item in objects_at(container, "ports"):
            if str_at(item, "name") == port:
                return int_at(item, "containerPort")
    return None


async def read_limited(fd: int, limit: int) -> bytes:
    """Everything that comes out of a pipe until its end, the first `limit` bytes of it; closes it."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    done: asyncio.Future[None] = loop.create_future()
    output = bytearray()

    def ready() -> None:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            output.extend(chunk[: max(0, limit - len(output))])
        elif not done.done():
            done.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await done
    finally:
        loop.remove_reader(fd)
        with contextlib.suppress(OSError):
            os.close(fd)
    return bytes(output)


def _said(error: BaseException) -> str:
    """The system's words: `connect: connection refused`."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or number
    return f"connect: {os.strerror(number).lower()}" if number else str(error) or type(error).__name__
