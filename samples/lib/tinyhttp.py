"""A small HTTP/1.1 server for the samples: keep-alive, bounded, streaming, upgrades.

What goes in: a function from `Request` to `Response`. What comes out: `serve`, which runs it, writes an access-log
line for every request, and leaves politely (see `service.py`). `ports` gives it several ports at once.
"""

from __future__ import annotations

import functools
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote

from service import Activity, Serve, run, say
from wire import MAX_BODY, BadMessage, Closed, HeaderList, Wire, content_length, first, read_chunks, read_headers

REQUEST_SECONDS = 60.0
IDLE_SECONDS = 2 * 3600.0  # longer than Envoy keeps an idle connection, so that the server never closes first

REASONS = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
    206: "Partial Content", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict",
    412: "Precondition Failed", 413: "Content Too Large", 416: "Range Not Satisfiable", 418: "I'm a teapot",
    426: "Upgrade Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


class Request:
    """One request. `path` is percent-decoded, `query` is not; `peer` is the address of the other end."""

    __slots__ = ("body", "headers", "method", "path", "peer", "port", "query", "raw_path", "target", "version")

    def __init__(self, method: str, target: str, version: str, headers: HeaderList, peer: str, port: int) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.peer = peer
        self.port = port
        self.raw_path, _, self.query = target.partition("?")
        self.path = unquote(self.raw_path)
        self.body = b""

    def header(self, name: str, default: str = "") -> str:
        return first(self.headers, name, default)

    def args(self) -> list[tuple[str, str]]:
        """The query as pairs, in order, empty values kept."""
        return parse_qsl(self.query, keep_blank_values=True, max_num_fields=1000)

    def cookies(self) -> dict[str, str]:
        pairs = (part.strip().partition("=") for part in self.header("cookie").split(";"))
        return {name: value for name, equals, value in pairs if equals}


class Response:
    """One answer. `body` is bytes, or an iterable of bytes that is sent in chunks as it comes; `upgrade`, with status
    101, takes the connection over."""

    __slots__ = ("body", "headers", "status", "trailers", "upgrade")

    def __init__(
        self,
        status: int = 200,
        body: bytes | str | Iterable[bytes] = b"",
        headers: Iterable[tuple[str, str]] = (),
        *,
        upgrade: Callable[[Wire], None] | None = None,
        trailers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.status = status
        self.body: bytes | Iterable[bytes] = body.encode() if isinstance(body, str) else body
        self.headers: HeaderList = list(headers)
        self.upgrade = upgrade
        self.trailers: HeaderList = list(trailers)


Handler = Callable[[Request], Response]


def as_json(value: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A JSON answer."""
    return Response(status, json.dumps(value), [("Content-Type", "application/json"), *headers])


def as_text(text: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A plain-text answer."""
    return Response(status, text, [("Content-Type", "text/plain; charset=utf-8"), *headers])


def as_html(text: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """An HTML answer."""
    return Response(status, text, [("Content-Type", "text/html; charset=utf-8"), *headers])


def _read_head(wire: Wire, peer: str, port: int) -> Request:
    line = wire.line()
    if not line:
        line = wire.line()  # RFC 9112 2.2: an empty line before a request is let pass
    parts = line.split(b" ")
    if len(parts) != 3 or not all(parts):
        raise BadMessage(400, "the request line is not `METHOD target HTTP/1.1`")
    version = parts[2].decode("latin-1")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadMessage(505, "only HTTP/1.0 and HTTP/1.1 are served here")
    target = parts[1].decode("latin-1")
    if "://" in target.partition("?")[0] and not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]  # RFC 9112 3.2.2: absolute form
    headers = read_headers(wire)
    if version == "HTTP/1.1" and not any(name.lower() == "host" for name, _ in headers):
        raise BadMessage(400, "no Host header")
    return Request(parts[0].decode("latin-1"), target, version, headers, peer, port)


def _read_body(wire: Wire, request: Request) -> bytes:
    coding = request.header("transfer-encoding").strip().lower()
    length = content_length(request.headers)
    if coding and length is not None:
        raise BadMessage(400, "both Transfer-Encoding and Content-Length")
    if coding not in ("", "chunked"):
        raise BadMessage(501, "a transfer coding that is not known here")
    if length is not None and length > MAX_BODY:
        raise BadMessage(413, "the body is too long")
    if not coding and not length:
        return b""
    if request.header("expect").lower() == "100-continue":
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    return read_chunks(wire) if coding else wire.exactly(length or 0)


def _clean(text: str) -> str:
    """A header's text as Latin-1 without line ends, so that no value can start another header."""
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8").decode("latin-1") if text else text


def _head(status: int, headers: HeaderList) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}"]
    lines += [f"{_clean(name)}: {_clean(value)}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _send_stream(wire: Wire, blocks: Iterable[bytes], chunked: bool, trailers: HeaderList) -> int:
    sent = 0
    for block in blocks:
        if block:
            wire.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
            sent += len(block)
    if chunked:
        ending = "".join(f"{_clean(name)}: {_clean(value)}\r\n" for name, value in trailers)
        wire.send(b"0\r\n" + ending.encode("latin-1") + b"\r\n")
    return sent


def _send(wire: Wire, request: Request, response: Response, keep: bool) -> tuple[int, bool]:
    """Send an answer; gives the body's size as sent and whether the connection lives on."""
    headers = [("Date", _http_date()), *response.headers]
    bodiless = response.status in (204, 304) or response.status < 200
    plain = isinstance(response.body, bytes)
    chunked = not plain and request.version == "HTTP/1.1"
    if isinstance(response.body, bytes):
        if not bodiless:
            headers.append(("Content-Length", str(len(response.body))))
    elif chunked:
        headers.append(("Transfer-Encoding", "chunked"))
        if response.trailers:
            headers.append(("Trailer", ", ".join(name for name, _ in response.trailers)))
    else:
        keep = False
    if not keep:
        headers.append(("Connection", "close"))
    elif request.version == "HTTP/1.0":
        headers.append(("Connection", "keep-alive"))
    head = _head(response.status, headers)
    if request.method == "HEAD" or bodiless:
        wire.send(head)
        return 0, keep
    if isinstance(response.body, bytes):
        wire.send(head + response.body)
        return len(response.body), keep
    wire.within(None)
    wire.send(head)
    return _send_stream(wire, response.body, chunked, response.trailers), keep


def _http_date() -> str:
    now = time.gmtime()
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[now.tm_wday]
    month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][now.tm_mon - 1]
    return f"{day}, {now.tm_mday:02} {month} {now.tm_year} {time.strftime('%H:%M:%S', now)} GMT"


def _log(request: Request, status: int, size: int) -> None:
    """One line in the combined log format."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    agent, referrer = request.header("user-agent", "-"), request.header("referer", "-")
    line = f"{request.method} {request.target} {request.version}"
    say(f'{request.peer} - - [{stamp}] "{line}" {status} {size} "{referrer}" "{agent}"')


def _wants_to_stay(request: Request) -> bool:
    options = {option.strip().lower() for option in request.header("connection").split(",")}
    if request.version == "HTTP/1.0":
        return "keep-alive" in options
    return "close" not in options


def _answer(handler: Handler, request: Request) -> Response:
    try:
        return handler(request)
    except BadMessage as error:
        return as_json({"error": str(error)}, error.status)
    except Exception as error:  # one bad request must not end a server that others use
        say(f"{request.method} {request.target}: {error!r}")
        return as_json({"error": "internal error"}, 500)


def _exchange(wire: Wire, handler: Handler, peer: str, port: int, activity: Activity) -> bool:
    """One request and its answer; gives whether another may follow."""
    wire.within(IDLE_SECONDS)
    wire.wait()
    with activity:
        wire.within(REQUEST_SECONDS)
        try:
            request = _read_head(wire, peer, port)
            request.body = _read_body(wire, request)
        except BadMessage as error:
            refused = Request("-", "-", "HTTP/1.1", [], peer, port)
            _send(wire, refused, as_json({"error": str(error)}, error.status), keep=False)
            _log(refused, error.status, 0)
            return False
        response = _answer(handler, request)
        if response.status == 101 and response.upgrade is not None:
            wire.within(None)
            wire.send(_head(101, response.headers))
            _log(request, 101, 0)
            response.upgrade(wire)
            return False
        wire.within(REQUEST_SECONDS)
        size, keep = _send(wire, request, response, _wants_to_stay(request) and not activity.draining)
        _log(request, response.status, size)
        return keep


def connection(handler: Handler, activity: Activity, sock: socket.socket, peer: str) -> None:
    """Serve one connection to its end."""
    wire = Wire(sock)
    port = sock.getsockname()[1]
    try:
        while _exchange(wire, handler, peer, port, activity):
            pass
    except (Closed, OSError):
        return


def serve(
    handlers: Mapping[int, Handler] | Sequence[tuple[int, Handler]],
    tls: Mapping[int, ssl.SSLContext] = MappingProxyType({}),
) -> None:
    """Serve each handler on its port until SIGTERM, over TLS where `tls` has a context for the port; never returns."""
    activity = Activity()
    pairs = handlers.items() if isinstance(handlers, Mapping) else handlers
    run([(port, _over(tls.get(port), functools.partial(connection, handler, activity))) for port, handler in pairs],
        activity)  # fmt: skip


def _over(context: ssl.SSLContext | None, serve: Serve) -> Serve:
    if context is None:
        return serve

    def secure(sock: socket.socket, peer: str) -> None:
        try:
            wrapped = context.wrap_socket(sock, server_side=True)
        except OSError:  # no handshake, or a client that is not trusted
            sock.close()
            return
        with wrapped:
            serve(wrapped, peer)

    return secure
