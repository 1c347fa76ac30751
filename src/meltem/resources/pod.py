"""Pods, as far as the mesh, the injector's policy and the agent read them.

In: decoded by `meltem.resources.parse`. Out: frozen structs.
"""

from __future__ import annotations

import msgspec

from meltem.resources.base import Condition, IntOrString, Message, Resource


class ContainerPort(Message, frozen=True, kw_only=True):
    """A port that a container says it listens on."""

    name: str = ""
    container_port: int = 0
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")


class EnvVar(Message, frozen=True, kw_only=True):
    """An environment variable; `value_from` is None when the value stands here."""

    name: str = ""
    value: str = ""
    value_from: dict[str, object] | None = None


class HTTPGetAction(Message, frozen=True, kw_only=True):
    """A probe by HTTP."""

    path: str = ""
    port: IntOrString = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[EnvVar, ...] = ()


class TCPSocketAction(Message, frozen=True, kw_only=True):
    """A probe by connecting."""

    port: IntOrString = 0
    host: str = ""


class GRPCAction(Message, frozen=True, kw_only=True):
    """A probe by gRPC's health service."""

    port: int = 0
    service: str = ""


class ExecAction(Message, frozen=True, kw_only=True):
    """A probe by running a command in the container."""

    command: tuple[str, ...] = ()


class Probe(Message, frozen=True, kw_only=True):
    """How a container's health is asked."""

    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3


class ContainerSecurityContext(Message, frozen=True, kw_only=True):
    """Who the container runs as."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    privileged: bool = False


class Container(Message, frozen=True, kw_only=True):
    """A container of a pod."""

    name: str = ""
    image: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    restart_policy: str = ""
    security_context: ContainerSecurityContext | None = None


class PodSpec(Message, frozen=True, kw_only=True):
    """What a pod is to run."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    service_account_name: str = "default"
    node_name: str = ""
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    restart_policy: str = "Always"
    dns_policy: str = "ClusterFirst"
    termination_grace_period_seconds: int = 30


class PodIP(Message, frozen=True, kw_only=True):
    """An address of the pod."""

    ip: str = ""


class ContainerStatus(Message, frozen=True, kw_only=True):
    """What is known of a container."""

    name: str = ""
    ready: bool = False
    restart_count: int = 0
    started: bool | None = None


class PodStatus(Message, frozen=True, kw_only=True):
    """What is known of a pod."""

    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())
    host_ip: str = msgspec.field(name="hostIP", default="")
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    reason: str = ""


class Pod(Resource, frozen=True, kw_only=True):
    """A running instance of a workload."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IPs, the primary one first."""
        ips = tuple(p.ip for p in self.status.pod_ips if p.ip)
        return ips or ((self.status.pod_ip,) if self.status.pod_ip else ())

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)

    @property
    def finished(self) -> bool:
        """It will never run again (its address may already belong to another pod)."""
        return self.status.phase in ("Succeeded", "Failed")
