"""One container as the daemon holds it: its process, its standard streams, its log, who is attached.

In: readiness of its pipes and the status it ended with. Out: its log file, `state.json` in its directory (so that an
end is known even to a daemon that comes later), and `describe()` for the node. Times are seconds since the epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time

from meltem.local.node.runtime.logfile import LogFile
from meltem.local.node.runtime.spec import ContainerSpec, Message

_CHUNK = 65536


def wait_reason(status: int) -> tuple[int, int]:
    """(exit code as a container has it: 128+n for signal n, signal or 0)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return 128 + number, number
    return os.WEXITSTATUS(status), 0


class Container:
    def __init__(self, spec: ContainerSpec) -> None:
        self.spec = spec
        self.pid = 0
        self.started = 0.0
        self.finished = 0.0
        self.code: int | None = None
        self.killed_by = 0
        self.starting = True
        self.start_error = ""
        self._log = LogFile(spec.log)
        self._outputs: dict[str, int] = {}
        self._input = -1
        self._attached: list[list[int]] = []

    def open(self) -> list[int]:
        """Makes the log and the pipes; returns the child's ends for stdin, stdout, stderr."""
        os.makedirs(self.spec.directory, exist_ok=True)
        self._log.open()
        if self.spec.process.tty:
            return []
        child: list[int] = []
        if self.spec.stdin:
            reading, self._input = os.pipe2(os.O_CLOEXEC)
            child.append(reading)
        else:
            child.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        for stream in ("stdout", "stderr"):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reading, False)
            self._outputs[stream] = reading
            child.append(writing)
        return child

    def running(self, selector: selectors.BaseSelector, master: int) -> None:
        """The program runs: start reading what it writes."""
        self.starting = False
        self.started = time.time()
        if master >= 0:
            os.set_blocking(master, False)
            self._outputs = {"stdout": master}
            self._input = os.dup(master)
        for stream, fd in self._outputs.items():
            selector.register(fd, selectors.EVENT_READ, lambda s=stream, f=fd: self._read(selector, s, f))
        self._save()

    def signal(self, number: int) -> None:
        if self.code is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended(self, selector: selectors.BaseSelector, status: int) -> None:
        self.code, self.killed_by = wait_reason(status)
        self.finished = time.time()
        for stream, fd in list(self._outputs.items()):
            self._read(selector, stream, fd)
        if self.spec.pid_namespace == "new":
            self._close_streams(selector)  # every writer is dead: the kernel killed the namespace with its PID 1
        self._save()

    def close(self, selector: selectors.BaseSelector) -> None:
        self._close_streams(selector)
        self._log.close()

    def attach(self, fds: list[int]) -> None:
        """Copies output to `fds` (stdout, stderr) from now on; takes them over."""
        for fd in fds:
            os.set_blocking(fd, False)
        self._attached.append(fds)

    def input_fd(self) -> int:
        """A descriptor to write the program's input to, or -1."""
        return self._input

    def describe(self) -> Message:
        return {
            "id": self.spec.id,
            "pid": self.pid,
            "started": self.started,
            "finished": self.finished,
            "code": self.code,
            "signal": self.killed_by,
            "starting": self.starting,
        }

    def _read(self, selector: selectors.BaseSelector, stream: str, fd: int) -> None:
        for _ in range(64):  # a loud container gets its turn, not the daemon
            try:
                chunk = os.read(fd, _CHUNK)
            except BlockingIOError:
                return
            except OSError:  # EIO: the terminal's last user is gone
                chunk = b""
            if not chunk:
                self._log.finish(stream)
                self._close_output(selector, stream, fd)
                return
            self._log.write(stream, chunk)
            self._copy(0 if stream == "stdout" else 1, chunk)

    def _copy(self, index: int, chunk: bytes) -> None:
        for fds in list(self._attached):
            target = fds[min(index, len(fds) - 1)]
            try:
                os.write(target, chunk)
            except BlockingIOError:
                continue  # who attaches and does not read misses output; the log has it
            except OSError:
                self._detach(fds)

    def _detach(self, fds: list[int]) -> None:
        self._attached.remove(fds)
        for fd in fds:
            os.close(fd)
        if self.spec.stdin_once and self._input >= 0 and not self.spec.process.tty:
            os.close(self._input)
            self._input = -1

    def _close_output(self, selector: selectors.BaseSelector, stream: str, fd: int) -> None:
        if self._outputs.pop(stream, None) is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            selector.unregister(fd)
        os.close(fd)
        if not self._outputs:
            for fds in list(self._attached):
                self._detach(fds)

    def _close_streams(self, selector: selectors.BaseSelector) -> None:
        for stream, fd in list(self._outputs.items()):
            self._log.finish(stream)
            self._close_output(selector, stream, fd)
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def _save(self) -> None:
        path = f"{self.spec.directory}/state.json"
        with contextlib.suppress(OSError), open(path + ".partial", "w") as file:
            json.dump(self.describe(), file)
        with contextlib.suppress(OSError):
            os.rename(path + ".partial", path)


def kill_signal(name: str) -> int:
    """`SIGTERM`, `TERM` or `15` → 15; 0 for what is no signal."""
    if name.isdigit():
        return int(name)
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    return int(found) if found is not None else 0
