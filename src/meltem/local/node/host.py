"""The machine beneath: which of its directories containers need, what lies on other file systems, how much there is of
it.

In: /proc and the running Python. Out: `needed_paths`, `passages`, `keep_binds` for the sandbox, `capacity` for the
Node.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import meltem
from meltem.local.images import samples_directory
from meltem.local.node.fields import Capacity
from meltem.local.node.runtime.spec import Bind

_STANDARD = ("/usr", "/usr/local", "/opt", "/etc", "/var", "/var/lib", "/home", "/root", "/srv")
_SHADOWED = ("/tmp", "/run", "/dev", "/proc", "/sys")
_PSEUDO = {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "nsfs", "mqueue", "debugfs", "tracefs", "autofs"}


def needed_paths() -> list[str]:
    """The Python environment, the package and the sample programs, with links resolved as well."""
    found: dict[str, None] = {}
    for path in (
        sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(meltem.__file__).resolve().parent.parent),
        str(samples_directory()), str(Path(sys.executable).resolve().parent),
    ):  # fmt: skip
        found[path] = None
        found[str(Path(path).resolve())] = None
    return [p for p in found if Path(p).is_dir()]


def passages(paths: Iterable[str]) -> list[str]:
    """Directories on the way to `paths` that only their owner may pass through (such as /root)."""
    result: dict[str, None] = {}
    for path in paths:
        for parent in reversed([PurePosixPath(path), *PurePosixPath(path).parents]):
            if str(parent) != "/" and Path(parent).is_dir() and Path(parent).stat().st_mode & 0o011 != 0o011:
                result[str(parent)] = None
    return list(result)


def mount_points() -> list[str]:
    """Where real file systems are mounted, besides `/`."""
    result: list[str] = []
    with Path("/proc/self/mountinfo").open() as file:
        for line in file:
            parts = line.split()
            kind = parts[parts.index("-") + 1]
            point = parts[4].replace("\\040", " ")
            if kind not in _PSEUDO and point != "/" and not _under(point, _SHADOWED):
                result.append(point)
    return result


def keep_binds(paths: Sequence[str], hidden: Sequence[str]) -> list[Bind]:
    """Read-only binds for what the overlay over `/` does not show: other file systems, and needed paths that are
    hidden."""
    wanted = [*paths, *_STANDARD]
    points = [p for p in mount_points() if any(_under(path, (p,)) for path in wanted) and not _under(p, hidden)]
    covered = [p for p in paths if _under(p, (*_SHADOWED[:2], *hidden))]
    result: dict[str, Bind] = {}
    for path in sorted({*points, *covered}, key=lambda p: len(PurePosixPath(p).parts)):
        if Path(path).exists() and not _under(path, [p for p in result if p in covered]):
            result[path] = Bind(source=path, target=path, readonly=True, recursive=path in covered)
    return list(result.values())


def capacity(directory: Path) -> Capacity:
    with Path("/proc/meminfo").open() as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))
    space = os.statvfs(directory)
    return Capacity(len(os.sched_getaffinity(0)), total, space.f_blocks * space.f_frsize)


def _under(path: str, directories: Iterable[str]) -> bool:
    pure = PurePosixPath(path)
    return any(pure.is_relative_to(d) for d in directories)
