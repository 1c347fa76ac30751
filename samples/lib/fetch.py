"""A small HTTP/1.1 client: one request, one connection, one deadline.

What goes in: a URL, headers, a deadline in seconds. What comes out: status, headers and body. Connections are not
kept, so that a load balancer between the samples decides anew for every call, and shares can be seen after a few
requests.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from wire import BadMessage, Closed, HeaderList, Wire, content_length, first, read_chunks, read_headers


class Fetched:
    """An answer: `status`, `headers` in the order they came, `body` as sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: HeaderList, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class FetchError(Exception):
    """No answer: refused, reset, too late, or not HTTP. The message says which, and from whom."""


def _connect(host: str, port: int, secure: bool, seconds: float) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not secure:
        return sock
    import ssl  # costs 5 MiB: only for those who ask for https

    return ssl.create_default_context().wrap_socket(sock, server_hostname=host)


def _status(line: bytes) -> int:
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise BadMessage(502, "the answer is not HTTP/1.1")
    return int(parts[1])


def _answer(wire: Wire, method: str) -> Fetched:
    status = _status(wire.line())
    headers = read_headers(wire)
    while 100 <= status < 200:
        status = _status(wire.line())
        headers = read_headers(wire)
    length = content_length(headers)
    if method == "HEAD" or status in (204, 304):
        return Fetched(status, headers, b"")
    if "chunked" in first(headers, "transfer-encoding").lower():
        return Fetched(status, headers, read_chunks(wire))
    return Fetched(status, headers, wire.rest() if length is None else wire.exactly(length))


def fetch(
    url: str, *, method: str = "GET", headers: Iterable[tuple[str, str]] = (), body: bytes = b"", seconds: float
) -> Fetched:
    """Ask `url` and give its answer, whatever its status; raises FetchError where none came within `seconds`."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    try:
        with _connect(parts.hostname or "", parts.port or (443 if secure else 80), secure, seconds) as sock:
            wire = Wire(sock)
            wire.within(seconds)
            wire.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return _answer(wire, method)
    except (OSError, Closed, BadMessage, ValueError) as error:
        raise FetchError(f"{method} {url}: {error or type(error).__name__}") from error
