"""Takes a node off the machine: containers, mounts, namespaces, interfaces, firewall table, cgroups, pod directories.

In: a `ClusterConfig`. Out: nothing left but the cluster's own files (database, keys, logs, claims). Every step does
nothing where there is nothing; run it in the host's network namespace, with or without a node process alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

from meltem.local.config import ClusterConfig
from meltem.local.node import cgroups, network_setup
from meltem.local.node.pod_sandbox import remove_pod_directory

_PATIENCE = 10.0


def teardown(config: ClusterConfig, *, keep_pods: bool = False) -> None:
    """Ends every container at once. `keep_pods` leaves the pods' directories (records, logs) for a later start."""
    _end_runtime(config.path / "runtime.sock")
    _end_strays(config)
    if config.pods.is_dir():
        for root in config.pods.iterdir():
            if keep_pods:
                _unmount_pod(root)
            else:
                remove_pod_directory(root)
    network_setup.remove_node_network(config)
    cgroups.detect(config.name).remove_all()
    with contextlib.suppress(FileNotFoundError):
        config.node_socket.unlink()


def _end_runtime(path: Path) -> None:
    """Asks the daemon to kill everything and to end; waits until it has."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(path))
        connection.sendall(json.dumps({"op": "shutdown", "seq": 1}).encode() + b"\n")
        while connection.recv(65536):
            pass
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _end_strays(config: ClusterConfig) -> None:
    """Processes still in one of the cluster's network namespaces (host-PID containers, orphans) are killed."""
    namespaces: set[int] = set()
    node = network_setup.node_namespace(config)
    for path in [node, *config.pods.glob("*/ns/net")]:
        with contextlib.suppress(OSError):
            namespaces.add(path.stat().st_ino)
    own = Path("/proc/self/ns/net").stat().st_ino
    namespaces.discard(own)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = _inside(namespaces)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _inside(namespaces: set[int]) -> list[int]:
    result: list[int] = []
    for entry in (p.name for p in Path("/proc").iterdir()):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{entry}/ns/net").stat().st_ino in namespaces:
                    result.append(int(entry))
    return result


def _unmount_pod(root: Path) -> None:
    from meltem.local.node.pod_sandbox import unmount_any

    for directory in (root / "volumes", root / "ns"):
        if directory.is_dir():
            for entry in directory.iterdir():
                unmount_any(entry)
    unmount_any(root / "shm")
