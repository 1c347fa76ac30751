"""Routes: virtual hosts and route configurations.

In: `VirtualHostView`, `RouteConfigView`. Out: `route.RouteConfiguration`, and virtual hosts as resources of their own.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/route/v3/route_components.proto
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate import names
from meltem.generate.matching import any_match, route_match
from meltem.generate.route_actions import route_entry
from meltem.view.units import RouteConfigView, RouteView, VirtualHostView

R = api.route_components


def virtual_host(view: VirtualHostView) -> R.VirtualHost:
    made = R.VirtualHost(
        name=view.name, domains=list(view.domains), include_request_attempt_count=view.include_attempt_count
    )
    if view.require_tls:
        made.require_tls = R.VirtualHost.ALL
    made.routes.extend(_entries(view.routes, view))
    if not view.routes and not view.require_tls:
        made.routes.append(R.Route(match=any_match(), direct_response={"status": 404}))
    return made


def _entries(routes: Iterable[RouteView], host: VirtualHostView) -> Iterable[R.Route]:
    for route in routes:
        made = route_entry(route, route_match(route.match), host.mesh)
        if host.forwarded_host and route.rule is not None and made.HasField("route"):
            made.route.append_x_forwarded_host = True  # of use only where the host is rewritten
        yield made


def virtual_host_resource(route: str, view: VirtualHostView) -> Resource:
    """A virtual host that comes by itself (VHDS)."""
    made = virtual_host(view)
    made.name = names.vhds(route, view.name)
    return api.resource(api.VIRTUAL_HOST, made.name, made)


def route_configuration(view: RouteConfigView) -> Resource:
    return api.resource(api.ROUTE, view.name, configuration(view))


def configuration(view: RouteConfigView) -> api.route.RouteConfiguration:
    made = api.route.RouteConfiguration(
        name=view.name,
        validate_clusters={"value": False},
        max_direct_response_body_size_bytes={"value": 1024 * 1024},
        ignore_port_in_host_matching=view.ignore_port,
    )
    made.virtual_hosts.extend(virtual_host(v) for v in view.virtual_hosts)
    if view.by_delta:
        made.vhds.config_source.ads.SetInParent()
        made.vhds.config_source.resource_api_version = api.config_source.V3
        made.vhds.config_source.initial_fetch_timeout.SetInParent()
    if view.fallback:
        made.virtual_hosts.append(fallback_host(view))
    return made


def fallback_host(view: RouteConfigView) -> R.VirtualHost:
    """Hosts that the mesh does not know: let through to where they were meant, or to where DNS says that they are, or
    502 (as Istio answers them)."""
    counted = view.include_attempt_count
    if view.fallback != "block":
        dynamic = view.fallback == "dynamic"
        name = names.ALLOW_ANY_DYNAMIC if dynamic else names.ALLOW_ANY
        cluster = names.ALLOW_ANY_DYNAMIC_CLUSTER if dynamic else view.fallback_cluster
        to = R.RouteAction(cluster=cluster, timeout={}, max_grpc_timeout={})
        action = R.Route(name=name, match={"prefix": "/"}, route=to)
        return R.VirtualHost(name=name, domains=["*"], routes=[action], include_request_attempt_count=counted)
    action = R.Route(name=names.BLOCK_ALL, match={"prefix": "/"}, direct_response={"status": 502})
    return R.VirtualHost(name=names.BLOCK_ALL, domains=["*"], routes=[action], include_request_attempt_count=counted)


def inbound_configuration(
    name: str, domains: tuple[str, ...], routes: tuple[RouteView, ...], view: VirtualHostView
) -> api.route.RouteConfiguration:
    """The inline route configuration of an inbound port."""
    host = virtual_host(view)
    host.include_request_attempt_count = False
    return api.route.RouteConfiguration(name=name, virtual_hosts=[host], validate_clusters={"value": False})
