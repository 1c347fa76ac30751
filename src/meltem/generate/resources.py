"""From units of view to resources, wired: a table of contents of what every group of proxies is sent.

In: `Views`. Out: collections keyed (group, type URL, name) and `groups_of` (proxy → its groups), both for `Bundles`.
Every generator runs through a `TupleMemo`: equal units are generated once, whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from meltem import envoyapi as api
from meltem.collections import Collection, Reader, TupleMemo
from meltem.envoyapi import Resource
from meltem.generate import clusters, dns, endpoints, gateway, inbound, names, outbound, routes, secrets
from meltem.generate import patches as patching
from meltem.generate.bundle import Bundles, Group, GroupKey, Waiting
from meltem.generate.by_socket import by_socket
from meltem.generate.filters import jwt, wasm
from meltem.generate.patched import Patched, Unpatched
from meltem.graph.inputs import ResourceKey
from meltem.graph.mesh import Mesh
from meltem.graph.model import Endpoint
from meltem.graph.networks import in_view, reachable
from meltem.view.dns import DnsView
from meltem.view.filters import Filters
from meltem.view.gateway_servers import GatewayKey
from meltem.view.own_cluster import LOCAL_CLUSTER, OwnCluster
from meltem.view.proxy import Proxy
from meltem.view.scope import Scope
from meltem.view.scope_view import HTTP_PROXY, ScopeView
from meltem.view.selection import fetch_clusters
from meltem.view.units import (
    ClusterView,
    EndpointsKey,
    ExtensionView,
    GatewayListenerView,
    InboundView,
    OutboundListenerView,
    RouteConfigView,
    Unit,
    VirtualHostView,
    VirtualOutboundView,
    key_of,
)
from meltem.view.views import ClusterUnit, InboundKey, Views, inbound_key

U = TypeVar("U", bound=Unit)


class Made(msgspec.Struct, frozen=True):
    """What one unit came to."""

    resources: tuple[Resource, ...]


class _Keyed:
    """A unit with its digest, so that memos compare bytes."""

    __slots__ = ("digest", "unit")

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.digest = key_of(unit)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.digest == other.digest


class Shared:
    """A generator whose results equal units share; `calls` counts what was really generated."""

    def __init__(self, kind: type[U], generate: Callable[[U], tuple[Resource, ...]]) -> None:
        def run(keyed: _Keyed) -> tuple[Resource, ...]:
            unit = keyed.unit
            if not isinstance(unit, kind):
                raise TypeError(f"expected {kind.__name__}")
            return generate(unit)

        self._memo: TupleMemo[_Keyed, Resource] = TupleMemo(run)

    def __call__(self, unit: Unit) -> Made:
        return Made(self._memo(_Keyed(unit)))

    @property
    def calls(self) -> int:
        return self._memo.calls


class Resources:
    """All generated collections, added to `bundles`."""

    def __init__(self, mesh: Mesh, views: Views) -> None:
        self.mesh = mesh
        self.views = views
        self.graph = views.graph
        self.generators: dict[str, Shared] = {
            "clusters": Shared(ClusterView, lambda v: (clusters.outbound(v),)),
            "inbound": Shared(InboundView, _inbound_resources),
            "listeners": Shared(OutboundListenerView, lambda v: (outbound.listener(v),)),
            "names": Shared(DnsView, lambda v: (*dns.listener(v), dns.name_table(v))),
            "virtual outbound": Shared(VirtualOutboundView, lambda v: (outbound.virtual_outbound(v),)),
            "gateway listeners": Shared(GatewayListenerView, lambda v: (gateway.listener(v),)),
            "routes": Shared(RouteConfigView, lambda v: (routes.route_configuration(v),)),
        }
        self._extension: TupleMemo[tuple[_Keyed, bytes], Resource] = TupleMemo(_make_extension)
        self._by_socket: TupleMemo[Resource, Resource] = TupleMemo(by_socket)
        self._virtual_host: TupleMemo[tuple[str, _Keyed], Resource] = TupleMemo(_make_virtual_host)
        self.patch_problems: Collection[ResourceKey, tuple[patching.Problem, ...]] = self.graph.derive(
            "patch problems",
            mesh.inputs.envoy_filters,
            lambda _r, k, v: {k: found} if (found := patching.problems_of(v)) else {},
        )
        """Patches of EnvoyFilters that can be applied nowhere, by the EnvoyFilter's key."""
        self.secrets = secrets.Secrets(views, mesh)
        self.groups_of: Collection[str, tuple[Group, ...]] = self.graph.derive("groups", views.proxies, self._groups)
        self.bundles = Bundles(self.graph, self.groups_of)
        self._collections()

    def _groups(self, reader: Reader, proxy_id: str, proxy: Proxy) -> Mapping[str, tuple[Group, ...]]:
        scope = reader.get(self.views.scope_of, proxy_id)
        inbound_view = reader.get(self.views.inbound_of, proxy_id)
        gateway_key = reader.get(self.views.gateways.key_of, proxy_id)
        groups: list[Group] = []
        if scope is not None:
            groups.append(scope)
        if inbound_view is not None:
            groups.append(inbound_key(inbound_view))
        if gateway_key is not None:
            groups.append(gateway_key)
        own = reader.get(self.views.own_of, proxy_id)
        if own is not None:
            groups.append(own)
        return {proxy_id: (*groups, *self.secrets.private_groups(reader, proxy, groups))}

    def _collections(self) -> None:
        views, graph = self.views, self.graph
        drafts: list[Collection[GroupKey, Resource]] = [
            graph.derive("cluster resources", views.clusters, self._clusters),
            graph.derive("fixed resources", views.scopes, self._fixed),
            graph.derive("listener resources", views.listeners, self._listeners),
            graph.derive("virtual outbound resources", views.virtual_outbound, self._virtual_outbound),
            graph.derive("inbound resources", views.inbound, self._inbound),
            graph.derive("gateway listener resources", views.gateways.listeners, self._gateway_listeners),
            graph.derive("gateway route resources", views.gateways.routes, self._gateway_routes),
            *self._virtual_hosts(),
        ]
        self.broken_chains: Collection[tuple[GatewayKey, str], tuple[gateway.Broken, ...]] = graph.derive(
            "broken gateway chains",
            views.gateways.listeners,
            lambda _r, key, view: {key: found} if (found := self._broken(view)) else {},
        )
        """Filter chains of gateways that are left out, by the listener."""
        self.patched = Patched(views, drafts)
        self.bundles.add_settling(self.patched.settled)
        parts: list[Collection[GroupKey, Resource]] = [
            *drafts,
            graph.derive("name resources", views.names, self._names),
            *self._endpoints(),
            *self.secrets.collections,
            graph.derive("clusters of filters", views.scope_filters, self._fetched),
            graph.derive("extensions", views.scope_filters, self._extensions),
            graph.derive("inbound extensions", views.inbound, lambda r, k, v: self._extensions(r, k, v.filters)),
        ]
        for part in parts:
            self.bundles.add(part)
        self.bundles.add_settling(graph.derive("scripts of scopes", views.scope_filters, self._scripts))
        self.bundles.add_settling(
            graph.derive("inbound scripts", views.inbound, lambda r, k, v: self._scripts(r, k, v.filters))
        )
        self.scripts: Collection[str, str] = graph.union(
            "scripts",
            graph.derive("outbound code", views.scope_filters, lambda _r, _k, f: {p.digest: p.code for p in f.lua}),
            graph.derive("inbound code", views.inbound, lambda _r, _k, v: {p.digest: p.code for p in v.filters.lua}),
        )
        """Digest of each Lua script → its code."""

    # --- each kind ---

    def _keyed(self, group: Group, made: Made) -> Mapping[GroupKey, Resource]:
        return {(group, r.type_url, r.name): r for r in made.resources}

    def _of_scope(self, scope: Scope, made: Made, group: Group | None = None) -> Mapping[GroupKey, Resource]:
        """The resources, for the bundles or for EnvoyFilters to change. Where none holds nothing is done."""
        if scope.secrets_by_socket:
            made = self._for_istios_agent(made)
        return self._keyed(Unpatched(group or scope) if scope.patches else group or scope, made)

    def _for_istios_agent(self, made: Made) -> Made:
        return Made(tuple(one for resource in made.resources for one in self._by_socket(resource)))

    def _fetched(self, _r: Reader, scope: Scope, filters: Filters) -> Mapping[GroupKey, Resource]:
        """Clusters through which keys and modules are fetched from outside the mesh."""
        made = Made(tuple(jwt.fetch_cluster(n, ipv4=scope.ipv4, ipv6=scope.ipv6) for n in fetch_clusters(filters)))
        return self._keyed(scope, made)

    def _extensions(self, reader: Reader, group: Group, filters: Filters) -> Mapping[GroupKey, Resource]:
        """What Wasm filters are configured with; the places of these and of Lua filters are in listeners."""
        found: list[Resource] = []
        for module in filters.wasm:
            code = reader.get(self.mesh.inputs.wasm_code, module.sha256) or b""
            found.extend(
                self._extension((_Keyed(ExtensionView(module=msgspec.structs.replace(module, ports=()))), code))
            )
        return self._keyed(group, Made(tuple(found)))

    def _scripts(self, reader: Reader, group: Group, filters: Filters) -> Mapping[GroupKey, Resource | Waiting]:
        """What Lua filters are configured with: a script that is not tried yet leaves what stands there."""
        inputs = self.mesh.inputs
        found: dict[GroupKey, Resource | Waiting] = {}
        for program in filters.lua:
            key = (group, api.EXTENSION_CONFIG, program.name)
            said = reader.get(inputs.tried_scripts, program.digest)
            if said is None and reader.get(inputs.guarded, ""):
                found[key] = Waiting(wasm.script(program.name, ""))
            else:
                found[key] = wasm.script(program.name, "" if said else program.code)
        return found

    def on_trial(self, proxy_id: str) -> bool:
        """Whether something for this proxy waits for its trial on Envoy."""
        if self.patched.on_trial(self.groups_of.get(proxy_id) or ()):
            return True
        inputs, scope = self.mesh.inputs, self.views.scope_of.get(proxy_id)
        inbound_view = self.views.inbound_of.get(proxy_id)
        outbound = self.views.scope_filters.get(scope) if scope is not None else None
        programs = [p for f in (outbound, inbound_view and inbound_view.filters) if f is not None for p in f.lua]
        return bool(programs) and "" in inputs.guarded and any(p.digest not in inputs.tried_scripts for p in programs)

    def _clusters(self, reader: Reader, key: tuple[Scope, str], unit: ClusterUnit) -> Mapping[GroupKey, Resource]:
        return self._of_scope(key[0], self.generators["clusters"](unit.view))

    def _fixed(self, reader: Reader, scope: Scope, view: ScopeView) -> Mapping[GroupKey, Resource]:
        options = self.views.mesh_options(reader)
        case = scope.http.preserve_case
        made = [clusters.passthrough(options, preserve_case=case), clusters.blackhole(options)]
        if view.dynamic_cluster:
            tls = view.dynamic_tls if view.dynamic else None
            made.append(clusters.allow_any_dynamic(options, tls, ipv4=scope.ipv4, ipv6=scope.ipv6, preserve_case=case))
        return self._of_scope(scope, Made(tuple(made)))

    def _listeners(
        self, reader: Reader, key: tuple[Scope, str], view: OutboundListenerView
    ) -> Mapping[GroupKey, Resource]:
        return self._of_scope(key[0], self.generators["listeners"](view))

    def _virtual_outbound(self, reader: Reader, scope: Scope, view: VirtualOutboundView) -> Mapping[GroupKey, Resource]:
        return self._of_scope(scope, self.generators["virtual outbound"](view))

    def _inbound(self, _r: Reader, key: InboundKey, view: InboundView) -> Mapping[GroupKey, Resource]:
        made = self.generators["inbound"](msgspec.structs.replace(view, patches=None))
        if view.secrets_by_socket:
            made = self._for_istios_agent(made)
        return self._keyed(key if view.patches is None else Unpatched(key), made)

    def _names(self, _r: Reader, scope: Scope, view: DnsView) -> Mapping[GroupKey, Resource]:
        return self._keyed(scope, self.generators["names"](view))

    def _gateway_listeners(
        self, reader: Reader, key: tuple[GatewayKey, str], view: GatewayListenerView
    ) -> Mapping[GroupKey, Resource]:
        try:
            made = self.generators["gateway listeners"](view)
        except Exception:
            bad = [b.chain for b in gateway.broken(view)]
            rest = tuple(c for c in view.chains if c not in bad)
            if len(rest) == len(view.chains):  # no single chain is to blame
                raise
            made = Made(())
            if rest:
                made = self.generators["gateway listeners"](msgspec.structs.replace(view, chains=rest))
        return self._of_scope(key[0].scope, made, key[0])

    def _broken(self, view: GatewayListenerView) -> tuple[gateway.Broken, ...]:
        """Chains of which no configuration can be made: they cost themselves."""
        try:
            self.generators["gateway listeners"](view)
        except Exception:
            return gateway.broken(view)
        return ()

    def _gateway_routes(
        self, reader: Reader, key: tuple[GatewayKey, str], view: RouteConfigView
    ) -> Mapping[GroupKey, Resource]:
        made = self.generators["routes"](view)
        return self._of_scope(key[0].scope, made, key[0])

    # --- virtual hosts and the route configurations that hold them ---

    def _virtual_hosts(self) -> list[Collection[GroupKey, Resource]]:
        graph = self.graph
        hosts = self.views.virtual_hosts
        by_route = graph.index("virtual hosts by route", hosts, lambda k, _v: [(k[0], str(k[1][0]))])
        domains: Collection[tuple[Scope, str, str], str] = graph.derive(
            "domains",
            hosts,
            lambda _r, k, v: (
                {(k[0], str(k[1][0]), d): v.name for d in v.domains} if isinstance(v, VirtualHostView) else {}
            ),
        )
        route_keys: Collection[tuple[Scope, str], bool] = graph.union(
            "route names",
            graph.derive("routes of hosts", hosts, lambda _r, k, _v: {(k[0], str(k[1][0])): True}),
            graph.derive(
                "routes of HTTP proxies",
                self.views.scopes,
                lambda _r, k, v: {(k, HTTP_PROXY): True} if v.http_proxy_port else {},
            ),
        )

        def own(reader: Reader, scope: Scope, route: str, view: VirtualHostView) -> VirtualHostView | None:
            """The virtual host with the domains that are really its own: Envoy refuses a domain in two of them."""
            mine = tuple(d for d in view.domains if reader.get(domains, (scope, route, d)) == view.name)
            if not mine:
                return None
            return view if mine == view.domains else msgspec.structs.replace(view, domains=mine)

        def single(reader: Reader, key: tuple[Scope, tuple[object, ...]], value: object) -> Mapping[GroupKey, Resource]:
            scope, route = key[0], str(key[1][0])
            if not scope.by_delta or not isinstance(value, VirtualHostView):
                return {}
            view = own(reader, scope, route, value)
            return {} if view is None else self._of_scope(scope, Made(self._virtual_host((route, _Keyed(view)))))

        def configuration(reader: Reader, key: tuple[Scope, str], _v: bool) -> Mapping[GroupKey, Resource]:
            scope, route = key
            held: list[VirtualHostView] = []
            if not scope.by_delta:
                found = reader.lookup(by_route, key)
                for where in sorted(found, key=repr):
                    value = found[where]
                    view = own(reader, scope, route, value) if isinstance(value, VirtualHostView) else None
                    if view is not None:
                        held.append(view)
            scope_view = reader.get(self.views.scopes, scope)
            by_port = route.isdigit()
            every_port = route == HTTP_PROXY or route.startswith("unix://")
            sniffed = not by_port and not every_port  # one service's own: its virtual host takes every domain
            unit = RouteConfigView(
                name=route,
                virtual_hosts=tuple(held),
                by_delta=scope.by_delta,
                fallback="" if sniffed else ("allow" if scope_view is None else scope_view.fallback(route)),
                fallback_cluster=(scope_view.egress_cluster if scope_view is not None else "")
                or names.PASSTHROUGH_CLUSTER,
                ignore_port=not every_port,
                include_attempt_count=scope.http.attempts,
                mesh=self.views.mesh_options(reader),
            )
            return self._of_scope(scope, self.generators["routes"](unit))

        return [
            graph.derive("virtual host resources", hosts, single),
            graph.derive("route resources", route_keys, configuration),
        ]

    # --- endpoints ---

    def _endpoints(self) -> list[Collection[GroupKey, Resource]]:
        graph, mesh = self.graph, self.mesh
        wanted: Collection[EndpointsKey, bool] = graph.derive(
            "wanted endpoints",
            self.views.clusters,
            lambda _r, _k, v: {v.endpoints: True} if v.endpoints is not None else {},
        )

        def assign(reader: Reader, key: EndpointsKey, _v: bool) -> Mapping[EndpointsKey, Resource]:
            service = reader.get(mesh.services, key.service)
            port = service.port(key.port) if service is not None else None
            if port is None:
                return {}
            found = mesh.endpoints_of(reader, key.service)
            if key.network_view:
                found = in_view(found, key.network_view, mesh.ranges(reader))
            if not key.network:
                return {key: endpoints.assignment(key, port.name, found)}

            def through_gateways(some: list[Endpoint]) -> list[Endpoint]:
                return reachable(some, key.network, lambda n: mesh.network_gateways(reader, n), mesh.ranges(reader))

            return {key: endpoints.assignment(key, port.name, found, through_gateways)}

        assigned: Collection[EndpointsKey, Resource] = graph.derive("load assignments", wanted, assign)

        def placed(reader: Reader, key: tuple[Scope, str], unit: ClusterUnit) -> Mapping[GroupKey, Resource]:
            found = reader.get(assigned, unit.endpoints) if unit.endpoints is not None else None
            return {} if found is None else {(key[0], api.ENDPOINT, found.name): found}

        def beside(reader: Reader, key: OwnCluster, _v: bool) -> Mapping[GroupKey, Resource]:
            service = reader.get(mesh.services, key.service) if key.service is not None else None
            port = service.port(key.port) if service is not None else None
            found = mesh.endpoints_of(reader, service.key) if service is not None else []
            same = [e for e in found if key.has(e)]
            where = EndpointsKey(LOCAL_CLUSTER, service.key if service is not None else ("", ""), key.port)
            made = endpoints.assignment(where, port.name if port is not None else "", same)
            return {(key, api.ENDPOINT, LOCAL_CLUSTER): made}

        return [
            graph.derive("endpoint resources", self.views.clusters, placed),
            graph.derive("endpoints beside", self.views.own_clusters, beside),
        ]


def _make_virtual_host(key: tuple[str, _Keyed]) -> tuple[Resource, ...]:
    route, keyed = key
    unit = keyed.unit
    if not isinstance(unit, VirtualHostView):
        raise TypeError("expected VirtualHostView")
    return (routes.virtual_host_resource(route, unit),)


def _make_extension(key: tuple[_Keyed, bytes]) -> tuple[Resource, ...]:
    keyed, code = key
    unit = keyed.unit
    if not isinstance(unit, ExtensionView):
        raise TypeError("expected ExtensionView")
    return (wasm.extension(unit.module, code),)


def _inbound_resources(view: InboundView) -> tuple[Resource, ...]:
    fetched = (jwt.fetch_cluster(n, ipv4=view.ipv4, ipv6=view.ipv6) for n in fetch_clusters(view.filters))
    return (*clusters.inbound(view), *inbound.listeners(view), *fetched)
