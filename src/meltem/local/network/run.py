"""The cluster network of a local cluster: service addresses and cluster DNS.

In: a `ClusterConfig`, a client; this process must already be in the node's network namespace. Out: nftables rules
that follow Services, EndpointSlices and host ports of pods, DNS on `dns_ip:53` and `node_ip:53`, health-check node
ports, the `kube-dns` Service. What kube-proxy and CoreDNS do on Kubernetes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import structlog

from meltem import errors
from meltem.errors import EnvironmentError_
from meltem.kube.client import KubeClient
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES
from meltem.kube.store import Store
from meltem.local.config import CLUSTER_DOMAIN, FAMILY_NAMES, ClusterConfig
from meltem.local.kept_sockets import Listen, listen
from meltem.local.network import hosts
from meltem.local.network.conntrack import forget, stale_frontends
from meltem.local.network.dns_server import DnsServer
from meltem.local.network.health import HealthPorts
from meltem.local.network.host_ports import HostPorts
from meltem.local.network.nft import Table, program
from meltem.local.network.plan import Backend, Frontend, make_plan
from meltem.local.network.upstream import HOST_NETWORK, Upstream
from meltem.local.network.zone import Zone, service_indexes, slice_indexes
from meltem.objects import JsonObject, name_of

_DNS_PORT = 53
_RETRY_SECONDS = 1.0
_SAFETY_SECONDS = 60.0

log = structlog.stdlib.get_logger(__name__)


async def run(
    config: ClusterConfig,
    client: KubeClient,
    *,
    ready: asyncio.Event | None = None,
    listen: Listen = listen,
    resolv_conf: Path = Path("/etc/resolv.conf"),
    host_network: Path = HOST_NETWORK,
) -> None:
    """Runs until cancelled; `ready` is set when rules and DNS first serve. `listen` makes the sockets of DNS.
    `host_network` is the network namespace from which the name servers of `resolv_conf` are asked: a path, or
    `/proc/self/fd/<n>` opened before entering the node's.
    Raises EnvironmentError_ when nft is missing or port 53 is taken in this namespace."""
    services, slices = Store(service_indexes()), Store(slice_indexes())
    namespaces, own_names = Store(), Store()
    reflectors = [
        Reflector(client, SERVICES, services),
        Reflector(client, ENDPOINT_SLICES, slices),
        Reflector(client, NAMESPACES, namespaces),
        Reflector(
            client, CONFIG_MAPS, own_names, namespace=hosts.NAMESPACE, field_selector=f"metadata.name={hosts.NAME}"
        ),
    ]
    rules = ServiceRules(config, services, slices)
    reflectors.append(Reflector(client, PODS, rules.host_ports))
    await add_address(config.dns_ip)
    networks = (*config.pod_cidrs, *config.service_cidrs, *config.load_balancer_cidrs)
    upstream = Upstream(resolv_conf, host_network=host_network)
    zone = Zone(CLUSTER_DOMAIN, networks, services, slices, namespaces, hosts.HostNames(own_names))
    server = DnsServer(zone, upstream)
    addresses = [(config.dns_ip, _DNS_PORT), (config.node_ip, _DNS_PORT)]
    bound = asyncio.Event()
    with contextlib.closing(upstream):
        async with asyncio.TaskGroup() as group:
            for reflector in reflectors:
                group.create_task(reflector.run(), name=f"reflector {reflector.rt.full_name}")
            for reflector in reflectors:
                await reflector.synced.wait()
            group.create_task(rules.run(), name="service rules")
            group.create_task(_serve(server, addresses, bound, listen), name="cluster DNS")
            group.create_task(_announce(config, client), name="kube-dns service")
            await rules.ready.wait()
            await bound.wait()
            if ready is not None:
                ready.set()


class ServiceRules:
    """Keeps the kernel's table equal to the plan for the stores' contents; `ready` after the first time."""

    def __init__(self, config: ClusterConfig, services: Store, slices: Store) -> None:
        self._config = config
        self._services = services
        self._slices = slices
        self._tables = {v: Table("ip6" if v == 6 else "ip") for v in config.versions}
        self._health = HealthPorts(config.node_ips)
        self._changed = asyncio.Event()
        self.host_ports = HostPorts(config.node_ips, self._changed.set)
        """A sink of pods."""
        self.ready = asyncio.Event()

    async def run(self) -> None:
        self._services.on_change(self._mark)
        self._slices.on_change(self._mark)
        self._changed.set()
        flows: dict[Frontend, frozenset[Backend]] = {}
        async with self._health:
            while True:
                await self._changed.wait()
                # Whatever comes while nft runs is taken together in the next round.
                self._changed.clear()
                plans = {
                    v: make_plan(self._config, self._services, self._slices, self.host_ports, v) for v in self._tables
                }
                try:
                    for version, plan in plans.items():
                        await self._tables[version].apply(plan)
                except EnvironmentError_ as error:
                    if not self.ready.is_set():
                        raise
                    log.error("service rules could not be written; will try again", error=str(error))
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._changed.set()
                    continue
                now = {frontend: found for plan in plans.values() for frontend, found in plan.flows.items()}
                await forget(stale_frontends(flows, now) if self.ready.is_set() else {})
                flows = now
                await self._health.update({port: n for plan in plans.values() for port, n in plan.health.items()})
                self.ready.set()

    def _mark(self, _old: JsonObject | None, _new: JsonObject | None) -> None:
        self._changed.set()


async def add_address(address: str) -> None:
    """Gives this network namespace's loopback the DNS address; again is fine."""
    try:
        process = await asyncio.create_subprocess_exec(
            program("ip"), "address", "replace", f"{address}/{128 if ':' in address else 32}", "dev", "lo",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentError_(f"the program ip cannot be run: {error.strerror}", remedy="Install iproute2.") from None
    _, err = await process.communicate()
    if process.returncode != 0:
        raise EnvironmentError_(
            f"the address {address} for cluster DNS cannot be set: {err.decode(errors='replace').strip()}",
            where="cluster network",
            remedy="This needs root in the node's network namespace.",
        )


async def _serve(server: DnsServer, addresses: Sequence[tuple[str, int]], ready: asyncio.Event, listen: Listen) -> None:
    try:
        await server.serve(addresses, ready, listen)
    except OSError as error:
        raise EnvironmentError_(f"cluster DNS cannot listen: {error}", where="cluster network") from None


async def _announce(config: ClusterConfig, client: KubeClient) -> None:
    """The `kube-dns` Service, so that `kubectl` shows where DNS is and its address is taken; no selector, one slice."""
    ports: list[tuple[str, str]] = [("dns", "UDP"), ("dns-tcp", "TCP")]
    service: JsonObject = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
        },
        "spec": {
            "clusterIP": config.dns_ip,
            "ports": [
                {"name": name, "port": _DNS_PORT, "protocol": protocol, "targetPort": _DNS_PORT}
                for name, protocol in ports
            ],
        },
    }
    slice_: JsonObject = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "meltem-network",
            },
        },
        "addressType": FAMILY_NAMES[config.versions[0]],
        "endpoints": [{"addresses": [config.node_ip], "conditions": {"ready": True}}],
        "ports": [{"name": name, "port": _DNS_PORT, "protocol": protocol} for name, protocol in ports],
    }
    while True:
        try:
            for rt, obj in ((SERVICES, service), (ENDPOINT_SLICES, slice_)):
                try:
                    await client.get(rt, name_of(obj), "kube-system")
                except errors.NotFound:
                    await client.create(rt, obj, "kube-system")
        except errors.Invalid as error:
            log.warning("Service kube-dns could not be made", error=str(error))
        except (errors.ApiError, errors.Unreachable):
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        await asyncio.sleep(_SAFETY_SECONDS)  # someone may delete it
