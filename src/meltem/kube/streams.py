"""Talking to a pod through the API server: commands (exec) and ports (port-forward), over WebSockets.

In: a `Transport` (the client gives itself), a pod. Out: `run_command` → output and exit code; `forward` → a reader
and a writer for one connection to a port in the pod. Exec uses Kubernetes' channel protocol v5 or v4; port-forward
tunnels SPDY/3.1 frames, as kubectl does. Both need Kubernetes 1.30+, or the local cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, cast

import aiohttp
import msgspec
from yarl import URL

from meltem import errors
from meltem.kube import spdy
from meltem.kube.config import KubeConfig
from meltem.kube.resource_types import PODS
from meltem.objects import JsonObject, objects_at, str_at

_EXEC_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_TUNNEL = "SPDY/3.1+portforward.k8s.io"
_STDIN, _STDOUT, _STDERR, _ERROR = 0, 1, 2, 3
_CLOSE = 255
_CHUNK = 32 * 1024


class Transport(Protocol):
    session: aiohttp.ClientSession
    config: KubeConfig

    def url(self, path: str, params: Sequence[tuple[str, str]]) -> URL: ...

    async def headers(self, more: Mapping[str, str] | None = None) -> list[tuple[str, str]]: ...

    def unreachable(self, error: Exception) -> errors.Unreachable: ...


class ExecResult(msgspec.Struct, frozen=True):
    stdout: bytes
    stderr: bytes
    exit_code: int


async def run_command(
    transport: Transport, namespace: str, pod: str, command: Sequence[str], *, container: str, stdin: bytes | None
) -> ExecResult:
    """Runs a command in a container to its end; raises ApiError when it cannot be started."""
    params = [("command", part) for part in command] + [("stdout", "true"), ("stderr", "true")]
    if container:
        params.append(("container", container))
    if stdin is not None:
        params.append(("stdin", "true"))
    path = PODS.path(namespace, pod, "exec")
    output: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: [], _ERROR: []}
    async with _connect(transport, path, params, _EXEC_PROTOCOLS, f"exec in pod {namespace}/{pod}") as socket:
        if stdin is not None:
            for start in range(0, len(stdin), _CHUNK):
                await socket.send_bytes(bytes([_STDIN]) + stdin[start : start + _CHUNK])
            if socket.protocol == _EXEC_PROTOCOLS[0]:
                await socket.send_bytes(bytes([_CLOSE, _STDIN]))
        async for message in socket:
            data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            if data and data[0] in output:
                output[data[0]].append(data[1:])
    code = _exit_code(b"".join(output[_ERROR]))
    return ExecResult(b"".join(output[_STDOUT]), b"".join(output[_STDERR]), code)


def _exit_code(status: bytes) -> int:
    if not status:
        raise errors.Unreachable("the connection broke before the command ended")
    try:
        decoded = msgspec.json.decode(status)
    except msgspec.DecodeError:
        raise errors.Unreachable(f"the command's status is no JSON: {status[:200]!r}") from None
    answer = cast(JsonObject, decoded) if isinstance(decoded, dict) else {}
    if str_at(answer, "status") == "Success":
        return 0
    for cause in objects_at(answer, "details", "causes"):
        if str_at(cause, "reason") == "ExitCode" and str_at(cause, "message").isdigit():
            return int(str_at(cause, "message"))
    raise errors.api_error(500, str_at(answer, "reason"), str_at(answer, "message") or "the command could not be run")


class PodWriter:
    """The writing half of a forwarded connection; like asyncio.StreamWriter where it matters."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, stream: int) -> None:
        self._socket = socket
        self._stream = stream
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        """Sent by the next `drain`."""
        self._buffer += data

    async def drain(self) -> None:
        while self._buffer:
            part = bytes(self._buffer[:_CHUNK])
            del self._buffer[:_CHUNK]
            try:
                await self._socket.send_bytes(spdy.Session.data(self._stream, part))
            except (aiohttp.ClientError, ConnectionError):
                raise errors.Unreachable("the connection to the pod broke") from None

    async def write_eof(self) -> None:
        """No more will be written; reading goes on."""
        await self.drain()
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            await self._socket.send_bytes(spdy.Session.data(self._stream, b"", end=True))


@contextlib.asynccontextmanager
async def forward(
    transport: Transport, namespace: str, pod: str, port: int
) -> AsyncGenerator[tuple[asyncio.StreamReader, PodWriter]]:
    """One connection to `port` in the pod. The reader ends when the pod closes, or raises Unreachable with what the
    node said (nobody listens there)."""
    title = f"port-forward to pod {namespace}/{pod}"
    path = PODS.path(namespace, pod, "portforward")
    async with _connect(transport, path, [], (_TUNNEL,), title) as socket:
        if socket.protocol != _TUNNEL:
            raise errors.Unreachable(f"{title}: the API server does not speak {_TUNNEL}")
        session = spdy.Session()
        headers = {"port": str(port), "requestid": "0"}
        error_stream, frame = session.open({"streamtype": "error", **headers}, end=True)
        await socket.send_bytes(frame)
        data_stream, frame = session.open({"streamtype": "data", **headers})
        await socket.send_bytes(frame)
        reader = asyncio.StreamReader(limit=2**20)
        pump = asyncio.create_task(_pump(socket, session, reader, data_stream, error_stream, title))
        try:
            yield reader, PodWriter(socket, data_stream)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


async def _pump(
    socket: aiohttp.ClientWebSocketResponse,
    session: spdy.Session,
    reader: asyncio.StreamReader,
    data_stream: int,
    error_stream: int,
    title: str,
) -> None:
    """Feeds the reader until the pod's side ends."""
    complaint = bytearray()
    try:
        async for message in socket:
            if not isinstance(message.data, bytes):
                continue
            for event in session.receive(message.data):
                match event:
                    case spdy.Ping(answer):
                        await socket.send_bytes(answer)
                    case spdy.Data(stream, data) if stream == data_stream:
                        reader.feed_data(data)
                    case spdy.Data(stream, data) if stream == error_stream:
                        complaint += data
                        reader.set_exception(errors.Unreachable(f"{title}: {complaint.decode(errors='replace')}"))
                    case spdy.End(stream) | spdy.Reset(stream) if stream in (data_stream, 0):
                        reader.feed_eof()
                    case _:
                        pass
    except (aiohttp.ClientError, ConnectionError):
        reader.set_exception(errors.Unreachable(f"{title}: the connection broke"))
    finally:
        if reader.exception() is None:
            reader.feed_eof()


@contextlib.asynccontextmanager
async def _connect(
    transport: Transport, path: str, params: Sequence[tuple[str, str]], protocols: Sequence[str], title: str
) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    try:
        socket = await transport.session.ws_connect(
            transport.url(path, params),
            protocols=protocols,
            # A kube-apiserver refuses an upgrade for which only JSON would be accepted (406).
            headers=await transport.headers({"Accept": "*/*"}),
            max_msg_size=0,
            heartbeat=30,
            proxy=transport.config.proxy_url or None,
            server_hostname=transport.config.tls_server_name or None,
        )
    except aiohttp.WSServerHandshakeError as error:
        reason = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}.get(error.status, "")
        text = {404: "there is no such pod or container", 403: "forbidden"}.get(error.status, error.message)
        raise errors.api_error(error.status, reason, f"{title}: {text}") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise transport.unreachable(error) from None
    async with socket:
        yield socket
