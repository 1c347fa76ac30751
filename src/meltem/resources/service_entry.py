"""ServiceEntry: services that the mesh would not know by itself.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import Message, PortNumber, Resource, Schema, cel
from meltem.resources.common import IstioStatus, LabelsSelector
from meltem.resources.workload import WorkloadEntrySpec


class ServiceEntryPort(Message, frozen=True, kw_only=True):
    """A port of the service.

    name: Name of the port.
    number: Port number.
    protocol: Protocol, such as HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS.
    target_port: Port of the endpoints, when it is another one.
    """

    name: Annotated[str, Schema(maxLength=256)]
    number: PortNumber
    protocol: Annotated[str, Schema(maxLength=256)] = ""
    target_port: PortNumber = 0


class ServiceEntrySpec(Message, frozen=True, kw_only=True):
    """A service that the mesh would not know by itself.

    addresses: Virtual addresses or address ranges of the service.
    endpoints: Where the service runs.
    export_to: Namespaces in which the service is seen; none means all.
    hosts: Names of the service.
    location: Inside or outside the mesh.
    ports: Ports of the service.
    resolution: How addresses of endpoints are found.
    subject_alt_names: Names of which the server's certificate must have one.
    workload_selector: Pods and WorkloadEntries that are endpoints.
    """

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "only one of WorkloadSelector or Endpoints can be set",
            "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1",
        ),
        (
            "CIDR addresses are allowed only for NONE/STATIC resolution types",
            '!((has(self.addresses) ? self.addresses : []).exists(k, k.contains("/")) && '
            '!((has(self.resolution) ? self.resolution : "NONE") in ["STATIC", "NONE"]))',
        ),
        (
            "NONE mode cannot set endpoints",
            '((has(self.resolution) ? self.resolution : "NONE") == "NONE") ? !has(self.endpoints) : true',
        ),
        (
            "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
            '((has(self.resolution) ? self.resolution : "") == "DNS_ROUND_ROBIN") ? '
            "((has(self.endpoints) ? self.endpoints : []).size() <= 1) : true",
        ),
    )

    addresses: Annotated[tuple[Annotated[str, Schema(maxLength=64)], ...], Schema(maxItems=256)] = ()
    endpoints: Annotated[tuple[WorkloadEntrySpec, ...], Schema(maxItems=4096)] = ()
    export_to: tuple[str, ...] = ()
    hosts: Annotated[
        tuple[Annotated[str, cel(("hostname cannot be wildcard", 'self != "*"'))], ...],
        Schema(maxItems=256, minItems=1),
    ]
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    ports: Annotated[
        tuple[ServiceEntryPort, ...],
        Schema(maxItems=256, x_kubernetes_list_map_keys=["name"], x_kubernetes_list_type="map"),
        cel(("port number cannot be duplicated", "self.all(l1, self.exists_one(l2, l1.number == l2.number))")),
    ] = ()
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    subject_alt_names: tuple[str, ...] = ()
    workload_selector: LabelsSelector | None = None


class ServiceEntryAddress(Message, frozen=True, kw_only=True):
    """An address that was allocated for a host.

    host: The host.
    value: The address.
    """

    host: str = ""
    value: str = ""


class ServiceEntryStatus(IstioStatus, frozen=True, kw_only=True):
    """What the control plane says about the ServiceEntry.

    addresses: Addresses allocated for hosts that have none of their own.
    """

    addresses: tuple[ServiceEntryAddress, ...] = ()


class ServiceEntry(Resource, frozen=True, kw_only=True):
    """A service added to the mesh."""

    spec: ServiceEntrySpec
    status: ServiceEntryStatus = ServiceEntryStatus()
