"""What the node keeps on disk of a pod, so that a new node process finds its containers again; and where it lies.

In: values. Out: JSON files in the pod's directory, replaced atomically. Times are seconds since the epoch.

    <home>/pods/<uid>/sandbox.json containers.json ns/ shm/ etc/ volumes/ logs/<container>/<n>.log c/<id>/ messages/
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Termination(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended (ContainerStateTerminated)."""

    exit_code: int
    reason: str
    message: str = ""
    signal: int = 0
    started: float = 0.0
    finished: float = 0.0
    container_id: str = ""


class ContainerRecord(msgspec.Struct, kw_only=True):
    """One container of a pod. Exactly one of waiting, running (`started_at`), `terminated` is its state."""

    name: str
    id: str = ""
    """Identifier at the runtime; empty before the first start."""
    restarts: int = 0
    attempt: int = 0
    """Number of the next start; names the log file."""
    waiting_reason: str = "PodInitializing"
    waiting_message: str = ""
    started_at: float = 0.0
    terminated: Termination | None = None
    last: Termination | None = None
    started: bool = False
    ready: bool = False
    backoff: float = 0.0
    """Seconds of the pause before the next start."""
    image_id: str = ""

    @property
    def running(self) -> bool:
        return self.started_at > 0 and self.terminated is None


class SandboxRecord(msgspec.Struct, kw_only=True):
    """The pod as a whole."""

    uid: str
    name: str
    namespace: str
    ip: str = ""
    host_network: bool = False
    started: float = 0.0
    """When the node saw the pod first: `status.startTime`."""
    finished: str = ""
    """`Succeeded` or `Failed` once the pod is over."""
    reason: str = ""
    message: str = ""
    restored: bool = False


class PodPaths(msgspec.Struct, frozen=True):
    """The pod's directory and what is where in it."""

    root: Path

    @property
    def sandbox(self) -> Path:
        return self.root / "sandbox.json"

    @property
    def containers(self) -> Path:
        return self.root / "containers.json"

    @property
    def namespaces(self) -> Path:
        return self.root / "ns"

    @property
    def shm(self) -> Path:
        return self.root / "shm"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    def log(self, container: str, attempt: int) -> Path:
        return self.root / "logs" / container / f"{attempt}.log"

    def container(self, identifier: str) -> Path:
        return self.root / "c" / identifier

    def message(self, container: str, attempt: int) -> Path:
        return self.root / "messages" / f"{container}-{attempt}"


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Whole or not at all; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    partial.replace(path)


def save(path: Path, value: object) -> None:
    write_atomically(path, msgspec.json.encode(value))


def read(path: Path, kind: type[T]) -> T | None:
    """None where there is no such file, or none that can be read (a crash on a full disk)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
