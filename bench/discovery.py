"""How fast configuration reaches proxies: S services, P simulated sidecars over plaintext delta streams.

    python bench/discovery.py --services 1000 --proxies 500

The control plane (engine and discovery server, fed with typed resources, no API server) runs in a process of its own;
the sidecars live in this one. Prints one JSON object: for each step the wall time until the last sidecar had it, the
control plane's CPU seconds and the bytes sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection as Pipe

import grpc
import structlog
import uvloop
from google.protobuf import struct_pb2
from prometheus_client import CollectorRegistry

from meltem import envoyapi as api
from meltem.clock import SystemClock
from meltem.engine import Engine
from meltem.resources.kinds import KINDS
from meltem.resources.parse import read_as
from meltem.xds.metrics import XdsMetrics
from meltem.xds.push import Connections, settle_memory
from meltem.xds.server import DELTA, SERVICE, DiscoveryServer, server_options

CLUSTER, NAMESPACE = "Kubernetes", "bench"
KIND = {k.kind: k for k in KINDS if "gateway.networking" not in k.group}


def name(number: int) -> str:
    return f"app-{number}"


def address(number: int) -> str:
    return f"10.{64 + number // 60000}.{number // 250 % 240}.{number % 250 + 1}"


def put(engine: Engine, kind: str, key: str, body: dict) -> None:
    info = KIND[kind]
    obj = {
        "apiVersion": info.api_version,
        "kind": kind,
        "metadata": {"namespace": NAMESPACE, **body.pop("metadata", {})},
    }
    obj["metadata"]["name"] = key
    engine.inputs.by_kind[kind].set((CLUSTER, NAMESPACE, key), read_as({**obj, **body}, info))


def put_slice(engine: Engine, service: int, addresses: list[str]) -> None:
    put(engine, "EndpointSlice", name(service), {
        "metadata": {"labels": {"kubernetes.io/service-name": name(service)}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    })  # fmt: skip


def put_service(engine: Engine, key: str, ip: str) -> None:
    put(engine, "Service", key, {"spec": {"clusterIP": ip, "clusterIPs": [ip],
                                          "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})  # fmt: skip


def addresses_of(service: int, services: int, proxies: int) -> list[str]:
    return [address(i) for i in range(service, proxies, services)]


def control_plane(pipe: Pipe, services: int, proxies: int) -> None:
    uvloop.run(serve(pipe, services, proxies))


async def serve(pipe: Pipe, services: int, proxies: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    engine = Engine()
    with engine.graph.transaction():
        for number in range(services):
            put_service(engine, name(number), f"10.{96 + number // 60000}.{number // 250 % 240}.{number % 250 + 1}")
            put_slice(engine, number, addresses_of(number, services, proxies))
    settle_memory()
    options = server_options(connection_age=1800, keepalive=30, keepalive_timeout=10, request_bytes=16 << 20)
    server = grpc.aio.server(options=options)
    discovery = DiscoveryServer(Connections(engine, SystemClock()), SystemClock(), XdsMetrics(CollectorRegistry()))
    server.add_generic_rpc_handlers((discovery.handler(None),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pipe.send(port)
    while (command := await asyncio.to_thread(pipe.recv)) is not None:
        what, mark = command
        with engine.graph.transaction():
            if what == "endpoint":
                put_slice(engine, 1, [*addresses_of(1, services, proxies), mark])
            elif what == "virtualservice":
                put(engine, "VirtualService", "v", {"spec": {"hosts": [name(2)], "http": [
                    {"headers": {"request": {"set": {"x-mark": mark}}}, "route": [{"destination": {"host": name(2)}}]}
                ]}})  # fmt: skip
            elif what == "service":
                put_service(engine, mark, "10.127.0.9")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    await server.stop(0)


class Sidecar:
    """Asks as Envoy does; `seen` is set when `mark` arrived."""

    received = 0
    last = 0.0

    def __init__(self, number: int, services: int) -> None:
        self.number, self.services = number, services
        self.queue: asyncio.Queue[api.discovery.DeltaDiscoveryRequest] = asyncio.Queue()
        self.versions: dict[str, dict[str, str]] = {}
        self.ready, self.seen, self.mark = asyncio.Event(), asyncio.Event(), b""
        self.asked: set[str] = set()

    def node(self) -> api.base.Node:
        metadata = struct_pb2.Struct()
        metadata.update({"NAMESPACE": NAMESPACE, "LABELS": {"app": name(self.number % self.services)},
                         "INSTANCE_IPS": address(self.number)})  # fmt: skip
        ident = f"sidecar~{address(self.number)}~pod-{self.number}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"
        return api.base.Node(id=ident, metadata=metadata)

    def ask(self, type_url: str, **more: object) -> None:
        self.queue.put_nowait(api.discovery.DeltaDiscoveryRequest(type_url=type_url, **more))

    def start(self) -> None:
        for type_url in (api.CLUSTER, api.ENDPOINT, api.LISTENER, api.ROUTE, api.VIRTUAL_HOST):
            had = self.versions.get(type_url, {})
            if type_url == api.CLUSTER or had:
                names = list(had) if type_url in (api.ENDPOINT, api.ROUTE) else []
                node = {"node": self.node()} if type_url == api.CLUSTER else {}
                self.ask(type_url, initial_resource_versions=had, resource_names_subscribe=names, **node)

    async def run(self, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(
            f"/{SERVICE}/{DELTA}",
            request_serializer=api.discovery.DeltaDiscoveryRequest.SerializeToString,
        )

        async def requests():
            while True:
                yield await self.queue.get()

        self.start()
        async for data in call(requests()):
            Sidecar.received += len(data)
            Sidecar.last = time.monotonic()
            self.take(api.discovery.DeltaDiscoveryResponse.FromString(data))
            if self.mark and self.mark in data:
                self.seen.set()

    def take(self, message: api.discovery.DeltaDiscoveryResponse) -> None:
        type_url = message.type_url
        mine = self.versions.setdefault(type_url, {})
        mine.update((r.name, r.version) for r in message.resources)
        self.ask(type_url, response_nonce=message.nonce)
        if type_url == api.CLUSTER:
            new = [r.name for r in message.resources if r.name.startswith("outbound|") and r.name not in self.asked]
            self.asked.update(new)
            if new:
                self.ask(api.ENDPOINT, resource_names_subscribe=new)
            if api.LISTENER not in self.asked:
                self.asked.add(api.LISTENER)
                self.ask(api.LISTENER)
        elif type_url == api.LISTENER and "80" not in self.versions.get(api.ROUTE, {}):
            self.ask(api.ROUTE, resource_names_subscribe=["80"])
        elif type_url == api.ROUTE and api.VIRTUAL_HOST not in self.asked:
            self.asked.add(api.VIRTUAL_HOST)
            self.ask(api.VIRTUAL_HOST)
        elif type_url == api.VIRTUAL_HOST and mine:
            self.ready.set()


async def quiet(seconds: float = 1.0) -> None:
    while time.monotonic() - Sidecar.last < seconds:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def measure(pipe: Pipe, services: int, proxies: int) -> dict[str, object]:
    port = pipe.recv()
    sidecars = [Sidecar(i, services) for i in range(proxies)]
    out: dict[str, object] = {"services": services, "proxies": proxies}
    pipe.send(("nothing", ""))
    cpu, memory = pipe.recv()

    async def connected(label: str) -> list[asyncio.Task[None]]:
        nonlocal cpu, memory
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(proxies // 50 + 1)]
        before, began = Sidecar.received, time.monotonic()
        tasks = [asyncio.create_task(s.run(channels[s.number % len(channels)])) for s in sidecars]
        await asyncio.gather(*(asyncio.wait_for(s.ready.wait(), 120) for s in sidecars))
        wall = time.monotonic() - began
        await quiet()
        pipe.send(("nothing", ""))
        now, memory = await asyncio.to_thread(pipe.recv)
        out[label] = {
            "wall_s": round(wall, 2),
            "cpu_s": round(now - cpu, 2),
            "bytes_a_proxy": (Sidecar.received - before) // proxies,
            "peak_MiB": round(memory),
        }
        cpu = now
        return tasks

    tasks = await connected("connect")
    for what, mark in (("endpoint", "10.99.9.9"), ("virtualservice", "mark-of-the-bench"), ("service", "brand-new")):
        for sidecar in sidecars:
            sidecar.mark = mark.encode()
            sidecar.seen.clear()
        before, began = Sidecar.received, time.monotonic()
        pipe.send((what, mark))
        await asyncio.gather(*(asyncio.wait_for(s.seen.wait(), 30) for s in sidecars))
        wall = time.monotonic() - began
        await asyncio.to_thread(pipe.recv)
        await quiet()
        pipe.send(("nothing", ""))
        now, memory = await asyncio.to_thread(pipe.recv)
        out[what] = {
            "wall_s": round(wall, 3),
            "cpu_s": round(now - cpu, 2),
            "MiB": round((Sidecar.received - before) / 2**20, 2),
        }
        cpu = now
    for task in tasks:
        task.cancel()
    await asyncio.sleep(1)
    for sidecar in sidecars:
        sidecar.queue = asyncio.Queue()
        sidecar.ready.clear()
    await connected("reconnect")
    out["peak_MiB"] = round(memory)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--proxies", type=int, default=500)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=control_plane, args=(theirs, options.services, options.proxies))
    process.start()
    try:
        print(json.dumps(asyncio.run(measure(ours, options.services, options.proxies)), indent=1))
    finally:
        ours.send(None)
        process.join(5)
        process.terminate()


if __name__ == "__main__":
    main()
