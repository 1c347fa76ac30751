"""A discovery server on loopback whose bundles are fed by hand, and a real Envoy that it configures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import grpc
from prometheus_client import CollectorRegistry

from meltem import envoyapi as api
from meltem.clock import SystemClock
from meltem.collections import Graph
from meltem.generate.bundle import Bundles, GroupKey
from meltem.view.proxy import Proxy
from meltem.xds.connection import ConnectionLimits
from meltem.xds.metrics import XdsMetrics
from meltem.xds.push import Connections
from meltem.xds.server import DiscoveryServer

GROUP = ("hand",)


class HandFed:
    """An engine whose every proxy gets the resources that were put in."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.proxies = self.graph.source("proxies", str, tuple)
        self.resources = self.graph.source("resources", tuple, api.Resource)
        self.bundles = Bundles(self.graph, self.proxies)
        self.bundles.add(self.resources)

    def connect(self, proxy: Proxy) -> None:
        with self.graph.transaction():
            self.proxies.set(proxy.id, (GROUP,))

    def disconnect(self, proxy_id: str) -> None:
        with self.graph.transaction():
            self.proxies.delete(proxy_id)

    def put(self, *resources: api.Resource) -> None:
        with self.graph.transaction():
            for resource in resources:
                key: GroupKey = (GROUP, resource.type_url, resource.name)
                self.resources.set(key, resource)

    def remove(self, type_url: str, name: str) -> None:
        with self.graph.transaction():
            self.resources.delete((GROUP, type_url, name))


class Served:
    """A running server."""

    def __init__(self, engine: HandFed, port: int = 0, limits: ConnectionLimits | None = None) -> None:
        self.engine = engine
        self.registry = CollectorRegistry()
        self.connections = Connections(engine, SystemClock(), limits)
        self.discovery = DiscoveryServer(self.connections, SystemClock(), XdsMetrics(self.registry), limits=limits)
        self.port = port

    async def start(self) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self.discovery.handler(None),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop(0)


def free_port() -> int:
    """A free port below those that the kernel gives to outgoing connections, which could take it meanwhile."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Envoy:
    """A real Envoy; `admin(path)` asks its admin interface."""

    def __init__(self, directory: Path, xds_port: int, delta: bool) -> None:
        self.directory = directory
        self.admin_port = free_port()
        self.xds_port = xds_port
        self.delta = delta
        self.log = directory / "envoy.log"

    def bootstrap(self) -> dict[str, object]:
        ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
        return {
            "node": {"id": "sidecar~10.0.0.1~a.default~default.svc.cluster.local", "cluster": "a.default",
                     "metadata": {"NAMESPACE": "default", "LABELS": {"app": "a"}}},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin_port}}},
            "dynamic_resources": {
                "lds_config": ads, "cds_config": ads,
                "ads_config": {
                    "api_type": "DELTA_GRPC" if self.delta else "GRPC",
                    "set_node_on_first_message_only": True,
                    "transport_api_version": "V3",
                    "grpc_services": [{"google_grpc": {
                        "target_uri": f"127.0.0.1:{self.xds_port}", "stat_prefix": "xds",
                        "channel_args": {"args": {"grpc.max_reconnect_backoff_ms": {"int_value": 300},
                                                  "grpc.initial_reconnect_backoff_ms": {"int_value": 100}}}}}],
                },
            },
        }  # fmt: skip

    async def start(self) -> None:
        config = self.directory / "envoy.json"
        config.write_text(json.dumps(self.bootstrap()))
        binary = Path(sys.executable).parent / "envoy"
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(binary), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "info",
                "--component-log-level", os.environ.get("ENVOY_COMPONENT_LOG", "upstream:info"),
                "--drain-time-s", "1", "--drain-strategy", "immediate", stdout=log, stderr=log,
            )  # fmt: skip

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def admin(self, path: str) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin_port}{path}") as answer,
        ):
            return await answer.text()

    async def get(self, port: int, host: str, path: str = "/") -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}", headers={"Host": host}) as answer,
        ):
            return answer.status, await answer.text()


async def eventually(check: Callable[[], object], seconds: float = 40.0) -> object:
    """`check` (plain or async) until it gives something true and does not raise."""
    end = asyncio.get_running_loop().time() + seconds
    last: Exception | None = None
    while asyncio.get_running_loop().time() < end:
        try:
            result = check()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            last = None
        except (aiohttp.ClientError, AssertionError, OSError) as error:
            last = error
        await asyncio.sleep(0.02)
    raise AssertionError(f"did not come true within {seconds} s") from last


# Resources


def static_cluster(name: str, port: int) -> api.Resource:
    made = api.cluster.Cluster(
        name=name,
        connect_timeout=api.duration(1),
        type="STATIC",
        load_assignment={
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    )
    return api.resource(api.CLUSTER, name, made)


def eds_cluster(name: str, timeout: float = 1) -> api.Resource:
    made = api.cluster.Cluster(
        name=name,
        connect_timeout=api.duration(timeout),
        type="EDS",
        eds_cluster_config={
            "eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": api.duration(0)}
        },
    )
    return api.resource(api.CLUSTER, name, made)


def endpoints(name: str, port: int) -> api.Resource:
    made = api.endpoint.ClusterLoadAssignment(
        cluster_name=name, endpoints=[{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    )
    return api.resource(api.ENDPOINT, name, made)


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(name: str, port: int, route: str, *filters: api.hcm.HttpFilter) -> api.Resource:
    """`filters` stand before the router."""
    router = api.hcm.HttpFilter(name="envoy.filters.http.router", typed_config=api.pack(api.router.Router()))
    manager = api.hcm.HttpConnectionManager(
        stat_prefix=name,
        rds={
            "route_config_name": route,
            "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": api.duration(0)},
        },
        http_filters=[*filters, router],
    )
    made = api.listener.Listener(
        name=name,
        address=_address(port),
        filter_chains=[
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": api.pack(manager)}]}
        ],
    )
    return api.resource(api.LISTENER, name, made)


def route_configuration(name: str, *hosts: api.route_components.VirtualHost, vhds: bool = True) -> api.Resource:
    made = api.route.RouteConfiguration(name=name, virtual_hosts=list(hosts))
    if vhds:
        made.vhds.config_source.ads.SetInParent()
        made.vhds.config_source.resource_api_version = 2
        made.vhds.config_source.initial_fetch_timeout.SetInParent()
    return api.resource(api.ROUTE, name, made)


def virtual_host(route: str, domain: str, answer: str, name: str = "") -> api.Resource:
    """`name`: where it is not the domain."""
    whole = f"{route}/{name or domain}"
    return api.resource(api.VIRTUAL_HOST, whole, host(whole, domain, answer))


def host(name: str, domain: str, answer: str) -> api.route_components.VirtualHost:
    return api.route_components.VirtualHost(
        name=name,
        domains=[domain],
        routes=[{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": answer}}}],
    )


def cluster_host(route: str, domain: str, cluster: str) -> api.Resource:
    made = api.route_components.VirtualHost(
        name=f"{route}/{domain}",
        domains=[domain],
        routes=[{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
    )
    return api.resource(api.VIRTUAL_HOST, f"{route}/{domain}", made)
