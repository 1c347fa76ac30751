"""A WebSocket echo server with a page to try it: `websockets.py [PORT]` (8888).

`GET /` is the page; `/ws` takes WebSocket connections and sends every message back. Nothing is kept between
connections.
"""

from __future__ import annotations

import sys

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse
from tinyhttp import Request, Response, as_html, as_text, serve
from websocket import accept

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>WebSocket echo</title>
<style>body{font:16px/1.5 system-ui,'DejaVu Sans',sans-serif;max-width:640px;margin:48px auto;color:#17324d}
input{padding:8px;width:70%}button{padding:8px 16px}#log{white-space:pre-wrap;background:#e8f3f4;padding:16px;
border-radius:8px;min-height:120px}</style></head>
<body><h1>WebSocket echo</h1><p id="state">connecting</p>
<form id="form"><input id="text" placeholder="Say something" aria-label="Message" autocomplete="off">
<button>Send</button></form><div id="log" role="log"></div>
<script>
const at = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/ws";
const log = document.getElementById("log"), state = document.getElementById("state");
const text = document.getElementById("text");
const socket = new WebSocket(at);
socket.onopen = () => state.textContent = "connected to " + at;
socket.onclose = () => state.textContent = "closed";
socket.onmessage = message => log.textContent += "← " + message.data + "\\n";
document.getElementById("form").onsubmit = event => {
  event.preventDefault();
  log.textContent += "→ " + text.value + "\\n";
  socket.send(text.value);
  text.value = "";
};
</script></body></html>
"""


def handle(request: Request) -> Response:
    """Answer one request."""
    if request.path == "/ws" or request.header("upgrade").lower() == "websocket":
        return accept(request)
    if request.path == "/":
        return as_html(PAGE)
    return as_text("Not found\n", 404)


def main() -> None:
    """Serve until told to stop."""
    serve([(parse(sys.argv, "v1", 8888).port, handle)])


if __name__ == "__main__":
    main()
