"""What a gateway takes in: the Gateway resources that select it, merged by port, and the routes of their hosts.

In: router proxies, Gateways, routings. Out: per gateway class (namespace and labels of the proxies that are alike) its
listeners by port, its route configurations and virtual hosts, and the secrets that its servers name.

A server's port is the Service's port in front of the gateway (80) where the gateway's Service has it, and the proxy
listens on the Service's target port (8080); else it is the proxy's own port. Matches by port mean the server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from meltem.collections import Collection, Reader
from meltem.graph import credentials, ingress
from meltem.graph.model import Protocol, Workload, declared_protocol, host_matches, labels_match
from meltem.graph.routing import Routing
from meltem.resources import networking
from meltem.view import outbound
from meltem.view.inbound import target_port
from meltem.view.proxy import Proxy, ProxyKind
from meltem.view.scope import Scope
from meltem.view.units import (
    ChainView,
    GatewayChain,
    GatewayListenerView,
    MeshOptions,
    RouteConfigView,
    RouteView,
    VirtualHostView,
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
    udp: tuple[int, ...] = ()
    """Service ports that take UDP as well: there HTTPS is offered by HTTP/3 too."""


class BoundServer(msgspec.Struct, frozen=True):
    """One server of a Gateway at the proxy's own port."""

    gateway: str
    namespace: str
    server: networking.Server
    port: int
    service_port: int
    index: int
    created: str = ""
    http3: bool = False

    @property
    def protocol(self) -> Protocol:
        return declared_protocol(self.server.port.protocol)

    @property
    def route_name(self) -> str:
        """Istio's grammar: `http.<port>` for all plain HTTP servers of a port, `https.<port>.<name>.<gateway>.<ns>`."""
        if terminates_http(self.server):
            name, namespace = self.gateway.partition("/")[2], self.gateway.partition("/")[0]
            return f"https.{self.service_port}.{self.server.port.name}.{name}.{namespace}"
        return f"http.{self.port}.{self.server.bind}" if self.server.bind else f"http.{self.port}"

    @property
    def hosts(self) -> tuple[tuple[str, str], ...]:
        """(namespace or `*`, host pattern)"""
        out: list[tuple[str, str]] = []
        for text in self.server.hosts:
            where, slash, host = text.partition("/")
            out.append((where if slash else "*", host if slash else text))
        return tuple((self.namespace if w == "." else w, h) for w, h in out)


def is_http(server: networking.Server) -> bool:
    """Plain HTTP (also with `httpsRedirect`)."""
    return declared_protocol(server.port.protocol).is_http


def terminates_http(server: networking.Server) -> bool:
    """HTTPS that the gateway itself decrypts."""
    protocol = declared_protocol(server.port.protocol)
    return protocol is Protocol.HTTPS and server.tls is not None and not passes_tls(server)


def passes_tls(server: networking.Server) -> bool:
    return not is_http(server) and server.tls is not None and server.tls.mode in ("PASSTHROUGH", "AUTO_PASSTHROUGH")


def takes_http3(server: networking.Server) -> bool:
    return terminates_http(server) and server.tls is not None and server.tls.mode != "ISTIO_MUTUAL"


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
            and (not self.views.scope_gateways or ns == proxy.namespace)
        )
        ports, udp = self._ports(reader, proxy, workload, labels)
        return {proxy_id: GatewayKey(scope, tuple(selecting), ports, proxy.unprivileged, udp)}

    def _ports(
        self, reader: Reader, proxy: Proxy, workload: Workload | None, labels: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
        """Service port → own port, for the Services in front of the gateway; and those that take UDP."""
        mesh = self.views.mesh
        found: dict[int, int] = {}
        udp: set[int] = set()
        for service in sorted(
            reader.lookup(mesh.services_by_namespace, proxy.namespace).values(), key=lambda s: (s.created, s.hostname)
        ):
            if service.selector and labels_match(service.selector, labels):
                for port in service.ports:
                    target = target_port(port, workload)
                    if port.protocol is Protocol.UDP:
                        udp.add(port.number)
                    elif target:
                        found.setdefault(port.number, target)
        return tuple(sorted(found.items())), tuple(sorted(udp))

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
            for listener in self._listeners(reader, key, bind, port, compatible(same), options):
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
        found: list[BoundServer] = []
        for name in key.gateways:
            namespace, _, short = name.partition("/")
            gateway = reader.get(self.gateways, (namespace, short))
            if gateway is None:
                continue
            for index, server in enumerate(gateway.spec.servers):
                number = server.port.number
                port = mapped.get(number, number)
                if (key.unprivileged and port < 1024) or not self._has_certificates(reader, key, server):
                    continue
                http3 = number in key.udp and takes_http3(server)
                created = gateway.metadata.creation_timestamp
                found.append(BoundServer(name, namespace, server, port, number, index, created, http3))
        return sorted(found, key=lambda s: (s.created, s.gateway, s.index))

    def _has_certificates(self, reader: Reader, key: GatewayKey, server: networking.Server) -> bool:
        """A server whose secret is missing is left out: it would keep all others of its port from starting."""
        if server.tls is None or is_http(server):
            return True
        where = (key.scope.cluster, key.scope.namespace)
        return all(
            credentials.resolve(reader, self.views.mesh.inputs, *where, name) is not None
            for name in credentials.server_names(server.tls)
        )

    def _listeners(
        self,
        reader: Reader,
        key: GatewayKey,
        bind: str,
        port: int,
        servers: list[BoundServer],
        options: MeshOptions,
    ) -> Iterable[GatewayListenerView]:
        """The TCP listener of a port, and one for HTTP/3 where it is offered."""
        chains: list[GatewayChain] = []
        quic: list[GatewayChain] = []
        for server in servers:
            for chain in self._chains(reader, key, server):
                if chain not in chains:
                    chains.append(chain)
                    quic.extend((chain,) if server.http3 else ())
        address = bind or key.scope.wildcard
        for udp, found in ((False, chains), (True, quic)):
            if found:
                yield GatewayListenerView(
                    name=f"{'udp_' if udp else ''}{address}_{port}",
                    address=address,
                    port=port,
                    ipv6=key.scope.ipv6 and key.scope.ipv4 and not bind,
                    udp=udp,
                    chains=tuple(found),
                    http10=key.scope.http10,
                    filters=self.views.filters_of(reader, key.scope),
                    mesh=options,
                )

    def _chains(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> Iterable[GatewayChain]:
        server = bound.server
        hosts = tuple(dict.fromkeys(h for _, h in bound.hosts))
        if terminates_http(server):
            yield GatewayChain(
                kind="http", route=bound.route_name, sni=hosts, tls=server.tls, namespace=bound.namespace,
                source=bound.gateway,
            )  # fmt: skip
        elif is_http(server):
            yield GatewayChain(kind="http", route=bound.route_name, source=bound.gateway)
        elif server.tls is not None and server.tls.mode == "AUTO_PASSTHROUGH":
            yield GatewayChain(kind="sni", sni=hosts, source=bound.gateway)
        elif passes_tls(server):
            yield from self._passed_chains(reader, key, bound)
        elif server.tls is not None or not declared_protocol(server.port.protocol).is_tls:
            yield from self._tcp_chains(reader, key, bound, hosts)

    def _passed_chains(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> Iterable[GatewayChain]:
        """TLS passed through, by the SNIs of TLS routes."""
        view = self._outbound(reader, key, bound)
        for routing in self._routings(reader, key, bound):
            for route in routing.tls:
                for match in route.match if route.route else ():
                    if _holds(bound, match):
                        tcp = outbound.to_routes(view, route.route, bound.service_port, ChainView(kind="tcp"))
                        yield GatewayChain(
                            kind="tcp", sni=match.sni_hosts, clusters=tcp.clusters, tcp=tcp,
                            subnets=match.destination_subnets, source=routing.source,
                        )  # fmt: skip

    def _tcp_chains(
        self, reader: Reader, key: GatewayKey, bound: BoundServer, hosts: tuple[str, ...]
    ) -> Iterable[GatewayChain]:
        """TCP, or TLS that ends here, to the first TCP route that holds."""
        view = self._outbound(reader, key, bound)
        for routing in self._routings(reader, key, bound):
            for route in routing.tcp:
                if route.route and (not route.match or any(_holds(bound, m) for m in route.match)):
                    tcp = outbound.to_routes(view, route.route, bound.service_port, ChainView(kind="tcp"))
                    yield GatewayChain(
                        kind="tcp", sni=hosts if bound.server.tls is not None and "*" not in hosts else (),
                        tls=bound.server.tls, namespace=bound.namespace, clusters=tcp.clusters, tcp=tcp,
                        source=routing.source,
                    )  # fmt: skip
                    return

    def _outbound(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> outbound.Outbound:
        base = self.views.outbound_of(reader, key.scope, None)
        return msgspec.structs.replace(
            base, gateway=bound.gateway, gateway_port=bound.service_port, tls=terminates_http(bound.server)
        )

    def _routings(self, reader: Reader, key: GatewayKey, bound: BoundServer) -> list[Routing]:
        """Rules bound to the server's Gateway, visible to it, whose hosts the server takes; oldest first."""
        found = reader.lookup(self.views.mesh.routings_by_gateway, bound.gateway).values()
        mine = (
            r for r in found if r.visible_to(key.scope.namespace) and any(self._takes(bound, r, h) for h in r.hosts)
        )
        return sorted(mine, key=lambda r: r.order)

    @staticmethod
    def _takes(bound: BoundServer, routing: Routing, host: str) -> bool:
        return any(ns in ("*", routing.namespace) and _overlap(host, pattern) for ns, pattern in bound.hosts)

    def _routes(
        self, reader: Reader, key: GatewayKey, name: str, servers: list[BoundServer], options: MeshOptions
    ) -> RouteConfigView:
        """Virtual hosts of all servers that share the route configuration: one a host. Several rules for a host are
        merged in the order of their age, with what takes every request at the end."""
        rules: dict[str, list[RouteView]] = {}
        redirected: set[str] = set()
        for bound in servers:
            view = self._outbound(reader, key, bound)
            if bound.server.tls is not None and bound.server.tls.https_redirect:
                redirected.update(pattern for _, pattern in bound.hosts)
            for routing in self._routings(reader, key, bound):
                for host in self._common_hosts(bound, routing):
                    own = rules.setdefault(host, [])
                    for route in outbound.routes_of(view, host, bound.service_port, routing):
                        if bound.http3:
                            route = msgspec.structs.replace(route, alt_svc_port=bound.service_port)
                        if route not in own:
                            own.append(route)
                    if bound.server.tls is not None and bound.server.tls.https_redirect:
                        redirected.add(host)
        number = servers[0].service_port
        hosts = [
            VirtualHostView(
                name=f"{host}:{number}",
                domains=(host,),
                routes=tuple(sorted(rules.get(host, ()), key=_takes_everything)),
                require_tls=host in redirected,
                mesh=options,
            )
            for host in sorted({h for h in rules if rules[h]} | redirected)
        ]
        if not hosts:
            hosts = [VirtualHostView(name=f"blackhole:{number}", domains=("*",), routes=(), mesh=options)]
        return RouteConfigView(name=name, virtual_hosts=tuple(hosts), ignore_port=True, mesh=options)

    @staticmethod
    def _common_hosts(bound: BoundServer, routing: Routing) -> list[str]:
        """Hosts of both the server and the rule; of two patterns that overlap the narrower one."""
        out: dict[str, None] = {}
        for host in routing.hosts:
            for namespace, pattern in bound.hosts:
                if namespace in ("*", routing.namespace) and _overlap(host, pattern):
                    out[host if host_matches(pattern, host) else pattern] = None
        return list(out)


def _takes_everything(route: RouteView) -> bool:
    return route.match is None or outbound.catches_all(route.match)


def compatible(servers: list[BoundServer]) -> list[BoundServer]:
    """Servers of one port that can stand side by side: the first decides between plain HTTP, TLS and TCP."""
    if not servers:
        return []

    def family(bound: BoundServer) -> str:
        server = bound.server
        if server.tls is not None and not is_http(server):
            return "tls"
        return "http" if is_http(server) else "tcp"

    first = family(servers[0])
    return [s for s in servers if family(s) == first]


def _holds(bound: BoundServer, match: networking.TCPMatch | networking.TLSMatch) -> bool:
    """Labels of clients mean nothing at a gateway."""
    return (not match.gateways or bound.gateway in match.gateways) and match.port in (0, bound.service_port)


def _overlap(one: str, other: str) -> bool:
    return host_matches(one, other) or host_matches(other, one)


__all__ = ["BoundServer", "GatewayKey", "GatewayViews", "compatible", "is_http", "terminates_http"]
