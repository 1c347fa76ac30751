"""The child's side of starting a container: from a fresh fork to the program, in its namespaces and root file system.

In: a `ContainerSpec` and the descriptors of its standard streams. Out: it never returns; either the program runs, or a
JSON line with `stage` and `error` is written to `report` and the process ends with 128. For a terminal the master's
descriptor goes over `report` (SCM_RIGHTS) as well.

The root is an overlay over the host's `/`: what the container writes lands in its own `upper` directory. Directories to
be hidden are opaque directories of that upper layer. The old root stays mounted under `_OLD` until all binds are made,
so that their targets resolve inside the container, symbolic links and all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import termios
from collections.abc import Sequence
from pathlib import Path

from meltem.local.node.runtime import linux
from meltem.local.node.runtime.spec import Bind, ContainerSpec, ProcessSpec

_OLD = "/.meltem-old-root"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_TIOCGPTN = 0x80045430  # the number of a terminal's slave; Python's termios does not name these two
_TIOCSPTLCK = 0x40045431
_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug")
_READ_ONLY = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_IGNORED_BY_INIT = (signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP)


class _Failed(Exception):
    """The program cannot be started; the message is for the pod's status."""


def run_container(spec: ContainerSpec, streams: Sequence[int], report: socket.socket) -> None:
    """Called in the child; `streams` are stdin, stdout, stderr (ignored with a terminal)."""
    stage = "namespaces"
    try:
        _fresh_process()
        for directory in spec.cgroups:
            _join_cgroup(directory)
        linux.enter(spec.net_namespace, linux.CLONE_NEWNET)
        linux.enter(spec.ipc_namespace, linux.CLONE_NEWIPC)
        linux.enter(spec.uts_namespace, linux.CLONE_NEWUTS)
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        stage = "root file system"
        _build_root(spec)
        stage = "mounts"
        for item in spec.binds:
            _bind(item)
        _leave_old_root()
        if spec.readonly_root:
            linux.mount("none", "/", "", linux.MS_REMOUNT | linux.MS_RDONLY)
        stage = "program"
        if spec.init:
            _become_init(report)
        _start(spec.process, streams, report, pdeathsig=True)
    except BaseException as error:
        _fail(report, stage, error)


def run_exec(
    spec: ProcessSpec, pid: int, cgroups: Sequence[str], streams: Sequence[int], report: socket.socket
) -> None:
    """Called in a child that is already in the container's PID namespace: joins the rest and runs the program."""
    stage = "namespaces"
    try:
        _fresh_process()
        for directory in cgroups:
            _join_cgroup(directory)
        names = (
            ("ipc", linux.CLONE_NEWIPC),
            ("uts", linux.CLONE_NEWUTS),
            ("net", linux.CLONE_NEWNET),
            ("mnt", linux.CLONE_NEWNS),
        )
        opened = [(os.open(f"/proc/{pid}/ns/{n}", os.O_RDONLY | os.O_CLOEXEC), kind) for n, kind in names]
        for fd, kind in opened:
            linux.setns(fd, kind)
        stage = "program"
        _start(spec, streams, report, pdeathsig=False)
    except BaseException as error:
        _fail(report, stage, error)


def _fresh_process() -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)


def _join_cgroup(directory: str) -> None:
    with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", "w") as file:
        file.write("0")


def _fail(report: socket.socket, stage: str, error: BaseException) -> None:
    with contextlib.suppress(BaseException):
        report.sendall(json.dumps({"stage": stage, "error": str(error) or type(error).__name__}).encode() + b"\n")
    os._exit(128)


# ---- the root file system ----


def _build_root(spec: ContainerSpec) -> None:
    layers = f"{spec.directory}/layers"
    os.makedirs(layers, exist_ok=True)
    if spec.upper_on_tmpfs:
        linux.mount("tmpfs", layers, "tmpfs", linux.MS_NODEV, "mode=0755")
    upper, work, root = (f"{layers}/{n}" for n in ("upper", "work", "root"))
    for directory in (upper, work, root):
        os.makedirs(directory, exist_ok=True)
    _opaque(upper, "/tmp", 0o1777)
    _opaque(upper, "/run", 0o755)
    for hidden in spec.hide:
        if os.path.isdir(hidden) and not hidden.startswith(("/tmp/", "/run/")):
            _opaque(upper, hidden, 0o755)
    linux.mount("overlay", root, "overlay", linux.MS_NODEV, f"lowerdir=/,upperdir={upper},workdir={work}")
    for passage in spec.open_up:
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(root + passage).st_mode)
            os.chmod(root + passage, mode | stat.S_IXGRP | stat.S_IXOTH)  # a user may be of the owner's group
    for directory in ("/proc", "/sys", "/dev", "/run/lock", _OLD):
        os.makedirs(root + directory, exist_ok=True)
    os.chmod(root + "/run/lock", 0o1777)
    _devices(root + "/dev", spec)
    linux.mount("proc", root + "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    _system(root + "/sys", spec)
    os.chdir("/")
    linux.pivot_root(root, root + _OLD)
    os.chdir("/")
    if not spec.privileged:
        _protect_proc()


def _opaque(upper: str, path: str, mode: int) -> None:
    """Makes `path` an empty directory of the upper layer; its parents keep the host's mode and owner."""
    done = ""
    parts = path.strip("/").split("/")
    for index, part in enumerate(parts):
        done = f"{done}/{part}"
        target = upper + done
        last = index == len(parts) - 1
        if not os.path.isdir(target):
            os.mkdir(target)
            if not last:
                try:
                    real = os.stat(done)
                    os.chown(target, real.st_uid, real.st_gid)
                    os.chmod(target, stat.S_IMODE(real.st_mode))
                except OSError:
                    os.chmod(target, 0o755)
        if last:
            os.chmod(target, mode)
            os.setxattr(target, "trusted.overlay.opaque", b"y")


def _devices(dev: str, spec: ContainerSpec) -> None:
    if spec.privileged:
        linux.bind("/dev", dev, recursive=True)
    else:
        linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID | linux.MS_STRICTATIME, "mode=755,size=65536k")
        for name, (major, minor) in _DEVICES.items():
            path = f"{dev}/{name}"
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            except OSError:
                Path(path).touch()
                linux.bind(f"/dev/{name}", path)
            else:
                os.chmod(path, 0o666)
        for name, target in _DEVICE_LINKS.items():
            os.symlink(target, f"{dev}/{name}")
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"{dev}/{name}")
    linux.mount(
        "devpts", dev + "/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"
    )
    if spec.privileged:
        with contextlib.suppress(OSError):
            linux.bind(dev + "/pts/ptmx", dev + "/ptmx")
    if spec.shm:
        linux.bind(spec.shm, dev + "/shm")
    with contextlib.suppress(OSError):
        linux.mount("mqueue", dev + "/mqueue", "mqueue", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)


def _system(sys: str, spec: ContainerSpec) -> None:
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    if not spec.privileged:
        flags |= linux.MS_RDONLY
    try:
        linux.mount("sysfs", sys, "sysfs", flags)
    except OSError:
        linux.bind("/sys", sys, readonly=not spec.privileged, recursive=True)
        return
    # Programs read their limits there; without a cgroup2 tree the directory stays empty, which they take as "no limit".
    with contextlib.suppress(OSError):
        linux.unshare(linux.CLONE_NEWCGROUP)
        linux.mount("cgroup2", sys + "/fs/cgroup", "cgroup2", flags)


def _protect_proc() -> None:
    for path in _MASKED:
        with contextlib.suppress(OSError):
            linux.bind("/dev/null", path)
    for path in _READ_ONLY:
        with contextlib.suppress(OSError):
            linux.bind(path, path, readonly=True)


def _bind(item: Bind) -> None:
    source = _OLD + item.source
    target = item.target
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.bind(source, target, readonly=item.readonly, recursive=item.recursive)


def _leave_old_root() -> None:
    linux.umount(_OLD, linux.MNT_DETACH)
    os.rmdir(_OLD)


# ---- the program ----


def _become_init(report: socket.socket) -> None:
    """Forks: the child goes on to be the program; this process stays as PID 1, forwards signals and reaps."""
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    report.close()
    os.closerange(0, 1 << 20)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(OSError):
            os.kill(child, number)

    for number in signal.valid_signals():
        if number not in _IGNORED_BY_INIT:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, forward)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _start(spec: ProcessSpec, streams: Sequence[int], report: socket.socket, *, pdeathsig: bool) -> None:
    if spec.oom_score_adj is not None:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(spec.oom_score_adj))
    if spec.tty:
        _terminal(spec, report)
    else:
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            # Programs open /dev/stdout again (Envoy's access log): the pipe must belong to their user.
            with contextlib.suppress(OSError):
                os.fchown(number, spec.uid, -1)
    if not os.path.isdir(spec.cwd):
        with contextlib.suppress(OSError):
            os.makedirs(spec.cwd, exist_ok=True)
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        raise _Failed(f'chdir to cwd ("{spec.cwd}") failed: {error.strerror}') from None
    _credentials(spec)
    if pdeathsig:
        # Without the runtime nobody would read the logs or see the end: better a clean restart by the next one.
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    program = find_program(spec.argv[0], spec.env.get("PATH", DEFAULT_PATH))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execve(program, spec.argv, spec.env)
    except OSError as error:
        raise _Failed(f'exec: "{spec.argv[0]}": {(error.strerror or "").lower()}') from None


def find_program(name: str, path: str) -> str:
    """Where `name` is, as execvp looks for it; raises with the words a container runtime uses."""
    if "/" in name:
        if not os.path.exists(name):
            raise _Failed(f'exec: "{name}": stat {name}: no such file or directory')
        return name
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise _Failed(f'exec: "{name}": executable file not found in $PATH')


def _credentials(spec: ProcessSpec) -> None:
    last = linux.last_capability()
    allowed = spec.capabilities & linux.own_capabilities()
    linux.limit_bounding_set(allowed, last)
    os.setgroups(spec.groups)
    os.setresgid(spec.gid, spec.gid, spec.gid)
    os.setresuid(spec.uid, spec.uid, spec.uid)
    # A user other than root starts without capabilities, as with containerd; setresuid has cleared them already.
    linux.set_capabilities(allowed if spec.uid == 0 else 0)
    if spec.no_new_privileges:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def _terminal(spec: ProcessSpec, report: socket.socket) -> None:
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("i", 0)))[0]
    slave = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
    if spec.rows and spec.columns:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", spec.rows, spec.columns, 0, 0))
    os.fchown(slave, spec.uid, -1)
    socket.send_fds(report, [b"T"], [master])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)
