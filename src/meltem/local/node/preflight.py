"""What the machine lacks for a local cluster's node, each with its remedy, before anything is changed.

In: nothing but the machine. Out: `preflight()`, a list of `Problem`, empty when all is well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

_PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "iptables-restore": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "sh": "dash",
}
_OLDEST_KERNEL = (5, 4)


class Problem(msgspec.Struct, frozen=True):
    """`what` is missing and what to do about it. `fatal`: no node without it."""

    what: str
    remedy: str
    fatal: bool = True


def preflight(home: Path | None = None) -> list[Problem]:
    """Everything that stands in the way; `home`: where the cluster will be kept."""
    if sys.platform != "linux":
        return [
            Problem(
                f"the local cluster needs Linux (this is {sys.platform})",
                "run it in a Linux virtual machine or on a Linux server; istioctl works from here with any Kubernetes",
            )
        ]
    problems: list[Problem] = []
    if os.geteuid() != 0:
        problems.append(Problem("the local cluster needs root (network namespaces, mounts)", "run it with sudo"))
    release = os.uname().release
    if _version(release) < _OLDEST_KERNEL:
        wanted = ".".join(map(str, _OLDEST_KERNEL))
        problems.append(Problem(f"kernel {release} is older than {wanted}", "boot a newer kernel"))
    missing = {p: package for p, package in _PROGRAMS.items() if _which(p) is None}
    if missing:
        names = ", ".join(missing)
        packages = " ".join(dict.fromkeys(missing.values()))
        problems.append(Problem(f"programs are missing: {names}", f"apt-get install {packages}"))
    if os.geteuid() != 0 or missing:
        return problems
    problems += _kernel_features(home)
    return problems


def disk_overlay_works(directory: Path) -> bool:
    """Whether an overlay over `/` can write to this directory (not where it is an overlay itself, as in containers)."""
    return _try_overlay(directory, tmpfs=False)


def _kernel_features(home: Path | None) -> list[Problem]:
    problems: list[Problem] = []
    if not _works(["unshare", "--net", "--ipc", "--uts", "--pid", "--mount", "--fork", "true"]):
        problems.append(
            Problem(
                "the kernel or the container around us refuses new namespaces",
                "run on the machine itself, or give the surrounding container --privileged",
            )
        )
        return problems
    veth = "ip link add mltmprobe0 type veth peer name mltmprobe1 && ip link add mltmprobe2 type bridge"
    if not _works(["unshare", "--net", "sh", "-c", veth]):
        problems.append(Problem("the kernel has no veth or bridge devices", "modprobe veth bridge"))
    nft = "nft add table ip probe && nft 'add chain ip probe c { type nat hook postrouting priority 100 ; }'"
    if not _works(["unshare", "--net", "sh", "-c", nft]):
        problems.append(Problem("the kernel has no nftables NAT", "modprobe nf_tables nft_chain_nat nft_masq"))
    if not _works(["unshare", "--net", "sh", "-c", "iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001"]):
        problems.append(
            Problem("iptables cannot redirect connections", "modprobe xt_REDIRECT iptable_nat, or use iptables-nft")
        )
    where = home or Path(tempfile.gettempdir())
    while not where.exists():
        where = where.parent
    if not _try_overlay(where, tmpfs=False) and not _try_overlay(where, tmpfs=True):
        problems.append(Problem("the kernel cannot mount an overlay over /", "modprobe overlay"))
    return problems


def _try_overlay(directory: Path, *, tmpfs: bool) -> bool:
    with tempfile.TemporaryDirectory(dir=directory, prefix=".overlay-") as place:
        script = (
            'set -e; mount --make-rprivate /; cd "$0"; '
            + ('mount -t tmpfs tmpfs . ; cd "$0"; ' if tmpfs else "")
            + "mkdir u w m; mount -t overlay overlay -o lowerdir=/,upperdir=u,workdir=w m; "
            "mkdir m/meltem-probe; test -d u/meltem-probe"
        )
        return _works(["unshare", "--mount", "sh", "-c", script, place])


def _works(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _which(program: str) -> str | None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return shutil.which(program, path=path)


def _version(release: str) -> tuple[int, int]:
    parts = release.split("-")[0].split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (IndexError, ValueError):
        return 0, 0
