"""`/stats/summary`: CPU and memory of node and pods, from control groups where there are any, else from /proc.

In: the pods' workers. Out: the kubelet's Summary object (stats.kubelet.k8s.io/v1alpha1), the parts that `kubectl top`
needs.
"""

from __future__ import annotations

import os
from pathlib import Path

from meltem.clock import rfc3339
from meltem.local.config import NODE_NAME
from meltem.local.node.cgroups import Usage
from meltem.local.node.pod_worker import PodWorker
from meltem.objects import Json, JsonObject, name_of, namespace_of, uid_of


def summary(workers: list[PodWorker]) -> JsonObject:
    by_namespace = _processes()
    pods: list[Json] = []
    for worker in workers:
        node = worker.context.node
        now = rfc3339(node.clock.now())
        containers: list[Json] = []
        for record in worker.context.containers.values():
            if not record.running:
                continue
            usage = node.cgroups.usage(worker.context.sandbox_record.uid, record.id)
            if usage is None:
                usage = _usage(worker, record.id, by_namespace)
            containers.append({"name": record.name, "startTime": rfc3339(record.started_at), **_numbers(usage, now)})
        pods.append(
            {
                "podRef": {
                    "name": name_of(worker.pod),
                    "namespace": namespace_of(worker.pod),
                    "uid": uid_of(worker.pod),
                },
                "startTime": rfc3339(worker.context.sandbox_record.started),
                "containers": containers,
            }
        )
    return {"node": {"nodeName": NODE_NAME}, "pods": pods}


def _numbers(usage: Usage, now: str) -> JsonObject:
    return {
        "cpu": {"time": now, "usageCoreNanoSeconds": usage.cpu},
        "memory": {"time": now, "workingSetBytes": usage.memory, "usageBytes": usage.memory_total},
    }


def _usage(worker: PodWorker, identifier: str, processes: dict[int, list[int]]) -> Usage:
    """Sum over the processes of the container's PID namespace."""
    from meltem.local.node.records import read
    from meltem.local.node.runtime_client import ContainerState

    state = read(worker.context.paths.container(identifier) / "state.json", ContainerState)
    cpu = memory = 0
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        inode = Path(f"/proc/{state.pid}/ns/pid").stat().st_ino if state else 0
    except OSError:
        inode = 0
    for pid in processes.get(inode, []):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        cpu += (int(fields[11]) + int(fields[12])) * 1_000_000_000 // ticks
        memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(cpu=cpu, memory=memory, memory_total=memory)


def _processes() -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for entry in (p.name for p in Path("/proc").iterdir()):
        if entry.isdigit():
            try:
                result.setdefault(Path(f"/proc/{entry}/ns/pid").stat().st_ino, []).append(int(entry))
            except OSError:
                continue
    return result
