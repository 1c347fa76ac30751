"""WorkloadEntry and WorkloadGroup: workloads that are no pods.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from meltem.resources.base import Message, NonNegativeInt32, PortNumber, Resource, Schema, UInt32, cel
from meltem.resources.common import IstioStatus

Address = Annotated[
    str,
    Schema(maxLength=256),
    cel(
        (
            "UDS must be an absolute path or abstract socket",
            'self.startsWith("unix://") ? (self.substring(7, 8) == "/" || self.substring(7, 8) == "@") : true',
        ),
        ("UDS may not be a dir", 'self.startsWith("unix://") ? !self.endsWith("/") : true'),
    ),
]
PortMap = Annotated[
    dict[str, PortNumber],
    Schema(maxProperties=128),
    cel(
        (
            "port name must be valid",
            'self.all(key, size(key) < 63 && key.matches("^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$"))',
        )
    ),
]
UDS_WITHOUT_PORTS = (
    "UDS may not include ports",
    '(has(self.address) ? self.address : "").startsWith("unix://") ? !has(self.ports) : true',
)


class WorkloadTemplate(Message, frozen=True, kw_only=True):
    """WorkloadGroup, template: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (UDS_WITHOUT_PORTS,)

    address: Address = ""
    labels: Annotated[dict[str, str], Schema(maxProperties=256)] = {}
    locality: Annotated[str, Schema(maxLength=2048)] = ""
    network: Annotated[str, Schema(maxLength=2048)] = ""
    ports: PortMap = {}
    service_account: Annotated[str, Schema(maxLength=253)] = ""
    weight: UInt32 = 0


class WorkloadEntrySpec(WorkloadTemplate, frozen=True, kw_only=True):
    """An endpoint of a service that is no pod."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Address is required", "has(self.address) || has(self.network)"),
        UDS_WITHOUT_PORTS,
    )


class WorkloadGroupMetadata(Message, frozen=True, kw_only=True):
    """WorkloadGroup, metadata: one part of it."""

    annotations: Annotated[dict[str, str], Schema(maxProperties=256)] = {}
    labels: Annotated[dict[str, str], Schema(maxProperties=256)] = {}


class ExecProbe(Message, frozen=True, kw_only=True):
    """WorkloadGroup, probe.exec: one part of it."""

    command: tuple[Annotated[str, Schema(minLength=1)], ...]


class GrpcProbe(Message, frozen=True, kw_only=True):
    """WorkloadGroup, probe.grpc: one part of it."""

    port: PortNumber = 0
    service: str = ""


class HTTPHeader(Message, frozen=True, kw_only=True):
    """WorkloadGroup, probe.httpGet.httpHeaders: one part of it."""

    name: Annotated[str, Schema(pattern="^[-_A-Za-z0-9]+$")] = ""
    value: str = ""


class HTTPProbe(Message, frozen=True, kw_only=True):
    """WorkloadGroup, probe.httpGet: one part of it."""

    host: str = ""
    http_headers: tuple[HTTPHeader, ...] = ()
    path: str = ""
    port: PortNumber
    scheme: Annotated[str, cel(("scheme must be one of [HTTP, HTTPS]", 'self in ["", "HTTP", "HTTPS"]'))] = ""


class TCPProbe(Message, frozen=True, kw_only=True):
    """WorkloadGroup, probe.tcpSocket: one part of it."""

    host: str = ""
    port: PortNumber


class ReadinessProbe(Message, frozen=True, kw_only=True):
    """WorkloadGroup, probe: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("httpGet", "tcpSocket", "exec", "grpc"),)

    exec: ExecProbe | None = None
    failure_threshold: NonNegativeInt32 = 0
    grpc: GrpcProbe | None = None
    http_get: HTTPProbe | None = None
    initial_delay_seconds: NonNegativeInt32 = 0
    period_seconds: NonNegativeInt32 = 0
    success_threshold: NonNegativeInt32 = 0
    tcp_socket: TCPProbe | None = None
    timeout_seconds: NonNegativeInt32 = 0


class WorkloadGroupSpec(Message, frozen=True, kw_only=True):
    """WorkloadGroup: one part of it."""

    metadata: WorkloadGroupMetadata | None = None
    probe: ReadinessProbe | None = None
    template: WorkloadTemplate


class WorkloadEntry(Resource, frozen=True, kw_only=True):
    """A WorkloadEntry."""

    spec: WorkloadEntrySpec = WorkloadEntrySpec()
    status: IstioStatus = IstioStatus()


class WorkloadGroup(Resource, frozen=True, kw_only=True):
    """A WorkloadGroup."""

    spec: WorkloadGroupSpec
    status: IstioStatus = IstioStatus()
