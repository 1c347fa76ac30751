"""HTTP/1.1 in as few lines as the agent needs: a server for 15020 and a client for Envoy's admin and the application.

Bounded: a request head of 16 KiB, a response body of 16 MiB, a time limit on everything. One request a connection on
the client side; the server keeps connections alive. Chunked bodies are understood, nothing else of HTTP's extras.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

MAX_HEAD = 16 * 1024
MAX_REQUEST_BODY = 64 * 1024
MAX_RESPONSE_BODY = 16 * 1024 * 1024
MAX_CONNECTIONS = 256
IDLE_SECONDS = 65.0

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class HttpError(Exception):
    """The other side did not speak HTTP as expected, or not in time."""


@dataclass(frozen=True, slots=True)
class Request:
    """`path` without the query; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: str


@dataclass(frozen=True, slots=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


Handler = Callable[[Request], Awaitable[Response]]


async def serve(host: str | None, port: int, handler: Handler) -> asyncio.Server:
    """A listening server; `host` None means every address of both families."""
    open_connections = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            if open_connections <= MAX_CONNECTIONS:
                await _serve_connection(reader, writer, handler)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            open_connections -= 1
            writer.close()
            with suppress(ConnectionError, OSError, asyncio.CancelledError):
                await writer.wait_closed()

    return await asyncio.start_server(connection, host, port, limit=MAX_HEAD)


async def _serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    peer: object = writer.get_extra_info("peername")
    address = str(peer[0]) if isinstance(peer, tuple) and peer else ""  # pyright: ignore[reportUnknownArgumentType]
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await _send(writer, Response(431), keep_alive=False)
            return
        try:
            request = _request_of(head, address)
            length = int(request.headers.get("content-length", "0") or "0")
        except ValueError:
            await _send(writer, Response(400), keep_alive=False)
            return
        if not 0 <= length <= MAX_REQUEST_BODY or "transfer-encoding" in request.headers:
            await _send(writer, Response(413), keep_alive=False)
            return
        async with asyncio.timeout(IDLE_SECONDS):
            await reader.readexactly(length)
        http10 = head.split(b"\r\n", 1)[0].endswith(b"HTTP/1.0")
        keep_alive = request.headers.get("connection", "").lower() != "close" and not http10
        response = await handler(request)
        await _send(writer, response, keep_alive=keep_alive, head_only=request.method == "HEAD")
        if not keep_alive:
            return


def _request_of(head: bytes, peer: str) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise ValueError("no HTTP/1 request line")
    path, _, query = parts[1].partition("?")
    return Request(parts[0], path, query, _headers_of(lines[1:]), peer)


def _headers_of(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip().lower()] = value.strip()
    return headers


async def _send(writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool, head_only: bool = False) -> None:
    reason = _REASONS.get(response.status, "Status")
    lines = [f"HTTP/1.1 {response.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [f"content-length: {len(response.body)}", f"connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + (b"" if head_only else response.body))
    async with asyncio.timeout(IDLE_SECONDS):
        await writer.drain()


async def fetch(
    host: str,
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
    tls: ssl.SSLContext | None = None,
    source: str = "",
    max_body: int = MAX_RESPONSE_BODY,
) -> Response:
    """One request on a connection of its own. `source`: local address to call from. Raises HttpError."""
    try:
        async with asyncio.timeout(timeout):
            local = (source, 0) if source else None
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, local_addr=local, limit=MAX_HEAD)
            try:
                shown = f"[{host}]" if ":" in host else host
                lines = [f"{method} {path} HTTP/1.1"]
                given = {k.lower(): v for k, v in (headers or {}).items()}
                given.setdefault("host", f"{shown}:{port}")
                given["connection"] = "close"
                if method not in ("GET", "HEAD"):
                    given["content-length"] = "0"
                lines += [f"{name}: {value}" for name, value in given.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
                await writer.drain()
                return await _response(reader, method, max_body)
            finally:
                writer.close()
    except TimeoutError:
        raise HttpError(f"no answer within {timeout:g} s") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise HttpError(str(error) or type(error).__name__) from None


async def _response(reader: asyncio.StreamReader, method: str, max_body: int) -> Response:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        parts = head[0].split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise ValueError(f"no HTTP/1 answer: {head[0][:60]!r}")
        status = int(parts[1])
        if status >= 200 or status == 101:
            break
    headers = _headers_of(head[1:])
    if method == "HEAD" or status in (204, 304, 101):
        return Response(status, b"", headers)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status, await _chunked(reader, max_body), headers)
    if "content-length" in headers:
        length = int(headers["content-length"])
        if not 0 <= length <= max_body:
            raise ValueError(f"the answer has {length} bytes, more than {max_body}")
        return Response(status, await reader.readexactly(length), headers)
    body = bytearray()
    while chunk := await reader.read(65_536):
        body += chunk
        if len(body) > max_body:
            raise ValueError(f"the answer has more than {max_body} bytes")
    return Response(status, bytes(body), headers)


async def _chunked(reader: asyncio.StreamReader, max_body: int) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readline()).split(b";")[0].strip() or b"0", 16)
        if size == 0:
            while (await reader.readline()).strip():
                pass
            return bytes(body)
        if size < 0 or len(body) + size > max_body:
            raise ValueError(f"the answer has more than {max_body} bytes")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
