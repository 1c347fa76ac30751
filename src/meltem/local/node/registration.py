"""The Node object and its lease: how the cluster knows that this node is there and well.

In: the cluster's configuration and what the machine has. Out: `run` registers the node, keeps its conditions, and
renews the lease in kube-node-lease every ten seconds.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from pathlib import Path

import msgspec

from meltem import errors
from meltem.clock import Clock, rfc3339
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import LEASES, NODES
from meltem.local.config import NODE_NAME, ClusterConfig
from meltem.local.node.fields import Capacity
from meltem.objects import Json, JsonObject, objects_at, str_at, uid_of

KUBELET_VERSION = "v1.34.0"
_LEASE_SECONDS = 40
_RENEW = 10.0
_HEARTBEAT = 300.0
_PODS = 110


class Registration(msgspec.Struct, frozen=True):
    config: ClusterConfig
    client: KubeClient
    clock: Clock
    capacity: Capacity
    limits_missing: str
    """Why resource limits are not enforced, or empty."""

    async def register(self) -> JsonObject:
        """Creates or updates the Node; returns it."""
        try:
            found = await self.client.create(NODES, self._node())
        except errors.AlreadyExists:
            node = self._node()
            patch: JsonObject = {"metadata": {"labels": _labels()}, "spec": node["spec"]}
            found = await self.client.patch(NODES, NODE_NAME, "", patch, kind=PatchKind.STRATEGIC)
        return await self._write_status(found)

    async def run(self) -> None:
        """Registers, then keeps lease and conditions alive; errors of the API server are tried again."""
        last = float("-inf")
        node: JsonObject = {}
        while True:
            try:
                now = self.clock.monotonic()
                if not node:
                    node = await self.register()
                    last = now
                elif now - last > _HEARTBEAT:
                    node = await self._write_status(await self.client.get(NODES, NODE_NAME))
                    last = now
                await self._renew_lease(node)
            except errors.NotFound:
                node = {}
                await self.clock.sleep(1.0)
                continue
            except errors.MeltemError:
                await self.clock.sleep(1.0)
                continue
            await self.clock.sleep(_RENEW)

    def _node(self) -> JsonObject:
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": NODE_NAME,
                "labels": _labels(),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "false"},
            },
            "spec": {"podCIDR": self.config.pod_cidr, "podCIDRs": [*self.config.pod_cidrs]},
        }

    async def _write_status(self, node: JsonObject) -> JsonObject:
        patch: JsonObject = {"status": self._status(node)}
        return await self.client.patch(NODES, NODE_NAME, "", patch, kind=PatchKind.STRATEGIC, subresource="status")

    def _status(self, node: JsonObject) -> JsonObject:
        amounts: JsonObject = {
            "cpu": str(self.capacity.cpus),
            "memory": f"{self.capacity.memory // 1024}Ki",
            "ephemeral-storage": f"{self.capacity.ephemeral_storage // 1024}Ki",
            "pods": str(_PODS),
        }
        return {
            "addresses": [
                {"$patch": "replace"},  # else merged by type, of which two may be alike
                *({"type": "InternalIP", "address": ip} for ip in self.config.node_ips),
                {"type": "Hostname", "address": NODE_NAME},
            ],
            "capacity": amounts,
            "allocatable": dict(amounts),
            "conditions": self._conditions(node),
            "nodeInfo": _info(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        }

    def _conditions(self, node: JsonObject) -> list[Json]:
        now = rfc3339(self.clock.now())
        ready = "kubelet is posting ready status"
        if self.limits_missing:
            ready += f"; resource limits are not enforced: {self.limits_missing}"
        wanted = (
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("Ready", "True", "KubeletReady", ready),
        )
        old = {str_at(c, "type"): c for c in objects_at(node, "status", "conditions")}
        return [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": (
                    str_at(old.get(kind), "lastTransitionTime", default=now)
                    if str_at(old.get(kind), "status") == status
                    else now
                ),
            }
            for kind, status, reason, message in wanted
        ]

    async def _renew_lease(self, node: JsonObject) -> None:
        now = rfc3339(self.clock.now(), micros=True)
        namespace = "kube-node-lease"
        spec: JsonObject = {"holderIdentity": NODE_NAME, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now}
        try:
            await self.client.patch(LEASES, NODE_NAME, namespace, {"spec": spec})
        except errors.NotFound:
            owner: JsonObject = {"apiVersion": "v1", "kind": "Node", "name": NODE_NAME, "uid": uid_of(node)}
            lease: JsonObject = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NODE_NAME, "namespace": namespace, "ownerReferences": [owner]},
                "spec": spec,
            }
            await self.client.create(LEASES, lease)


def mark_not_ready_patch(clock: Clock) -> JsonObject:
    """The Ready condition of a node that is shut down on purpose."""
    now = rfc3339(clock.now())
    condition: JsonObject = {
        "type": "Ready", "status": "False", "reason": "KubeletStopped", "message": "the local cluster is down",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }  # fmt: skip
    return {"status": {"conditions": [condition]}}


def _labels() -> JsonObject:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "kubernetes.io/hostname": NODE_NAME,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine,
        "node-role.kubernetes.io/control-plane": "",
    }


def _info() -> JsonObject:
    kernel = os.uname()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(kernel.machine, kernel.machine)
    system = "Linux"
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                system = line.partition("=")[2].strip('"')
        machine_id = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine_id = ""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot_id = ""
    return {
        "machineID": machine_id,
        "systemUUID": machine_id,
        "bootID": boot_id,
        "kernelVersion": kernel.release,
        "osImage": system,
        "containerRuntimeVersion": "meltem://1.0",
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": KUBELET_VERSION,
        "operatingSystem": "linux",
        "architecture": machine,
    }


async def wait_for_server(client: KubeClient, patience: float) -> None:
    """Returns when the API server answers; raises EnvironmentError_ after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            await client.get_json("/version")
            return
        except errors.MeltemError as error:
            if time.monotonic() > deadline:
                raise errors.EnvironmentError_(
                    f"the API server does not answer: {error.what}", where=client.config.server
                ) from None
        await asyncio.sleep(0.1)
