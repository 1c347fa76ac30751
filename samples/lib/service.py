"""What every sample server shares: listening, a thread a connection, and leaving politely.

What goes in: pairs of a port and a function that serves one connection. What comes out: `run` prints `listening on
port N` for each, serves until SIGTERM or SIGINT, lets what is under way end, and ends the process.

Leaving: peers learn that a pod goes only after it was told to, so a server that closed its door at once would refuse
requests that are already on their way. After the signal it goes on serving until it has been quiet for a moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

Serve = Callable[[socket.socket, str], None]

MAX_CONNECTIONS = 1024
QUIET_SECONDS = 0.5
DRAIN_SECONDS = 10.0


class Activity:
    """How busy the process is: `with activity:` around each request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._last = time.monotonic()
        self.draining = False

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._lock:
            self._running -= 1
            self._last = time.monotonic()

    def wait_until_quiet(self) -> None:
        """Return once no request ran for QUIET_SECONDS, or after DRAIN_SECONDS."""
        self.draining = True
        began = self._last = time.monotonic()
        while time.monotonic() - began < DRAIN_SECONDS:
            with self._lock:
                quiet_for = 0.0 if self._running else time.monotonic() - self._last
            if quiet_for >= QUIET_SECONDS:
                return
            time.sleep(0.05)


def say(text: str) -> None:
    """One line on standard output, in one write, so that threads do not mix theirs.

    Whoever read the log may have gone (a node that was restarted): that must not cost anybody an answer.
    """
    with contextlib.suppress(OSError):
        os.write(1, (text + "\n").encode("utf-8", "backslashreplace"))


def listen(port: int) -> socket.socket:
    """A listening socket on every address, IPv6 and IPv4; raises OSError with the port in its message."""
    try:
        sock = socket.create_server(("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
    except (OSError, ValueError):
        # No IPv6 here, or the port is taken: the second try tells which.
        sock = socket.create_server(("0.0.0.0", port), backlog=512)
    return sock


def _accept(listener: socket.socket, serve: Serve, room: threading.Semaphore) -> None:
    def one(sock: socket.socket, peer: str) -> None:
        try:
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                serve(sock, peer)
        except OSError:
            pass  # the peer went away, which is its right
        finally:
            room.release()

    while True:
        room.acquire()
        try:
            sock, address = listener.accept()
        except OSError:
            room.release()
            time.sleep(0.05)  # out of descriptors, most likely: wait for others to end
            continue
        threading.Thread(target=one, args=(sock, str(address[0]).removeprefix("::ffff:")), daemon=True).start()


def run(servers: Sequence[tuple[int, Serve]], activity: Activity | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then end the process (0); a port that cannot be had ends it at once (1)."""
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked, then waited for: as process 1 of a pod a signal without a handler would be dropped.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.stack_size(256 * 1024)
    room = threading.Semaphore(MAX_CONNECTIONS)
    for port, serve in servers:
        try:
            listener = listen(port)
        except (OSError, OverflowError) as error:
            say(f"cannot listen on port {port}: {error}")
            os._exit(1)
        say(f"listening on port {listener.getsockname()[1]}")
        threading.Thread(target=_accept, args=(listener, serve, room), daemon=True).start()
    got = signal.sigwait(signals)
    if activity is not None and got == signal.SIGTERM:
        activity.wait_until_quiet()
    os._exit(0)
