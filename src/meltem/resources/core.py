"""Kubernetes' own kinds, as far as the mesh reads them.

In: decoded by `meltem.resources.parse`. Out: frozen structs. What a struct leaves out, the mesh does not read; code
that must carry an object whole (the injector, the installer) keeps it as `meltem.objects.JsonObject`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import msgspec

from meltem.resources.base import Condition, IntOrString, Message, Meta, Resource

Protocol = Literal["TCP", "UDP", "SCTP"]


class LocalObjectReference(Message, frozen=True, kw_only=True):
    """An object of the same namespace."""

    name: str = ""


class ServicePort(Message, frozen=True, kw_only=True):
    """A port of a Service."""

    name: str = ""
    port: int = 0
    protocol: Protocol = "TCP"
    target_port: IntOrString = 0
    app_protocol: str = ""
    node_port: int = 0


class ClientIPConfig(Message, frozen=True, kw_only=True):
    """How long a client sticks to an endpoint."""

    timeout_seconds: int = 10800


class SessionAffinityConfig(Message, frozen=True, kw_only=True):
    """Settings of session affinity."""

    client_ip: ClientIPConfig | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(Message, frozen=True, kw_only=True):
    """What a Service offers and selects. `cluster_ips` is empty or `("None",)` for no address of its own."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    external_ips: tuple[str, ...] = msgspec.field(name="externalIPs", default=())
    external_name: str = ""
    external_traffic_policy: str = ""
    internal_traffic_policy: str = ""
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    load_balancer_class: str = ""
    publish_not_ready_addresses: bool = False
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    traffic_distribution: str = ""


class LoadBalancerIngress(Message, frozen=True, kw_only=True):
    """One address that a load balancer gave."""

    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Message, frozen=True, kw_only=True):
    """Where a load balancer takes traffic in."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Message, frozen=True, kw_only=True):
    """What is known of a Service."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] = ()


class Service(Resource, frozen=True, kw_only=True):
    """A name and address for a set of pods."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def headless(self) -> bool:
        return self.spec.cluster_ip == "None"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its cluster IPs, of both families; none when headless or ExternalName."""
        if self.headless:
            return ()
        return self.spec.cluster_ips or ((self.spec.cluster_ip,) if self.spec.cluster_ip else ())


class ObjectReference(Message, frozen=True, kw_only=True):
    """An object anywhere (the pod behind an endpoint)."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EndpointConditions(Message, frozen=True, kw_only=True):
    """State of one endpoint; None means unknown, to be read as ready and serving."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Message, frozen=True, kw_only=True):
    """A zone or node whose clients should use the endpoint."""

    name: str = ""


class EndpointHints(Message, frozen=True, kw_only=True):
    """Who should use the endpoint."""

    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForZone, ...] = ()


class SliceEndpoint(Message, frozen=True, kw_only=True):
    """One endpoint of a slice. All its addresses are of the slice's address type."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    target_ref: ObjectReference | None = None
    hints: EndpointHints | None = None

    @property
    def ready(self) -> bool:
        return self.conditions.ready is not False


class EndpointPort(Message, frozen=True, kw_only=True):
    """A port of every endpoint in the slice; `port` None means every port."""

    name: str = ""
    port: int | None = None
    protocol: Protocol = "TCP"
    app_protocol: str = ""


SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class EndpointSlice(Resource, frozen=True, kw_only=True):
    """Some of the endpoints of a Service."""

    address_type: Literal["IPv4", "IPv6", "FQDN"] = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def service_name(self) -> str:
        """The Service (same namespace) that it belongs to, or an empty string."""
        return self.metadata.labels.get(SERVICE_NAME_LABEL, "")


class EndpointAddress(Message, frozen=True, kw_only=True):
    """An address of an Endpoints subset."""

    ip: str = ""
    hostname: str = ""
    node_name: str = ""
    target_ref: ObjectReference | None = None


class EndpointSubset(Message, frozen=True, kw_only=True):
    """Addresses that share ports."""

    addresses: tuple[EndpointAddress, ...] = ()
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(Resource, frozen=True, kw_only=True):
    """The older form of EndpointSlice: everything in one object, named as the Service is."""

    subsets: tuple[EndpointSubset, ...] = ()


class NodeSpec(Message, frozen=True, kw_only=True):
    """A node's settings."""

    pod_cidrs: tuple[str, ...] = msgspec.field(name="podCIDRs", default=())
    provider_id: str = msgspec.field(name="providerID", default="")
    unschedulable: bool = False


class NodeAddress(Message, frozen=True, kw_only=True):
    """An address of a node: InternalIP, ExternalIP, Hostname."""

    type: str = ""
    address: str = ""


class NodeStatus(Message, frozen=True, kw_only=True):
    """What is known of a node."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(Resource, frozen=True, kw_only=True):
    """A machine. Its labels carry region and zone."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def locality(self) -> tuple[str, str, str]:
        """(region, zone, subzone), each empty when the node has no such label."""
        labels = self.metadata.labels
        region = labels.get("topology.kubernetes.io/region") or labels.get("failure-domain.beta.kubernetes.io/region")
        zone = labels.get("topology.kubernetes.io/zone") or labels.get("failure-domain.beta.kubernetes.io/zone")
        return (region or "", zone or "", labels.get("topology.istio.io/subzone", ""))


class NamespaceStatus(Message, frozen=True, kw_only=True):
    """Active or Terminating."""

    phase: str = "Active"


class Namespace(Resource, frozen=True, kw_only=True):
    """A namespace; its labels and annotations steer injection, revisions and networks."""

    status: NamespaceStatus = NamespaceStatus()


class Secret(Resource, frozen=True, kw_only=True):
    """Key material and credentials; `data` is base64, as Kubernetes serves it."""

    type: str = "Opaque"
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}

    def value(self, key: str) -> bytes | None:
        """The decoded value of a key; None when it is missing or no base64."""
        if key in self.string_data:
            return self.string_data[key].encode()
        if key not in self.data:
            return None
        try:
            return base64.b64decode(self.data[key], validate=True)
        except (binascii.Error, ValueError):
            return None


class ConfigMap(Resource, frozen=True, kw_only=True):
    """Configuration texts by key."""

    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}


class ServiceAccount(Resource, frozen=True, kw_only=True):
    """The identity of a workload."""

    secrets: tuple[ObjectReference, ...] = ()
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()


class IngressServicePort(Message, frozen=True, kw_only=True):
    """A port of the Service, by name or number."""

    name: str = ""
    number: int = 0


class IngressServiceBackend(Message, frozen=True, kw_only=True):
    """A Service in the Ingress' namespace."""

    name: str = ""
    port: IngressServicePort = IngressServicePort()


class IngressBackend(Message, frozen=True, kw_only=True):
    """Where matched requests go."""

    service: IngressServiceBackend | None = None
    resource: ObjectReference | None = None


class IngressPath(Message, frozen=True, kw_only=True):
    """One path of a host."""

    path: str = ""
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"] = "ImplementationSpecific"
    backend: IngressBackend = IngressBackend()


class IngressRuleHTTP(Message, frozen=True, kw_only=True):
    """The paths of a host."""

    paths: tuple[IngressPath, ...] = ()


class IngressRule(Message, frozen=True, kw_only=True):
    """Routes of one host; an empty host means every host."""

    host: str = ""
    http: IngressRuleHTTP | None = None


class IngressTLS(Message, frozen=True, kw_only=True):
    """Hosts that are served with the certificate of a secret."""

    hosts: tuple[str, ...] = ()
    secret_name: str = ""


class IngressSpec(Message, frozen=True, kw_only=True):
    """Routes into the cluster."""

    ingress_class_name: str = ""
    default_backend: IngressBackend | None = None
    rules: tuple[IngressRule, ...] = ()
    tls: tuple[IngressTLS, ...] = ()


class IngressStatus(Message, frozen=True, kw_only=True):
    """Where the Ingress is reached."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Ingress(Resource, frozen=True, kw_only=True):
    """Kubernetes' own way to let HTTP in."""

    spec: IngressSpec = IngressSpec()
    status: IngressStatus = IngressStatus()


class IngressClassSpec(Message, frozen=True, kw_only=True):
    """Who serves the class (`istio.io/ingress-controller`)."""

    controller: str = ""


class IngressClass(Resource, frozen=True, kw_only=True):
    """A class of Ingresses."""

    spec: IngressClassSpec = IngressClassSpec()


class LabelSelectorRequirement(Message, frozen=True, kw_only=True):
    """One expression over a label."""

    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


class LabelSelector(Message, frozen=True, kw_only=True):
    """Selects objects by label; an empty one selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def matches(self, labels: dict[str, str]) -> bool:
        """Kubernetes' semantics; an unknown operator matches nothing."""
        if any(labels.get(k) != v for k, v in self.match_labels.items()):
            return False
        return all(_holds(e, labels) for e in self.match_expressions)


def _holds(expression: LabelSelectorRequirement, labels: dict[str, str]) -> bool:
    present = expression.key in labels
    match expression.operator:
        case "In":
            return present and labels[expression.key] in expression.values
        case "NotIn":
            return not present or labels[expression.key] not in expression.values
        case "Exists":
            return present
        case "DoesNotExist":
            return not present
        case _:
            return False


class PodTemplate(Message, frozen=True, kw_only=True):
    """The metadata that pods of a workload get."""

    metadata: Meta = Meta()


class WorkloadOwnerSpec(Message, frozen=True, kw_only=True):
    """What the mesh reads of the objects that make pods."""

    replicas: int | None = None
    selector: LabelSelector | None = None
    template: PodTemplate = PodTemplate()


class WorkloadOwner(Resource, frozen=True, kw_only=True):
    """A Deployment, ReplicaSet, StatefulSet, DaemonSet, Job or CronJob: who made a pod."""

    spec: WorkloadOwnerSpec = WorkloadOwnerSpec()
