#!/usr/bin/env python3
"""A small netcat with busybox's command line, for the tutorials that use it; standard library only.

    nc [-v] [-z] [-w SECONDS] HOST PORT

What comes from standard input goes to the server, what the server sends to standard output; it ends when the server
closes. `-z` only connects, `-w` gives up after that much silence. Exit code 1: it could not connect.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading


def _send(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := os.read(0, 65536):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="nc", add_help=False)
    parser.add_argument("-v", action="store_true")
    parser.add_argument("-z", action="store_true")
    parser.add_argument("-n", action="store_true")
    parser.add_argument("-w", type=float, default=None)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    chosen = parser.parse_args()
    try:
        sock = socket.create_connection((chosen.host, chosen.port), chosen.w)
    except OSError as error:
        print(f"nc: {chosen.host} ({chosen.port}): {error.strerror or error}", file=sys.stderr)
        return 1
    with sock:
        if chosen.v:
            print(f"{chosen.host} ({chosen.port}) open", file=sys.stderr)
        if chosen.z:
            return 0
        threading.Thread(target=_send, args=(sock,), daemon=True).start()
        with contextlib.suppress(OSError):
            while block := sock.recv(65536):
                os.write(1, block)
    return 0


if __name__ == "__main__":
    sys.exit(main())
