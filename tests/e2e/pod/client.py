"""Sends what it is told to and prints what came back: `client.py JSON`, standard library only.

In: a list of `{url, count, parallel, method, headers, body, connection}`; with `parallel` so many requests are under
way at once; `connection: new` opens one for each request; `{n}` in the path and in headers is the request's number. An
`https` URL is asked with `sni` as the server's name, whatever the certificate. `{address, line, count}` sends a line to
`host:port` instead. Out: for each entry a list of `{status, headers, body, seconds}` (JSON bodies as what they say),
status 0 where the connection failed, in the order in which they were sent.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

LOCAL = threading.local()


class Secure(http.client.HTTPConnection):
    def __init__(self, host: str, port: int, sni: str) -> None:
        super().__init__(host, port, timeout=30)
        self.sni = sni

    def connect(self) -> None:
        super().connect()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self.sni)


def ask(want: dict, number: int) -> dict:
    url = urlsplit(want["url"])
    kept = getattr(LOCAL, "kept", None) or {}
    LOCAL.kept = kept
    connection = kept.get(url.netloc) if want.get("connection") != "new" else None
    if connection is None:
        if url.scheme == "https":
            connection = Secure(url.hostname, url.port or 443, want["sni"])
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=30)
        kept[url.netloc] = connection
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers = {k: v.replace("{n}", str(number)) for k, v in want.get("headers", {}).items()}
    began = time.monotonic()
    try:
        connection.request(want.get("method", "GET"), target.replace("{n}", str(number)), want.get("body"), headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        kept.pop(url.netloc, None)
        return {"status": 0, "headers": {}, "body": repr(error), "seconds": time.monotonic() - began}
    took = time.monotonic() - began
    if want.get("connection") == "new":
        connection.close()
        kept.pop(url.netloc, None)
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    found: dict[str, str] = {}
    for name, value in answer.getheaders():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return {"status": answer.status, "headers": found, "body": body, "seconds": took}


def say(want: dict, _number: int) -> dict:
    host, _, port = want["address"].rpartition(":")
    began = time.monotonic()
    try:
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(want["line"].encode() + b"\n")
            text = sock.makefile().readline()
    except OSError as error:
        text = repr(error)
    return {"status": 0, "headers": {}, "body": text.strip(), "seconds": time.monotonic() - began}


def main() -> None:
    out = []
    for want in json.loads(sys.argv[1]):
        one = say if "address" in want else ask
        count = want.get("count", 1)
        if want.get("parallel", 1) > 1:
            with ThreadPoolExecutor(want["parallel"]) as pool:
                out.append(list(pool.map(lambda n, want=want, one=one: one(want, n), range(count))))
        else:
            out.append([one(want, n) for n in range(count)])
    print(json.dumps(out))


main()
