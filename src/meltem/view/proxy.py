"""Who asks: one connected proxy, read from the node that it sends on its first message.

In: node id, cluster, locality and metadata (Istio's names, as any Istio agent sends them). Out: a frozen `Proxy`.

Node id: `<sidecar|router>~<ip>~<name>.<namespace>~<domain>`.
"""

from __future__ import annotations

import enum
import ipaddress

import msgspec

from meltem.errors import UserError
from meltem.objects import Json, JsonObject, object_at, str_at, string_map_at

REGISTERS_BY, IS_ENTRY = "AUTO_REGISTER_GROUP", "WORKLOAD_ENTRY"
"""Metadata of machines outside Kubernetes: the WorkloadGroup to be registered by, or the WorkloadEntry that it is."""
OURS = "MELTEM_SDS_PATH"
"""Metadata that our agent sends and Istio's does not: where it keeps the workload's certificate."""
_MAX_NAME = 253


class ProxyKind(enum.Enum):
    SIDECAR = "sidecar"
    ROUTER = "router"


class Locality(msgspec.Struct, frozen=True, order=True):
    """region/zone/subzone, as in `topology.kubernetes.io/*` and in a WorkloadEntry."""

    region: str = ""
    zone: str = ""
    subzone: str = ""

    def __str__(self) -> str:
        return "/".join(p for p in (self.region, self.zone, self.subzone) if p)


NOWHERE = Locality()


def parse_locality(text: str) -> Locality:
    """`region/zone/subzone`, later parts optional (also with dots, as in the label `istio-locality`)."""
    parts = (text.replace(".", "/") if "/" not in text else text).split("/")
    return Locality(*(parts[:3]))


class Proxy(msgspec.Struct, frozen=True):
    """One proxy. `id` is `<name>.<namespace>`; several connections of one proxy share it."""

    id: str
    kind: ProxyKind
    name: str
    namespace: str
    addresses: tuple[str, ...]
    domain: str = "cluster.local"
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    service_account: str = ""
    proven: bool = False
    """`service_account` is of an identity that was checked, not of what the node says."""
    cluster: str = "Kubernetes"
    network: str = ""
    mesh_id: str = ""
    locality: Locality = NOWHERE
    version: str = ""
    node_name: str = ""
    workload_name: str = ""
    owner: str = ""
    interception: str = "REDIRECT"
    """REDIRECT, TPROXY or NONE."""
    dns_capture: bool = False
    dns_auto_allocate: bool = False
    http10: bool = False
    router_mode: str = "standard"
    """`sni-dnat` for an east-west gateway."""
    requested_network_view: tuple[str, ...] = ()
    idle_timeout: str = ""
    unprivileged: bool = False
    concurrency: int = 0
    proxy_config: str = ""
    """The proxy's own ProxyConfig, as the JSON text of metadata PROXY_CONFIG."""
    metadata_certs: bool = False
    virtual_hosts_by_delta: bool = True
    """Takes virtual hosts one by one (VHDS): every delta client does; a state-of-the-world client cannot."""
    secrets_by_socket: bool = False
    """Its agent is Istio's, which serves the workload's certificate at a socket; ours keeps it in files."""
    generator: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    """The node's metadata as far as it is text: EnvoyFilters may select by it."""

    @property
    def label_map(self) -> dict[str, str]:
        return dict(self.labels)

    @property
    def entry_name(self) -> str:
        """Of the WorkloadEntry of a machine outside Kubernetes: `<group>-<address>[-<network>]` where it registers by a
        group, else the one that it says it is; empty for proxies in pods."""
        said = dict(self.metadata)
        if not (group := said.get(REGISTERS_BY, "")):
            return said.get(IS_ENTRY, "")
        parts = [group, self.addresses[0].replace(":", "-"), self.network]
        return "-".join(p for p in parts if p)[-_MAX_NAME:].lstrip("-.")

    @property
    def ipv4(self) -> bool:
        return any(":" not in a for a in self.addresses)

    @property
    def ipv6(self) -> bool:
        return any(":" in a for a in self.addresses)


def parse_proxy(node_id: str, metadata: JsonObject, locality: Locality = NOWHERE, *, delta: bool = True) -> Proxy:
    """Raises UserError, worded for the log, for a node id that is not Istio's."""
    parts = node_id.split("~")
    if len(parts) != 4:
        raise UserError(f"node id {node_id!r} is not of the form kind~address~name.namespace~domain")
    kind_text, ip, full_name, domain = parts
    try:
        kind = ProxyKind(kind_text)
    except ValueError:
        raise UserError(f"node id {node_id!r}: kind {kind_text!r} is neither sidecar nor router") from None
    name, _, namespace_of_id = full_name.rpartition(".")
    namespace = str_at(metadata, "NAMESPACE") or namespace_of_id
    addresses = [a.strip() for a in str_at(metadata, "INSTANCE_IPS").split(",") if a.strip()] or [ip]
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise UserError(f"node id {node_id!r}: {address!r} is no IP address") from None
    labels = string_map_at(metadata, "LABELS")
    suffix = f"{namespace}.svc."
    return Proxy(
        id=f"{_own_name(name or full_name, addresses[0], metadata)}.{namespace}",
        kind=kind,
        name=name or full_name,
        namespace=namespace,
        addresses=tuple(addresses),
        domain=domain.removeprefix(suffix) or "cluster.local",
        labels=tuple(sorted(labels.items())),
        annotations=tuple(sorted(string_map_at(metadata, "ANNOTATIONS").items())),
        service_account=str_at(metadata, "SERVICE_ACCOUNT"),
        cluster=str_at(metadata, "CLUSTER_ID") or "Kubernetes",
        network=str_at(metadata, "NETWORK") or labels.get("topology.istio.io/network", ""),
        mesh_id=str_at(metadata, "MESH_ID"),
        locality=locality,
        version=str_at(metadata, "ISTIO_VERSION"),
        node_name=str_at(metadata, "NODE_NAME"),
        workload_name=str_at(metadata, "WORKLOAD_NAME"),
        owner=str_at(metadata, "OWNER"),
        interception=str_at(metadata, "INTERCEPTION_MODE") or "REDIRECT",
        dns_capture=_flag(metadata.get("DNS_CAPTURE")),
        dns_auto_allocate=_flag(metadata.get("DNS_AUTO_ALLOCATE")),
        http10=_flag(metadata.get("HTTP10")),
        router_mode=str_at(metadata, "ROUTER_MODE") or "standard",
        requested_network_view=tuple(n for n in str_at(metadata, "REQUESTED_NETWORK_VIEW").split(",") if n),
        idle_timeout=str_at(metadata, "IDLE_TIMEOUT"),
        unprivileged=_flag(metadata.get("UNPRIVILEGED_POD")),
        proxy_config=_text(object_at(metadata, "PROXY_CONFIG")),
        virtual_hosts_by_delta=delta,
        secrets_by_socket="ISTIO_VERSION" in metadata and OURS not in metadata,
        generator=str_at(metadata, "GENERATOR"),
        metadata=tuple(sorted((k, v) for k, v in metadata.items() if isinstance(v, str))),
    )


def _own_name(name: str, address: str, metadata: JsonObject) -> str:
    """A machine outside Kubernetes is called as its host is, and that may be any: its address tells it apart."""
    outside = str_at(metadata, REGISTERS_BY) or str_at(metadata, IS_ENTRY)
    return f"{name}-{address.replace(':', '-')}" if outside else name


def _flag(value: Json) -> bool:
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1"))


def _text(value: JsonObject) -> str:
    return msgspec.json.encode(value, order="sorted").decode() if value else ""
