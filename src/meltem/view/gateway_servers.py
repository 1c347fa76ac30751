"""One server of a Gateway at one gateway: its filter chains and the routes that it brings to its port.

In: a `BoundServer`, the rules bound to its Gateway. Out: `ServerParts`, which `meltem.view.gateway` joins by port. What
is wrong with one server costs that server: each is derived for itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from meltem.collections import Reader
from meltem.graph.model import Protocol, declared_protocol, host_matches, names_protocol
from meltem.graph.routing import Routing
from meltem.resources import networking
from meltem.view import outbound, outbound_chains
from meltem.view.proxy_settings import GatewayTopology
from meltem.view.scope import Scope
from meltem.view.units import ChainView, GatewayChain, RouteView

if TYPE_CHECKING:
    from meltem.view.views import Views


class GatewayKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Gateway proxies that are alike: same scope, same Gateways, same port mapping."""

    scope: Scope
    gateways: tuple[str, ...]
    """`namespace/name` of the Gateways that select them."""
    ports: tuple[tuple[int, int], ...]
    """Service port → the proxy's own port."""
    unprivileged: bool = False
    udp: tuple[int, ...] = ()
    """Service ports that take UDP as well: there HTTPS is offered by HTTP/3 too."""
    topology: GatewayTopology = GatewayTopology()
    """What stands before them."""


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
        """Istio's grammar: `http.<port>` for all plain HTTP servers of a port, `https.<port>.<name>.<gateway>.<ns>`;
        a server that names the address it listens on has it at the end."""
        bind = f".{self.server.bind}" if self.server.bind else ""
        if terminates_http(self.server):
            name, namespace = self.gateway.partition("/")[2], self.gateway.partition("/")[0]
            return f"https.{self.service_port}.{self.server.port.name}.{name}.{namespace}{bind}"
        return f"http.{self.port}{bind}"

    @property
    def hosts(self) -> tuple[tuple[str, str], ...]:
        """(namespace or `*`, host pattern in lower case)"""
        out: list[tuple[str, str]] = []
        for text in self.server.hosts:
            where, slash, host = text.partition("/")
            out.append((where if slash else "*", (host if slash else text).lower()))
        return tuple((self.namespace if w == "." else w, h) for w, h in out)

    @property
    def redirects(self) -> bool:
        return self.server.tls is not None and self.server.tls.https_redirect


class ServerParts(msgspec.Struct, frozen=True):
    """What one server brings to its port."""

    chains: tuple[GatewayChain, ...] = ()
    routes: tuple[tuple[str, tuple[RouteView, ...]], ...] = ()
    """By host, in the order of the rules' age."""


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
    """Only where no client certificate is asked for: over QUIC Envoy verifies none, and a server that demands one
    must not be open by another door."""
    return terminates_http(server) and server.tls is not None and server.tls.mode == "SIMPLE"


class LeftOut(msgspec.Struct, frozen=True):
    """A server, or some of its hosts, that a gateway does not serve."""

    gateway: str
    index: int
    why: str


class Arranged(msgspec.Struct, frozen=True):
    """The servers of one gateway class that can stand side by side, and what cannot."""

    servers: tuple[BoundServer, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def arrange(servers: Iterable[BoundServer], *, unprivileged: bool) -> Arranged:
    """Older Gateways come first: the first server of a port decides between plain HTTP, TLS and TCP, and the first that
    names a host for TLS has it."""
    by_port: dict[tuple[str, int], list[BoundServer]] = {}
    kept: list[BoundServer] = []
    left: list[LeftOut] = []
    for bound in sorted(servers, key=lambda s: (s.created, s.gateway, s.index)):
        protocol = bound.server.port.protocol
        if protocol and not names_protocol(protocol):  # nobody knows what it is: it must not take the port
            left.append(LeftOut(bound.gateway, bound.index, f"there is no protocol {protocol[:64]!r}"))
        else:
            by_port.setdefault((bound.server.bind, bound.port), []).append(bound)
    for (_, port), same in sorted(by_port.items()):
        first = same[0]
        taken: dict[str, str] = {}
        for bound in same:
            if unprivileged and port < _PRIVILEGED:
                why = f"the gateway's pods may not listen on port {port}"
            elif _family(bound) != _family(first):
                mine, other = _FAMILIES[_family(bound)], _FAMILIES[_family(first)]
                why = f"{mine} cannot share port {bound.service_port} with {other} of Gateway {first.gateway}, "
                why += "which is older or comes first"
            else:
                kept.append(bound)
                why = _unserved(bound, taken)
            if why:
                left.append(LeftOut(bound.gateway, bound.index, why))
    return Arranged(tuple(kept), tuple(left))


_PRIVILEGED = 1024
_FAMILIES = {"tls": "TLS", "http": "plain HTTP", "tcp": "plain TCP"}


def _family(bound: BoundServer) -> str:
    server = bound.server
    if server.tls is not None and not is_http(server):
        return "tls"
    return "http" if is_http(server) else "tcp"


def _unserved(bound: BoundServer, taken: dict[str, str]) -> str:
    """Hosts of a server that it does not serve, since another has them or since SNI cannot say them; `taken`: host →
    Gateway, filled here."""
    if _family(bound) != "tls" or bound.server.tls is None or bound.server.tls.mode == "PASSTHROUGH":
        return ""
    partial = [h for _, h in bound.hosts if "*" in h.removeprefix("*.") and h != "*"]
    if partial:
        return f"TLS cannot tell {', '.join(partial)}: write *.example.com or a whole name"
    twice = {h: taken[h] for _, h in bound.hosts if h in taken}
    taken.update((h, bound.gateway) for _, h in bound.hosts if h not in taken)
    return f"of Gateway {next(iter(twice.values()))} already: {', '.join(twice)}" if twice else ""


def parts_of(views: Views, reader: Reader, key: GatewayKey, bound: BoundServer) -> ServerParts:
    return _Builder(views, reader, key, bound).parts()


class _Builder:
    """One server of one gateway class."""

    def __init__(self, views: Views, reader: Reader, key: GatewayKey, bound: BoundServer) -> None:
        self._bound = bound
        self._outbound = msgspec.structs.replace(
            views.outbound_of(reader, key.scope, None),
            gateway=bound.gateway,
            gateway_port=bound.service_port,
            tls=terminates_http(bound.server),
        )
        found = reader.lookup(views.mesh.routings_by_gateway, bound.gateway).values()
        mine = (r for r in found if r.visible_to(key.scope.namespace) and any(self._takes(r, h) for h in r.hosts))
        self._routings = sorted(mine, key=lambda r: r.order)
        """Rules bound to the server's Gateway, visible to it, whose hosts the server takes; oldest first."""

    def parts(self) -> ServerParts:
        server = self._bound.server
        http = is_http(server) or terminates_http(server)
        return ServerParts(tuple(self._chains()), tuple(self._routes().items()) if http else ())

    def _chains(self) -> Iterable[GatewayChain]:
        bound, server = self._bound, self._bound.server
        web = declared_protocol(server.port.protocol) is Protocol.GRPC_WEB
        hosts = tuple(dict.fromkeys(h for _, h in bound.hosts))
        if terminates_http(server):
            yield GatewayChain(
                kind="http", route=bound.route_name, sni=hosts, tls=server.tls, namespace=bound.namespace,
                source=bound.gateway, gateway=bound.gateway, grpc_web=web,
            )  # fmt: skip
        elif is_http(server):
            yield GatewayChain(
                kind="http", route=bound.route_name, source=bound.gateway, gateway=bound.gateway, grpc_web=web
            )
        elif server.tls is not None and server.tls.mode == "AUTO_PASSTHROUGH":
            # A client asks for a port of a host, `outbound_.<port>_.<subset>_.<host>`, never for the host alone.
            ports = tuple(h if h.startswith("*") else f"*.{h}" for h in hosts)
            yield GatewayChain(kind="sni", sni=ports, source=bound.gateway, gateway=bound.gateway)
        elif passes_tls(server):
            yield from self._passed_chains()
        elif server.tls is not None or not declared_protocol(server.port.protocol).is_tls:
            yield from self._tcp_chains(hosts)

    def _passed_chains(self) -> Iterable[GatewayChain]:
        """TLS passed through, by the SNIs of TLS routes."""
        for routing in self._routings:
            for route in routing.tls:
                for match in route.match if route.route else ():
                    if self._holds(match):
                        tcp = self._tcp(route.route)
                        yield GatewayChain(
                            kind="tcp", sni=match.sni_hosts, clusters=tcp.clusters, tcp=tcp,
                            subnets=match.destination_subnets, source=routing.source,
                            gateway=self._bound.gateway,
                        )  # fmt: skip

    def _tcp_chains(self, hosts: tuple[str, ...]) -> Iterable[GatewayChain]:
        """TCP, or TLS that ends here, to the first TCP route that holds."""
        bound = self._bound
        for routing in self._routings:
            for route in routing.tcp:
                if route.route and (not route.match or any(self._holds(m) for m in route.match)):
                    tcp = self._tcp(route.route)
                    yield GatewayChain(
                        kind="tcp", sni=hosts if bound.server.tls is not None and "*" not in hosts else (),
                        tls=bound.server.tls, namespace=bound.namespace, clusters=tcp.clusters, tcp=tcp,
                        source=routing.source,
                            gateway=self._bound.gateway,
                    )  # fmt: skip
                    return

    def _tcp(self, to: tuple[networking.RouteDestination, ...]) -> ChainView:
        return outbound_chains.to_routes(self._outbound, to, self._bound.service_port, ChainView(kind="tcp"))

    def _routes(self) -> dict[str, tuple[RouteView, ...]]:
        found: dict[str, list[RouteView]] = {}
        bound = self._bound
        for routing in self._routings:
            for host in self._common_hosts(routing):
                own = found.setdefault(host, [])
                for route in outbound.routes_of(self._outbound, host, bound.service_port, routing):
                    if bound.http3:
                        route = msgspec.structs.replace(route, alt_svc_port=bound.service_port)
                    if route not in own:
                        own.append(route)
        return {host: tuple(routes) for host, routes in found.items()}

    def _takes(self, routing: Routing, host: str) -> bool:
        return any(ns in ("*", routing.namespace) and _overlap(host, pattern) for ns, pattern in self._bound.hosts)

    def _common_hosts(self, routing: Routing) -> list[str]:
        """Hosts of both the server and the rule; of two patterns that overlap the narrower one."""
        out: dict[str, None] = {}
        for host in routing.hosts:
            for namespace, pattern in self._bound.hosts:
                if namespace in ("*", routing.namespace) and _overlap(host, pattern):
                    out[host if host_matches(pattern, host) else pattern] = None
        return list(out)

    def _holds(self, match: networking.TCPMatch | networking.TLSMatch) -> bool:
        """Labels of clients mean nothing at a gateway."""
        named = not match.gateways or self._bound.gateway in match.gateways
        return named and match.port in (0, self._bound.service_port)


def _overlap(one: str, other: str) -> bool:
    return host_matches(one, other) or host_matches(other, one)
