"""httpbin's endpoints, and the table that finds them.

What goes in: a path and a method. What comes out of `find`: a function from shape and request to the answer, or None.
A word in braces in the table takes one path segment, and the function gets it as text.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import random
import socket
import time
import zlib
from collections.abc import Callable, Iterator

import auth
import bodies
from shapes import Shape, base_url, canonical, dump, failure, origin
from tinyhttp import Request, Response, as_html, as_text
from websocket import accept

Endpoint = Callable[..., Response]

MAX_BYTES = 100 * 1024
MAX_SECONDS = 10.0
MAX_LINES = 100
BINARY = [("Content-Type", "application/octet-stream")]


def _number(text: str, low: float, high: float) -> float | None:
    """A number, cut to the range; None for what is none. Takes `500ms` and `1.5s` as well."""
    scale = 1.0
    for ending, factor in (("ms", 0.001), ("s", 1.0)):
        if text.endswith(ending):
            text, scale = text.removesuffix(ending), factor
            break
    try:
        value = float(text) * scale
    except ValueError:
        return None
    return min(max(value, low), high) if value == value else None


def get(shape: Shape, request: Request) -> Response:
    return shape.answer(shape.without_body(request))


def with_body(shape: Shape, request: Request) -> Response:
    return shape.answer(shape.with_body(request))


def anything(shape: Shape, request: Request) -> Response:
    return shape.answer({**shape.with_body(request), "method": request.method})


def headers(shape: Shape, request: Request) -> Response:
    return shape.answer({"headers": shape.headers(request)})


def ip(shape: Shape, request: Request) -> Response:
    return shape.answer({"origin": origin(request)})


def user_agent(shape: Shape, request: Request) -> Response:
    return shape.answer({"user-agent": request.header("user-agent")})


def hostname(shape: Shape, request: Request) -> Response:
    return shape.answer({"hostname": os.environ.get("HOSTNAME") or socket.gethostname()})


def _choose(text: str) -> int | None:
    """One status of `200` or `200,503` or `200:0.9,503:0.1`, by weight; None where that is not one."""
    statuses, weights = list[int](), list[float]()
    for part in text.split(","):
        status, colon, weight = part.strip().partition(":")
        number = _number(weight, 0.0, 1e9) if colon else 1.0
        if number is None or not (status.isascii() and status.isdigit() and 200 <= int(status) <= 999):
            return None
        statuses.append(int(status))
        weights.append(number)
    return random.choices(statuses, weights)[0] if sum(weights) > 0 else None


def status(shape: Shape, request: Request, code: str) -> Response:
    chosen = _choose(code)
    if chosen is None:
        return failure(400, f"{code!r} is not a final status, nor a list such as 200:0.9,503:0.1")
    extra: list[tuple[str, str]] = []
    if chosen in (301, 302, 303, 305, 307, 308):
        extra = [("Location", "/redirect/1")]
    elif chosen in (401, 407):
        name = "WWW-Authenticate" if chosen == 401 else "Proxy-Authenticate"
        extra = [(name, 'Basic realm="Fake Realm"')]
    body = b"I'm a teapot!" if chosen == 418 else b""
    return Response(chosen, body, [("Content-Type", "text/plain; charset=utf-8"), *extra])


def delay(shape: Shape, request: Request, seconds: str) -> Response:
    wait = _number(seconds, 0.0, MAX_SECONDS)
    if wait is None:
        return failure(400, f"{seconds!r} is not a number of seconds")
    time.sleep(wait)
    return shape.answer(shape.with_body(request))


def cookies(shape: Shape, request: Request) -> Response:
    return shape.answer({"cookies": request.cookies()})


def cookies_set(shape: Shape, request: Request) -> Response:
    found = [("Set-Cookie", f"{name}={value}; Path=/; HttpOnly") for name, value in request.args() if name]
    return Response(302, b"", [("Location", "/cookies"), *found])


def cookies_delete(shape: Shape, request: Request) -> Response:
    gone = [("Set-Cookie", f"{name}=; Path=/; Max-Age=0") for name, _ in request.args() if name]
    return Response(302, b"", [("Location", "/cookies"), *gone])


def _redirect(times: str, prefix: str) -> Response:
    count = _number(times, 0, 100)
    if count is None or count < 1:
        return failure(400, "the number of redirects is at least 1")
    target = f"{prefix}/{int(count) - 1}" if count >= 2 else prefix.rpartition("/")[0] + "/get"
    return Response(302, b"", [("Location", target)])


def redirect(shape: Shape, request: Request, times: str) -> Response:
    return _redirect(times, "/relative-redirect")


def absolute_redirect(shape: Shape, request: Request, times: str) -> Response:
    return _redirect(times, base_url(request) + "/absolute-redirect")


def redirect_to(shape: Shape, request: Request) -> Response:
    fields = dict(request.args())
    code = fields.get("status_code", "302")
    if not fields.get("url") or code not in ("301", "302", "303", "307", "308"):
        return failure(400, "give ?url=..., and a redirecting ?status_code=... if not 302")
    return Response(int(code), b"", [("Location", fields["url"])])


def response_headers(shape: Shape, request: Request) -> Response:
    framing = ("Content-Length", "Transfer-Encoding", "Connection", "Trailer")
    pairs = [
        (name, value)
        for name, value in request.args()
        if name.replace("-", "").replace("_", "").isalnum() and name.isascii() and canonical(name) not in framing
    ]
    typed = any(canonical(name) == "Content-Type" for name, _ in pairs)
    pairs = pairs if typed else [("Content-Type", shape.json_type), *pairs]
    return Response(200, dump(shape.values(pairs)), pairs)


def stream(shape: Shape, request: Request, lines: str) -> Response:
    count = _number(lines, 0, MAX_LINES)
    if count is None:
        return failure(400, f"{lines!r} is not a number of lines")
    fields = shape.without_body(request)
    blocks = (json.dumps({"id": number, **fields}).encode() + b"\n" for number in range(int(count)))
    return Response(200, blocks, [("Content-Type", shape.json_type)])


def _random_bytes(request: Request, count: str) -> bytes | None:
    size = _number(count, 0, MAX_BYTES)
    seed = dict(request.args()).get("seed")
    return None if size is None else random.Random(seed).randbytes(int(size))


def some_bytes(shape: Shape, request: Request, count: str) -> Response:
    data = _random_bytes(request, count)
    return failure(400, f"{count!r} is not a number of bytes") if data is None else Response(200, data, BINARY)


def stream_bytes(shape: Shape, request: Request, count: str) -> Response:
    data = _random_bytes(request, count)
    if data is None:
        return failure(400, f"{count!r} is not a number of bytes")
    return Response(200, (data[at : at + 10240] for at in range(0, len(data), 10240)), BINARY)


def some_range(shape: Shape, request: Request, count: str) -> Response:
    size = int(_number(count, 1, MAX_BYTES) or 1)
    data = bytes(97 + at % 26 for at in range(size))
    head = [("Content-Type", "text/plain"), ("ETag", f'"range{size}"'), ("Accept-Ranges", "bytes")]
    unit, _, wanted = request.header("range").partition("=")
    start, dash, end = wanted.partition("-")
    if unit != "bytes" or not dash or not (start + end).isdigit():
        return Response(200, data, head)
    first = int(start) if start else max(size - int(end), 0)
    last = min(int(end), size - 1) if start and end else size - 1
    if first > last:
        return Response(416, b"", [*head, ("Content-Range", f"bytes */{size}")])
    return Response(206, data[first : last + 1], [*head, ("Content-Range", f"bytes {first}-{last}/{size}")])


def drip(shape: Shape, request: Request) -> Response:
    given = dict(request.args())
    duration = _number(given.get("duration", "2"), 0, MAX_SECONDS)
    before = _number(given.get("delay", "0"), 0, MAX_SECONDS)
    count = _number(given.get("numbytes", "10"), 1, MAX_BYTES)
    code = _choose(given.get("code", "200"))
    if duration is None or before is None or count is None or code is None:
        return failure(400, "duration and delay are seconds, numbytes a number, code a status")
    total, pause = int(count), duration / max(int(count) - 1, 1)
    time.sleep(before)

    def blocks() -> Iterator[bytes]:
        for number in range(total):
            if number:
                time.sleep(pause)
            yield b"*"

    return Response(code, blocks(), BINARY)


def _packed(shape: Shape, request: Request, name: str, field: str, window: int) -> Response:
    packer = zlib.compressobj(wbits=window)
    data = packer.compress(dump({**shape.without_body(request), field: True})) + packer.flush()
    return Response(200, data, [("Content-Type", shape.json_type), ("Content-Encoding", name)])


def gzip(shape: Shape, request: Request) -> Response:
    return _packed(shape, request, "gzip", "gzipped", 31)


def deflate(shape: Shape, request: Request) -> Response:
    return _packed(shape, request, "deflate", "deflated", 15)


def cache(shape: Shape, request: Request) -> Response:
    if request.header("if-modified-since") or request.header("if-none-match"):
        return Response(304)
    return shape.answer(shape.without_body(request), 200, [("ETag", '"cache"'), ("Last-Modified", bodies.MODIFIED)])


def cache_control(shape: Shape, request: Request, seconds: str) -> Response:
    age = _number(seconds, 0, 1e9)
    if age is None:
        return failure(400, f"{seconds!r} is not a number of seconds")
    return shape.answer(shape.without_body(request), 200, [("Cache-Control", f"public, max-age={int(age)}")])


def etag(shape: Shape, request: Request, tag: str) -> Response:
    def named(header: str) -> set[str]:
        return {text.strip().removeprefix("W/").strip('"') for text in request.header(header).split(",")} - {""}

    ours, head = {tag, "*"}, [("ETag", f'"{tag}"')]
    if named("if-none-match") & ours:
        return Response(304, b"", head)
    if named("if-match") and not named("if-match") & ours:
        return Response(412, b"", head)
    return shape.answer(shape.without_body(request), 200, head)


def uuid(shape: Shape, request: Request) -> Response:
    raw = bytearray(os.urandom(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80  # RFC 9562: version 4
    text = raw.hex()
    return shape.answer({"uuid": "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))})


def base64_text(shape: Shape, request: Request, first: str, second: str | None = None) -> Response:
    operation, text = ("decode", first) if second is None else (first, second)
    if operation == "encode":
        return as_text(base64.urlsafe_b64encode(text.encode()).decode())
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return failure(400, "that is not base64")
    return Response(200, data, [("Content-Type", "text/plain; charset=utf-8")])


def image(shape: Shape, request: Request, kind: str = "") -> Response:
    wanted = request.header("accept", "*/*")
    if not kind and not any(text in wanted for text in ("image/png", "image/svg", "image/*", "*/*")):
        return failure(406, "png and svg are served here")
    kind = kind or ("svg" if "image/svg" in wanted else "png")
    if kind == "svg":
        return Response(200, bodies.SVG, [("Content-Type", "image/svg+xml")])
    if kind == "png":
        return Response(200, bodies.png(), [("Content-Type", "image/png")])
    return failure(404, "png and svg are served here")


def websocket(shape: Shape, request: Request) -> Response:
    return accept(request)


def index(shape: Shape, request: Request) -> Response:
    return as_html(bodies.index(sorted(path for path, _, _ in TABLE)))


def _fixed(kind: str, text: str) -> Endpoint:
    def answer(shape: Shape, request: Request) -> Response:
        return Response(200, text, [("Content-Type", kind)])

    return answer


ANY: tuple[str, ...] = ()

TABLE: tuple[tuple[str, tuple[str, ...], Endpoint], ...] = (
    ("/", ("GET",), index),
    ("/get", ("GET",), get),
    ("/head", ("HEAD",), get),
    ("/post", ("POST",), with_body),
    ("/put", ("PUT",), with_body),
    ("/patch", ("PATCH",), with_body),
    ("/delete", ("DELETE",), with_body),
    ("/anything", ANY, anything),
    ("/anything/{...}", ANY, anything),
    ("/headers", ANY, headers),
    ("/ip", ANY, ip),
    ("/user-agent", ANY, user_agent),
    ("/hostname", ANY, hostname),
    ("/status/{codes}", ANY, status),
    ("/delay/{seconds}", ANY, delay),
    ("/cookies", ANY, cookies),
    ("/cookies/set", ANY, cookies_set),
    ("/cookies/delete", ANY, cookies_delete),
    ("/redirect/{n}", ANY, redirect),
    ("/relative-redirect/{n}", ANY, redirect),
    ("/absolute-redirect/{n}", ANY, absolute_redirect),
    ("/redirect-to", ANY, redirect_to),
    ("/response-headers", ANY, response_headers),
    ("/stream/{n}", ANY, stream),
    ("/bytes/{n}", ANY, some_bytes),
    ("/stream-bytes/{n}", ANY, stream_bytes),
    ("/range/{n}", ANY, some_range),
    ("/drip", ANY, drip),
    ("/gzip", ANY, gzip),
    ("/deflate", ANY, deflate),
    ("/cache", ANY, cache),
    ("/cache/{seconds}", ANY, cache_control),
    ("/etag/{tag}", ANY, etag),
    ("/uuid", ANY, uuid),
    ("/base64/{text}", ANY, base64_text),
    ("/base64/{operation}/{text}", ANY, base64_text),
    ("/image", ANY, image),
    ("/image/{kind}", ANY, image),
    ("/basic-auth/{user}/{password}", ANY, auth.basic),
    ("/hidden-basic-auth/{user}/{password}", ANY, auth.hidden_basic),
    ("/bearer", ANY, auth.bearer),
    ("/websocket/echo", ("GET",), websocket),
    ("/html", ANY, _fixed("text/html; charset=utf-8", bodies.HTML)),
    ("/json", ANY, _fixed("application/json; charset=utf-8", bodies.JSON)),
    ("/xml", ANY, _fixed("application/xml", bodies.XML)),
    ("/encoding/utf8", ("GET",), _fixed("text/html; charset=utf-8", bodies.UTF8)),
    ("/robots.txt", ANY, _fixed("text/plain", "User-agent: *\nDisallow: /deny\n")),
    ("/deny", ANY, _fixed("text/plain", "You were asked not to come here.\n")),
)


def _match(pattern: str, segments: list[str]) -> list[str] | None:
    """The words that a path gives for a pattern's braces; None where it does not fit."""
    parts = pattern.split("/")[1:]
    if parts[-1] == "{...}":
        return [] if len(segments) >= len(parts) and segments[: len(parts) - 1] == parts[:-1] else None
    if len(parts) != len(segments):
        return None
    words = list[str]()
    for part, segment in zip(parts, segments, strict=True):
        if part.startswith("{") and segment:
            words.append(segment)
        elif part != segment:
            return None
    return words


def find(path: str, method: str) -> Callable[[Shape, Request], Response] | None:
    """What answers a request; None where nothing is at that path."""
    allowed = list[str]()
    for pattern, methods, endpoint in TABLE:
        words = _match(pattern, path.split("/")[1:])
        if words is None:
            continue
        if not methods or method in methods or (method == "HEAD" and "GET" in methods):
            return lambda shape, request, endpoint=endpoint, words=words: endpoint(shape, request, *words)
        allowed += methods
    if not allowed:
        return None

    def refuse(shape: Shape, request: Request) -> Response:
        response = failure(405)
        response.headers.append(("Allow", ", ".join(allowed)))
        return response

    return refuse
