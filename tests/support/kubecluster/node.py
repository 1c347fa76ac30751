"""The first process of the cluster's namespaces: gives them their mounts, starts every program, starts again what ends.

    python -m kubecluster.node HOME BINARIES ETCD

In: mount, PID, cgroup, UTS and network namespaces that are already its own, and the files of `programs.write_files`.
Out: `<home>/logs/<program>.log`, `<home>/started` when each program has answered. Ends when it is killed, and with it,
as it is the first process of its PID namespace, everything that it ever started.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from kubecluster.programs import CNI_NEEDED, CNI_PLUGINS, KUBELET, Program, programs
from meltem.local.config import NODE_NAME, ClusterConfig, load_cluster

SWITCHES = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
"""What kubelet would set for the whole machine: it reads that it is set already."""
PATIENCE = 300.0
IN_MEMORY = ("containerd", "etcd")
"""Directories of which nothing is needed afterwards: unpacked images, the API's objects. 1.3 GB with Bookinfo."""
ENOUGH_MEMORY = 6 << 20  # KiB


def main() -> int:
    home, binaries, etcd = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = load_cluster(home)
    socket.sethostname(NODE_NAME)
    mount_all(config)
    os.environ["PATH"] = f"{binaries}:{os.environ['PATH']}"
    keeper = Keeper(home / "logs")
    for program in programs(config, binaries, etcd, sys.executable):
        keeper.start(program)
        keeper.wait_until(program)
    (home / "started").touch()
    keeper.keep()
    return 0


# --- mounts ---


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, stdin=subprocess.DEVNULL)


def mount_all(config: ClusterConfig) -> None:
    """What programs write outside the cluster's directory goes into it, or into memory. The host sees none of it."""
    home = config.path
    mount("--make-rshared", "/")
    groups = Path("/proc/self/cgroup").read_text().splitlines()
    mount("-t", "sysfs", "sysfs", "/sys")
    mount_cgroups(groups)
    mount("-t", "tmpfs", "tmpfs", "/run")
    for directory in ("/run/netns", "/run/lock"):
        Path(directory).mkdir(mode=0o755)
    for directory in ("etc", "opt", "var/lib"):
        upper, work = home / "over" / directory / "upper", home / "over" / directory / "work"
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        mount(
            "-t", "overlay", "-o", f"lowerdir=/{directory},upperdir={upper},workdir={work}", "overlay", f"/{directory}"
        )
    if available_memory() > ENOUGH_MEMORY:
        for directory in IN_MEMORY:
            (home / directory).mkdir(exist_ok=True)
            mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(home / directory))
    mount("--bind", str(home / "log"), "/var/log")
    for source, target in (
        (home / "cni/net.d", Path("/etc/cni/net.d")),
        (home / "cni/bin", Path("/opt/cni/bin")),
        (home / "kubelet", Path(KUBELET)),
    ):
        target.mkdir(parents=True, exist_ok=True)
        mount("--bind", str(source), str(target))
    for plugin in CNI_NEEDED:
        (home / "cni/bin" / plugin).write_bytes((CNI_PLUGINS / plugin).read_bytes())
        (home / "cni/bin" / plugin).chmod(0o755)
    for switch, value in SWITCHES.items():
        said = home / "switches" / switch
        said.parent.mkdir(parents=True, exist_ok=True)
        said.write_text(f"{value}\n")
        mount("--bind", str(said), f"/proc/sys/{switch}")


def available_memory() -> int:
    """KiB that programs may still take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def mount_cgroups(groups: list[str]) -> None:
    """`groups`: lines of /proc/self/cgroup. Either version; the root is the group this process was started in."""
    root = Path("/sys/fs/cgroup")
    if len(groups) == 1 and groups[0].startswith("0::"):
        mount("-t", "cgroup2", "cgroup2", str(root))
        # A group with processes in it can give its children no controllers.
        (root / "init").mkdir(exist_ok=True)
        (root / "init/cgroup.procs").write_text(str(os.getpid()))
        for controller in (root / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text(f"+{controller}")
        return
    mount("-t", "tmpfs", "tmpfs", str(root))
    for line in groups:
        controllers = line.split(":")[1]
        if not controllers:
            continue
        directory = root / controllers.removeprefix("name=")
        directory.mkdir()
        mount(
            "-t", "cgroup", "-o", f"none,{controllers}" if "=" in controllers else controllers, "cgroup", str(directory)
        )


# --- programs ---


class Keeper:
    """Starts programs, reaps everything, starts again what ended; each at most once a second."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[int, Program] = {}
        self._due: list[tuple[float, Program]] = []

    def start(self, program: Program) -> None:
        with (self._logs / f"{program.name}.log").open("ab") as log:
            process = subprocess.Popen(program.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process.returncode = 0  # reaped here, not by Popen
        self._running[process.pid] = program

    def wait_until(self, program: Program) -> None:
        end = time.monotonic() + PATIENCE
        while program.ready and not answers(program.ready):
            if time.monotonic() > end:
                raise SystemExit(f"{program.name} did not answer at {program.ready} within {PATIENCE:.0f} s")
            self._reap()
            self._start_due()
            time.sleep(0.05)

    def keep(self) -> None:
        while True:
            self._reap()
            self._start_due()
            time.sleep(0.1)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                program = self._running.pop(dead[0], None)
                if program is not None:
                    print(f"{program.name} ended with {os.waitstatus_to_exitcode(dead[1])}", flush=True)
                    self._due.append((time.monotonic() + 1, program))

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [program for when, program in self._due if when <= now]
        self._due = [(when, program) for when, program in self._due if when > now]
        for program in due:
            self.start(program)


def answers(where: str) -> bool:
    """Whether a URL answers 200 (or 401), or a Unix socket takes a connection."""
    try:
        if where.startswith("/"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(where)
            return True
        scheme, _, rest = where.partition("://")
        host, _, path = rest.partition("/")
        if scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, context=context, timeout=2)
        else:
            connection = http.client.HTTPConnection(host, timeout=2)
        with contextlib.closing(connection):
            connection.request("GET", f"/{path}")
            return connection.getresponse().status in (200, 401)
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(main())
