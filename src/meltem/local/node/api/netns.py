"""Connections from inside a pod's network namespace, so that port-forward reaches what listens on the pod's loopback
only.

In: the namespace's path and a port. Out: an asyncio stream pair. A short-lived thread enters the namespace, makes the
socket and is thrown away: a namespace belongs to a thread, a socket stays in the one it was made in.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

from meltem.local.node.runtime import linux


async def connect_in(namespace: Path, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to 127.0.0.1:port, else [::1]:port, in the namespace; raises OSError."""
    loop = asyncio.get_running_loop()
    first: OSError | None = None
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            made = await socket_in(namespace, family)
        except OSError as error:
            first = first or error
            continue
        made.setblocking(False)
        try:
            await loop.sock_connect(made, (address, port))
        except OSError as error:
            made.close()
            first = first or error
            continue
        return await asyncio.open_connection(sock=made)
    raise first or OSError("no address family works in the pod")


async def socket_in(namespace: Path, family: int) -> socket.socket:
    """A TCP socket that belongs to the namespace."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[socket.socket] = loop.create_future()

    def work() -> None:
        try:
            linux.enter(str(namespace), linux.CLONE_NEWNET)
            made = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            loop.call_soon_threadsafe(_fail, done, error)
        else:
            loop.call_soon_threadsafe(_give, done, made)

    threading.Thread(target=work, name="pod-socket", daemon=True).start()
    return await done


def _give(future: asyncio.Future[socket.socket], made: socket.socket) -> None:
    if future.done():
        made.close()
    else:
        future.set_result(made)


def _fail(future: asyncio.Future[socket.socket], error: OSError) -> None:
    if not future.done():
        future.set_exception(error)
