"""Proxies as istiod would know them, from their pods.

In: a pod as JSON. Out: the `Proxy` that its agent would announce.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    labels_of,
    name_of,
    namespace_of,
    objects_at,
    str_at,
    strings_at,
)
from meltem.simulate.world import CLUSTER, World
from meltem.view.proxy import Locality, Proxy, ProxyKind, parse_proxy

_CONTAINER = "istio-proxy"


def proxy_container(pod: JsonObject) -> JsonObject | None:
    for key in ("containers", "initContainers"):
        for one in objects_at(pod, "spec", key):
            if str_at(one, "name") == _CONTAINER:
                return one
    return None


def proxy_of(pod: JsonObject, world: World | None = None) -> Proxy | None:
    """None for a pod without a proxy, or without an address yet."""
    container = proxy_container(pod)
    addresses = [str_at(a, "ip") for a in objects_at(pod, "status", "podIPs")] or [str_at(pod, "status", "podIP")]
    if container is None or not addresses[0]:
        return None
    kind = "router" if "router" in strings_at(container, "args") else "sidecar"
    namespace, name = namespace_of(pod), name_of(pod)
    labels: dict[str, Json] = {**labels_of(pod)}
    annotations: dict[str, Json] = {**annotations_of(pod)}
    metadata: JsonObject = {
        "CLUSTER_ID": CLUSTER,
        **_announced(container),
        "NAMESPACE": namespace,
        "INSTANCE_IPS": ",".join(addresses),
        "LABELS": labels,
        "ANNOTATIONS": annotations,
        "SERVICE_ACCOUNT": str_at(pod, "spec", "serviceAccountName"),
        "NODE_NAME": str_at(pod, "spec", "nodeName"),
    }
    metadata["CLUSTER_ID"] = CLUSTER  # the engine's one cluster, whatever the mesh calls it
    node = f"{kind}~{addresses[0]}~{name}.{namespace}~{namespace}.svc.cluster.local"
    return parse_proxy(node, metadata, _locality(world, namespace, name))


def _announced(container: JsonObject) -> JsonObject:
    """Metadata that the agent takes from its environment (`ISTIO_META_…`)."""
    prefix = "ISTIO_META_"
    return {
        str_at(e, "name").removeprefix(prefix): str_at(e, "value")
        for e in objects_at(container, "env")
        if str_at(e, "name").startswith(prefix) and "value" in e
    }


def _locality(world: World | None, namespace: str, name: str) -> Locality:
    found = world.engine.mesh.pod_workloads.get((CLUSTER, namespace, name)) if world is not None else None
    return Locality(*found.locality) if found is not None else Locality()


def imagined(namespace: str, labels: Mapping[str, str], account: str = "default") -> Proxy:
    """A client that has no pod: a sidecar with these labels."""
    return Proxy(
        id=f"client.{namespace}",
        kind=ProxyKind.SIDECAR,
        name="client",
        namespace=namespace,
        addresses=("192.0.2.1",),
        labels=tuple(sorted(labels.items())),
        service_account=account,
    )


def all_proxies(world: World) -> list[Proxy]:
    """One for every pod that has a proxy."""
    found = [proxy_of(p.obj, world) for p in world.of_kind("Pod") if str_at(p.obj, "status", "phase") != "Succeeded"]
    return sorted((p for p in found if p is not None), key=lambda p: p.id)


def at_address(world: World, address: str) -> Proxy | None:
    """The proxy of the pod that has the address."""
    for key in world.engine.mesh.pods_by_address.lookup(address):
        placed = world.find("Pod", key[1], key[2])
        if placed is not None and str_at(placed.obj, "spec", "hostNetwork") == "":
            return proxy_of(placed.obj, world)
    return None


def renamed(proxy: Proxy, name: str) -> Proxy:
    return msgspec.structs.replace(proxy, id=f"{name}.{proxy.namespace}", name=name)
