"""The node's end of the runtime daemon's socket (the protocol stands in `runtime.daemon`).

In: calls, descriptors. Out: answers as values; ends of containers by `exits`. `connect` starts a daemon when none
answers. Descriptors that a call returns belong to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

import meltem
from meltem.errors import EnvironmentError_, MeltemError
from meltem.local.node.runtime.spec import ContainerSpec, Message, ProcessSpec, as_message

_PATIENCE = 10.0


class RuntimeFailure(MeltemError):
    """The runtime refused: the words are what a container's status shows."""


class RuntimeGone(RuntimeFailure):
    """The daemon ended; every container ended with it."""


class ContainerState(msgspec.Struct, frozen=True):
    """A container as the runtime knows it. `code` is None while it runs."""

    id: str
    pid: int
    started: float
    finished: float = 0.0
    code: int | None = None
    signal: int = 0
    starting: bool = False


class RunningExec(msgspec.Struct):
    """A program started in a container. `ended` gives its exit code; `terminal` is -1 without one."""

    name: str
    pid: int
    ended: asyncio.Future[int]
    terminal: int = -1


class Runtime:
    """One connection. Safe to share between tasks of one loop."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = bytearray()
        self._fds: list[int] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Message, list[int]]]] = {}
        self._execs: dict[str, asyncio.Future[int]] = {}
        self._lock = asyncio.Lock()
        self._listeners: list[Callable[[ContainerState], None]] = []
        self.closed: asyncio.Event = asyncio.Event()

    @classmethod
    async def connect(cls, path: Path, *, spawn: bool = True) -> Runtime:
        """Raises EnvironmentError_ when no daemon answers within ten seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        spawned = False
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(path))
                break
            except OSError as error:
                connection.close()
                if not spawn or loop.time() > deadline:
                    raise EnvironmentError_(
                        f"the container runtime does not answer: {error.strerror}", where=str(path),
                        remedy=f"its log is {path}.log",
                    ) from None  # fmt: skip
            if not spawned:
                spawned = True
                await asyncio.to_thread(_spawn, path)
            await asyncio.sleep(0.02)
        connection.setblocking(False)
        client = cls(connection)
        loop.add_reader(connection.fileno(), client._readable)
        await client._call({"op": "hello"})
        return client

    def on_exit(self, listener: Callable[[ContainerState], None]) -> None:
        """Called with every container that ends from now on."""
        self._listeners.append(listener)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        for future in [*self._waiting.values()]:
            if not future.done():
                future.set_exception(RuntimeGone("the container runtime ended"))
        for ended in self._execs.values():
            if not ended.done():
                ended.set_result(137)
        self._waiting.clear()
        self._execs.clear()
        self.closed.set()

    async def start(self, spec: ContainerSpec) -> ContainerState:
        """Returns when the program runs; raises RuntimeFailure with the runtime's words."""
        answer, _ = await self._call({"op": "start", "spec": as_message(spec)})
        return ContainerState(id=spec.id, pid=cast("int", answer["pid"]), started=cast("float", answer["started"]))

    async def list(self) -> list[ContainerState]:
        answer, _ = await self._call({"op": "list"})
        return msgspec.convert(answer["containers"], list[ContainerState])

    async def signal(self, container: str, number: int) -> None:
        await self._call({"op": "signal", "id": container, "signal": number})

    async def remove(self, container: str) -> None:
        await self._call({"op": "remove", "id": container})

    async def namespaces(self, path: Path, hostname: str) -> None:
        await self._call({"op": "namespaces", "path": str(path), "hostname": hostname})

    async def shutdown(self) -> None:
        await self._call({"op": "shutdown"})

    async def exec(self, container: str, process: ProcessSpec, fds: Sequence[int]) -> RunningExec:
        """`fds` are stdin, stdout, stderr for it (none with a terminal); they stay the caller's to close."""
        name = f"{os.getpid()}-{next(self._numbers)}"
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._execs[name] = ended
        try:
            message: Message = {"op": "exec", "id": container, "exec": name, "process": as_message(process)}
            answer, received = await self._call(message, fds)
        except BaseException:
            self._execs.pop(name, None)
            raise
        return RunningExec(name, cast("int", answer["pid"]), ended, received[0] if received else -1)

    async def exec_signal(self, running: RunningExec, number: int = 9) -> None:
        if not running.ended.done():
            await self._call({"op": "exec-signal", "exec": running.name, "signal": int(number)})

    async def attach(self, container: str, fds: Sequence[int]) -> int:
        """Copies output to `fds` (stdout, stderr); returns a descriptor for its input, or -1."""
        _, received = await self._call({"op": "attach", "id": container}, fds)
        return received[0] if received else -1

    async def _call(self, message: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        if self.closed.is_set():
            raise RuntimeGone("the container runtime ended")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        future: asyncio.Future[tuple[Message, list[int]]] = loop.create_future()
        self._waiting[number] = future
        data = msgspec.json.encode({**message, "seq": number, "fds": len(fds)}) + b"\n"
        try:
            async with self._lock:
                if fds:
                    while True:
                        try:
                            sent = socket.send_fds(self._socket, [data], list(fds))
                            break
                        except BlockingIOError:
                            await asyncio.sleep(0.005)
                    data = data[sent:]
                if data:
                    await loop.sock_sendall(self._socket, data)
        except OSError:
            self._waiting.pop(number, None)
            raise RuntimeGone("the container runtime ended") from None
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 262144, 8)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        self._fds += fds
        if not data:
            self.close()
            return
        self._received += data
        while (end := self._received.find(b"\n")) >= 0:
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._message(cast("Message", msgspec.json.decode(line)))

    def _message(self, message: Message) -> None:
        event = message.get("event")
        if event == "exit":
            state = msgspec.convert(message, ContainerState)
            for listener in self._listeners:
                listener(state)
            return
        if event == "exec-exit":
            ended = self._execs.pop(str(message["exec"]), None)
            if ended is not None and not ended.done():
                ended.set_result(cast("int", message["code"]))
            return
        count = cast("int", message.get("fds", 0))
        received, self._fds = self._fds[:count], self._fds[count:]
        future = self._waiting.pop(cast("int", message["seq"]), None)
        if future is None or future.done():
            for fd in received:
                os.close(fd)
        elif "error" in message:
            future.set_exception(RuntimeFailure(str(message["error"])))
        else:
            future.set_result((message, received))


def _spawn(path: Path) -> None:
    source = str(Path(meltem.__file__).resolve().parent.parent)
    program = (
        f"import sys; sys.path.insert(0, {source!r})\n"
        f"from meltem.local.node.runtime.daemon import main; main([{str(path)!r}])"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-S", "-E", "-s", "-c", program], check=False, timeout=_PATIENCE, stdin=subprocess.DEVNULL
        )
