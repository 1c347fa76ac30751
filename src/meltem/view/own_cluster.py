"""Instances that stand beside a proxy's own, of which Envoy's zone-aware balancing has to know: a proxy sends all it
has to its own zone only while its zone has its share of the callers.

In: the services that select a proxy's workload. Out: `OwnCluster`, equal for the replicas of a deployment in a region.
Proxies that asked for it (metadata ENABLE_SELF_DISCOVERY) have a cluster `local_cluster` in their bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meltem.graph.model import Endpoint, Port, Service, ServiceKey, Workload
from meltem.view.proxy import Proxy

LOCAL_CLUSTER = "local_cluster"
_HASHES = ("pod-template-hash", "rollouts-pod-template-hash")


class OwnCluster(msgspec.Struct, frozen=True, cache_hash=True):
    """Which endpoints: of one workload (one ReplicaSet of it), in one region, of one service port."""

    service: ServiceKey | None = None
    """None: no service selects the workload, and the cluster is empty."""
    port: int = 0
    workload: str = ""
    hashes: tuple[tuple[str, str], ...] = ()
    region: str = ""

    def has(self, endpoint: Endpoint) -> bool:
        return (
            endpoint.workload == self.workload
            and endpoint.locality[0] == self.region
            and _hashes(endpoint.labels) == self.hashes
        )


def wanted(proxy: Proxy) -> bool:
    return dict(proxy.metadata).get("ENABLE_SELF_DISCOVERY", "").lower() in ("true", "1")


def own_cluster(services: Iterable[Service], workload: Workload | None, region: str) -> OwnCluster:
    """Of the oldest service that selects the workload, by its first port."""
    ordered = sorted(services, key=lambda s: (s.created, s.hostname, s.namespace))
    first: tuple[Service, Port] | None = next(((s, p) for s in ordered for p in s.ports), None)
    if first is None or workload is None:
        return OwnCluster()
    service, port = first
    return OwnCluster(service.key, port.number, workload.workload, _hashes(workload.labels), region)


def _hashes(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(pair for pair in labels if pair[0] in _HASHES))
