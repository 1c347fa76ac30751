"""A service that says which version and instance answered: `helloworld.py [PORT] [--version NAME]` (port 5000).

`GET /hello` answers `Hello version: v1, instance: <host name>`; `GET /health` is for probes. SERVICE_VERSION overrides
the version.
"""

from __future__ import annotations

import os
import socket
import sys

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse
from tinyhttp import Request, Response, as_text, serve


def main() -> None:
    """Serve until told to stop."""
    chosen = parse(sys.argv, "v1", 5000)
    version = os.environ.get("SERVICE_VERSION", chosen.version)
    instance = os.environ.get("HOSTNAME") or socket.gethostname()

    def handle(request: Request) -> Response:
        if request.path == "/hello":
            return as_text(f"Hello version: {version}, instance: {instance}\n")
        if request.path == "/health":
            return as_text("Helloworld is healthy")
        return as_text("Not found\n", 404)

    serve([(chosen.port, handle)])


if __name__ == "__main__":
    main()
