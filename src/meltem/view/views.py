"""The views of all connected proxies, wired: a table of contents of everything that is made for some class of proxies.

    scopes              Scope → Imports or everything             every scope that some connected proxy is in
    clusters            (scope, name) → ClusterView, EndpointsKey
    virtual_hosts       (scope, route, name) → VirtualHostView
    listeners           (scope, address, port) → OutboundListenerView
    inbound             InboundView → itself                      every distinct inbound view
    groups              proxy id → the groups that make up its configuration

In: the mesh's collections and the proxies. Out: collections of units for `meltem.generate`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meltem.collections import Collection, Graph, Reader, Source
from meltem.graph.authn import peer_policy
from meltem.graph.destinations import Rule, client_label_keys, rule_for
from meltem.graph.mesh import Mesh
from meltem.graph.model import Port, Protocol, Service, ServiceKey, Workload, host_matches, labels_match
from meltem.graph.policies import Policies, by_choice, by_labels
from meltem.graph.routing import Routing
from meltem.resources import networking
from meltem.resources.meshconfig import MeshConfig
from meltem.view import dns, gateway, inbound, outbound, outbound_chains, own_cluster, patching, scope
from meltem.view.filters import NO_FILTERS, Filters
from meltem.view.own_cluster import OwnCluster
from meltem.view.patching import PatchSet
from meltem.view.policy import merged
from meltem.view.proxy import NOWHERE, Proxy, ProxyKind
from meltem.view.proxy_settings import connections_of
from meltem.view.scope import Imports, Scope
from meltem.view.scope_view import HTTP_PROXY, PROXY_PLACE, ScopeView, http_proxy, scope_view, virtual_outbound
from meltem.view.selection import Selection
from meltem.view.units import (
    ChainView,
    ClusterView,
    EndpointsKey,
    InboundView,
    MeshOptions,
    OutboundListenerView,
    VirtualHostView,
    VirtualOutboundView,
    key_of,
)

Placed = tuple[str, str, object]


class ClusterUnit(msgspec.Struct, frozen=True):
    """A cluster and what its endpoints depend on (None where it holds them itself)."""

    view: ClusterView
    endpoints: EndpointsKey | None


class InboundKey(msgspec.Struct, frozen=True):
    """Stands for an inbound view as a group: equal for equal views under the same patches, whatever these say now: what
    they change waits for its trial, and what a proxy has meanwhile is its group's."""

    digest: bytes
    patches: tuple[str, ...] = ()


def inbound_key(view: InboundView) -> InboundKey:
    if view.patches is None:
        return InboundKey(key_of(view))
    sources = tuple(p.source for p in view.patches.patches)
    return InboundKey(key_of(msgspec.structs.replace(view, patches=None)), sources)


class Views:
    """All per-class collections. `proxies` is the source that istiod writes connected proxies to."""

    def __init__(self, graph: Graph, mesh: Mesh, *, scope_gateways: bool = False) -> None:
        self.graph = graph
        self.mesh = mesh
        self.scope_gateways = scope_gateways
        self.proxies: Source[str, Proxy] = graph.source("proxies")
        self.options: Collection[str, MeshOptions] = graph.derive(
            "mesh options", mesh.inputs.mesh_config, lambda _r, k, c: {k: mesh_options(c)}
        )
        self.policies = Policies(graph, mesh.inputs)
        self.selection = Selection(mesh, self.policies)
        self._relevance()
        self._scopes()
        self._outbound()
        self._listeners()
        self._inbound()
        self.gateways = gateway.GatewayViews(self)

    def mesh_options(self, reader: Reader) -> MeshOptions:
        return reader.get(self.options, "") or mesh_options(MeshConfig())

    # --- which labels matter ---

    def _relevance(self) -> None:
        """Label keys by which some rule selects client proxies; proxies that differ only in others see alike."""
        graph, mesh = self.graph, self.mesh
        from_rules = graph.derive(
            "labels of rules", mesh.rules, lambda _r, _k, v: dict.fromkeys(client_label_keys(v), True)
        )
        from_routings = graph.derive(
            "labels of routings", mesh.routings, lambda _r, _k, v: dict.fromkeys(routing_labels(v), True)
        )
        self.label_keys: Collection[str, bool] = graph.union("label keys", from_rules, from_routings)
        self.node_local: Collection[ServiceKey, bool] = graph.derive(
            "node-local services",
            mesh.services,
            lambda _r, k, s: {k: True} if s.internal_local or s.traffic_distribution == "PreferSameNode" else {},
        )
        self.passthrough_gateways: Collection[tuple[str, str, str], tuple[tuple[str, str], ...]] = graph.derive(
            "gateways of other networks", mesh.inputs.gateways, lambda _r, k, v: gateway.passthrough_selector(k, v)
        )
        self.sidecars_by_namespace = graph.index("sidecars by namespace", mesh.inputs.sidecars, lambda k, _v: [k[1]])

    def sidecar_of(self, reader: Reader, proxy: Proxy) -> networking.Sidecar | None:
        if proxy.kind is not ProxyKind.SIDECAR:
            return None
        root = self.mesh.config(reader).root_namespace
        return scope.sidecar_for(
            proxy.label_map,
            proxy.namespace,
            root,
            reader.lookup(self.sidecars_by_namespace, proxy.namespace).values(),
            reader.lookup(self.sidecars_by_namespace, root).values(),
        )

    # --- scopes ---

    def _scopes(self) -> None:
        def of_proxy(reader: Reader, proxy_id: str, proxy: Proxy) -> Mapping[str, Scope]:
            sidecar = self.sidecar_of(reader, proxy)
            name = f"{sidecar.namespace}/{sidecar.name}" if sidecar is not None else ""
            label_keys = reader.all(self.label_keys)
            made = scope.scope_of(
                proxy,
                self._locality_of(reader, proxy),
                name,
                label_keys,
                node_matters=len(reader.all(self.node_local)) > 0 or "kubernetes.io/hostname" in label_keys,
                sni_dnat=proxy.kind is ProxyKind.ROUTER
                and any(labels_match(s, proxy.labels) for s in reader.all(self.passthrough_gateways).values()),
            )
            return {proxy_id: self._with_policies(reader, proxy, made)}

        def view_of(reader: Reader, _proxy_id: str, made: Scope) -> Mapping[Scope, ScopeView]:
            settings = self.mesh.mesh_config(reader)
            namespace, _, name = made.sidecar.partition("/")
            sidecar = None
            if made.sidecar:
                sidecar = reader.get(self.mesh.inputs.sidecars, (made.cluster, namespace, name)) or next(
                    (s for s in reader.lookup(self.sidecars_by_namespace, namespace).values() if s.name == name), None
                )
            return {made: scope_view(made, settings, sidecar)}

        graph = self.graph
        self.scope_of: Collection[str, Scope] = graph.derive("scope of proxy", self.proxies, of_proxy)
        self.scopes: Collection[Scope, ScopeView] = graph.derive("scopes", self.scope_of, view_of)
        self.scope_filters: Collection[Scope, Filters] = graph.derive("filters", self.scopes, self._filters_of)
        self.scope_patches: Collection[Scope, PatchSet] = graph.derive("patches", self.scopes, self._patches_of)

    def _locality_of(self, reader: Reader, proxy: Proxy) -> tuple[str, str, str]:
        """Where the proxy says that it is, else where its workload is (a pod: on its node)."""
        where = proxy.locality
        workload = self.workload_of(reader, proxy)
        known = workload.locality if workload is not None else ("", "", "")
        if where == NOWHERE or (not where.subzone and known[:2] == (where.region, where.zone)):
            return known  # a pod's own labels have no subzone
        return (where.region, where.zone, where.subzone)

    def _with_policies(self, reader: Reader, proxy: Proxy, made: Scope) -> Scope:
        """The scope with the names of what policies select these proxies: proxies under other ones are other scopes."""
        root = self.mesh.config(reader).root_namespace
        chosen = self.policies.chosen(reader, proxy.namespace, root, proxy.label_map, router=made.is_router)
        patches = patching.choose(reader, self.policies, proxy, root)
        return msgspec.structs.replace(made, policies=chosen, patches=patches) if chosen or patches else made

    def _filters_of(self, reader: Reader, made: Scope, _view: ScopeView) -> Mapping[Scope, Filters]:
        picks = by_choice(made.policies)
        filters = self.selection.filters(
            reader, made.namespace, picks, server=False, protected=made.is_router, gateway=made.is_router
        )
        return {made: filters} if filters != NO_FILTERS else {}

    def _patches_of(self, reader: Reader, made: Scope, _view: ScopeView) -> Mapping[Scope, PatchSet]:
        if not made.patches:
            return {}
        root = self.mesh.config(reader).root_namespace
        contexts = patching.GATEWAY if made.is_router else patching.OUTBOUND
        found = patching.resolve(reader, self.policies, made.patches, root, contexts)
        return {} if found is None else {made: found}

    def filters_of(self, reader: Reader, made: Scope) -> Filters:
        """What policies add to the scope's outbound chains (a gateway's: to all its chains)."""
        return reader.get(self.scope_filters, made) or NO_FILTERS

    def outbound_of(self, reader: Reader, made: Scope, imports: Imports | None) -> outbound.Outbound:
        """What a scope's functions may ask; each question becomes a dependency."""
        settings = self.mesh.config(reader)
        rules: dict[ServiceKey, Rule | None] = {}

        def rule(service: Service) -> Rule | None:
            if service.key not in rules:
                rules[service.key] = rule_for(
                    reader,
                    self.mesh.rules_by_host,
                    service.hostname,
                    client_namespace=made.namespace,
                    service_namespace=service.namespace,
                    root_namespace=settings.root_namespace,
                    client_labels=made.labels,
                )
            return rules[service.key]

        def service_for(hostname: str) -> Service | None:
            found = reader.lookup(self.mesh.services_by_host, hostname).values()
            return scope.best(made, [s for s in found if s.visible_to(made.namespace)])

        return outbound.Outbound(
            scope=made,
            mesh=self.mesh_options(reader),
            domain=settings.domain,
            auto_mtls=self.mesh.mesh_config(reader).enable_auto_mtls,
            rule_for=rule,
            service_for=service_for,
            endpoints_of=lambda s: self.mesh.endpoints_of(reader, s.key),
            identities_of=lambda s: reader.get(self.mesh.identities, s.key) or (),
        )

    def routings_for(self, reader: Reader, made: Scope, imports: Imports | None, host: str) -> list[Routing]:
        """Rules for the host on the mesh gateway that hold in the scope, the ones that come first in front. The most
        specific host pattern that has any decides."""
        from meltem.graph.destinations import host_patterns

        for pattern in host_patterns(host):
            found = [
                r
                for r in reader.lookup(self.mesh.routings_by_host, pattern).values()
                if scope.uses(made, imports, r, host)
            ]
            if found:
                return sorted(found, key=lambda r: r.order)
        return []

    # --- outbound ---

    def _outbound(self) -> None:
        graph = self.graph
        self._units: Collection[tuple[str, Scope, tuple[object, ...]], object] = graph.product(
            "outbound units", self.scopes, self.mesh.services, self._of_service
        )
        self._host_units: Collection[tuple[str, Scope, tuple[object, ...]], object] = graph.product(
            "outbound units of routings", self.scopes, self.mesh.routings, self._of_routing
        )
        units = graph.union("all outbound units", self._units, self._host_units)

        def pick(kind: str) -> Collection[tuple[Scope, tuple[object, ...]], object]:
            return graph.derive(f"outbound {kind}", units, lambda _r, k, v: {(k[1], k[2]): v} if k[0] == kind else {})

        picked = pick("cluster")
        self.clusters: Collection[tuple[Scope, str], ClusterUnit] = graph.derive(
            "clusters", picked, lambda _r, k, v: {(k[0], v.view.name): v} if isinstance(v, ClusterUnit) else {}
        )
        self.virtual_hosts = pick("virtual host")
        self.chains = pick("chain")
        named = pick("name")
        by_scope = graph.index("names by scope", named, lambda k, _v: [k[0]])

        def names_of(reader: Reader, made: Scope, _view: ScopeView) -> Mapping[Scope, dns.DnsView]:
            if not made.dns_capture:
                return {}
            found = reader.lookup(by_scope, made)
            entries = tuple(
                e for k in sorted(found, key=lambda k: str(k[1][0])) if isinstance(e := found[k], dns.DnsEntry)
            )
            options = self.mesh_options(reader)
            return {made: dns.DnsView(entries=entries, ipv4=made.ipv4, ipv6=made.ipv6, mesh=options)}

        self.names: Collection[Scope, dns.DnsView] = graph.derive("names", self.scopes, names_of)

    def _of_service(
        self, reader: Reader, made: Scope, view: ScopeView, key: ServiceKey, service: Service
    ) -> Mapping[tuple[str, Scope, tuple[object, ...]], object]:
        seen = scope.sees(made, view.imports, service)
        if not seen and not self._routed_to(reader, made, view.imports, service):
            return {}
        same = reader.lookup(self.mesh.services_by_host, service.hostname)
        if len(same) > 1:
            visible = [s for s in same.values() if scope.sees(made, view.imports, s)] or list(same.values())
            if scope.best(made, visible) is not service:
                return {}
        out: dict[tuple[str, Scope, tuple[object, ...]], object] = {}
        asked = self.outbound_of(reader, made, view.imports)
        for unit, endpoints in outbound.clusters(asked, service):
            out[("cluster", made, (unit.name,))] = ClusterUnit(unit, endpoints)
        if made.is_router or not seen:
            return out
        name = dns.entry(asked, service) if made.dns_capture else None
        if name is not None:
            out[("name", made, (name.host,))] = name
        places: list[tuple[Imports | None, outbound.Place | None]] = [(view.rest, None)]
        places += [(view.rest, PROXY_PLACE)] if view.http_proxy_port else []
        places += [(p.imports, outbound.Place(p.number, p.protocol, p.bind)) for p in view.ports]
        for imports, place in places:
            if scope.sees(made, imports, service):
                self._place(reader, made, view, imports, place, service, asked, out)
        return out

    def _place(
        self,
        reader: Reader,
        made: Scope,
        view: ScopeView,
        imports: Imports | None,
        place: outbound.Place | None,
        service: Service,
        asked: outbound.Outbound,
        out: dict[tuple[str, Scope, tuple[object, ...]], object],
    ) -> None:
        """What the service brings to the general listeners, or to one that a Sidecar has for some port."""
        routings = self.routings_for(reader, made, imports, service.hostname)
        if service.alias_of and not any(r.http for r in routings):
            routings = self.routings_for(reader, made, imports, service.alias_of)
        http = [r for r in routings if r.http]
        for route, host in outbound.http_virtual_hosts(asked, service, http, place, view.taken):
            out[("virtual host", made, (route, host.name))] = host
        if place is PROXY_PLACE:
            return
        for chain_view in outbound_chains.chains(asked, service, routings, place, view.taken):
            address, port, chain = chain_view
            out[("chain", made, (address, port, service.key, len(out)))] = chain

    def _routed_to(self, reader: Reader, made: Scope, imports: Imports | None, service: Service) -> bool:
        """A rule that the scope imports sends requests to it: its clusters are needed though its name is not known."""
        if made.is_router or not service.visible_to(made.namespace):
            return False
        found = reader.lookup(self.mesh.routings_by_destination, service.hostname).values()
        return any(scope.uses(made, imports, r, host) for r in found for host in r.hosts)

    def _of_routing(
        self, reader: Reader, made: Scope, view: ScopeView, key: tuple[str, str, str], routing: Routing
    ) -> Mapping[tuple[str, Scope, tuple[object, ...]], object]:
        """Virtual hosts of hosts that no service has: on the ports of the services that the rule has as well, else on
        port 80, as Istio makes them."""
        if made.is_router or not routing.http or "mesh" not in routing.gateways:
            return {}
        out: dict[tuple[str, Scope, tuple[object, ...]], object] = {}
        strangers = [h for h in routing.hosts if not reader.lookup(self.mesh.services_by_host, h)]
        strangers = [h for h in strangers if not self._wildcard_for_services(reader, made, view.imports, h)]
        asked = self.outbound_of(reader, made, view.imports)
        known = [s for h in routing.hosts if (s := asked.service_for(h)) is not None] if strangers else []
        ports = {p.number for s in known for p in s.ports if p.protocol.is_http or p.protocol is Protocol.AUTO} or {80}
        for host in strangers:
            if not scope.uses(made, view.imports, routing, host):
                continue
            rules = self.routings_for(reader, made, view.imports, host)
            for port in sorted(ports):
                routes = outbound.routes_for(asked, host, port, rules)
                if routes:
                    counted = made.http.attempts
                    unit = VirtualHostView(
                        name=f"{host}:{port}",
                        domains=(host,),
                        routes=routes,
                        include_attempt_count=counted,
                        forwarded_host=made.http.forwarded_host,
                        mesh=asked.mesh,
                    )
                    out[("virtual host", made, (str(port), unit.name))] = unit
                    if view.http_proxy_port and port == 80:
                        out[("virtual host", made, (HTTP_PROXY, unit.name))] = msgspec.structs.replace(
                            unit, domains=(host, f"{host}:80")
                        )
                    out[("chain", made, (made.wildcard, port, key, 0))] = ChainView(kind="http", route=str(port))
        return out

    def _wildcard_for_services(self, reader: Reader, made: Scope, imports: Imports | None, host: str) -> bool:
        """A wildcard that covers services is about these, not a host of its own."""
        if not host.startswith("*"):
            return False
        return any(
            host_matches(host, s.hostname) and scope.sees(made, imports, s)
            for s in reader.all(self.mesh.services).values()
        )

    # --- listeners ---

    def _listeners(self) -> None:
        graph = self.graph
        by_place = graph.index("chains by listener", self.chains, lambda k, _v: [(k[0], k[1][0], k[1][1])])
        places: Collection[tuple[Scope, str, int], bool] = graph.derive(
            "listener places",
            self.chains,
            lambda _r, k, _v: {(k[0], str(k[1][0]), k[1][1] if isinstance(k[1][1], int) else 0): True},
        )

        def listener(
            reader: Reader, key: tuple[Scope, str, int], _v: bool
        ) -> Mapping[tuple[Scope, str], OutboundListenerView]:
            made, address, port = key
            parts = reader.lookup(by_place, key)
            found = [parts[k] for k in sorted(parts, key=lambda k: (k[1][2:], k))]
            chains = tuple(dict.fromkeys(c for c in found if isinstance(c, ChainView)))
            view = reader.get(self.scopes, made)
            name = f"{address}_{port}"
            own = any(p.own_socket and p.bind == address and p.number == port for p in view.ports) if view else False
            return {
                (made, name): OutboundListenerView(
                    name=name,
                    address=address,
                    extra_addresses=("::",) if address == "0.0.0.0" and made.ipv6 else (),
                    port=port,
                    chains=chains,
                    bind_to_port=own or not made.capture,
                    passthrough=view.passthrough if view is not None else True,
                    dynamic=view.dynamic if view is not None else False,
                    http=made.http,
                    ipv4=made.ipv4,
                    ipv6=made.ipv6,
                    filters=self.filters_of(reader, made),
                    mesh=self.mesh_options(reader),
                )
            }

        def virtual(reader: Reader, made: Scope, view: ScopeView) -> Mapping[Scope, VirtualOutboundView]:
            found = virtual_outbound(view, self.mesh_options(reader), self.filters_of(reader, made))
            return {} if found is None else {made: found}

        def proxied(reader: Reader, made: Scope, view: ScopeView) -> Mapping[tuple[Scope, str], OutboundListenerView]:
            found = http_proxy(view, self.mesh_options(reader), self.filters_of(reader, made))
            return {} if found is None else {(made, found.name): found}

        self.listeners: Collection[tuple[Scope, str], OutboundListenerView] = graph.union(
            "all outbound listeners",
            graph.derive("HTTP proxies", self.scopes, proxied),
            graph.derive("outbound listeners", places, listener),
        )
        self.virtual_outbound: Collection[Scope, VirtualOutboundView] = graph.derive(
            "virtual outbound", self.scopes, virtual
        )

    # --- inbound ---

    def _inbound(self) -> None:
        graph, mesh = self.graph, self.mesh
        self._by_selector = graph.index(
            "services by selector",
            mesh.services,
            lambda _k, s: [(s.namespace, *s.selector[0])] if s.selector else (),
        )

        def own_of(reader: Reader, proxy_id: str, proxy: Proxy) -> Mapping[str, OwnCluster]:
            if not own_cluster.wanted(proxy):
                return {}
            workload = self.workload_of(reader, proxy)
            labels = workload.labels if workload is not None else proxy.labels
            services = self._services_of(reader, proxy.namespace, labels)
            region = self._locality_of(reader, proxy)[0]
            return {proxy_id: own_cluster.own_cluster(services.values(), workload, region)}

        def view_of(reader: Reader, proxy_id: str, proxy: Proxy) -> Mapping[str, InboundView]:
            if proxy.kind is not ProxyKind.SIDECAR:
                return {}
            workload = self.workload_of(reader, proxy)
            labels = workload.labels if workload is not None else proxy.labels
            services = self._services_of(reader, proxy.namespace, labels)
            root = mesh.config(reader).root_namespace
            policy = peer_policy(reader, mesh.peer_authentications, proxy.namespace, labels, root)
            sidecar = self.sidecar_of(reader, proxy)
            options = self.mesh_options(reader)

            def limits(service: Service | None, port: Port) -> networking.ConnectionPool | None:
                default = options.default_traffic.connection_pool if options.default_traffic is not None else None
                if service is None:
                    return default
                rule = rule_for(
                    reader,
                    mesh.rules_by_host,
                    service.hostname,
                    client_namespace=proxy.namespace,
                    service_namespace=service.namespace,
                    root_namespace=root,
                )
                held = merged(rule, None, port.number)
                return (held.connection_pool if held is not None else None) or default

            made = inbound.inbound_view(proxy, workload, services.values(), sidecar, policy, options, limits)
            picks = by_labels(dict(labels))
            filters = self.selection.filters(reader, proxy.namespace, picks, server=True, protected=True)
            chosen = patching.choose(reader, self.policies, proxy, root)
            patches = patching.resolve(reader, self.policies, chosen, root, patching.INBOUND)
            return {proxy_id: msgspec.structs.replace(made, filters=filters, patches=patches)}

        self.inbound_of: Collection[str, InboundView] = graph.derive("inbound of proxy", self.proxies, view_of)
        self.inbound: Collection[InboundKey, InboundView] = graph.derive(
            "inbound views", self.inbound_of, lambda _r, _k, v: {inbound_key(v): v}
        )
        self.own_of: Collection[str, OwnCluster] = graph.derive("own cluster of proxy", self.proxies, own_of)
        self.own_clusters: Collection[OwnCluster, bool] = graph.derive(
            "own clusters", self.own_of, lambda _r, _k, v: {v: True}
        )

    def _services_of(
        self, reader: Reader, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> dict[ServiceKey, Service]:
        """Those of the namespace that select a workload with these labels."""
        return {
            s.key: s
            for pair in labels
            for s in reader.lookup(self._by_selector, (namespace, *pair)).values()
            if labels_match(s.selector, labels)
        }

    def workload_of(self, reader: Reader, proxy: Proxy) -> Workload | None:
        """The pod of that name, else whoever has the proxy's address: of several a machine's own entry."""
        pod = reader.get(self.mesh.pod_workloads, (proxy.cluster, proxy.namespace, proxy.name))
        if pod is not None:
            return pod
        for address in proxy.addresses:
            for index in (self.mesh.pods_by_address, self.mesh.entries_by_address):
                found = [w for w in reader.lookup(index, address).values() if w.namespace == proxy.namespace]
                if found:
                    own = proxy.entry_name
                    return min(found, key=lambda w: (w.name != own, w.name, w.cluster))
        return None


def routing_labels(routing: Routing) -> set[str]:
    """Label keys of the sourceLabels in a routing rule's matches."""
    http = {k for r in routing.http for m in r.match for k in m.source_labels}
    tls = {k for r in routing.tls for m in r.match for k in m.source_labels}
    return http | tls | {k for r in routing.tcp for m in r.match for k in m.source_labels}


def _sampling(config: MeshConfig) -> float:
    tracing = config.default_config.tracing
    return tracing.sampling if tracing is not None and tracing.sampling else 1.0  # zero stands for unset, as in Istio


def _peer_trust_domains(config: MeshConfig) -> tuple[str, ...]:
    """The mesh's own, its aliases, and those that its further roots are for."""
    more = (domain for root in config.ca_certificates for domain in root.trust_domains)
    return tuple(dict.fromkeys(d for d in (config.trust_domain, *config.trust_domain_aliases, *more) if d))


def mesh_options(config: MeshConfig) -> MeshOptions:
    settings = config.default_config.connection_settings
    return MeshOptions(
        trust_domain=config.trust_domain,
        trust_domain_aliases=config.trust_domain_aliases,
        peer_trust_domains=_peer_trust_domains(config),
        connect_timeout=float(config.connect_timeout),
        protocol_detection_timeout=float(config.protocol_detection_timeout),
        outbound_port=config.proxy_listen_port or 15001,
        inbound_port=config.proxy_inbound_listen_port or 15006,
        access_log_file=config.access_log_file,
        access_log_format=config.access_log_format,
        access_log_json=config.access_log_encoding == "JSON",
        access_log_service=config.enable_envoy_access_log_service,
        disable_listener_log=config.disable_envoy_listener_log,
        tracing=config.enable_tracing,
        h2_upgrade=config.h2_upgrade_policy == "UPGRADE",
        dns_refresh_rate=float(config.dns_refresh_rate),
        path_normalization=config.path_normalization.normalization,
        inbound_localhost=config.inbound_traffic_policy.mode == "LOCALHOST",
        tcp_keepalive=config.tcp_keepalive,
        default_retries=config.default_http_retry_policy,
        locality=config.locality_lb_setting,
        zones=config.zone_aware_lb_setting,
        mesh_tls=config.mesh_mtls,
        tls_defaults=config.tls_defaults,
        inbound_stat_name=config.inbound_cluster_stat_name,
        outbound_stat_name=config.outbound_cluster_stat_name,
        tracing_sampling=_sampling(config),
        default_traffic=config.default_traffic_policy,
        connections=None if settings is None else connections_of(settings),
    )
