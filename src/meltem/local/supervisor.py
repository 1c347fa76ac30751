"""The supervisor of one local cluster: starts its processes, starts them again when they end, stops them in order.

    python -m meltem.local.supervisor --home <cluster home>

In: `cluster.json`. Out: API server, controllers and node as children, their logs under `<home>/logs`, and
`supervisor.json` (pid, start time) for `istioctl local`. Children end with the supervisor (parent-death signal), so
that a new one never meets old ones; containers do not: they belong to the node's runtime daemon and are found again.
Nor do sockets that a child gave to be kept (`kept_sockets`): the child that comes next has them.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path

import msgspec

from meltem.local.config import ClusterConfig, load_cluster
from meltem.local.kept_sockets import KEEPER, Keeper

_PR_SET_PDEATHSIG = 1
FIRST_DELAY, LAST_DELAY = 0.2, 10.0
STEADY_SECONDS = 30.0
STOP_SECONDS = 15.0


class Running(msgspec.Struct, frozen=True):
    """Who supervises: a pid alone could be anybody's by now, with its start time it is not."""

    pid: int
    started: str


def started_at(pid: int) -> str:
    """Start time of a process in clock ticks since boot (proc(5), field 22); empty when there is none, or when it has
    ended and only waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError):
        return ""


def record_path(config: ClusterConfig) -> Path:
    return config.path / "supervisor.json"


def running(config: ClusterConfig) -> int:
    """Pid of the cluster's supervisor, 0 when it does not run."""
    try:
        record = msgspec.json.decode(record_path(config).read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return 0
    return record.pid if record.started and started_at(record.pid) == record.started else 0


def note(config: ClusterConfig, pid: int) -> None:
    """Writes down who supervises."""
    record_path(config).write_bytes(msgspec.json.encode(Running(pid, started_at(pid))))


def commands(config: ClusterConfig) -> dict[str, list[str]]:
    """Name → command, in the order of starting."""
    home = ["--home", config.home]
    return {
        "apiserver": [sys.executable, "-m", "meltem.local.apiserver", *home],
        "controllers": [sys.executable, "-m", "meltem.local.controllers", *home],
        "node": [sys.executable, "-m", "meltem.local.node", *home],
    }


class Supervisor:
    """Keeps the processes running until `stop` is set."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._keeper = Keeper()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        note(self._config, os.getpid())
        self._config.logs.mkdir(parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as group:
            for name, command in commands(self._config).items():
                group.create_task(self._keep(name, command))
            group.create_task(self._end())
        self._keeper.close()
        record_path(self._config).unlink(missing_ok=True)

    async def _keep(self, name: str, command: list[str]) -> None:
        delay = FIRST_DELAY
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            begun = loop.time()
            log = await asyncio.to_thread(_open_log, self._config.logs / f"{name}.log")
            keeper = self._keeper.connect()
            try:
                child = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent,
                    pass_fds=(keeper.fileno(),), env={**os.environ, KEEPER: str(keeper.fileno())},
                )  # fmt: skip
            finally:
                os.close(log)
                keeper.close()
            self._children[name] = child
            code = await child.wait()
            if self._stop.is_set():
                return
            delay = FIRST_DELAY if loop.time() - begun > STEADY_SECONDS else min(LAST_DELAY, delay * 2)
            print(f"{name} ended with {code}; starting it again in {delay:.1f} s", flush=True)
            await self._wait(delay)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _end(self) -> None:
        """The node first: it still needs the API server to say goodbye."""
        await self._stop.wait()
        for name in reversed(commands(self._config)):
            child = self._children.get(name)
            if child is None or child.returncode is not None:
                continue
            child.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await child.wait()
            except TimeoutError:
                child.kill()


def _open_log(path: Path) -> int:
    """Appended to; started anew past 20 MiB, the former one kept beside it."""
    if path.exists() and path.stat().st_size > 20 * 2**20:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="meltem.local.supervisor", description="Runs one local cluster.")
    parser.add_argument("--home", required=True, type=Path, help="the cluster's directory")
    config = load_cluster(parser.parse_args().home)
    asyncio.run(Supervisor(config).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
