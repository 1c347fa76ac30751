"""What exists from the first start: namespaces, the `kubernetes` service with its endpoints, RBAC defaults, system
priority classes. Started again, it puts back what is missing and leaves the rest as people made it; the `kubernetes`
endpoints always say where this server listens."""

from __future__ import annotations

import asyncio
import uuid

from meltem.clock import rfc3339
from meltem.local.apiserver.core import Core
from meltem.local.apiserver.rbac_defaults import default_rbac
from meltem.local.apiserver.storage import Entry, Key
from meltem.local.config import FAMILY_NAMES, ClusterConfig
from meltem.objects import Json, JsonObject, copy_object, ensure_object, name_of, namespace_of, object_at

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


async def bootstrap(core: Core, config: ClusterConfig) -> None:
    wanted: list[tuple[str, JsonObject]] = [("namespaces", _namespace(name)) for name in NAMESPACES]
    wanted.append(("services", _service(config)))
    wanted.extend(default_rbac())
    for name, value in (("system-cluster-critical", 2000000000), ("system-node-critical", 2000001000)):
        wanted.append(("priorityclasses.scheduling.k8s.io", _priority_class(name, value)))
    current = [("endpointslices.discovery.k8s.io", _slice(config)), ("endpoints", _endpoints(config))]
    staged = [
        *(_ensure(core, storage, obj, keep_current=False) for storage, obj in wanted),
        *(_ensure(core, storage, obj, keep_current=True) for storage, obj in current),
    ]
    await asyncio.gather(*(future for future in staged if future is not None))


def _ensure(core: Core, storage: str, obj: JsonObject, *, keep_current: bool) -> asyncio.Future[Entry] | None:
    """Creates the object when it is missing; with `keep_current` its content is put right as well."""
    key = Key(storage, namespace_of(obj), name_of(obj))
    live = core.store.head(key)
    if live is None:
        meta = ensure_object(obj, "metadata")
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = rfc3339(core.clock.now())
        return core.store.stage(key, obj)
    if not keep_current:
        return None
    wanted: JsonObject = {**obj, "metadata": object_at(live.object, "metadata")}
    return core.store.stage(key, copy_object(wanted)) if wanted != live.object else None


def _namespace(name: str) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _service(config: ClusterConfig) -> JsonObject:
    port: JsonObject = {"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.api_port}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.kubernetes_ip,
            "clusterIPs": [config.kubernetes_ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [FAMILY_NAMES[config.versions[0]]],
            "ipFamilyPolicy": "SingleStack",
            "ports": [port],
            "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    }


def _slice(config: ClusterConfig) -> JsonObject:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": FAMILY_NAMES[config.versions[0]],
        "endpoints": [{"addresses": [config.host_ip], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": config.api_port, "protocol": "TCP"}],
    }


def _endpoints(config: ClusterConfig) -> JsonObject:
    address: list[Json] = [{"ip": config.host_ip}]
    ports: list[Json] = [{"name": "https", "port": config.api_port, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": address, "ports": ports}],
    }


def _priority_class(name: str, value: int) -> JsonObject:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name, "generation": 1},
        "value": value,
        "preemptionPolicy": "PreemptLowerPriority",
        "description": f"For pods that the {'cluster' if 'cluster' in name else 'node'} cannot do without.",
    }
