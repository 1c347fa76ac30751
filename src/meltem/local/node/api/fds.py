"""Reading and writing pipes and terminals from asyncio, with back-pressure.

In: a descriptor (made non-blocking, stays the caller's). Out: chunks, or bytes written.
"""

from __future__ import annotations

import asyncio
import os

_CHUNK = 32 * 1024


async def read_some(fd: int) -> bytes:
    """The next bytes; empty at the end (also for a terminal that nobody holds any more)."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            pass
        except OSError:
            return b""
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(fd, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(fd)


async def write_all(fd: int, data: bytes) -> bool:
    """False when nobody reads any more."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
            continue
        except BlockingIOError:
            pass
        except OSError:
            return False
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(fd, _set, ready)
        try:
            await ready
        finally:
            loop.remove_writer(fd)
    return True


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
