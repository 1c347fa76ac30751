"""The nouns of the mesh: services, their ports, endpoints, workloads.

In: nothing. Out: frozen values, equal when their fields are.
"""

from __future__ import annotations

import enum

import msgspec

ServiceKey = tuple[str, str]
"""namespace, hostname"""


class Protocol(enum.Enum):
    """What a port speaks, as far as it is declared. AUTO: found out on the first bytes."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    MONGO = "Mongo"
    REDIS = "Redis"
    MYSQL = "MySQL"
    UDP = "UDP"
    AUTO = ""

    @property
    def is_http(self) -> bool:
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        return self in _HTTP2

    @property
    def is_tls(self) -> bool:
        """Encrypted by the application itself: routed by SNI."""
        return self in (Protocol.HTTPS, Protocol.TLS)

    @property
    def is_tcp(self) -> bool:
        """Opaque to the proxy (also TLS and the databases); not AUTO, not UDP."""
        return self not in _HTTP and self not in (Protocol.AUTO, Protocol.UDP)


_HTTP = frozenset((Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB))
_HTTP2 = frozenset((Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB))

_BY_NAME = {
    "http": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "grpc": Protocol.GRPC,
    "grpc-web": Protocol.GRPC_WEB,
    "https": Protocol.HTTPS,
    "tls": Protocol.TLS,
    "tcp": Protocol.TCP,
    "mongo": Protocol.MONGO,
    "redis": Protocol.REDIS,
    "mysql": Protocol.MYSQL,
    "udp": Protocol.UDP,
}
_BY_APP_PROTOCOL = {
    **_BY_NAME,
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}
_SERVER_FIRST_PORTS = frozenset((25, 3306, 27017, 53, 587))
"""Well-known ports whose server speaks first (SMTP, MySQL, MongoDB) or which are no TCP: never sniffed."""


def declared_protocol(name: str) -> Protocol:
    """The protocol that a resource names (Gateway, ServiceEntry): unknown names are TCP, as in Istio."""
    return _BY_NAME.get(name.lower(), Protocol.TCP if name else Protocol.AUTO)


def names_protocol(name: str) -> bool:
    """Whether it is the name of a protocol at all."""
    return name.lower() in _BY_NAME


def port_protocol(port: int, name: str, app_protocol: str, transport: str) -> Protocol:
    """Istio's protocol selection: appProtocol, else the port's name (`<protocol>[-<suffix>]`), else AUTO."""
    if transport == "UDP":
        return Protocol.UDP
    if app_protocol:
        found = _BY_APP_PROTOCOL.get(app_protocol.lower())
        if found is not None:
            return found
    if name.lower().startswith("grpc-web"):
        return Protocol.GRPC_WEB
    found = _BY_NAME.get(name.lower().partition("-")[0])
    if found is not None:
        return found
    return Protocol.TCP if port in _SERVER_FIRST_PORTS else Protocol.AUTO


class Resolution(enum.Enum):
    """How a client finds endpoints."""

    ENDPOINTS = "endpoints"
    """The control plane knows them (EDS)."""
    PASSTHROUGH = "passthrough"
    """The caller's own destination address (headless, ServiceEntry NONE)."""
    DNS = "dns"
    DNS_ROUND_ROBIN = "dns round robin"
    DYNAMIC_DNS = "dynamic dns"
    ALIAS = "alias"
    """An ExternalName."""


class Port(msgspec.Struct, frozen=True):
    """A port of a service; `target` is the endpoints' port as the service says it (0: the same)."""

    number: int
    name: str
    protocol: Protocol
    target: int | str = 0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A name that clients call. `addresses`: cluster id → its virtual IPs there (`""` for every cluster)."""

    hostname: str
    namespace: str
    name: str
    ports: tuple[Port, ...]
    resolution: Resolution = Resolution.ENDPOINTS
    addresses: tuple[tuple[str, tuple[str, ...]], ...] = ()
    external: bool = False
    """Outside the mesh (ServiceEntry MESH_EXTERNAL, ExternalName)."""
    export_to: tuple[str, ...] = ("*",)
    """Namespaces, `*` for all, `~` for none; never `.` (resolved)."""
    kubernetes: bool = True
    """From a Kubernetes Service; else from a ServiceEntry."""
    headless: bool = False
    first_family: int = 0
    """4 or 6: the first of a Kubernetes Service's two IP families; 0 where it has one."""
    labels: tuple[tuple[str, str], ...] = ()
    selector: tuple[tuple[str, str], ...] = ()
    created: str = ""
    source: str = ""
    """The resource that it is from, as errors say it."""
    alias_of: str = ""
    subject_alt_names: tuple[str, ...] = ()
    publish_not_ready: bool = False
    session_affinity_seconds: int = 0
    traffic_distribution: str = ""
    internal_local: bool = False
    """internalTrafficPolicy Local: only endpoints of the client's node."""
    cluster_local: bool = False
    external_addresses: tuple[str, ...] = ()
    """Load balancer and external IPs."""
    auto_addresses: tuple[str, ...] = ()
    """Allocated for a host without addresses; clients know them only where DNS is captured."""

    @property
    def key(self) -> ServiceKey:
        return (self.namespace, self.hostname)

    def addresses_for(self, cluster: str) -> tuple[str, ...]:
        """Virtual IPs for a client in that cluster: its own cluster's, else the first known."""
        found: tuple[str, ...] = ()
        for where, ips in self.addresses:
            if where in (cluster, ""):
                return ips
            found = found or ips
        return found

    def port(self, number: int) -> Port | None:
        """Where UDP and TCP share a number, as for DNS, TCP's: proxies carry no UDP."""
        same = [p for p in self.ports if p.number == number]
        return next((p for p in same if p.protocol is not Protocol.UDP), same[0] if same else None)

    def visible_to(self, namespace: str) -> bool:
        return "*" in self.export_to or namespace in self.export_to


class Health(enum.Enum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One address and port behind a service port."""

    address: str
    """An IP, a DNS name, or a `unix://` path."""
    other_addresses: tuple[str, ...] = ()
    """Of the other IP family, where the service has both."""
    port: int
    service_port: str
    """Name of the service port that it serves."""
    service_port_number: int = 0
    """Number of that port where ports have no names to go by (ServiceEntry); 0: go by name."""
    labels: tuple[tuple[str, str], ...] = ()
    cluster: str = ""
    network: str = ""
    locality: tuple[str, str, str] = ("", "", "")
    weight: int = 1
    identity: str = ""
    """SPIFFE id that the endpoint presents; empty: no proxy known."""
    mutual_tls: bool = False
    """It takes Istio mutual TLS (`security.istio.io/tlsMode: istio`)."""
    health: Health = Health.HEALTHY
    namespace: str = ""
    workload: str = ""
    hostname: str = ""
    node: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.address, *self.other_addresses)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that a proxy may stand beside: a pod or a WorkloadEntry."""

    name: str
    namespace: str
    cluster: str
    addresses: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""
    locality: tuple[str, str, str] = ("", "", "")
    network: str = ""
    node: str = ""
    workload: str = ""
    """Name of the Deployment (or other owner) that it belongs to."""
    mutual_tls: bool = False
    ready: bool = True
    container_ports: tuple[tuple[str, int], ...] = ()
    """Named container ports, for target ports given by name."""


def labels_match(selector: tuple[tuple[str, str], ...], labels: tuple[tuple[str, str], ...]) -> bool:
    """Every pair of the selector is among the labels."""
    return set(selector) <= set(labels) if selector else True


def hostname_of(name: str, namespace: str, domain: str) -> str:
    return f"{name}.{namespace}.svc.{domain}"


def short_name(host: str, namespace: str, domain: str) -> str:
    """A host as a resource of that namespace writes it, in full: names without dots are services of the namespace."""
    return hostname_of(host, namespace, domain) if host and "." not in host and host != "*" else host


def host_matches(pattern: str, host: str) -> bool:
    """`*`, `*.example.com` or an exact name; both sides may be wildcards (the pattern must cover the host)."""
    if pattern == host or pattern == "*":
        return True
    return pattern.startswith("*") and host.removeprefix("*").endswith(pattern[1:]) and host != pattern[1:]
