"""What the node tells the runtime to start: plain JSON read into frozen values, shared by both sides.

Standard library only. `ContainerSpec` is one container, `ProcessSpec` one process in it (the container's own, or an
exec). Every path is the host's, except `Bind.target` and `ProcessSpec.cwd`, which are the container's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeAlias, cast

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Message: TypeAlias = dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """A process: `capabilities` is a bit mask, the bounding set; a user other than 0 gets it only through `ambient`."""

    argv: list[str]
    env: dict[str, str]
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: list[int] = field(default_factory=list[int])
    capabilities: int = 0
    no_new_privileges: bool = False
    tty: bool = False
    columns: int = 0
    rows: int = 0
    oom_score_adj: int | None = None

    @classmethod
    def read(cls, message: Mapping[str, Json]) -> ProcessSpec:
        return cls(**cast("dict[str, object]", dict(message)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A bind mount; a missing target is created as a directory or a file, whichever the source is."""

    source: str
    target: str
    readonly: bool = False
    recursive: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One container. `pid_namespace`: `new`, `host`, or a path to join. `upper`: directory for what it writes."""

    id: str
    directory: str
    """Where the runtime keeps `state.json` and the overlay's directories for it."""
    log: str
    process: ProcessSpec
    net_namespace: str
    ipc_namespace: str
    uts_namespace: str
    pid_namespace: str = "new"
    binds: list[Bind] = field(default_factory=list[Bind])
    hide: list[str] = field(default_factory=list[str])
    """Directories of the host that look empty inside."""
    open_up: list[str] = field(default_factory=list[str])
    """Directories that any user may pass through inside (the Python environment may lie under /root)."""
    readonly_root: bool = False
    privileged: bool = False
    shm: str = ""
    stdin: bool = False
    stdin_once: bool = False
    init: bool = False
    """Put a reaping, signal-forwarding PID 1 before the process."""
    cgroups: list[str] = field(default_factory=list[str])
    """Directories whose `cgroup.procs` it joins."""
    upper_on_tmpfs: bool = False
    stop_signal: int = 15

    @classmethod
    def read(cls, message: Mapping[str, Json]) -> ContainerSpec:
        values = dict(message)
        process = ProcessSpec.read(cast("dict[str, Json]", values.pop("process")))
        binds = [
            Bind(**cast("dict[str, object]", b))  # pyright: ignore[reportArgumentType]
            for b in cast("list[dict[str, Json]]", values.pop("binds", []))
        ]
        return cls(process=process, binds=binds, **cast("dict[str, object]", values))  # pyright: ignore[reportArgumentType]


def as_message(spec: ContainerSpec | ProcessSpec) -> Message:
    return cast("Message", asdict(spec))
