"""The node process: joins everything together and runs until it is told to stop.

In: a `ClusterConfig`. Out: a registered node that runs its pods. The process enters the node's network namespace first
(before any thread exists), so that pods, probes and the API server's address are simply there. Containers belong to the
runtime daemon and stay when this process ends.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import aiohttp
import msgspec
import structlog

from meltem.clock import Clock, SystemClock
from meltem.errors import EnvironmentError_
from meltem.kube.client import KubeClient, connect
from meltem.kube.config import KubeConfig, load_kubeconfig
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import CONFIG_MAPS, PODS, SECRETS, SERVICES
from meltem.kube.store import Store
from meltem.local import network
from meltem.local.config import NODE_NAME, ClusterConfig
from meltem.local.images import ImageTable, load_table, table_files
from meltem.local.kept_sockets import KeptSockets
from meltem.local.node import cgroups, host, network_setup, records
from meltem.local.node.actions import Actions
from meltem.local.node.addresses import AddressPool
from meltem.local.node.api.server import NodeApi
from meltem.local.node.events import EventRecorder
from meltem.local.node.pod_context import Exits, NodeServices
from meltem.local.node.pod_sandbox import clean_up_unknown
from meltem.local.node.pods import Pods
from meltem.local.node.preflight import disk_overlay_works
from meltem.local.node.registration import Registration, wait_for_server
from meltem.local.node.runtime_client import Runtime
from meltem.local.node.volumes.sources import ClusterSources
from meltem.objects import uid_of

log = structlog.stdlib.get_logger(__name__)

_SERVER_PATIENCE = 60.0
RUNTIME_SOCKET = "runtime.sock"


class KeptRuntime:
    """The connection to the runtime daemon, made again when the daemon dies."""

    def __init__(self, path: Path, exits: Exits, clock: Clock) -> None:
        self._path = path
        self._exits = exits
        self._clock = clock
        self._runtime: Runtime | None = None
        self.known: Callable[[], set[str]] = set
        """Identifiers of the containers that are thought to run."""

    @property
    def current(self) -> Runtime:
        if self._runtime is None:
            raise EnvironmentError_("the container runtime is not connected", where="node")
        return self._runtime

    async def start(self) -> None:
        self._runtime = await Runtime.connect(self._path)
        self._runtime.on_exit(self._exits.ended)

    async def run(self) -> None:
        while True:
            await self.current.closed.wait()
            log.warning("the container runtime ended; its containers are started again")
            lost = self.known()
            await self.start()
            self._exits.lost(lost, self._clock.now())


class CachedImages:
    """The image table, read again when one of its files changed: what a person adds counts for the next container."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._table: ImageTable | None = None
        self._stamps: list[int] = []

    def __call__(self) -> ImageTable:
        stamps = [modified(file) for file in table_files(self._home)]
        if self._table is None or stamps != self._stamps:
            self._stamps = stamps
            try:
                self._table = load_table(self._home)
            except Exception as error:
                if self._table is None:
                    raise
                log.warning("the image table cannot be used; the last good one stays", error=str(error))
        return self._table


def modified(file: Path) -> int:
    """When a file was changed, in nanoseconds; 0 where there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def node_kubeconfig(config: ClusterConfig, *, patience: float = _SERVER_PATIENCE) -> KubeConfig:
    """`<home>/node.kubeconfig`, else the administrator's, with the API server's address on the host's end of the veth.

    Waits for the file: a first API server is just writing it, and needs the address that this process has made.
    """
    own = config.path / "node.kubeconfig"
    deadline = time.monotonic() + patience
    while not (own.exists() or config.kubeconfig.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = load_kubeconfig(str(own if own.exists() else config.kubeconfig))
    return msgspec.structs.replace(found, server=config.inner_api_url)


async def run_node(config: ClusterConfig, kubeconfig: KubeConfig, sockets: KeptSockets) -> None:
    """Runs until cancelled. The process must be in the node's network namespace (`enter_node_network`)."""
    clock = SystemClock()
    exits = Exits()
    runtime = KeptRuntime(config.path / RUNTIME_SOCKET, exits, clock)
    config.pods.mkdir(parents=True, exist_ok=True)
    await runtime.start()
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with connect(kubeconfig) as client, aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:  # fmt: skip
        await wait_for_server(client, _SERVER_PATIENCE)
        services = await _services(config, client, runtime, exits, session, clock)
        await _run(services, runtime, sockets)


async def _services(
    config: ClusterConfig, client: KubeClient, runtime: KeptRuntime, exits: Exits, session: aiohttp.ClientSession,
    clock: Clock,
) -> NodeServices:  # fmt: skip
    pool = AddressPool(config.pod_cidr, {config.pod_gateway})
    for root in config.pods.iterdir():
        record = records.read(root / "sandbox.json", records.SandboxRecord)
        if record is not None and record.ip and not record.host_network and not record.finished:
            pool.claim(record.ip)
    groups = cgroups.detect(config.name)
    if groups.reason:
        log.warning("resource limits are not enforced", reason=groups.reason)
    return NodeServices(
        config=config,
        client=client,
        runtime=runtime,
        exits=exits,
        actions=Actions(session),
        recorder=EventRecorder(client, clock),
        clock=clock,
        sources=ClusterSources(client, Store(), Store()),
        services=Store(),
        images=CachedImages(config.path),
        cgroups=groups,
        capacity=host.capacity(config.path),
        addresses=pool,
        upper_on_tmpfs=not await asyncio.to_thread(disk_overlay_works, config.path),
    )


async def _run(node: NodeServices, runtime: KeptRuntime, sockets: KeptSockets) -> None:
    client, sources = node.client, cast("ClusterSources", node.sources)
    pods = Pods(node)
    runtime.known = lambda: (
        {r.id for w in pods.all() for r in w.context.containers.values() if r.running}
        | {f"sandbox-{w.context.sandbox_record.uid}" for w in pods.all()}
    )
    caches = [
        Reflector(client, CONFIG_MAPS, sources.config_maps),
        Reflector(client, SECRETS, sources.secrets),
        Reflector(client, SERVICES, node.services),
    ]
    watch = Reflector(client, PODS, pods, field_selector=f"spec.nodeName={NODE_NAME}")
    registration = Registration(node.config, client, node.clock, node.capacity, node.cgroups.reason)
    async with asyncio.TaskGroup() as group:
        group.create_task(runtime.run())
        group.create_task(cast("EventRecorder", node.recorder).run())
        group.create_task(registration.run())
        for cache in caches:
            group.create_task(cache.run())
        for cache in caches:
            await cache.synced.wait()
        group.create_task(network.run(node.config, client, listen=sockets.listen))
        group.create_task(pods.run())
        group.create_task(NodeApi(pods, node.config.node_socket).run())
        group.create_task(watch.run())
        await watch.synced.wait()
        await clean_up_unknown(node, {uid_of(w.pod) for w in pods.all()})


def main(home: Path) -> None:
    """Sets up the network, enters it, runs the node. For `python -m meltem.local.node`."""
    from meltem.local.config import load_cluster

    config = load_cluster(home)
    os.umask(0o022)  # volumes must be readable by whatever user a container runs as
    network_setup.set_up_node_network(config)
    network_setup.enter_node_network(config)
    kubeconfig = node_kubeconfig(config)
    sockets = KeptSockets.from_environment(os.environ)
    _run_loop(lambda: run_node(config, kubeconfig, sockets))


def _run_loop(make: Callable[[], Awaitable[None]]) -> None:
    import signal

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(make())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    asyncio.run(whole())
