"""How httpbin describes a request in JSON, in the shape of either implementation.

What goes in: a request. What comes out: the fields of the answer. `Shape(True)` is the Python implementation's (one
value is a string, several are a list; headers joined), `Shape(False)` the Go one's (always lists).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote

from tinyhttp import REASONS, Request, Response

Fields = dict[str, object]
Pairs = list[tuple[str, str]]


def canonical(name: str) -> str:
    """`x-request-id` as `X-Request-Id`."""
    return "-".join(part.capitalize() for part in name.split("-"))


def dump(value: object) -> bytes:
    """JSON, indented, with a line end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def failure(status: int, detail: str = "") -> Response:
    """An error as JSON."""
    fields: Fields = {"status_code": status, "error": REASONS.get(status, "Error")}
    if detail:
        fields["detail"] = detail
    return Response(status, dump(fields), [("Content-Type", "application/json; charset=utf-8")])


def origin(request: Request) -> str:
    """The client's address, as the proxies in front tell it."""
    return request.header("x-forwarded-for").partition(",")[0].strip() or request.peer


def base_url(request: Request) -> str:
    """Scheme and host as the client had them."""
    return f"{request.header('x-forwarded-proto') or 'http'}://{request.header('host')}"


class Shape:
    """One of the two shapes."""

    def __init__(self, python: bool) -> None:
        self.python = python
        self.json_type = "application/json" if python else "application/json; charset=utf-8"

    def answer(self, fields: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """A JSON answer."""
        return Response(status, dump(fields), [("Content-Type", self.json_type), *headers])

    def values(self, pairs: Iterable[tuple[str, str]]) -> Fields:
        """Pairs grouped by name."""
        grouped: dict[str, list[str]] = {}
        for name, value in pairs:
            grouped.setdefault(name, []).append(value)
        if not self.python:
            return {name: grouped[name] for name in sorted(grouped)}
        return {name: found[0] if len(found) == 1 else found for name, found in sorted(grouped.items())}

    def headers(self, request: Request) -> Fields:
        """The request's headers under their canonical names."""
        pairs = [(canonical(name), value) for name, value in request.headers]
        grouped = Shape(False).values(pairs)
        if not self.python:
            return grouped
        return {name: ",".join(value for other, value in pairs if other == name) for name in grouped}

    def without_body(self, request: Request) -> Fields:
        """What was asked, but for the body."""
        fields: Fields = {"args": self.values(request.args()), "headers": self.headers(request)}
        if not self.python:
            fields["method"] = request.method
        return {**fields, "origin": origin(request), "url": base_url(request) + request.target}

    def with_body(self, request: Request) -> Fields:
        """What was asked, and the body read as its type says."""
        kind = request.header("content-type")
        main = kind.partition(";")[0].strip().lower()
        form, files, data = Pairs(), Pairs(), ""
        parsed: object = None
        if main == "application/x-www-form-urlencoded":
            form = parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=1000)
        elif main == "multipart/form-data":
            form, files = multipart(request.body, kind)
        else:
            data = as_data(request.body, kind)
        if data and (self.python or main == "application/json"):
            try:
                parsed = json.loads(request.body)
            except (ValueError, RecursionError):
                parsed = None
        read = {"data": data, "files": self.values(files), "form": self.values(form), "json": parsed}
        return {**self.without_body(request), **read}


def as_data(body: bytes, kind: str) -> str:
    """A body as text; as a data URL where it is none."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(body).decode()}"


def _parameter(header: str, name: str) -> str | None:
    for part in header.split(";")[1:]:
        key, equals, value = part.strip().partition("=")
        if equals and key.lower() == name:
            return unquote(value.strip('"'))
    return None


def multipart(body: bytes, kind: str) -> tuple[Pairs, Pairs]:
    """The fields and the files of a multipart form (RFC 7578), as pairs of name and text."""
    boundary = _parameter(kind, "boundary")
    form, files = Pairs(), Pairs()
    if not boundary:
        return form, files
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        head, gap, content = part.partition(b"\r\n\r\n")
        if part.startswith(b"--") or not gap:
            continue
        for line in head.decode("utf-8", "replace").split("\r\n"):
            name = _parameter(line, "name")
            if line.lower().startswith("content-disposition:") and name is not None:
                target = form if _parameter(line, "filename") is None else files
                target.append((name, content.decode("utf-8", "replace")))
    return form, files
