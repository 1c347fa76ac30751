"""A server for traffic tests, standard library only: it says what it was sent, counts it, and does as it is told.

`echo.py NAME`. Port 8080 speaks HTTP/1.1 and answers with JSON; 8443 the same over TLS where `/tls` has `tls.crt`,
`tls.key` and `ca.crt` (a client certificate is asked for, not demanded); 9000 sends each line back after NAME; 9001
sends back the first line alone. What a request's header `x-do` says is done: `status=503`, `delay=0.3` (seconds),
`grpc=14` (a gRPC status in the answer's headers); with `at=v1` only by the server of that NAME. `GET /_seen` on the pod
itself tells how often each `x-id` was seen. `CONNECT host:port` leads to that port of the server itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = sys.argv[1]
SEEN: Counter[str] = Counter()
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/_seen":
            self.send(200, SEEN)
            return
        with LOCK:
            SEEN[self.headers.get("x-id", "")] += 1
        orders = dict(part.partition("=")[::2] for part in self.headers.get("x-do", "").split(",") if part)
        only = orders.pop("at", NAME)
        if only != NAME:
            orders = {}
        time.sleep(float(orders.get("delay", 0)))
        tls = isinstance(self.connection, ssl.SSLSocket)
        told = {
            "version": NAME,
            "pod": os.environ.get("HOSTNAME", ""),
            "method": self.command,
            "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "peer": self.client_address[0],
            "port": self.client_address[1],
            "client": dict(x[0] for x in self.connection.getpeercert().get("subject", ())) if self.has_cert() else {},
            "sni": getattr(self.connection, "asked", "") if tls else "",
        }
        self.send(int(orders.get("status", 200)), told, orders.get("grpc", ""))

    def do_CONNECT(self) -> None:
        with LOCK:
            SEEN[f"CONNECT {self.path}"] += 1
        self.close_connection = True
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=pipe, args=(far, self.connection))
            back.start()
            pipe(self.connection, far)
            back.join()

    def has_cert(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket) and bool(self.connection.getpeercert())

    def send(self, status: int, told: object, grpc: str = "") -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-version", NAME)
        if grpc:
            self.send_header("grpc-status", grpc)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_HEAD = do_PATCH = answer

    def log_message(self, format: str, *args: object) -> None: ...


def pipe(source: socket.socket, target: socket.socket) -> None:
    while chunk := source.recv(65536):
        target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


class Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(NAME.encode() + b" " + line)


class FirstLine(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class TCP(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


def remember(sock: ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
    sock.asked = name or ""  # type: ignore[attr-defined]


def main() -> None:
    servers: list[socketserver.TCPServer] = [
        Server(("0.0.0.0", 8080), Handler),
        TCP(("0.0.0.0", 9000), Lines),
        TCP(("0.0.0.0", 9001), FirstLine),
    ]
    if Path("/tls/tls.crt").exists():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
        context.load_verify_locations("/tls/ca.crt")
        context.verify_mode = ssl.CERT_OPTIONAL
        context.sni_callback = remember
        secure = Server(("0.0.0.0", 8443), Handler)
        secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        servers.append(secure)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()


main()
