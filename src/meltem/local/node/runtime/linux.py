"""The Linux calls that Python 3.11 does not have, by way of libc: namespaces, mounts, capabilities, prctl.

Goes in: paths, flags and numbers as the manual pages name them. Comes out: nothing, or OSError with the call's errno
and the path it was about. Standard library only: the runtime daemon imports it without any package on its path.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET_VERSION_3 = 0x20080522

CAPABILITIES: tuple[str, ...] = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID",
    "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK",
    "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE",
    "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE",
    "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE",
    "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""Names by number (capabilities(7)), without the `CAP_` prefix."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def enter(path: str, kind: int) -> None:
    """Joins the namespace that `path` (a bind mount or /proc/PID/ns/X) names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, kind)
    finally:
        os.close(fd)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str, *, readonly: bool = False, recursive: bool = False) -> None:
    """Bind-mounts; read-only takes a second call, which must repeat the flags the mount already has."""
    mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))
    if readonly:
        mount("none", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | _locked_flags(target))


def _locked_flags(path: str) -> int:
    flags = os.statvfs(path).f_flag
    return flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC)


def umount(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(target.encode(), ctypes.c_int(flags)), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root: machine {os.uname().machine} is not known")
    _check(_libc.syscall(ctypes.c_long(number), new.encode(), old.encode()), "pivot_root")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
    ulong = ctypes.c_ulong
    _check(_libc.prctl(ctypes.c_int(option), ulong(a), ulong(b), ulong(c), ulong(d)), f"prctl {option}")


def last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except (OSError, ValueError):
        return len(CAPABILITIES) - 1


def own_capabilities() -> int:
    """The permitted set of this process as a bit mask."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def mask(names: Iterable[str]) -> int:
    """The bit mask of capability names (with or without `CAP_`); unknown ones are left out."""
    wanted = {n.upper().removeprefix("CAP_") for n in names}
    return sum(1 << i for i, n in enumerate(CAPABILITIES) if n in wanted)


def limit_bounding_set(keep: int, last: int) -> None:
    for number in range(last + 1):
        if not keep >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def set_capabilities(permitted: int, inheritable: int = 0) -> None:
    """Effective and permitted become `permitted`."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPSET_VERSION_3, 0))
    low, high = 0xFFFFFFFF, 32
    data = ctypes.create_string_buffer(
        struct.pack(
            "=6I",
            permitted & low, permitted & low, inheritable & low,
            permitted >> high, permitted >> high, inheritable >> high,
        )
    )  # fmt: skip
    _check(_libc.capset(header, data), "capset")
