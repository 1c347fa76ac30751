"""Listening sockets that outlive the process which serves them: the supervisor keeps them while that process is away.

What clients send meanwhile waits in the socket, instead of being refused, until the next process reads it. In: sockets
by name, from a child of the supervisor, over a Unix socket whose descriptor stands in `MELTEM_KEEPER`. Out: the same
sockets, to the child that comes next. systemd's file descriptor store does the same (sd_pid_notify_with_fds(3)).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

KEEPER = "MELTEM_KEEPER"
_LONGEST_NAME = 1024
_PATIENCE = 10.0

Listen = Callable[[socket.SocketKind, str, int], socket.socket]
"""(kind, address, port) → a bound socket, listening if it is of connections. Raises OSError when it cannot be had."""


def listen(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    """A socket of this process alone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        if kind == socket.SOCK_STREAM:
            made.listen(128)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"{host} port {port}: {error.strerror}") from None
    return made


class Keeper:
    """The supervisor's part; `connect` for each child that it starts."""

    def __init__(self) -> None:
        self._kept: dict[str, int] = {}
        self._ends: set[socket.socket] = set()

    def close(self) -> None:
        """Lets everything go."""
        for end in [*self._ends]:
            self._drop(end)
        for descriptor in self._kept.values():
            os.close(descriptor)
        self._kept.clear()

    def connect(self) -> socket.socket:
        """The child's end: to be inherited, and closed here once the child runs."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ends.add(ours)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._answer, ours)
        return theirs

    def _answer(self, ours: socket.socket) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(ours, _LONGEST_NAME, 1)
            name = data.decode(errors="replace")
            if not data:
                raise ConnectionError("the child has ended")
            if descriptors:
                former = self._kept.pop(name, -1)
                if former >= 0:
                    os.close(former)
                self._kept[name] = descriptors[0]
            elif name in self._kept:
                socket.send_fds(ours, [b"kept"], [self._kept[name]])
            else:
                ours.send(b"none")
        except BlockingIOError:
            return
        except OSError:
            self._drop(ours)

    def _drop(self, ours: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(ours.fileno())
        self._ends.discard(ours)
        ours.close()


class KeptSockets:
    """The child's part. Without a keeper (a process that somebody started by hand) sockets are its own."""

    def __init__(self, keeper: socket.socket | None) -> None:
        self._keeper = keeper

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> KeptSockets:
        number = environment.get(KEEPER, "")
        if not number.isdigit():
            return cls(None)
        keeper = socket.socket(fileno=int(number))
        keeper.settimeout(_PATIENCE)
        os.set_inheritable(keeper.fileno(), False)
        return cls(keeper)

    def close(self) -> None:
        """Ends the conversation; sockets stay kept."""
        if self._keeper is not None:
            self._keeper.close()

    def listen(self, kind: socket.SocketKind, host: str, port: int) -> socket.socket:
        """As `Listen`, in this process' network namespace: the former process' socket, or a new one."""
        if self._keeper is None:
            return listen(kind, host, port)
        # The namespace is part of the name: a socket of one that was made anew since would hear nothing.
        name = f"{kind.name} {host} {port} {Path('/proc/self/ns/net').stat().st_ino}".encode()
        self._keeper.send(name)
        _, descriptors, _, _ = socket.recv_fds(self._keeper, _LONGEST_NAME, 1)
        if descriptors:
            return socket.socket(fileno=descriptors[0])
        made = listen(kind, host, port)
        socket.send_fds(self._keeper, [name], [made.fileno()])
        return made
