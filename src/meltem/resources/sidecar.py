"""Sidecar: what a workload's proxy may see and how it takes in traffic.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Literal

from meltem.resources.base import Message, Resource, UInt32
from meltem.resources.common import Destination, IstioStatus, LabelsSelector
from meltem.resources.destination_rule import ConnectionPool
from meltem.resources.gateway import ServerTLS


class SidecarPort(Message, frozen=True, kw_only=True):
    """Sidecar, egress.port: one part of it."""

    name: str = ""
    number: UInt32 = 0
    protocol: str = ""
    target_port: UInt32 = 0


class EgressListener(Message, frozen=True, kw_only=True):
    """Sidecar, egress: one part of it."""

    bind: str = ""
    capture_mode: Literal["DEFAULT", "IPTABLES", "NONE"] = "DEFAULT"
    hosts: tuple[str, ...]
    port: SidecarPort | None = None


class IngressListener(Message, frozen=True, kw_only=True):
    """Sidecar, ingress: one part of it."""

    bind: str = ""
    capture_mode: Literal["DEFAULT", "IPTABLES", "NONE"] = "DEFAULT"
    connection_pool: ConnectionPool | None = None
    default_endpoint: str = ""
    port: SidecarPort
    tls: ServerTLS | None = None


class OutboundTrafficPolicy(Message, frozen=True, kw_only=True):
    """Sidecar, outboundTrafficPolicy: one part of it."""

    egress_proxy: Destination | None = None
    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY"] = "REGISTRY_ONLY"


class SidecarSpec(Message, frozen=True, kw_only=True):
    """Sidecar: one part of it."""

    egress: tuple[EgressListener, ...] = ()
    inbound_connection_pool: ConnectionPool | None = None
    ingress: tuple[IngressListener, ...] = ()
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    workload_selector: LabelsSelector | None = None


class Sidecar(Resource, frozen=True, kw_only=True):
    """A Sidecar."""

    spec: SidecarSpec = SidecarSpec()
    status: IstioStatus = IstioStatus()
