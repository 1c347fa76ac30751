"""Workloads: pods and WorkloadEntries as things that a proxy stands beside and that services select.

In: Pod, Node, Namespace, WorkloadEntry. Out: `Workload`s keyed (cluster, namespace, name); a WorkloadEntry's name is
prefixed `we/` so that it never meets a pod's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meltem.collections import Collection, Reader
from meltem.graph.inputs import ResourceKey
from meltem.graph.model import Workload
from meltem.resources import core, networking
from meltem.resources.pod import Pod

TLS_MODE = "security.istio.io/tlsMode"
NETWORK = "topology.istio.io/network"
LOCALITY = "istio-locality"

Locality = tuple[str, str, str]
NetworkOf = Callable[[Reader, str, str], str]
"""reader, cluster, namespace → the network that workloads of that namespace are on unless they say otherwise"""


def locality_text(text: str) -> Locality:
    """`region/zone/subzone`; with dots where it is a label's value."""
    parts = (text.replace(".", "/") if "/" not in text else text).split("/", 2)
    return (parts[0], parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else "")


def from_pod(
    reader: Reader, key: ResourceKey, pod: Pod, nodes: Collection[ResourceKey, core.Node], network_of: NetworkOf
) -> dict[ResourceKey, Workload]:
    """Nothing for a pod without an address, or one that has ended."""
    cluster, namespace, name = key
    if not pod.addresses or pod.finished:
        return {}
    labels = pod.metadata.labels
    node = reader.get(nodes, (cluster, "", pod.spec.node_name)) if pod.spec.node_name else None
    locality = locality_text(labels[LOCALITY]) if labels.get(LOCALITY) else node.locality if node else ("", "", "")
    ports = tuple((p.name, p.container_port) for c in pod.spec.containers for p in c.ports if p.name)
    workload = Workload(
        name=name,
        namespace=namespace,
        cluster=cluster,
        addresses=pod.addresses,
        labels=tuple(sorted(labels.items())),
        service_account=pod.spec.service_account_name or "default",
        locality=locality,
        network=labels.get(NETWORK) or network_of(reader, cluster, namespace),
        node=pod.spec.node_name,
        workload=owner_name(pod),
        mutual_tls=labels.get(TLS_MODE) == "istio",
        ready=pod.ready,
        container_ports=ports,
    )
    return {key: workload}


def owner_name(pod: Pod) -> str:
    """The Deployment (ReplicaSet's name without the template hash), CronJob or other controller; else the pod."""
    owner = pod.metadata.controller
    if owner is None:
        return pod.name or pod.metadata.generate_name
    template_hash = pod.metadata.labels.get("pod-template-hash")
    if owner.kind == "ReplicaSet" and template_hash and owner.name.endswith("-" + template_hash):
        return owner.name.removesuffix("-" + template_hash)
    return owner.name


def takes_mutual_tls(labels: Mapping[str, str], service_account: str) -> bool:
    """What the label says of an entry; without it, one that has an identity has a proxy."""
    return labels[TLS_MODE] == "istio" if labels.get(TLS_MODE) else bool(service_account)


def from_workload_entry(
    reader: Reader, key: ResourceKey, entry: networking.WorkloadEntry, network_of: NetworkOf
) -> dict[ResourceKey, Workload]:
    cluster, namespace, name = key
    spec = entry.spec
    if not spec.address:
        return {}
    labels = {**entry.metadata.labels, **spec.labels}
    workload = Workload(
        name=name,
        namespace=namespace,
        cluster=cluster,
        addresses=(spec.address,),
        labels=tuple(sorted(labels.items())),
        service_account=spec.service_account,
        locality=locality_text(spec.locality),
        network=spec.network or labels.get(NETWORK) or network_of(reader, cluster, namespace),
        workload=name,
        mutual_tls=takes_mutual_tls(labels, spec.service_account),
        ready=entry.healthy,
        container_ports=tuple(sorted(spec.ports.items())),
    )
    return {(cluster, namespace, f"we/{name}"): workload}
