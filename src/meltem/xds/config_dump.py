"""What istiod sends one proxy, as Envoy's admin interface would show it: for `istioctl proxy-status NAME`.

In: a connection. Out: envoy.admin.v3 messages. Virtual hosts that come one by one stand in their route configuration,
in the order of their names. Secrets are not shown.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/admin/v3/config_dump_shared.proto
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem import envoyapi as api
from meltem.xds.connection import Connection

Dump = (
    api.config_dump.ClustersConfigDump
    | api.config_dump.ListenersConfigDump
    | api.config_dump.RoutesConfigDump
    | api.config_dump.EndpointsConfigDump
)


def config_dump(connection: Connection) -> list[Dump]:
    """One message a type; resources sorted by name."""
    clusters = api.config_dump.ClustersConfigDump()
    for one in _sorted(connection, api.CLUSTER):
        clusters.dynamic_active_clusters.add(version_info=one.version, cluster=_any(one))
    listeners = api.config_dump.ListenersConfigDump()
    for one in _sorted(connection, api.LISTENER):
        state = {"version_info": one.version, "listener": _any(one)}
        listeners.dynamic_listeners.add(name=one.name, active_state=state)
    routes = api.config_dump.RoutesConfigDump()
    for one, whole in route_configurations(connection):
        routes.dynamic_route_configs.add(version_info=one.version, route_config=api.pack(whole))
    endpoints = api.config_dump.EndpointsConfigDump()
    for one in _sorted(connection, api.ENDPOINT):
        endpoints.dynamic_endpoint_configs.add(version_info=one.version, endpoint_config=_any(one))
    return [clusters, listeners, routes, endpoints]


def route_configurations(connection: Connection) -> Iterator[tuple[api.Resource, api.route.RouteConfiguration]]:
    """Those that the proxy asked for, each with its virtual hosts put in."""
    asked = connection.session.held(api.ROUTE)
    hosts: dict[str, list[api.Resource]] = {}
    for host in _sorted(connection, api.VIRTUAL_HOST):
        hosts.setdefault(host.name.partition("/")[0], []).append(host)
    for one in (r for r in _sorted(connection, api.ROUTE) if r.name in asked):
        whole = api.route.RouteConfiguration.FromString(one.body)
        if whole.HasField("vhds"):
            for host in hosts.get(one.name, ()):
                whole.virtual_hosts.add().ParseFromString(host.body)
        yield one, whole


def _sorted(connection: Connection, type_url: str) -> list[api.Resource]:
    return sorted(connection.attachment.all(type_url), key=lambda r: r.name)


def _any(one: api.Resource) -> api.any_pb2.Any:
    return api.any_pb2.Any(type_url=one.type_url, value=one.body)
