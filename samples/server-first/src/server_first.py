"""A TCP server that speaks first, as mail and database servers do: `server_first.py [PORT] [GREETING]` (port 25).

It sends `220 GREETING` at once, then answers each line: `QUIT` with `221` and the end, anything else with `250` and
the line. A proxy that waits for the client's first bytes to find out the protocol would wait for ever here.
"""

from __future__ import annotations

import functools
import os
import socket
import sys

sys.path.insert(0, f"{sys.path[0]}/../../lib")

from options import parse_port
from service import run, say

MAX_LINE = 64 * 1024


def converse(greeting: str, sock: socket.socket, peer: str) -> None:
    """Serve one connection to its end."""
    say(f"{peer} connected")
    sock.sendall(f"220 {greeting}\r\n".encode())
    with sock.makefile("rb") as lines:
        while (line := lines.readline(MAX_LINE)).endswith(b"\n"):
            text = line.strip()
            if text.upper() == b"QUIT":
                sock.sendall(b"221 Bye\r\n")
                return
            sock.sendall(b"250 " + text + b"\r\n")


def main() -> None:
    """Serve until told to stop."""
    port = parse_port(sys.argv[1]) if len(sys.argv) > 1 else 25
    greeting = sys.argv[2] if len(sys.argv) > 2 else f"{os.environ.get('HOSTNAME') or socket.gethostname()} ready"
    run([(port, functools.partial(converse, greeting))])


if __name__ == "__main__":
    main()
