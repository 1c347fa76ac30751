"""The runtime daemon: parent of every container of one local cluster, small enough (about 10 MiB) to stay when the node
dies.

It is one process for all pods, of the standard library only (`python -S -E`), a child of nobody. The node connects to
its Unix socket, asks it to start, signal and remove containers and to run programs in them, and hears when they end. It
holds the containers' standard streams and writes their logs. When the node is killed, containers keep running and
logging; the next node connects and `list`s them. When the daemon itself is killed, the kernel kills the containers
(PR_SET_PDEATHSIG), and the node, seeing the socket close, starts a new daemon and restarts them.

In: one JSON message a line, `{"op": …, "seq": n}`, a message's descriptors with SCM_RIGHTS. Out: `{"seq": n, …}` or
`{"seq": n, "error": text}`, and unasked `{"event": "exit", "id": …, "code": …, …}`. Operations:

    start {spec}                    → {pid, started}          a ContainerSpec
    list                            → {containers: [...]}
    signal {id, signal, all}        → {}                      all: every process of the container's PID namespace
    remove {id}                     → {}                      forget an ended container
    exec {id, exec, process} +3 fds → {pid} (+1 fd, tty)      its end comes as event exec-exit {exec, code}
    exec-signal {exec, signal}      → {}
    attach {id} +2 fds              → {} (+1 fd: stdin or the terminal)   output is copied to the fds until they close
    namespaces {path, hostname}     → {}                      makes and binds a pod's net, ipc and uts namespaces
    shutdown                        → {}                      kills everything and ends
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from meltem.local.node.runtime import linux, sandbox
from meltem.local.node.runtime.container import Container, wait_reason
from meltem.local.node.runtime.spec import ContainerSpec, Json, Message, ProcessSpec

PROTOCOL = 1
_MAX_MESSAGE = 4 * 1024 * 1024
_MAX_BACKLOG = 8 * 1024 * 1024


@dataclass
class _Client:
    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    fds: list[int] = field(default_factory=list[int])
    unsent: bytearray = field(default_factory=bytearray)


@dataclass
class _Starting:
    """A child that has not reached its program yet: its report channel, and whom to tell."""

    report: socket.socket
    pid: int
    done: Callable[[str, int], None]
    """(error or "", terminal master or -1)"""
    error: bytes = b""
    master: int = -1


class Daemon:
    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._containers: dict[str, Container] = {}
        self._by_pid: dict[int, Container] = {}
        self._execs: dict[int, str] = {}
        self._early: dict[int, int] = {}
        self._own_pid_namespace = -1
        self._running = True

    def run(self) -> None:
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _n, _f: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._selector.register(reading, selectors.EVENT_READ, lambda: self._reap(reading))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(self._path)
        os.chmod(self._path, 0o600)
        listener.listen(8)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        while self._running:
            for key, _ in self._selector.select():
                cast("Callable[[], None]", key.data)()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    # ---- connections ----

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        client = _Client(connection)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve(client))

    def _serve(self, client: _Client) -> None:
        if client.unsent:
            self._flush(client)
        try:
            data, fds, _, _ = socket.recv_fds(client.connection, 65536, 8)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        client.fds += fds
        if not data or len(client.received) > _MAX_MESSAGE:
            self._drop(client)
            return
        client.received += data
        while (end := client.received.find(b"\n")) >= 0:
            line = bytes(client.received[:end])
            del client.received[: end + 1]
            try:
                message = cast("Message", json.loads(line))
            except ValueError:
                self._drop(client)
                return
            self._handle(client, message)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection.fileno(), None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()
            for fd in client.fds:
                os.close(fd)

    def _send(self, client: _Client, message: Message, fds: list[int] | None = None) -> None:
        data = json.dumps({**message, "fds": len(fds or ())}).encode() + b"\n"
        if client.connection.fileno() < 0:
            return
        if fds:
            self._flush(client, blocking=True)
            client.connection.setblocking(True)
            with contextlib.suppress(OSError):
                socket.send_fds(client.connection, [data], fds)
            client.connection.setblocking(False)
            return
        client.unsent += data
        self._flush(client)

    def _flush(self, client: _Client, *, blocking: bool = False) -> None:
        client.connection.setblocking(blocking)
        try:
            while client.unsent:
                sent = client.connection.send(client.unsent)
                del client.unsent[:sent]
        except BlockingIOError:
            if len(client.unsent) > _MAX_BACKLOG:
                self._drop(client)
                return
        except OSError:
            self._drop(client)
            return
        finally:
            if client.connection.fileno() >= 0:
                client.connection.setblocking(False)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, events, lambda: self._serve(client))

    def _broadcast(self, message: Message) -> None:
        for client in list(self._clients.values()):
            self._send(client, message)

    # ---- operations ----

    def _handle(self, client: _Client, message: Message) -> None:
        seq = message.get("seq")
        wanted = message.get("fds")
        count = wanted if isinstance(wanted, int) else 0
        fds, client.fds = client.fds[:count], client.fds[count:]
        kept = False
        try:
            op = message.get("op")
            if op == "start":
                self._start(client, message, seq)
            elif op == "exec":
                self._exec(client, message, seq, fds)
            elif op == "attach":
                kept = self._attach(client, message, seq, fds)
            else:
                self._send(client, {"seq": seq, **self._simple(str(op), message)})
        except Exception as error:  # the daemon must outlive any one request
            self._send(client, {"seq": seq, "error": str(error) or type(error).__name__})
        if not kept:
            for fd in fds:
                os.close(fd)

    def _simple(self, op: str, message: Message) -> Message:
        if op == "hello":
            return {"pid": os.getpid(), "protocol": PROTOCOL}
        if op == "list":
            return {"containers": [c.describe() for c in self._containers.values()]}
        if op == "signal":
            self._container(message).signal(int(str(message["signal"])))
            return {}
        if op == "exec-signal":
            for pid, name in self._execs.items():
                if name == message["exec"]:
                    os.kill(pid, int(str(message["signal"])))
            return {}
        if op == "remove":
            container = self._container(message)
            if container.code is None:
                raise RuntimeError(f"container {container.spec.id} is still running")
            container.close(self._selector)
            del self._containers[container.spec.id]
            return {}
        if op == "namespaces":
            self._namespaces(str(message["path"]), str(message["hostname"]))
            return {}
        if op == "shutdown":
            for container in self._containers.values():
                container.signal(signal.SIGKILL)
            self._running = False
            return {}
        raise RuntimeError(f"operation {op} is not known")

    def _container(self, message: Message) -> Container:
        found = self._containers.get(str(message.get("id")))
        if found is None:
            raise RuntimeError(f"container {message.get('id')} is not known")
        return found

    def _start(self, client: _Client, message: Message, seq: Json) -> None:
        spec = ContainerSpec.read(cast("Message", message["spec"]))
        if spec.id in self._containers:
            raise RuntimeError(f"container {spec.id} exists already")
        container = Container(spec)
        streams = container.open()
        parent, child = socket.socketpair()
        pid = self._fork(spec.pid_namespace)
        if pid == 0:
            parent.close()
            sandbox.run_container(spec, streams, child)
        child.close()
        for fd in streams:
            os.close(fd)
        container.pid = pid
        self._containers[spec.id] = container
        self._by_pid[pid] = container

        def done(error: str, master: int) -> None:
            if error:
                container.start_error = error
                self._forget(container)
                self._send(client, {"seq": seq, "error": error})
                return
            container.running(self._selector, master)
            self._send(client, {"seq": seq, "pid": pid, "started": container.started})

        self._await_start(_Starting(parent, pid, done))

    def _forget(self, container: Container) -> None:
        container.close(self._selector)
        self._containers.pop(container.spec.id, None)

    def _exec(self, client: _Client, message: Message, seq: Json, fds: list[int]) -> None:
        container = self._container(message)
        if container.code is not None or not container.pid:
            raise RuntimeError("container is not running")
        spec = ProcessSpec.read(cast("Message", message["process"]))
        name = str(message["exec"])
        parent, child = socket.socketpair()
        pid = self._fork(f"/proc/{container.pid}/ns/pid")
        if pid == 0:
            parent.close()
            sandbox.run_exec(spec, container.pid, container.spec.cgroups, fds, child)
        child.close()
        self._execs[pid] = name

        def done(error: str, master: int) -> None:
            if error:
                self._execs.pop(pid, None)
                self._send(client, {"seq": seq, "error": error})
                return
            self._send(client, {"seq": seq, "pid": pid}, [master] if master >= 0 else None)
            if master >= 0:
                os.close(master)

        self._await_start(_Starting(parent, pid, done))

    def _fork(self, pid_namespace: str) -> int:
        """Forks into a new, the daemon's, or another PID namespace (which applies to children only)."""
        if pid_namespace == "new":
            linux.unshare(linux.CLONE_NEWPID)
        elif pid_namespace != "host":
            linux.enter(pid_namespace, linux.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0 and pid_namespace != "host":
                linux.setns(self._own_pid_namespace, linux.CLONE_NEWPID)
        return pid

    def _await_start(self, starting: _Starting) -> None:
        starting.report.setblocking(False)
        self._selector.register(starting.report, selectors.EVENT_READ, lambda: self._started(starting))

    def _started(self, starting: _Starting) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(starting.report, 65536, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if fds:
            starting.master = fds[0]
            data = data[1:] if data[:1] == b"T" else data
            if not data:
                return
        if data:
            starting.error += data
            return
        self._selector.unregister(starting.report)
        starting.report.close()
        error = ""
        if starting.error:
            found = cast("dict[str, str]", json.loads(starting.error))
            error = found["error"] if found["stage"] == "program" else f"{found['stage']}: {found['error']}"
        starting.done(error, starting.master)
        if starting.pid in self._early:
            self._ended(starting.pid, self._early.pop(starting.pid))

    def _attach(self, client: _Client, message: Message, seq: Json, fds: list[int]) -> bool:
        container = self._container(message)
        if container.code is not None:
            raise RuntimeError("container is not running")
        container.attach(fds)
        write = container.input_fd()
        self._send(client, {"seq": seq}, [write] if write >= 0 else None)
        return True

    def _namespaces(self, path: str, hostname: str) -> None:
        """A child makes the namespaces; binding its /proc/PID/ns/X keeps them after it has ended."""
        go_read, go_write = os.pipe()
        ready_read, ready_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS)
                socket.sethostname(hostname[:63])
                os.write(ready_write, b"1")
                os.close(go_write)
                os.read(go_read, 1)
                code = 0
            os._exit(code)
        os.close(ready_write)
        os.close(go_read)
        ready = os.read(ready_read, 1)
        os.close(ready_read)
        try:
            if not ready:
                raise RuntimeError("the kernel refused new network, IPC and UTS namespaces")
            os.makedirs(path, exist_ok=True)
            for kind in ("net", "ipc", "uts"):
                target = f"{path}/{kind}"
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
                linux.bind(f"/proc/{pid}/ns/{kind}", target)
        finally:
            os.close(go_write)
            os.waitpid(pid, 0)

    # ---- ends ----

    def _reap(self, wakeup: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(wakeup, 4096):
                pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        container = self._by_pid.get(pid)
        if container is not None:
            if container.starting:
                self._early[pid] = status
                if container.start_error:
                    del self._by_pid[pid], self._early[pid]
                return
            del self._by_pid[pid]
            container.ended(self._selector, status)
            self._broadcast({"event": "exit", **container.describe()})
        elif pid in self._execs:
            code, number = wait_reason(status)
            self._broadcast({"event": "exec-exit", "exec": self._execs.pop(pid), "code": code, "signal": number})


def main(arguments: list[str]) -> None:
    """`main([socket path])`: turns into a daemon; returns only in the process that asked for it."""
    if os.fork() > 0:
        return
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")
    os.umask(0o022)
    log = os.open(arguments[0] + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stderr.write(
        f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} runtime {os.getpid()} serves {arguments[0]}\n"
    )
    sys.stderr.flush()
    Daemon(arguments[0]).run()
    os._exit(0)
