"""A static web server that stands in for nginx where that is not installed: `static_server.py [PORT [ROOT] | -c FILE]`.

Port 80 and `/usr/share/nginx/html` unless told otherwise, so that pages mounted there are served. Where the root has
no index page, `/` is a welcome page of ours. FILE, or a mounted `/etc/nginx/nginx.conf`, decides instead, as far as it
goes here: `listen`, `root`, `ssl_certificate`, `ssl_certificate_key`, `ssl_client_certificate` and `ssl_verify_client`
of each `server`.
"""

from __future__ import annotations

import functools
import re
import ssl
import sys
from pathlib import Path

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse_port
from tinyhttp import Request, Response, as_html, as_text, serve

ROOT = Path("/usr/share/nginx/html")
CONFIGURATION = Path("/etc/nginx/nginx.conf")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
}
SERVER = [("Server", "meltem-static")]

WELCOME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Welcome</title>
<style>body{font:17px/1.6 system-ui,'DejaVu Sans',sans-serif;max-width:620px;margin:12vh auto;padding:0 24px;
color:#17324d}
h1{font-size:34px}code{background:#e8f3f4;padding:2px 6px;border-radius:4px}</style></head>
<body><h1>Welcome. The web server works.</h1>
<p>It answers for the image <code>nginx</code> on this machine. Put pages under <code>/usr/share/nginx/html</code>,
with a ConfigMap for example, and they are served in place of this one.</p></body></html>
"""


def find(root: Path, path: str) -> Path | None:
    """The file for a path; None where there is none, or where it would lie outside the root."""
    if "\0" in path:
        return None
    top = root.resolve()
    found = (top / path.lstrip("/")).resolve()
    if found.is_dir():
        found = (found / "index.html").resolve()
    return found if found.is_relative_to(top) and found.is_file() else None


def configured(text: str) -> tuple[list[tuple[int, Path]], dict[int, ssl.SSLContext]]:
    """(port, root) of every server of an nginx.conf, and the TLS context of those that `listen … ssl`."""
    ports: list[tuple[int, Path]] = []
    contexts: dict[int, ssl.SSLContext] = {}
    bare = re.sub(r"#.*", "", text)
    for block in re.findall(r"\bserver\s*\{((?:[^{}]|\{[^{}]*\})*)\}", bare):
        said = {name: words.split() for name, words in re.findall(r"^\s*(\w+)\s+([^;{}]+);", block, re.MULTILINE)}
        listen = said.get("listen", ["80"])
        port = int(listen[0].rpartition(":")[2])
        ports.append((port, Path(said.get("root", [str(ROOT)])[0])))
        if "ssl" in listen:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(said["ssl_certificate"][0], said["ssl_certificate_key"][0])
            if said.get("ssl_verify_client") == ["on"]:
                context.load_verify_locations(said["ssl_client_certificate"][0])
                context.verify_mode = ssl.CERT_REQUIRED
            contexts[port] = context
    return ports, contexts


def handle(root: Path, request: Request) -> Response:
    """Answer one request."""
    if request.method not in ("GET", "HEAD"):
        return as_text("Method not allowed\n", 405, [("Allow", "GET, HEAD"), *SERVER])
    try:
        found = find(root, request.path)
        if found is not None:
            kind = TYPES.get(found.suffix.lower(), "application/octet-stream")
            return Response(200, found.read_bytes(), [("Content-Type", kind), *SERVER])
    except OSError:
        return as_text("Forbidden\n", 403, SERVER)
    if request.path in ("/", "/index.html"):
        return as_html(WELCOME, 200, SERVER)
    return as_text("Not found\n", 404, SERVER)


def main() -> None:
    """Serve until told to stop."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["nginx"] or arguments[:1] == ["-g"]:
        arguments = []  # `nginx -g 'daemon off;'`, the image's own command
    file = Path(arguments[1]) if arguments[:1] == ["-c"] else CONFIGURATION
    if arguments[:1] == ["-c"] or (not arguments and file.is_file()):
        servers, contexts = configured(file.read_text())
        serve([(port, functools.partial(handle, root)) for port, root in servers], contexts)
    port = parse_port(arguments[0] if arguments else "80")
    root = Path(arguments[1]) if len(arguments) > 1 else ROOT
    serve([(port, functools.partial(handle, root))])


if __name__ == "__main__":
    main()
