"""What a gateway takes in: the Gateway resources that select it, merged by port, and the routes of their hosts.

In: router proxies, Gateways, routings. Out: per gateway class (namespace and labels of the proxies that are alike) its
listeners by port, its route configurations and virtual hosts, and the secrets that its servers name.

A server's port is the Service's port in front of the gateway (80) where the gateway's Service has it, and the proxy
listens on the Service's target port (8080); else it is the proxy's own port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from meltem.collections import Collection, Reader
from meltem.graph import ingress
from meltem.graph.model import Protocol, Workload, declared_protocol, host_matches, labels_match
from meltem.graph.routing import Routing
from meltem.resources import networking
from meltem.view import outbound
from meltem.view.inbound import target_port
from meltem.view.proxy import Proxy, ProxyKind
from meltem.view.scope import Scope, source_matches
from meltem.view.units import (
    GatewayChain,
    GatewayListenerView,
    MeshOptions,
    RouteConfigView,
    RouteView,
    VirtualHostView,
    WeightedCluster,
)

if TYPE_CHECKING:
    from meltem.view.views import Views


class GatewayKey(msgspec.Struct, frozen=True, order=True):
    """Gateway proxies that are alike: same scope, same Gateways, same port mapping."""

    scope: Scope
    gateways: tuple[str, ...]
    """`namespace/name` of the Gateways that select them."""
    ports: tuple[tuple[int, int], ...]
    """Service port → the proxy's own port."""
    unprivileged: bool = False


class BoundServer(msgspec.Struct, frozen=True):
    """One server of a Gateway at the proxy's own port."""

    gateway: str
    namespace: str
    server: networking.Server
    port: int
    service_port: int
    index: int
    created: str = ""

    @property
    def protocol(self) -> Protocol:
        return declared_protocol(self.server.port.protocol)

    @property
    def route_name(self) -> str:
        """Istio's grammar: `http.<port>` for all plain HTTP servers of a port, `https.<port>.<name>.<gateway>.<ns>`."""
        if terminates_http(self.server):
            name, namespace = self.gateway.partition("/")[2], self.gateway.partition("/")[0]
            return f"https.{self.service_port}.{self.server.port.name}.{name}.{namespace}"
        return f"http.{self.port}"

    @property
    def hosts(self) -> tuple[tuple[str, str], ...]:
        """(namespace or `*`, host pattern)"""
        out: list[tuple[str, str]] = []
        for text in self.server.hosts:
            where, slash, host = text.partition("/")
            out.append((where if slash else "*", host if slash else text))
        return tuple((self.namespace if w == "." else w, h) for w, h in out)


def is_http(server: networking.Server) -> bool:
    protocol = declared_protocol(server.port.protocol)
    return (protocol.is_http and server.tls is None) or (protocol.is_http and not passes_tls(server))


def terminates_http(server: networking.Server) -> bool:
    """HTTPS that the gateway itself decrypts."""
    protocol = declared_protocol(server.port.protocol)
    return (
        server.tls is not None
        and protocol in (Protocol.HTTPS, Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC)
        and (not passes_tls(server) and (protocol is Protocol.HTTPS or bool(server.tls.credential_name)))
    )


def passes_tls(server: networking.Server) -> bool:
    return (
        server.tls is not None
        and server.tls.mode in ("PASSTHROUGH", "AUTO_PASSTHROUGH")
        and not (server.tls.https_redirect and declared_protocol(server.port.protocol).is_http)
    )


def passthrough_selector(
    key: tuple[str, str, str], gateway: networking.Gateway
) -> dict[tuple[str, str, str], tuple[tuple[str, str], ...]]:
    """The selector of a Gateway that has an AUTO_PASSTHROUGH server."""
    if any(s.tls is not None and s.tls.mode == "AUTO_PASSTHROUGH" for s in gateway.spec.servers):
        return {key: tuple(gateway.spec.selector.items())}
    return {}


class GatewayViews:
    """The collections of all gateway classes."""

    def __init__(self, views: Views) -> None:
        self.views = views
        mesh, graph = views.mesh, views.graph
        from_ingress = graph.derive("gateways of ingresses", mesh.inputs.ingresses, self._of_ingress)
        own = graph.derive("gateways as written", mesh.inputs.gateways, lambda _r, k, v: {(k[1], k[2]): v})
        self.gateways: Collection[tuple[str, str], networking.Gateway] = graph.union("gateways", own, from_ingress)
        self.key_of: Collection[str, GatewayKey] = graph.derive("gateway of proxy", views.proxies, self._key)
        self.keys: Collection[GatewayKey, bool] = graph.derive(
            "gateway classes", self.key_of, lambda _r, _k, v: {v: True}
        )
        made = graph.derive("gateway configuration", self.keys, self._configuration)
        self.listeners: Collection[tuple[GatewayKey, str], GatewayListenerView] = graph.derive(
            "gateway listeners", made, lambda _r, k, v: {k[:2]: v} if isinstance(v, GatewayListenerView) else {}
        )
        self.routes: Collection[tuple[GatewayKey, str], RouteConfigView] = graph.derive(
            "gateway routes", made, lambda _r, k, v: {k[:2]: v} if isinstance(v, RouteConfigView) else {}
        )

    def _of_ingress(
        self, reader: Reader, key: tuple[str, str, str], value: object
    ) -> Mapping[tuple[str, str], networking.Gateway]:
        from meltem.resources import core

        mesh = self.views.mesh
        if not isinstance(value, core.Ingress):
            return {}
        settings = mesh.config(reader).ingress
        if not ingress.ours(reader, value, settings, mesh.inputs.ingress_classes, key[0]):
            return {}
        made = ingress.to_gateway(value, settings)
        return {(made.namespace, made.name): made}

    # --- which class a proxy is of ---

    def _key(self, reader: Reader, proxy_id: str, proxy: Proxy) -> Mapping[str, GatewayKey]:
        if proxy.kind is not ProxyKind.ROUTER:
            return {}
        scope = reader.get(self.views.scope_of, proxy_id)
        if scope is None:
            return {}
        workload = self.views.workload_of(reader, proxy)
        labels = workload.labels if workload is not None else proxy.labels
        selecting = sorted(
            f"{ns}/{name}"
            for (ns, name), gateway in reader.all(self.gateways).items()
            if labels_match(tuple(gateway.spec.selector.items()), labels)
        )
        ports = self._ports(reader, proxy, workload, labels)
        return {proxy_id: GatewayKey(scope, tuple(selecting), ports, proxy.unprivileged)}

    def _ports(
        self, reader: Reader, proxy: Proxy, workload: Workload | None, labels: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[int, int], ...]:
        """Service port → own port, for the Services in front of the gateway."""
        mesh = self.views.mesh
        found: dict[int, int] = {}
        for service in sorted(
            reader.lookup(mesh.services_by_namespace, proxy.namespace).values(), key=lambda s: (s.created, s.hostname)
        ):
            if service.selector and labels_match(service.selector, labels):
                for port in service.ports:
                    target = target_port(port, workload)
                    if target:
                        found.setdefault(port.number, target)
        return tuple(sorted(found.items()))

    # --- its configuration ---

    def _configuration(
        self, reader: Reader, key: GatewayKey, _value: bool
    ) -> Mapping[tuple[GatewayKey, str, str], GatewayListenerView | RouteConfigView]:
        options = self.views.mesh_options(reader)
        servers = self._servers(reader, key)
        by_port: dict[tuple[str, int], list[BoundServer]] = {}
        for server in servers:
            by_port.setdefault((server.server.bind, server.port), []).append(server)
        out: dict[tuple[GatewayKey, str, str], GatewayListenerView | RouteConfigView] = {}
        for (bind, port), same in sorted(by_port.items()):
            listener = self._listener(reader, key, bind, port, compatible(same), options)
            if listener is not None:
                out[(key, listener.name, "listener")] = listener
        by_route: dict[str, list[BoundServer]] = {}
        for same in by_port.values():
            for server in compatible(same):
                if is_http(server.server) or terminates_http(server.server):
                    by_route.setdefault(server.route_name, []).append(server)
        for name, same in sorted(by_route.items()):
            out[(key, name, "route")] = self._routes(reader, key, name, same, options)
        return out

    def _servers(self, reader: Reader, key: GatewayKey) -> list[BoundServer]:
        """All servers, those of older Gateways first."""
        mapped = dict(key.ports)
        own = {target: number for number, target in key.ports}
        found: list[BoundServer] = []
        for name in key.gateways:
            namespace, _, short = name.partition("/")
            gateway = reader.get(self.gateways, (namespace, short))
            if gateway is None:
                continue
            for index, server in enumerate(gateway.spec.servers):
                number = server.port.number
                port = mapped.get(number, number)
                service_port = number if number in mapped else own.get(number, number)
                if key.unprivileged and port < 1024:
                    continue
                found.append(
                    BoundServer(name, namespace, server, port, service_port, index, gateway.metadata.creation_timestamp)
                )
        return sorted(found, key=lambda s: (s.created, s.gateway, s.index))

    def _listener(
        self,
        reader: Reader,
        key: GatewayKey,
        bind: str,
        port: int,
        servers: list[BoundServer],
        options: MeshOptions,
    ) -> GatewayListenerView | None:
        chains: list[GatewayChain] = []
        for server in servers:
            for chain in self._chains(reader, key, server):
                if chain not in chains:
                    chains.append(chain)
        if not chains:
            return None
        address = bind or key.scope.wildcard
        return GatewayListenerView(
            name=f"{address}_{port}",
            address=address,
            port=port,
            ipv6=key.scope.ipv6 and key.scope.ipv4 and not bind,
            chains=tuple(chains),
            http10=key.scope.http10,
            mesh=options,
        )

    def _chains(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> Iterable[GatewayChain]:
        server = bound.server
        hosts = tuple(dict.fromkeys(h for _, h in bound.hosts))
        if terminates_http(server):
            yield GatewayChain(
                kind="http", route=bound.route_name, sni=hosts, tls=server.tls, namespace=bound.namespace,
                http3=False, source=bound.gateway,
            )  # fmt: skip
        elif is_http(server):
            yield GatewayChain(kind="http", route=bound.route_name, source=bound.gateway)
        elif server.tls is not None and server.tls.mode == "AUTO_PASSTHROUGH":
            yield GatewayChain(kind="sni", sni=hosts, source=bound.gateway)
        else:
            yield from self._tcp_chains(reader, key, bound, hosts)

    def _tcp_chains(
        self, reader: Reader, key: GatewayKey, bound: BoundServer, hosts: tuple[str, ...]
    ) -> Iterable[GatewayChain]:
        """TCP servers by TCP routes; TLS passed through by SNI routes; TLS ended here by TCP routes."""
        view = self._outbound(reader, key, bound)
        server = bound.server
        tls = server.tls if server.tls is not None and not passes_tls(server) else None
        for routing in self._routings(reader, key, bound):
            if passes_tls(server):
                for route in routing.tls:
                    for match in route.match:
                        if not _holds(key.scope, bound, match):
                            continue
                        sni = tuple(s for s in match.sni_hosts if any(_overlap(s, h) for h in hosts))
                        if sni:
                            yield GatewayChain(
                                kind="tcp", sni=sni, clusters=_weighted(view, route.route, bound.service_port),
                                subnets=match.destination_subnets, source=routing.source,
                            )  # fmt: skip
            for tcp in routing.tcp:
                if not tcp.match or any(_holds(key.scope, bound, m) for m in tcp.match):
                    yield GatewayChain(
                        kind="tcp", sni=hosts if tls is not None and "*" not in hosts else (), tls=tls,
                        namespace=bound.namespace, clusters=_weighted(view, tcp.route, bound.service_port),
                        source=routing.source,
                    )  # fmt: skip
                    break

    def _outbound(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> outbound.Outbound:
        base = self.views.outbound_of(reader, key.scope, None)
        return msgspec.structs.replace(base, gateway=bound.gateway, gateway_port=bound.service_port)

    def _routings(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> list[Routing]:
        """Rules bound to the server's Gateway whose hosts the server takes, oldest first."""
        found = reader.lookup(self.views.mesh.routings_by_gateway, bound.gateway).values()
        return sorted((r for r in found if any(self._takes(bound, r, h) for h in r.hosts)), key=lambda r: r.order)

    @staticmethod
    def _takes(bound: BoundServer, routing: Routing, host: str) -> bool:
        return any(ns in ("*", routing.namespace) and _overlap(host, pattern) for ns, pattern in bound.hosts)

    def _routes(
        self, reader: Reader, key: GatewayKey, name: str, servers: list[BoundServer], options: MeshOptions
    ) -> RouteConfigView:
        """Virtual hosts of all servers that share the route configuration: one a host."""
        rules: dict[str, list[RouteView]] = {}
        redirected: set[str] = set()
        for bound in servers:
            view = self._outbound(reader, key, bound)
            redirect = bound.server.tls is not None and bound.server.tls.https_redirect
            for routing in self._routings(reader, key, bound):
                for host in routing.hosts:
                    for ns, pattern in bound.hosts:
                        if ns not in ("*", routing.namespace) or not _overlap(host, pattern):
                            continue
                        narrow = host if host_matches(pattern, host) else pattern
                        if redirect:
                            redirected.add(narrow)
                        own = rules.setdefault(narrow, [])
                        if redirect and not own and narrow in redirected:
                            pass
                        for route in outbound.routes_of(view, host, bound.service_port, routing):
                            if route not in own:
                                own.append(route)
            if redirect:
                for _, pattern in bound.hosts:
                    rules.setdefault(pattern, [])
                    redirected.add(pattern)
        hosts = tuple(
            VirtualHostView(
                name=f"{host}:{servers[0].service_port}",
                domains=(host,),
                routes=tuple(rules[host]),
                require_tls=host in redirected,
                mesh=options,
            )
            for host in sorted(rules)
            if rules[host] or host in redirected
        )
        if not hosts:
            hosts = (
                VirtualHostView(name=f"blackhole:{servers[0].service_port}", domains=("*",), routes=(), mesh=options),
            )
        return RouteConfigView(name=name, virtual_hosts=hosts, ignore_port=True, mesh=options)


def compatible(servers: list[BoundServer]) -> list[BoundServer]:
    """Servers of one port that can stand side by side: the first decides between plain HTTP, TLS and TCP."""
    if not servers:
        return []

    def family(bound: BoundServer) -> str:
        server = bound.server
        if terminates_http(server) or (server.tls is not None and not is_http(server)):
            return "tls"
        return "http" if is_http(server) else "tcp"

    first = family(servers[0])
    return [s for s in servers if family(s) == first]


def _holds(scope: Scope, bound: BoundServer, match: networking.TCPMatch | networking.TLSMatch) -> bool:
    return (
        (not match.gateways or bound.gateway in match.gateways)
        and (not match.port or match.port in (bound.service_port, bound.port))
        and source_matches(scope, match.source_labels, match.source_namespace)
    )


def _overlap(one: str, other: str) -> bool:
    return host_matches(one, other) or host_matches(other, one)


def _weighted(
    view: outbound.Outbound, routes: tuple[networking.RouteDestination, ...], port: int
) -> tuple[WeightedCluster, ...]:
    return tuple(
        WeightedCluster(cluster=outbound.destination_cluster(view, r.destination, port), weight=r.weight)
        for r in routes
    )


__all__ = ["BoundServer", "GatewayKey", "GatewayViews", "compatible", "is_http", "terminates_http"]
