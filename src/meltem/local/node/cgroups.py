"""Resource limits and usage by control group, v2 or v1, where the machine lets us write them; nothing where it does
not.

In: the cluster's name, a container's `resources`. Out: `Cgroups.create` gives the directories for the runtime to join
(none without cgroups), `usage` reads CPU and memory, `oom_killed` tells why a container died. `detect` never raises:
`reason` says why limits are not enforced, for the node's condition and log.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from meltem.errors import InvalidResource
from meltem.local.node.fields import quantity
from meltem.objects import JsonObject, object_at

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")


class Usage(msgspec.Struct, frozen=True):
    """`cpu` in nanoseconds since the start, `memory` (working set) and `memory_total` in bytes."""

    cpu: int
    memory: int
    memory_total: int


class Cgroups(msgspec.Struct, frozen=True):
    """`bases`: controller to directory of this cluster's groups; v2 has the one key `unified`."""

    bases: Mapping[str, Path]
    reason: str = ""

    def create(self, pod_uid: str, container_id: str, container: JsonObject) -> list[str]:
        """Makes the container's groups with its limits; returns their directories."""
        made: list[str] = []
        for controller, base in self.bases.items():
            directory = base / pod_uid / container_id
            try:
                if controller == "unified":
                    _delegate(base)
                    (base / pod_uid).mkdir(exist_ok=True)
                    _delegate(base / pod_uid)
                directory.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue
            for name, value in _settings(controller, container).items():
                with contextlib.suppress(OSError):
                    (directory / name).write_text(value)
            made.append(str(directory))
        return made

    def remove(self, pod_uid: str, container_id: str = "") -> None:
        """Removes a container's groups, or the whole pod's; they must be empty of processes."""
        for base in self.bases.values():
            directory = base / pod_uid / container_id if container_id else base / pod_uid
            with contextlib.suppress(OSError):
                for path, _, _ in os.walk(directory, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(path).rmdir()

    def remove_all(self) -> None:
        for base in self.bases.values():
            for path, _, _ in os.walk(base, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()

    def oom_killed(self, pod_uid: str, container_id: str) -> bool:
        for controller, name in (("unified", "memory.events"), ("memory", "memory.oom_control")):
            base = self.bases.get(controller)
            if base is not None and _pairs(base / pod_uid / container_id / name).get("oom_kill", 0) > 0:
                return True
        return False

    def usage(self, pod_uid: str, container_id: str) -> Usage | None:
        base = self.bases.get("unified")
        if base is not None:
            directory = base / pod_uid / container_id
            total = _number(directory / "memory.current")
            inactive = _pairs(directory / "memory.stat").get("inactive_file", 0)
            cpu = _pairs(directory / "cpu.stat").get("usage_usec", 0) * 1000
        elif "memory" in self.bases:
            directory = self.bases["memory"] / pod_uid / container_id
            total = _number(directory / "memory.usage_in_bytes")
            inactive = _pairs(directory / "memory.stat").get("total_inactive_file", 0)
            accounting = self.bases.get("cpuacct")
            cpu = _number(accounting / pod_uid / container_id / "cpuacct.usage") if accounting else 0
        else:
            return None
        return Usage(cpu=cpu, memory=max(0, total - inactive), memory_total=total)


def detect(cluster: str) -> Cgroups:
    """What this machine allows; makes the cluster's own groups."""
    if (_ROOT / "cgroup.controllers").exists():
        candidates = {"unified": _ROOT}
    else:
        candidates = {c: _ROOT / c for c in _CONTROLLERS if (_ROOT / c / "cgroup.procs").exists()}
    bases: dict[str, Path] = {}
    reason = "no control groups are mounted at /sys/fs/cgroup" if not candidates else ""
    for controller, root in candidates.items():
        base = root / "meltem" / cluster
        try:
            if controller == "unified":
                (root / "meltem").mkdir(exist_ok=True)
                _delegate(root)
                _delegate(root / "meltem")
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"control groups cannot be made in {root}: {error.strerror}"
            continue
        if controller == "unified" and "memory" not in (base / "cgroup.controllers").read_text().split():
            reason = f"the memory controller is not handed down to {base}"
        bases[controller] = base
    return Cgroups(bases, reason)


def _delegate(directory: Path) -> None:
    for controller in ("memory", "cpu", "pids"):
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _settings(controller: str, container: JsonObject) -> dict[str, str]:
    limits = object_at(container, "resources", "limits")
    requests = object_at(container, "resources", "requests")
    result: dict[str, str] = {}
    try:
        memory = int(quantity(limits["memory"])) if "memory" in limits else 0
        cpu = int(quantity(limits["cpu"]) * _PERIOD) if "cpu" in limits else 0
        wanted = requests.get("cpu", limits.get("cpu"))
        shares = max(2, int(quantity(wanted) * 1024)) if wanted is not None else 2
    except InvalidResource:
        return result
    if controller == "unified":
        result["cpu.weight"] = str(max(1, min(10_000, 1 + (shares - 2) * 9999 // 262_142)))
        result["memory.oom.group"] = "1"
        if memory:
            result["memory.max"] = str(memory)
        if cpu:
            result["cpu.max"] = f"{max(1000, cpu)} {_PERIOD}"
    elif controller == "memory" and memory:
        result["memory.limit_in_bytes"] = str(memory)
    elif controller == "cpu":
        result["cpu.shares"] = str(shares)
        if cpu:
            result["cpu.cfs_quota_us"] = str(max(1000, cpu))
    return result


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _pairs(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {p[0]: int(p[1]) for p in (line.split() for line in lines) if len(p) == 2 and p[1].isdigit()}
