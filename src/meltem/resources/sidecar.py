"""Sidecar: what a workload's proxy may see and how it takes in traffic.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Literal

from meltem.resources.base import Message, PlainPort, Resource
from meltem.resources.common import Destination, IstioStatus, LabelsSelector
from meltem.resources.destination_rule import ConnectionPool
from meltem.resources.gateway import ServerTLS


class SidecarPort(Message, frozen=True, kw_only=True):
    """A port of a listener.

    name: Name of the port.
    number: Port number.
    protocol: Protocol.
    target_port: Not used.
    """

    name: str = ""
    number: PlainPort = 0
    protocol: str = ""
    target_port: PlainPort = 0


class EgressListener(Message, frozen=True, kw_only=True):
    """Outbound traffic that the workload may send.

    bind: Address or unix socket to listen on.
    capture_mode: How traffic reaches the listener.
    hosts: Services it may see, as `namespace/host`; `.` is the own namespace, `~` none.
    port: Port; none means all ports.
    """

    bind: str = ""
    capture_mode: Literal["DEFAULT", "IPTABLES", "NONE"] = "DEFAULT"
    hosts: tuple[str, ...]
    port: SidecarPort | None = None


class IngressListener(Message, frozen=True, kw_only=True):
    """Inbound traffic that the workload takes.

    bind: Address to listen on.
    capture_mode: How traffic reaches the listener.
    connection_pool: Limits of connections.
    default_endpoint: Where traffic goes: `127.0.0.1:PORT`, `0.0.0.0:PORT` or `unix://PATH`.
    port: The port.
    tls: TLS that ends here.
    """

    bind: str = ""
    capture_mode: Literal["DEFAULT", "IPTABLES", "NONE"] = "DEFAULT"
    connection_pool: ConnectionPool | None = None
    default_endpoint: str = ""
    port: SidecarPort
    tls: ServerTLS | None = None


class OutboundTrafficPolicy(Message, frozen=True, kw_only=True):
    """What happens to calls to destinations that the mesh does not know.

    egress_proxy: A service that such traffic goes through.
    mode: Pass them, or refuse them.
    """

    egress_proxy: Destination | None = None
    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY"] = "REGISTRY_ONLY"


class SidecarSpec(Message, frozen=True, kw_only=True):
    """What a workload's proxy sees and how it takes traffic.

    egress: Outbound listeners; none means what the mesh's default says.
    inbound_connection_pool: Limits of inbound connections.
    ingress: Inbound listeners; none means those of its services.
    outbound_traffic_policy: What happens to calls to unknown destinations.
    workload_selector: Workloads that it is for; none means all of the namespace.
    """

    egress: tuple[EgressListener, ...] = ()
    inbound_connection_pool: ConnectionPool | None = None
    ingress: tuple[IngressListener, ...] = ()
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    workload_selector: LabelsSelector | None = None


class Sidecar(Resource, frozen=True, kw_only=True):
    """A workload's view of the mesh."""

    spec: SidecarSpec = SidecarSpec()
    status: IstioStatus = IstioStatus()
