"""A service that answers with what it was asked: `httpbin.py [PORT] [--version go|python]` (port 8080, version go).

The two well-known implementations differ in the shape of their JSON: `go` gives header and argument values as lists,
and adds the method; `python` gives strings. `-port N` is understood as well, and so is the variable PORT. The
endpoints stand in the table at the end of `endpoints.py`.
"""

from __future__ import annotations

import functools
import os
import sys

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from endpoints import find
from options import parse
from shapes import Shape, failure
from tinyhttp import Request, Response, serve

CORS = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true")]
METHODS = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"


def handle(shape: Shape, request: Request) -> Response:
    """Answer one request."""
    if request.method == "OPTIONS":
        allowed = [("Access-Control-Allow-Methods", METHODS), ("Allow", METHODS), ("Access-Control-Max-Age", "3600")]
        wanted = request.header("access-control-request-headers")
        if wanted:
            allowed.append(("Access-Control-Allow-Headers", wanted))
        response = Response(200, b"", allowed)
    else:
        found = find(request.path, request.method)
        response = failure(404) if found is None else found(shape, request)
    if response.status != 101:
        response.headers += CORS
    return response


def arguments() -> list[str]:
    """The command line, with go-httpbin's own spelling of the port turned into ours."""
    given = list(sys.argv)
    for spelling in ("-port", "--port"):
        if spelling in given[:-1]:
            at = given.index(spelling)
            rest = given[1:at] + given[at + 2 :]
            given = [given[0], given[at + 1], *(text for text in rest if not text.isdigit())]
    return given


def main() -> None:
    """Serve until told to stop."""
    default = os.environ.get("PORT", "")
    chosen = parse(arguments(), "go", int(default) if default.isdigit() else 8080)
    serve([(chosen.port, functools.partial(handle, Shape(chosen.version == "python")))])


if __name__ == "__main__":
    main()
