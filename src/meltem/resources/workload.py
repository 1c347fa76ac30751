"""WorkloadEntry and WorkloadGroup: workloads that are no pods.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from meltem.resources.base import Message, NonNegativeInt32, PortNumber, Resource, Schema, UInt32, cel
from meltem.resources.common import IstioStatus

HEALTH_CHECKED = "proxy.istio.io/health-checks-enabled"
"""Annotation of a WorkloadEntry whose health an agent tells: `true` makes it count."""
HEALTHY = "Healthy"
"""The condition that says it."""

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
    """What the entries of a group have in common.

    address: IP address, host name or unix socket, without a port.
    labels: Labels of the workload.
    locality: Where it runs (`region/zone/subzone`).
    network: Network that it belongs to.
    ports: Port numbers by the names of the service's ports.
    service_account: Its identity.
    weight: Its share of traffic.
    """

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (UDS_WITHOUT_PORTS,)

    address: Address = ""
    labels: Annotated[dict[str, str], Schema(maxProperties=256)] = {}
    locality: Annotated[str, Schema(maxLength=2048)] = ""
    network: Annotated[str, Schema(maxLength=2048)] = ""
    ports: PortMap = {}
    service_account: Annotated[str, Schema(maxLength=253)] = ""
    weight: UInt32 = 0


class WorkloadEntrySpec(WorkloadTemplate, frozen=True, kw_only=True):
    """A workload that is no pod, such as a virtual machine."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Address is required", "has(self.address) || has(self.network)"),
        UDS_WITHOUT_PORTS,
    )


class WorkloadGroupMetadata(Message, frozen=True, kw_only=True):
    """Metadata of the entries.

    annotations: Annotations of the entries.
    labels: Labels of the entries.
    """

    annotations: Annotated[dict[str, str], Schema(maxProperties=256)] = {}
    labels: Annotated[dict[str, str], Schema(maxProperties=256)] = {}


class ExecProbe(Message, frozen=True, kw_only=True):
    """Runs a command; exit code 0 is healthy.

    command: The command and its arguments.
    """

    command: tuple[Annotated[str, Schema(minLength=1)], ...]


class GrpcProbe(Message, frozen=True, kw_only=True):
    """Asks the gRPC health service.

    port: Port to ask.
    service: Service to ask about.
    """

    port: PortNumber = 0
    service: str = ""


class HTTPHeader(Message, frozen=True, kw_only=True):
    """A header of the request.

    name: Name of the header.
    value: Its value.
    """

    name: Annotated[str, Schema(pattern="^[-_A-Za-z0-9]+$")] = ""
    value: str = ""


class HTTPProbe(Message, frozen=True, kw_only=True):
    """Sends an HTTP request; 200 to 399 is healthy.

    host: Host to connect to.
    http_headers: Headers of the request.
    path: Path to ask for.
    port: Port to ask.
    scheme: HTTP or HTTPS.
    """

    host: str = ""
    http_headers: tuple[HTTPHeader, ...] = ()
    path: str = ""
    port: PortNumber
    scheme: Annotated[str, cel(("scheme must be one of [HTTP, HTTPS]", 'self in ["", "HTTP", "HTTPS"]'))] = ""


class TCPProbe(Message, frozen=True, kw_only=True):
    """Connects; success is healthy.

    host: Host to connect to.
    port: Port to connect to.
    """

    host: str = ""
    port: PortNumber


class ReadinessProbe(Message, frozen=True, kw_only=True):
    """How the health of the workload is asked.

    exec: By a command.
    failure_threshold: Failures in a row that make it unhealthy.
    grpc: By gRPC.
    http_get: By HTTP.
    initial_delay_seconds: Seconds before the first probe.
    period_seconds: Seconds between probes.
    success_threshold: Successes in a row that make it healthy.
    tcp_socket: By connecting.
    timeout_seconds: Seconds before a probe fails.
    """

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
    """What workloads that register themselves have in common.

    metadata: Metadata of the entries.
    probe: How health is asked.
    template: What the entries have in common.
    """

    metadata: WorkloadGroupMetadata | None = None
    probe: ReadinessProbe | None = None
    template: WorkloadTemplate


class WorkloadEntry(Resource, frozen=True, kw_only=True):
    """A workload that is no pod."""

    spec: WorkloadEntrySpec = WorkloadEntrySpec()
    status: IstioStatus = IstioStatus()

    @property
    def healthy(self) -> bool:
        """Where an agent tells its health, nothing is sent to it before it was said to be healthy."""
        if self.metadata.annotations.get(HEALTH_CHECKED, "").lower() not in ("true", "1", "t"):
            return True
        condition = self.status.condition(HEALTHY)
        return condition is not None and condition.status == "True"


class WorkloadGroup(Resource, frozen=True, kw_only=True):
    """Workloads that register themselves."""

    spec: WorkloadGroupSpec
    status: IstioStatus = IstioStatus()
