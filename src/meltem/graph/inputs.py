"""The input collections: one `Source` a kind, keyed `(cluster, namespace, name)`, and the mesh's own configuration.

Who fills them is nobody's business in here: reflectors in istiod, files in `simulate` and tests, a generator in
benches.
"""

from __future__ import annotations

import msgspec

from meltem.collections import Graph, Source
from meltem.resources import core, extensions, networking, security, telemetry
from meltem.resources.meshconfig import MeshConfig, MeshNetworks
from meltem.resources.pod import Pod

ResourceKey = tuple[str, str, str]
"""cluster id, namespace (empty for cluster-scoped kinds), name"""


_NOT_KINDS = (
    "MeshConfig", "MeshNetworks", "cluster networks", "resolved names", "wasm modules", "wasm code", "guarded",
    "trials", "tried EnvoyFilters", "former EnvoyFilters", "secrets by permission", "readers of secrets",
    "tried scripts",
)  # fmt: skip


WasmKey = tuple[str, str]
"""namespace and name of a WasmPlugin"""
FAILED = "failed"
"""In place of a checksum: the module cannot be had."""


class Trial(msgspec.Struct, frozen=True):
    """What Envoy said of a resource as EnvoyFilters left it. Without `refused` it takes it."""

    refused: tuple[tuple[str, str, str], ...] = ()
    """namespace and name of each EnvoyFilter that has to be left out, and Envoy's words."""
    note: str = ""
    """Why it could not be tried; it is used as it is."""


Account = tuple[str, str, str]
"""cluster id, namespace and name of a service account"""


class Permission(msgspec.Struct, frozen=True):
    """Whether a service account may list the secrets of its namespace."""

    granted: bool
    why: str = ""
    """Where it is not: the API server's words, if it has any."""


class Former(msgspec.Struct, frozen=True):
    """An EnvoyFilter that Envoy refuses as it stands, and the version before, which stays in force meanwhile."""

    former: networking.EnvoyFilter
    refused: networking.EnvoyFilterSpec
    """Anything else that is written ends it."""
    error: str
    """What Envoy refuses, in its words."""


class Unusable(msgspec.Struct, frozen=True):
    """Why an object is not in force; and which it is, since another may take its name."""

    reason: str
    uid: str = ""
    generation: int = 0

    def __str__(self) -> str:
        return self.reason


class Inputs:
    """All sources. `by_kind` serves whoever feeds them by kind name."""

    def __init__(self, graph: Graph) -> None:
        self.mesh_config: Source[str, MeshConfig] = graph.source("MeshConfig")
        """The one entry has the empty key; without it Istio's defaults hold."""
        self.mesh_networks: Source[str, MeshNetworks] = graph.source("MeshNetworks")
        self.cluster_networks: Source[str, str] = graph.source("cluster networks")
        """Cluster id → its default network."""
        self.resolved_names: Source[str, tuple[str, ...]] = graph.source("resolved names")
        """Name of a gateway of another network → its addresses, as DNS has them."""
        self.wasm_modules: Source[WasmKey, str] = graph.source("wasm modules")
        """A Wasm plugin whose module is no file of the proxies' own → sha256 of its module, or FAILED. No entry: it is
        still being fetched for the first time."""
        self.wasm_code: Source[str, bytes] = graph.source("wasm code")
        """The modules themselves by sha256."""
        self.guarded: Source[str, bool] = graph.source("guarded")
        """Has the empty key where what EnvoyFilters change waits for a trial on Envoy before any proxy is sent it."""
        self.trials: Source[str, Trial] = graph.source("trials")
        """Digest of a patched resource (`meltem.generate.patched`) → what Envoy said."""
        self.former_filters: Source[ResourceKey, Former] = graph.source("former EnvoyFilters")
        """Those whose present version Envoy refuses."""
        self.tried_filters: Source[str, bool] = graph.source("tried EnvoyFilters")
        """Digests of the patches of one EnvoyFilter that Envoy has taken somewhere."""
        self.tried_scripts: Source[str, str] = graph.source("tried scripts")
        """Digest of a Lua script → why Envoy refuses it; empty: it does not."""
        self.secrets_by_permission: Source[str, bool] = graph.source("secrets by permission")
        """Has the empty key where proxies are given private keys only by the next."""
        self.secret_readers: Source[Account, Permission] = graph.source("readers of secrets")
        """What the API server said of service accounts whose proxies need private keys."""
        self.services: Source[ResourceKey, core.Service] = graph.source("Service")
        self.endpoint_slices: Source[ResourceKey, core.EndpointSlice] = graph.source("EndpointSlice")
        self.pods: Source[ResourceKey, Pod] = graph.source("Pod")
        self.nodes: Source[ResourceKey, core.Node] = graph.source("Node")
        self.namespaces: Source[ResourceKey, core.Namespace] = graph.source("Namespace")
        self.secrets: Source[ResourceKey, core.Secret] = graph.source("Secret")
        self.config_maps: Source[ResourceKey, core.ConfigMap] = graph.source("ConfigMap")
        self.ingresses: Source[ResourceKey, core.Ingress] = graph.source("Ingress")
        self.ingress_classes: Source[ResourceKey, core.IngressClass] = graph.source("IngressClass")
        self.virtual_services: Source[ResourceKey, networking.VirtualService] = graph.source("VirtualService")
        self.destination_rules: Source[ResourceKey, networking.DestinationRule] = graph.source("DestinationRule")
        self.gateways: Source[ResourceKey, networking.Gateway] = graph.source("Gateway")
        self.service_entries: Source[ResourceKey, networking.ServiceEntry] = graph.source("ServiceEntry")
        self.sidecars: Source[ResourceKey, networking.Sidecar] = graph.source("Sidecar")
        self.workload_entries: Source[ResourceKey, networking.WorkloadEntry] = graph.source("WorkloadEntry")
        self.workload_groups: Source[ResourceKey, networking.WorkloadGroup] = graph.source("WorkloadGroup")
        self.envoy_filters: Source[ResourceKey, networking.EnvoyFilter] = graph.source("EnvoyFilter")
        self.proxy_configs: Source[ResourceKey, networking.ProxyConfig] = graph.source("ProxyConfig")
        self.peer_authentications: Source[ResourceKey, security.PeerAuthentication] = graph.source("PeerAuthentication")
        self.request_authentications: Source[ResourceKey, security.RequestAuthentication] = graph.source(
            "RequestAuthentication"
        )
        self.authorization_policies: Source[ResourceKey, security.AuthorizationPolicy] = graph.source(
            "AuthorizationPolicy"
        )
        self.telemetries: Source[ResourceKey, telemetry.Telemetry] = graph.source("Telemetry")
        self.wasm_plugins: Source[ResourceKey, extensions.WasmPlugin] = graph.source("WasmPlugin")
        self.traffic_extensions: Source[ResourceKey, extensions.TrafficExtension] = graph.source("TrafficExtension")

    @property
    def by_kind(self) -> dict[str, Source[ResourceKey, object]]:
        """Kind name → its source; the value given to `set` must be that kind's struct."""
        sources: dict[str, object] = {s.name: s for s in vars(self).values() if isinstance(s, Source)}
        for name in _NOT_KINDS:
            del sources[name]
        return sources  # type: ignore[return-value]
