"""A small registry of images: enough to push and pull, in memory.

`python3 registry.py PORT [USER:PASSWORD]`. With a password it asks for it, by way of a token as large registries do.

Source: https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/([^/]*)")
TOKEN = uuid.uuid4().hex


class Store:
    """Manifests by repository and tag or digest; blobs by digest."""

    def __init__(self) -> None:
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = Store()
    password = ""

    def answer(self, code: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def allowed(self) -> bool:
        if not self.password or self.headers.get("Authorization", "") == f"Bearer {TOKEN}":
            return True
        realm = f"http://{self.headers['Host']}/token"
        self.answer(401, b"{}", WWW_Authenticate=f'Bearer realm="{realm}",service="registry"')
        return False

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/token":
            given = "Basic " + base64.b64encode(self.password.encode()).decode()
            good = self.headers.get("Authorization", "") == given
            self.answer(200 if good else 401, json.dumps({"token": TOKEN} if good else {}).encode())
        elif not self.allowed():
            return
        elif path in ("/v2", "/v2/"):
            self.answer(200, b"{}")
        elif (found := _MANIFEST.fullmatch(path)) and (found[1], found[2]) in self.store.manifests:
            kind, body = self.store.manifests[found[1], found[2]]
            self.answer(200, body, kind, Docker_Content_Digest=digest(body))
        elif (found := _BLOB.fullmatch(path)) and found[2] in self.store.blobs:
            self.answer(200, self.store.blobs[found[2]], "application/octet-stream", Docker_Content_Digest=found[2])
        else:
            self.answer(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        found = _UPLOAD.fullmatch(urlsplit(self.path).path)
        if found is None:
            self.answer(404)
        elif self.allowed():
            self.answer(202, Location=f"/v2/{found[1]}/blobs/uploads/{uuid.uuid4().hex}")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = urlsplit(self.path)
        if not self.allowed():
            return
        if found := _MANIFEST.fullmatch(parts.path):
            kind = self.headers.get("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            for name in (found[2], digest(body)):
                self.store.manifests[found[1], name] = (kind, body)
            self.answer(201, Docker_Content_Digest=digest(body))
        elif _UPLOAD.fullmatch(parts.path) and parse_qs(parts.query).get("digest") == [digest(body)]:
            self.store.blobs[digest(body)] = body
            self.answer(201, Docker_Content_Digest=digest(body))
        else:
            self.answer(400, b'{"errors": [{"code": "DIGEST_INVALID"}]}')

    def log_message(self, format: str, *args: object) -> None:
        print(self.command, self.path, args[1] if len(args) > 1 else "", flush=True)


def digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


if __name__ == "__main__":
    Handler.password = sys.argv[2] if len(sys.argv) > 2 else ""
    ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
