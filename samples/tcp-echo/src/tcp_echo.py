"""A TCP server that sends each line back with a word before it: `tcp_echo.py PORT[,PORT...] PREFIX`.

With the prefix `one`, the line `hello` comes back as `one hello`.
"""

from __future__ import annotations

import functools
import socket
import sys

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse_port
from service import run, say

MAX_LINE = 1024 * 1024


def echo(prefix: str, sock: socket.socket, peer: str) -> None:
    """Serve one connection to its end."""
    with sock.makefile("rb") as lines:
        while (line := lines.readline(MAX_LINE)).endswith(b"\n"):
            say(f"{peer} sent: {line.decode('utf-8', 'backslashreplace').rstrip()}")
            sock.sendall(prefix.encode() + b" " + line)


def main() -> None:
    """Serve until told to stop."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} PORT[,PORT...] PREFIX")
    ports = [parse_port(text.strip()) for text in sys.argv[1].split(",")]
    run([(port, functools.partial(echo, sys.argv[2])) for port in ports])


if __name__ == "__main__":
    main()
