"""EnvoyFilter: patches of the generated Envoy configuration.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from meltem.resources.base import Int32, JsonMap, Message, PortNumber, Resource, UInt32
from meltem.resources.common import IstioStatus, LabelsSelector, TargetRefs


class ClusterMatch(Message, frozen=True, kw_only=True):
    """Matches clusters; every field that is set must match.

    name: Name of the cluster.
    port_number: Port of the service.
    service: Full name of the service.
    subset: Name of the subset.
    """

    name: str = ""
    port_number: UInt32 = 0
    service: str = ""
    subset: str = ""


class SubFilterMatch(Message, frozen=True, kw_only=True):
    """Matches a filter within a filter.

    name: Name of the filter.
    """

    name: str = ""


class FilterMatch(Message, frozen=True, kw_only=True):
    """Matches a network filter.

    name: Name of the filter.
    sub_filter: A filter within it, such as an HTTP filter.
    """

    name: str = ""
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Message, frozen=True, kw_only=True):
    """Matches filter chains; every field that is set must match.

    application_protocols: ALPN names, separated by commas (sidecars only).
    destination_port: Destination port of the chain's match.
    filter: A filter of the chain.
    name: Name of the chain.
    sni: Server name of the chain's match.
    transport_protocol: `tls` or `raw_buffer` (inbound only).
    transport_socket: Name of the chain's transport socket.
    """

    application_protocols: str = ""
    destination_port: UInt32 = 0
    filter: FilterMatch | None = None
    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    transport_socket: str = ""


class ListenerMatch(Message, frozen=True, kw_only=True):
    """Matches listeners; every field that is set must match.

    filter_chain: A filter chain of the listener.
    listener_filter: Name of a listener filter.
    name: Name of the listener.
    port_name: Name of the port; not used.
    port_number: Port of the service or gateway.
    """

    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""
    port_name: str = ""
    port_number: UInt32 = 0


class ProxyMatch(Message, frozen=True, kw_only=True):
    """Matches proxies.

    metadata: Node metadata that a proxy must have.
    proxy_version: RE2 expression that the proxy's version must match.
    """

    metadata: dict[str, str] = {}
    proxy_version: str = ""


class RouteMatch(Message, frozen=True, kw_only=True):
    """Matches routes.

    action: What the route does.
    name: Name of the route.
    """

    action: Literal["ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE"] = "ANY"
    name: str = ""


class VirtualHostMatch(Message, frozen=True, kw_only=True):
    """Matches virtual hosts.

    domain_name: A domain of the virtual host.
    name: Name of the virtual host (`host:port`).
    route: A route of the virtual host.
    """

    domain_name: str = ""
    name: str = ""
    route: RouteMatch | None = None


class RouteConfigurationMatch(Message, frozen=True, kw_only=True):
    """Matches route configurations; every field that is set must match.

    gateway: Gateway (`namespace/name`) that it was made for.
    name: Name of the route configuration.
    port_name: Name of the gateway's port.
    port_number: Port of the service or gateway.
    vhost: A virtual host in it.
    """

    gateway: str = ""
    name: str = ""
    port_name: str = ""
    port_number: UInt32 = 0
    vhost: VirtualHostMatch | None = None


class WaypointRouteMatch(Message, frozen=True, kw_only=True):
    """Matches a route of a waypoint.

    name: Name of the route.
    """

    name: str = ""


class WaypointMatch(Message, frozen=True, kw_only=True):
    """Matches what waypoints serve.

    filter: A filter.
    port_number: Port of the service.
    route: A route.
    """

    filter: FilterMatch | None = None
    port_number: PortNumber = 0
    route: WaypointRouteMatch | None = None


class PatchMatch(Message, frozen=True, kw_only=True):
    """What is patched.

    cluster: Clusters.
    context: Direction or kind of proxy.
    listener: Listeners.
    proxy: Proxies.
    route_configuration: Route configurations.
    waypoint: Waypoint services.
    """

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
    """The change.

    filter_class: Where an added filter stands among the generated ones.
    operation: What is done.
    value: Envoy configuration in JSON.
    """

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
    """One patch.

    apply_to: Kind of Envoy object.
    match: Which objects.
    patch: The change.
    """

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
    """Patches the generated Envoy configuration.

    config_patches: The patches, in order.
    priority: Order among EnvoyFilters; lower comes first.
    target_refs: Objects that it attaches to.
    workload_selector: Workloads that it is for; none means all of the namespace.
    """

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
    """Patches of Envoy configuration."""

    spec: EnvoyFilterSpec = EnvoyFilterSpec()
    status: IstioStatus = IstioStatus()
