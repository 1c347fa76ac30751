"""Plays the world outside the mesh: `outside.py [--certificates DIR] [--redirect HOST,…] [--ports P,P,P,P]`.

It answers on port 80 in plain text, on 443 with TLS, on 8443 with TLS that wants a client certificate, and on 9000 it
sends back each TCP line after the word `outside`. What it answers to a request is what it saw of it, as JSON: host,
path, scheme, the name asked for in TLS (SNI), the client's certificate, the address it came from. `/status/CODE` and
`/delay/SECONDS` do as they say; hosts of `--redirect` are sent from plain text to HTTPS, as most sites do.

DIR holds `tls.crt`, `tls.key`, and `ca.crt`, which signs client certificates; without it there is no TLS.
"""

from __future__ import annotations

import argparse
import functools
import json
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse_port
from service import Activity, Serve, run
from tinyhttp import Request, Response, as_text, connection

LONGEST_DELAY = 60.0
HANDSHAKE_SECONDS = 10.0
MAX_LINE = 1024 * 1024


class Asked(ssl.SSLSocket):
    """A connection that knows which name its client asked for."""

    sni = ""

    @staticmethod
    def remember(sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        if isinstance(sock, Asked):
            sock.sni = name or ""


def context_of(directory: Path, *, mutual: bool) -> ssl.SSLContext:
    """Raises OSError (SSLError is one) where a file is missing or is no certificate."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    made.sslsocket_class = Asked
    made.sni_callback = Asked.remember
    if mutual:
        made.load_verify_locations(directory / "ca.crt")
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def handle(sock: socket.socket, redirected: frozenset[str], request: Request) -> Response:
    """Answer one request."""
    host, scheme = request.header("host"), "https" if isinstance(sock, Asked) else "http"
    name = host.partition(":")[0].lower()
    if scheme == "http" and name in redirected:
        return Response(301, b"", [("Location", f"https://{name}{request.target}")])
    kind, _, value = request.path.lstrip("/").partition("/")
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 4 else -1
    if kind == "status" and 200 <= number < 600:
        return as_text(f"{number}\n", number)
    if kind == "delay" and number >= 0:
        time.sleep(min(float(number), LONGEST_DELAY))
    seen = {
        "server": "outside",
        "host": host,
        "path": request.target,
        "scheme": scheme,
        "sni": sock.sni if isinstance(sock, Asked) else "",
        "certificate": ", ".join(subject(sock)) if isinstance(sock, Asked) else "",
        "from": request.peer,
        "headers": {name.title(): value for name, value in request.headers},
    }
    return Response(200, json.dumps(seen, indent=2) + "\n", [("Content-Type", "application/json")])


def subject(sock: ssl.SSLSocket) -> Iterator[str]:
    """`CN=client.example.com` and so on; nothing without a certificate."""
    for group in (sock.getpeercert() or {}).get("subject", ()):
        for name, value in group:
            yield f"{'CN' if name == 'commonName' else name}={value}"


def serve_http(
    context: ssl.SSLContext | None, redirected: frozenset[str], activity: Activity, sock: socket.socket, peer: str
) -> None:
    """Serve one connection to its end; a TLS handshake that fails is its end."""
    if context is None:
        connection(functools.partial(handle, sock, redirected), activity, sock, peer)
        return
    sock.settimeout(HANDSHAKE_SECONDS)
    with context.wrap_socket(sock, server_side=True) as tls:
        connection(functools.partial(handle, tls, redirected), activity, tls, peer)


def echo(sock: socket.socket, _peer: str) -> None:
    """Lines come back with a word before them."""
    with sock.makefile("rb") as lines:
        while (line := lines.readline(MAX_LINE)).endswith(b"\n"):
            sock.sendall(b"outside " + line)


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="plays the world outside the mesh")
    parser.add_argument("--certificates", type=Path, help="directory of tls.crt, tls.key and ca.crt")
    parser.add_argument("--redirect", default="", help="hosts that are sent on to HTTPS, with commas between")
    parser.add_argument("--ports", default="80,443,8443,9000", help="HTTP, HTTPS, mutual TLS, TCP")
    given = parser.parse_args()
    ports = [parse_port(text) for text in given.ports.split(",")]
    if len(ports) != 4:
        parser.error("--ports takes four ports: HTTP, HTTPS, mutual TLS, TCP")
    activity = Activity()
    redirected = frozenset(host.lower() for host in given.redirect.split(",") if host)
    servers: list[tuple[int, Serve]] = [
        (ports[0], functools.partial(serve_http, None, redirected, activity)),
        (ports[3], echo),
    ]
    if given.certificates is not None:
        for port, mutual in ((ports[1], False), (ports[2], True)):
            try:
                context = context_of(given.certificates, mutual=mutual)
            except OSError as error:
                sys.exit(f"certificates in {given.certificates} cannot be used: {error}")
            servers.append((port, functools.partial(serve_http, context, redirected, activity)))
    run(servers, activity)


if __name__ == "__main__":
    main()
