"""What the parts of one pod's life share: the pod as the API server has it, its records, and the node's services.

`NodeServices` is the node's (one), `PodContext` the pod's. `changed()` says that the status is to be written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from meltem.clock import Clock
from meltem.kube.client import KubeClient
from meltem.kube.store import Store
from meltem.local.config import ClusterConfig
from meltem.local.images import ImageTable
from meltem.local.node import fields, records
from meltem.local.node.actions import Actions
from meltem.local.node.addresses import AddressPool
from meltem.local.node.cgroups import Cgroups
from meltem.local.node.container_spec import Sandbox
from meltem.local.node.environment import Context
from meltem.local.node.events import Recorder
from meltem.local.node.records import ContainerRecord, PodPaths, SandboxRecord
from meltem.local.node.runtime_client import ContainerState, Runtime
from meltem.local.node.volumes.manager import PodVolumes
from meltem.local.node.volumes.payload import Request
from meltem.local.node.volumes.sources import Sources
from meltem.objects import JsonObject, bool_at, name_of, namespace_of, objects_at, str_at, uid_of


class Exits:
    """Who waits for which container to end; the runtime's events come in by `ended`."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[ContainerState]] = {}

    def ended(self, state: ContainerState) -> None:
        future = self._future(state.id)
        if not future.done():
            future.set_result(state)

    async def wait(self, identifier: str) -> ContainerState:
        return await asyncio.shield(self._future(identifier))

    def forget(self, identifier: str) -> None:
        self._futures.pop(identifier, None)

    def lost(self, identifiers: set[str], now: float) -> None:
        """The runtime is gone, and these containers with it."""
        for identifier in identifiers:
            self.ended(ContainerState(id=identifier, pid=0, started=0.0, finished=now, code=137, signal=9))

    def _future(self, identifier: str) -> asyncio.Future[ContainerState]:
        future = self._futures.get(identifier)
        if future is None:
            future = self._futures[identifier] = asyncio.get_running_loop().create_future()
        return future


class RuntimeHolder(Protocol):
    """The runtime now; it is another one after a restart of the daemon."""

    @property
    def current(self) -> Runtime: ...


class NodeServices(msgspec.Struct, frozen=True):
    config: ClusterConfig
    client: KubeClient
    runtime: RuntimeHolder
    exits: Exits
    actions: Actions
    recorder: Recorder
    clock: Clock
    sources: Sources
    services: Store
    images: Callable[[], ImageTable]
    cgroups: Cgroups
    capacity: fields.Capacity
    addresses: AddressPool
    upper_on_tmpfs: bool


class PodContext:
    def __init__(self, node: NodeServices, pod: JsonObject, on_change: Callable[[], None]) -> None:
        self.node = node
        self.pod = pod
        self._on_change = on_change
        self.paths = PodPaths(node.config.pods / uid_of(pod))
        self.volumes = PodVolumes(self.paths.root, node.config.path / "claims")
        self.sandbox_record = SandboxRecord(uid=uid_of(pod), name=name_of(pod), namespace=namespace_of(pod))
        self.containers: dict[str, ContainerRecord] = {}
        self.sandbox_ready = False
        self.pid_namespace = ""
        self.transitions: dict[str, tuple[str, str]] = {}
        """Condition type → (status, since when)."""

    @property
    def title(self) -> str:
        """`name_namespace(uid)`: how the kubelet names a pod in messages."""
        return f"{name_of(self.pod)}_{namespace_of(self.pod)}({uid_of(self.pod)})"

    @property
    def addresses(self) -> fields.Addresses:
        return fields.Addresses(pod_ips=self.ips, host_ips=self.node.config.node_ips)

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's addresses, the primary one first; none before it has its sandbox."""
        return self.node.config.pod_addresses(self.sandbox_record.ip)

    @property
    def sandbox(self) -> Sandbox:
        return Sandbox(
            config=self.node.config,
            paths=self.paths,
            host_network=bool_at(self.pod, "spec", "hostNetwork"),
            shared_pid=self.pid_namespace,
            upper_on_tmpfs=self.node.upper_on_tmpfs,
        )

    @property
    def restart_policy(self) -> str:
        return str_at(self.pod, "spec", "restartPolicy", default="Always")

    def request(self) -> Request:
        node = self.node
        return Request(self.pod, self.addresses, node.capacity, node.sources, node.clock)

    def variables(self) -> Context:
        node = self.node
        return Context(self.pod, self.addresses, node.capacity, node.sources, list(node.services))

    def record(self, name: str) -> ContainerRecord:
        found = self.containers.get(name)
        if found is None:
            waiting = "PodInitializing" if objects_at(self.pod, "spec", "initContainers") else "ContainerCreating"
            found = self.containers[name] = ContainerRecord(name=name, waiting_reason=waiting)
        return found

    def load(self) -> None:
        """Reads what an earlier node process wrote."""
        sandbox = records.read(self.paths.sandbox, SandboxRecord)
        if sandbox is not None:
            self.sandbox_record = sandbox
        known = records.read(self.paths.containers, list[ContainerRecord])
        self.containers = {r.name: r for r in known or []}

    def changed(self) -> None:
        """Keeps the records and has the status written."""
        if self.paths.root.exists():
            records.save(self.paths.sandbox, self.sandbox_record)
            records.save(self.paths.containers, list(self.containers.values()))
        self._on_change()

    def event(self, kind: str, reason: str, message: str, container: str = "") -> None:
        """`container`: its name, for the event's field path."""
        path = ""
        if container:
            inits = [str_at(c, "name") for c in objects_at(self.pod, "spec", "initContainers")]
            path = f"spec.{'initContainers' if container in inits else 'containers'}{{{container}}}"
        self.node.recorder.event(self.pod, kind, reason, message, container=path)
