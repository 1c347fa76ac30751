"""An old application of a machine: says where it runs and which headers it got; ill while the file /run/ill is there.

`python3 app.py PORT`. Paths: /health (200, or 503 when ill), anything else (200, JSON).
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ILL = Path("/run/ill")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ill = self.path == "/health" and ILL.exists()
        headers = {name.title(): value for name, value in self.headers.items()}
        body = json.dumps({"machine": socket.gethostname(), "headers": headers}).encode() + b"\n"
        self.send_response(503 if ill else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Access logs are the proxy's business."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
