"""The registry of kinds that the mesh reads: which struct, which group and versions, which names.

In: the structs. Out: `KINDS`, and look-ups by group and kind. Versions are all read into one model; the first version
named is the one that we write and that the API server stores.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meltem.errors import InvalidResource
from meltem.resources import core, extensions, gatewayapi, networking, pod, security, telemetry
from meltem.resources.base import Resource


class Column(msgspec.Struct, frozen=True):
    """A printer column of `kubectl get`."""

    name: str
    json_path: str
    type: str = "string"
    description: str = ""


class KindInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One kind: its struct and all that a CRD or a client needs to know of it."""

    struct: type[Resource]
    group: str
    versions: tuple[str, ...]
    """Served versions, the stored one first."""
    kind: str
    plural: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    columns: tuple[Column, ...] = ()
    spec_required: bool = False
    ours: bool = False
    """An Istio kind: we make its CRD and know all its fields, so an unknown field is a mistake."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.versions[0]}" if self.group else self.versions[0]

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def categories(self) -> tuple[str, ...]:
        return ("istio-io", f"{self.group.split('.')[0]}-istio-io") if self.ours else ()


AGE = Column("Age", ".metadata.creationTimestamp", "date", "When the object was created; set by the API server.")
_STABLE = ("v1", "v1alpha3", "v1beta1")


def _istio(
    struct: type[Resource],
    group: str,
    plural: str,
    *columns: Column,
    versions: tuple[str, ...] = _STABLE,
    short: str = "",
    spec_required: bool = False,
) -> KindInfo:
    return KindInfo(
        struct=struct,
        group=f"{group}.istio.io",
        versions=versions,
        kind=struct.__name__,
        plural=plural,
        short_names=(short,) if short else (),
        columns=columns,
        spec_required=spec_required,
        ours=True,
    )


ISTIO_KINDS: tuple[KindInfo, ...] = (
    _istio(
        extensions.TrafficExtension, "extensions", "trafficextensions", AGE, versions=("v1alpha1",), spec_required=True
    ),
    _istio(extensions.WasmPlugin, "extensions", "wasmplugins", AGE, versions=("v1alpha1",), spec_required=True),
    _istio(
        networking.DestinationRule,
        "networking",
        "destinationrules",
        Column("Host", ".spec.host", description="The service that the rule is for"),
        AGE,
        short="dr",
    ),
    _istio(networking.EnvoyFilter, "networking", "envoyfilters", versions=("v1alpha3",)),
    _istio(networking.Gateway, "networking", "gateways", short="gw"),
    _istio(networking.ProxyConfig, "networking", "proxyconfigs", versions=("v1beta1",)),
    _istio(
        networking.ServiceEntry,
        "networking",
        "serviceentries",
        Column("Hosts", ".spec.hosts", description="The hosts that the entry names"),
        Column("Location", ".spec.location", description="Inside or outside the mesh (MESH_INTERNAL, MESH_EXTERNAL)"),
        Column("Resolution", ".spec.resolution", description="How addresses are found (NONE, STATIC, DNS)"),
        AGE,
        short="se",
        spec_required=True,
    ),
    _istio(networking.Sidecar, "networking", "sidecars"),
    _istio(
        networking.VirtualService,
        "networking",
        "virtualservices",
        Column("Gateways", ".spec.gateways", description="Where the routes apply"),
        Column("Hosts", ".spec.hosts", description="The hosts that the routes are for"),
        AGE,
        short="vs",
    ),
    _istio(
        networking.WorkloadEntry,
        "networking",
        "workloadentries",
        AGE,
        Column("Address", ".spec.address", description="Address of the workload"),
        short="we",
        spec_required=True,
    ),
    _istio(networking.WorkloadGroup, "networking", "workloadgroups", AGE, short="wg", spec_required=True),
    _istio(
        security.AuthorizationPolicy,
        "security",
        "authorizationpolicies",
        Column("Action", ".spec.action", description="What happens to a request that matches"),
        AGE,
        versions=("v1", "v1beta1"),
        short="ap",
    ),
    _istio(
        security.PeerAuthentication,
        "security",
        "peerauthentications",
        Column("Mode", ".spec.mtls.mode", description="Mutual TLS mode"),
        AGE,
        versions=("v1", "v1beta1"),
        short="pa",
    ),
    _istio(
        security.RequestAuthentication, "security", "requestauthentications", versions=("v1", "v1beta1"), short="ra"
    ),
    _istio(telemetry.Telemetry, "telemetry", "telemetries", AGE, versions=("v1alpha1", "v1"), short="telemetry"),
)


def _core(
    struct: type[Resource], group: str, version: str, plural: str, kind: str = "", scoped: bool = True
) -> KindInfo:
    return KindInfo(
        struct=struct,
        group=group,
        versions=(version,),
        kind=kind or struct.__name__,
        plural=plural,
        namespaced=scoped,
    )


CORE_KINDS: tuple[KindInfo, ...] = (
    _core(core.Service, "", "v1", "services"),
    _core(core.EndpointSlice, "discovery.k8s.io", "v1", "endpointslices"),
    _core(core.Endpoints, "", "v1", "endpoints"),
    _core(pod.Pod, "", "v1", "pods"),
    _core(core.Node, "", "v1", "nodes", scoped=False),
    _core(core.Namespace, "", "v1", "namespaces", scoped=False),
    _core(core.Secret, "", "v1", "secrets"),
    _core(core.ConfigMap, "", "v1", "configmaps"),
    _core(core.ServiceAccount, "", "v1", "serviceaccounts"),
    _core(core.Ingress, "networking.k8s.io", "v1", "ingresses"),
    _core(core.IngressClass, "networking.k8s.io", "v1", "ingressclasses", scoped=False),
    _core(core.WorkloadOwner, "apps", "v1", "deployments", "Deployment"),
    _core(core.WorkloadOwner, "apps", "v1", "replicasets", "ReplicaSet"),
    _core(core.WorkloadOwner, "apps", "v1", "statefulsets", "StatefulSet"),
    _core(core.WorkloadOwner, "apps", "v1", "daemonsets", "DaemonSet"),
    _core(core.WorkloadOwner, "batch", "v1", "jobs", "Job"),
    _core(core.WorkloadOwner, "batch", "v1", "cronjobs", "CronJob"),
)


def _gateway_api(struct: type[Resource], plural: str, *versions: str, short: str = "", scoped: bool = True) -> KindInfo:
    return KindInfo(
        struct=struct,
        group="gateway.networking.k8s.io",
        versions=versions,
        kind=struct.__name__,
        plural=plural,
        namespaced=scoped,
        short_names=(short,) if short else (),
    )


GATEWAY_API_KINDS: tuple[KindInfo, ...] = (
    _gateway_api(gatewayapi.GatewayClass, "gatewayclasses", "v1", "v1beta1", short="gc", scoped=False),
    _gateway_api(gatewayapi.Gateway, "gateways", "v1", "v1beta1", short="gtw"),
    _gateway_api(gatewayapi.HTTPRoute, "httproutes", "v1", "v1beta1"),
    _gateway_api(gatewayapi.GRPCRoute, "grpcroutes", "v1", "v1alpha2"),
    _gateway_api(gatewayapi.TCPRoute, "tcproutes", "v1alpha2", "v1"),
    _gateway_api(gatewayapi.TLSRoute, "tlsroutes", "v1alpha2", "v1alpha3", "v1"),
    _gateway_api(gatewayapi.ReferenceGrant, "referencegrants", "v1beta1", "v1alpha2", "v1", short="refgrant"),
    _gateway_api(gatewayapi.BackendTLSPolicy, "backendtlspolicies", "v1alpha3", "v1", short="btlspolicy"),
)

KINDS: tuple[KindInfo, ...] = (*CORE_KINDS, *ISTIO_KINDS, *GATEWAY_API_KINDS)

_BY_GROUP_KIND: Mapping[tuple[str, str], KindInfo] = {(k.group, k.kind): k for k in KINDS}


def find_kind(api_version: str, kind: str) -> KindInfo | None:
    """The kind, whichever of its served versions is named; None when the mesh does not read it."""
    group, _, version = api_version.rpartition("/")
    info = _BY_GROUP_KIND.get((group, kind))
    return info if info is not None and version in info.versions else None


def kind_of(api_version: str, kind: str, *, where: str = "") -> KindInfo:
    """As `find_kind`; raises InvalidResource that says which versions there are."""
    info = find_kind(api_version, kind)
    if info is not None:
        return info
    group = api_version.rpartition("/")[0]
    near = _BY_GROUP_KIND.get((group, kind))
    if near is not None:
        raise InvalidResource(
            f"{kind} has no version {api_version!r}",
            where=where or "apiVersion",
            remedy=f"Write apiVersion: {near.api_version} (served: {', '.join(near.versions)}).",
        )
    raise InvalidResource(
        f"the mesh reads no kind {kind!r} of {api_version!r}",
        where=where or "kind",
        remedy="Check apiVersion and kind for misspellings.",
    )
