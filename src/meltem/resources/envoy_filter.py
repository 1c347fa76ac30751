"""EnvoyFilter: patches of the generated Envoy configuration.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from meltem.resources.base import Int32, JsonMap, Message, PortNumber, Resource, UInt32
from meltem.resources.common import IstioStatus, LabelsSelector, TargetRefs


class ClusterMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.cluster: one part of it."""

    name: str = ""
    port_number: UInt32 = 0
    service: str = ""
    subset: str = ""


class SubFilterMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.listener.filterChain.filter.subFilter: one part of it."""

    name: str = ""


class FilterMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.listener.filterChain.filter: one part of it."""

    name: str = ""
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.listener.filterChain: one part of it."""

    application_protocols: str = ""
    destination_port: UInt32 = 0
    filter: FilterMatch | None = None
    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    transport_socket: str = ""


class ListenerMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.listener: one part of it."""

    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""
    port_name: str = ""
    port_number: UInt32 = 0


class ProxyMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.proxy: one part of it."""

    metadata: dict[str, str] = {}
    proxy_version: str = ""


class RouteMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.routeConfiguration.vhost.route: one part of it."""

    action: Literal["ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE"] = "ANY"
    name: str = ""


class VirtualHostMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.routeConfiguration.vhost: one part of it."""

    domain_name: str = ""
    name: str = ""
    route: RouteMatch | None = None


class RouteConfigurationMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.routeConfiguration: one part of it."""

    gateway: str = ""
    name: str = ""
    port_name: str = ""
    port_number: UInt32 = 0
    vhost: VirtualHostMatch | None = None


class WaypointRouteMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.waypoint.route: one part of it."""

    name: str = ""


class WaypointMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match.waypoint: one part of it."""

    filter: FilterMatch | None = None
    port_number: PortNumber = 0
    route: WaypointRouteMatch | None = None


class PatchMatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.match: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("listener", "routeConfiguration", "cluster", "waypoint"),)
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "only support waypointMatch when context is WAYPOINT",
            'has(self.context) ? ((self.context == "WAYPOINT") ? has(self.waypoint) : '
            "!has(self.waypoint)) : !has(self.waypoint)",
        ),
    )

    cluster: ClusterMatch | None = None
    context: Literal["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT"] = "ANY"
    listener: ListenerMatch | None = None
    proxy: ProxyMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    waypoint: WaypointMatch | None = None


class Patch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches.patch: one part of it."""

    filter_class: Literal["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED"
    operation: Literal[
        "INVALID",
        "MERGE",
        "ADD",
        "REMOVE",
        "INSERT_BEFORE",
        "INSERT_AFTER",
        "INSERT_FIRST",
        "REPLACE",
        "MERGE_AND_REPLACE_LIST",
    ] = "INVALID"
    value: JsonMap | None = None


class ConfigPatch(Message, frozen=True, kw_only=True):
    """EnvoyFilter, configPatches: one part of it."""

    apply_to: Literal[
        "INVALID",
        "LISTENER",
        "FILTER_CHAIN",
        "NETWORK_FILTER",
        "HTTP_FILTER",
        "ROUTE_CONFIGURATION",
        "VIRTUAL_HOST",
        "HTTP_ROUTE",
        "CLUSTER",
        "EXTENSION_CONFIG",
        "BOOTSTRAP",
        "LISTENER_FILTER",
    ] = "INVALID"
    match: PatchMatch | None = None
    patch: Patch | None = None


class EnvoyFilterSpec(Message, frozen=True, kw_only=True):
    """EnvoyFilter: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "only one of targetRefs or workloadSelector can be set",
            "(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        ),
    )

    config_patches: tuple[ConfigPatch, ...] = ()
    priority: Int32 = 0
    target_refs: TargetRefs = ()
    workload_selector: LabelsSelector | None = None


class EnvoyFilter(Resource, frozen=True, kw_only=True):
    """A EnvoyFilter."""

    spec: EnvoyFilterSpec = EnvoyFilterSpec()
    status: IstioStatus = IstioStatus()
