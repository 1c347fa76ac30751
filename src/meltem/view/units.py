"""Units of view: each is the complete input of one generated resource, a frozen value and nothing more.

In: made by `meltem.view.outbound`, `inbound`, `gateway`. Out: read by `meltem.generate`. Two equal units give the same
bytes, which are made once (`meltem.collections.TupleMemo` by `key_of`).
"""

from __future__ import annotations

import msgspec

from meltem.graph.authn import PeerPolicy, TLSMode
from meltem.graph.model import Endpoint, Protocol, Resolution, ServiceKey
from meltem.resources import meshconfig, networking
from meltem.resources.base import decode_hook, encode_hook
from meltem.view.filters import NO_FILTERS, Filters, WasmModule
from meltem.view.patching import PatchSet
from meltem.view.proxy_settings import UNSET, Connections, GatewayTopology, HttpOptions


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all."""


def key_of(unit: Unit) -> bytes:
    """A value that is equal exactly for equal units."""
    return type(unit).__name__.encode() + msgspec.msgpack.encode(unit, enc_hook=encode_hook, order="deterministic")


class ExtensionView(Unit, frozen=True, kw_only=True):
    """One Wasm plugin, wherever it stands."""

    module: WasmModule


class MeshOptions(Unit, frozen=True, kw_only=True):
    """What of the mesh's configuration every generator may read."""

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    peer_trust_domains: tuple[str, ...] = ("cluster.local",)
    """Trust domains whose workloads sidecars take connections from."""
    connect_timeout: float = 10.0
    protocol_detection_timeout: float = 0.0
    outbound_port: int = 15001
    inbound_port: int = 15006
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_json: bool = False
    access_log_service: bool = False
    """Access logs go to the service that the proxies' own bootstrap names."""
    disable_listener_log: bool = False
    tracing: bool = True
    tracing_sampling: float = 1.0
    h2_upgrade: bool = False
    dns_refresh_rate: float = 60.0
    path_normalization: str = "DEFAULT"
    inbound_localhost: bool = False
    tcp_keepalive: networking.TcpKeepalive | None = None
    default_retries: networking.HTTPRetry | None = None
    locality: networking.LocalityLoadBalancer | None = None
    zones: networking.ZoneAwareLoadBalancer | None = None
    mesh_tls: meshconfig.MeshTLS | None = None
    """For mutual TLS within the mesh, at the server."""
    tls_defaults: meshconfig.MeshTLS | None = None
    """For all other TLS."""
    default_traffic: meshconfig.DefaultTrafficPolicy | None = None
    connections: Connections | None = None
    """Of proxies that have no such settings of their own."""
    inbound_stat_name: str = ""
    outbound_stat_name: str = ""
    """Patterns of the names under which clusters count."""


class ClusterView(Unit, frozen=True, kw_only=True):
    """One outbound cluster: a service port, or a subset of it."""

    name: str
    hostname: str
    namespace: str
    service_name: str
    port: int
    port_name: str = ""
    """Set only where clusters count under it."""
    protocol: Protocol
    resolution: Resolution
    external: bool
    subset: str = ""
    policy: networking.TrafficPolicy | None = None
    policy_source: str = ""
    """`namespace/name` of the DestinationRule."""
    auto_mtls: bool = False
    """No TLS settings given: mutual TLS with endpoints that take it (PASSTHROUGH: and all of them do)."""
    default_sans: tuple[str, ...] = ()
    """SANs to accept where the rule names none."""
    sni: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    """For DNS clusters, whose endpoints stand in the cluster itself."""
    locality: tuple[str, str, str] = ("", "", "")
    balance: str = ""
    """Locality settings as `Balance.text` where they hold; empty: localities do not matter."""
    client_labels: tuple[tuple[str, str], ...] = ()
    """For DNS clusters with locality settings by labels."""
    secrets_by_sds: bool = False
    """Client certificates named by a secret may be asked of the control plane (gateways, selected sidecars)."""
    sni_dnat: bool = False
    """Reached by its name as the SNI through an east-west gateway: TLS is not ours."""
    ipv4: bool = True
    ipv6: bool = False
    preserve_case: bool = False
    """Names of HTTP/1 headers keep their capitals."""
    follows_client: bool = True
    """A port of unknown protocol is called in the HTTP version that the client chose."""
    buffer: float = UNSET
    """Bytes that a connection may hold; `UNSET`: Envoy's default."""
    port_override: int = 0
    """Connections that keep their address go to this port instead of their own; 0: to their own."""
    mesh: MeshOptions


class Balance(msgspec.Struct, frozen=True, omit_defaults=True):
    """How localities count, by one of the two settings. Units carry it as text, which is equal for equal settings."""

    localities: networking.LocalityLoadBalancer | None = None
    zones: networking.ZoneAwareLoadBalancer | None = None

    @property
    def text(self) -> str:
        return msgspec.json.encode(self, enc_hook=encode_hook, order="deterministic").decode()

    @classmethod
    def of(cls, text: str) -> Balance:
        return msgspec.json.decode(text, type=cls, dec_hook=decode_hook) if text else cls()

    @property
    def failover_priority(self) -> tuple[str, ...]:
        setting = self.localities or self.zones
        return setting.failover_priority if setting is not None else ()


class EndpointsKey(msgspec.Struct, frozen=True, cache_hash=True):
    """Which endpoints, seen from where: all that a ClusterLoadAssignment depends on but the endpoints themselves."""

    name: str
    """Of the cluster."""
    service: ServiceKey
    port: int
    labels: tuple[tuple[str, str], ...] = ()
    """The subset's."""
    locality: tuple[str, str, str] = ("", "", "")
    """The client's; set only where localities matter."""
    balance: str = ""
    """Locality settings as `Balance.text`; empty: localities do not matter."""
    client_labels: tuple[tuple[str, str], ...] = ()
    """Those of the client that a failoverPriority names."""
    cluster: str = ""
    network: str = ""
    node: str = ""
    """The client's, where it matters."""
    network_view: tuple[str, ...] = ()
    """The networks that the client asks for; empty: all."""
    node_local: bool = False
    """Only endpoints of that node."""
    cluster_local: bool = False
    ipv4: bool = True
    ipv6: bool = False
    """Families that the client speaks."""


class WeightedCluster(Unit, frozen=True, kw_only=True):
    """A destination of a route."""

    cluster: str
    weight: int = 0
    headers: networking.Headers | None = None


class HashPolicy(Unit, frozen=True, kw_only=True):
    """What keeps a request on one endpoint (or, for sticky splits, on one version)."""

    header: str = ""
    cookie: networking.HTTPCookie | None = None
    query: str = ""
    source_ip: bool = False
    alone: bool = False
    """Where the request has it, the policies after it do not count."""


class RouteView(Unit, frozen=True, kw_only=True):
    """One Envoy route: one match of one rule."""

    name: str = ""
    match: networking.HTTPMatch | None = None
    rule: networking.HTTPRoute | None = None
    """The rule's own settings; None for a default route."""
    clusters: tuple[WeightedCluster, ...] = ()
    mirrors: tuple[tuple[str, float], ...] = ()
    """Cluster and percentage."""
    hash_policies: tuple[HashPolicy, ...] = ()
    sticky: bool = False
    operation: str = ""
    """`x-envoy-decorator-operation`: host:port/path."""
    source: str = ""
    """`namespace/name` of the VirtualService."""
    redirect_port: int = 0
    """Port of a redirect, worked out; 0: none is written."""
    alt_svc_port: int = 0
    """HTTP/3 is offered at this port; 0: not."""
    idle_timeout: float | None = None
    grpc: bool = False
    """An inbound route of a gRPC port."""
    by_length: bool = False
    """From an Ingress: of all that a host has from Ingresses the longest path comes first."""


class VirtualHostView(Unit, frozen=True, kw_only=True):
    """One virtual host."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[RouteView, ...]
    require_tls: bool = False
    include_attempt_count: bool = True
    forwarded_host: bool = False
    """A host that is rewritten is told in `x-forwarded-host`."""
    mesh: MeshOptions


class RouteConfigView(Unit, frozen=True, kw_only=True):
    """A route configuration: its virtual hosts, or that they come one by one."""

    name: str
    virtual_hosts: tuple[VirtualHostView, ...] = ()
    by_delta: bool = False
    fallback: str = ""
    """`allow`, `dynamic` (to where DNS says) or `block` for hosts that no virtual host has; empty: none, as at
    gateways."""
    fallback_cluster: str = "PassthroughCluster"
    ignore_port: bool = False
    include_attempt_count: bool = True
    """Of the fallback."""
    mesh: MeshOptions


class ChainView(Unit, frozen=True, kw_only=True):
    """Part of an outbound listener: what one service brings to an address and port."""

    kind: str
    """`http` (routes by name), `tcp` (to clusters), `auto` (sniffed: http else tcp)."""
    route: str = ""
    clusters: tuple[WeightedCluster, ...] = ()
    sni: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    source: str = ""
    stat_prefix: str = ""
    idle_timeout: float | None = None
    created: str = ""
    hash_source_ip: bool = False
    max_duration: float | None = None
    """Longest life of a connection, in seconds."""
    tunnel: networking.Tunnel | None = None
    dynamic_dns: str = ""
    """The wildcard host whose real name is the connection's SNI; empty: addresses are known."""
    dynamic_port: int = 0
    mongo: bool = False
    grpc_web: bool = False
    """`http`: browsers' gRPC is turned into gRPC."""
    told_by_alpn: bool = False
    """`tcp`, `auto`: a server of the mesh behind it finds out what it is sent, and has to be told that this is TCP."""


class WorkloadIdentity(Unit, frozen=True, kw_only=True):
    """What telemetry and peer metadata say of the workload itself. Empty in scopes that share it among workloads."""

    namespace: str = ""
    workload: str = ""
    app: str = ""
    version: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    cluster: str = ""
    service_account: str = ""


class OutboundListenerView(Unit, frozen=True, kw_only=True):
    """One outbound listener: address, port, and the chains that services bring to it."""

    name: str
    address: str
    extra_addresses: tuple[str, ...] = ()
    port: int
    chains: tuple[ChainView, ...]
    bind_to_port: bool = False
    passthrough: bool = True
    """What no chain takes goes where it was meant to; else it is refused."""
    dynamic: bool = False
    """HTTP for hosts that nobody knows goes where DNS says."""
    http: HttpOptions = HttpOptions()
    ipv4: bool = True
    ipv6: bool = False
    filters: Filters = NO_FILTERS
    mesh: MeshOptions


class VirtualOutboundView(Unit, frozen=True, kw_only=True):
    """The listener that takes in all captured outbound traffic."""

    port: int
    ipv4: bool
    ipv6: bool
    passthrough: bool
    egress_cluster: str = ""
    """Where unknown traffic goes, if somewhere else than to its own destination."""
    dynamic: bool = False
    """Unknown HTTP goes where DNS says that its host is."""
    tproxy: bool = False
    inbound_port: int = 15006
    http: HttpOptions = HttpOptions()
    filters: Filters = NO_FILTERS
    mesh: MeshOptions


class InboundPort(Unit, frozen=True, kw_only=True):
    """One port that a workload takes traffic on."""

    port: int
    """As the proxy sees it (the container's port)."""
    protocol: Protocol
    cluster: str
    address: str = ""
    """Where the application is: empty for the address that the connection was meant for."""
    target: int = 0
    hostname: str = ""
    service_port: int = 0
    port_name: str = ""
    """The service's."""
    namespace: str = ""
    mode: TLSMode = TLSMode.PERMISSIVE
    bind: str = ""
    """A Sidecar ingress listener that binds its own port."""
    tls: networking.ServerTLS | None = None
    pool: networking.ConnectionPool | None = None
    services: tuple[tuple[str, str, str], ...] = ()
    """(hostname, namespace, name) of all services on this port."""
    domains: tuple[str, ...] = ("*",)
    routes: tuple[RouteView, ...] = ()


class InboundView(Unit, frozen=True, kw_only=True):
    """All that a sidecar takes in: equal for the replicas of a deployment."""

    ports: tuple[InboundPort, ...] = ()
    policy: PeerPolicy = PeerPolicy()
    ipv4: bool = True
    ipv6: bool = False
    tproxy: bool = False
    capture: bool = True
    passthrough: bool = True
    """Ports that no service has are let through too (no Sidecar ingress restricts them)."""
    identity: WorkloadIdentity = WorkloadIdentity()
    http: HttpOptions = HttpOptions()
    patches: PatchSet | None = None
    filters: Filters = NO_FILTERS
    secrets_by_socket: bool = False
    """The agents are Istio's own (`generate.by_socket`)."""
    mesh: MeshOptions


class GatewayChain(Unit, frozen=True, kw_only=True):
    """One filter chain of a gateway's listener."""

    kind: str
    """`http` (routes by name), `tcp` (to clusters), `sni` (to the cluster that the SNI names)."""
    route: str = ""
    sni: tuple[str, ...] = ()
    tls: networking.ServerTLS | None = None
    namespace: str = ""
    """Where the server's Gateway is."""
    grpc_web: bool = False
    clusters: tuple[WeightedCluster, ...] = ()
    subnets: tuple[str, ...] = ()
    tcp: ChainView | None = None
    """For `tcp`: the clusters and what the destination rule says of their connections."""
    source: str = ""
    gateway: str = ""
    """`namespace/name` of the server's Gateway."""


class GatewayListenerView(Unit, frozen=True, kw_only=True):
    """One port of a gateway."""

    name: str
    address: str
    port: int
    ipv6: bool = False
    udp: bool = False
    """HTTP/3: a QUIC listener beside the TCP one."""
    chains: tuple[GatewayChain, ...] = ()
    http: HttpOptions = HttpOptions()
    topology: GatewayTopology = GatewayTopology()
    filters: Filters = NO_FILTERS
    mesh: MeshOptions
