"""Something to probe: `health.py [PORT PORT]` (8001 and 8002).

On both ports `/foo` and `/bar` answer with the port and the path; any other path is 404, so that a probe of it fails.
While the file named by HEALTH_FILE is there, every path answers 503: `touch` it to see a liveness probe restart the
container.
"""

from __future__ import annotations

import functools
import os
import sys

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse_port
from tinyhttp import Request, Response, as_text, serve


def handle(port: int, switch: str, request: Request) -> Response:
    """Answer one request."""
    if switch and os.path.exists(switch):  # noqa: PTH110
        return as_text(f"unhealthy: {switch} is there\n", 503)
    if request.path in ("/foo", "/bar"):
        return as_text(f"Listening on {port}: {request.path[1:]}\n")
    return as_text("Not found\n", 404)


def main() -> None:
    """Serve until told to stop."""
    ports = [parse_port(text) for text in sys.argv[1:]] or [8001, 8002]
    switch = os.environ.get("HEALTH_FILE", "")
    serve([(port, functools.partial(handle, port, switch)) for port in ports])


if __name__ == "__main__":
    main()
