"""What a gateway takes in: the Gateway resources that select it, merged by port, and the routes of their hosts.

In: router proxies, Gateways, routings. Out: per gateway class (namespace and labels of the proxies that are alike) its
listeners by port, its route configurations and virtual hosts.

A server's port is the Service's port in front of the gateway (80) where the gateway's Service has it, and the proxy
listens on the Service's target port (8080); else it is the proxy's own port. Matches by port mean the server's. A
server whose certificate is missing has its filter chain all the same: Envoy refuses connections to it alone until the
secret comes, and keeps the last one when it goes, so that replacing a secret loses no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from meltem.collections import Collection, Reader
from meltem.graph import ingress
from meltem.graph.model import Protocol, Workload, labels_match
from meltem.resources import networking
from meltem.view import outbound
from meltem.view.gateway_servers import (
    Arranged,
    BoundServer,
    GatewayKey,
    ServerParts,
    arrange,
    is_http,
    parts_of,
    takes_http3,
    terminates_http,
)
from meltem.view.inbound import target_port
from meltem.view.proxy import Proxy, ProxyKind
from meltem.view.proxy_settings import HttpOptions, topology_of
from meltem.view.units import (
    GatewayChain,
    GatewayListenerView,
    MeshOptions,
    RouteConfigView,
    RouteView,
    VirtualHostView,
)

if TYPE_CHECKING:
    from meltem.view.views import Views

NO_PORT_TRANSLATION = "experimental.istio.io/disable-gateway-port-translation"
"""A Service with this label does not say which port of the proxy a Gateway's port means."""
SERVER_PARTS = "gateway server parts"
"""The collection whose failures are those of single servers: (gateway class, `namespace/name`, index)."""
Parts = tuple[BoundServer, ServerParts]


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
        self.arranged: Collection[GatewayKey, Arranged] = graph.derive("gateway servers", self.keys, self._arranged)
        each = graph.derive(
            "gateway server", self.arranged, lambda _r, key, v: {(key, b.gateway, b.index): b for b in v.servers}
        )
        self.parts: Collection[tuple[GatewayKey, str, int], ServerParts] = graph.derive(
            SERVER_PARTS, each, lambda r, key, one: {key: parts_of(views, r, key[0], one)}
        )
        made = graph.derive("gateway configuration", self.arranged, self._configuration)
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
        return {proxy_id: GatewayKey(scope, tuple(selecting), ports, proxy.unprivileged, udp, topology_of(proxy))}

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
                translated = NO_PORT_TRANSLATION not in dict(service.labels)
                for port in service.ports:
                    target = target_port(port, workload)
                    if port.protocol is Protocol.UDP:
                        udp.add(port.number)
                    elif target and translated:
                        found.setdefault(port.number, target)
        return tuple(sorted(found.items())), tuple(sorted(udp))

    # --- its configuration ---

    def _arranged(self, reader: Reader, key: GatewayKey, _value: bool) -> Mapping[GatewayKey, Arranged]:
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
                http3 = number in key.udp and takes_http3(server)
                created = gateway.metadata.creation_timestamp
                found.append(BoundServer(name, namespace, server, port, number, index, created, http3))
        return {key: arrange(found, unprivileged=key.unprivileged)}

    def _configuration(
        self, reader: Reader, key: GatewayKey, arranged: Arranged
    ) -> Mapping[tuple[GatewayKey, str, str], GatewayListenerView | RouteConfigView]:
        options = self.views.mesh_options(reader)
        by_port: dict[tuple[str, int], list[Parts]] = {}
        by_route: dict[str, list[Parts]] = {}
        for bound in arranged.servers:
            parts = reader.get(self.parts, (key, bound.gateway, bound.index))
            if parts is None:  # nothing could be made of it
                continue
            by_port.setdefault((bound.server.bind, bound.port), []).append((bound, parts))
            if is_http(bound.server) or terminates_http(bound.server):
                by_route.setdefault(bound.route_name, []).append((bound, parts))
        out: dict[tuple[GatewayKey, str, str], GatewayListenerView | RouteConfigView] = {}
        for (bind, port), same in by_port.items():
            for listener in self._listeners(reader, key, bind, port, same, options):
                out[(key, listener.name, "listener")] = listener
        for name, same in sorted(by_route.items()):
            out[(key, name, "route")] = _routes(name, same, options, key.scope.http)
        return out

    def _listeners(
        self, reader: Reader, key: GatewayKey, bind: str, port: int, servers: list[Parts], options: MeshOptions
    ) -> Iterable[GatewayListenerView]:
        """The TCP listener of a port, and one for HTTP/3 where it is offered."""
        chains: list[GatewayChain] = []
        quic: list[GatewayChain] = []
        for bound, parts in servers:
            for chain in parts.chains:
                if chain not in chains:
                    chains.append(chain)
                    quic.extend((chain,) if bound.http3 else ())
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
                    http=key.scope.http,
                    topology=key.topology,
                    filters=self.views.filters_of(reader, key.scope),
                    mesh=options,
                )


def _routes(name: str, servers: list[Parts], options: MeshOptions, http: HttpOptions) -> RouteConfigView:
    """Virtual hosts of all servers that share the route configuration: one a host. Several rules for a host are merged
    in the order of their age, with what takes every request at the end."""
    rules: dict[str, list[RouteView]] = {}
    redirected: set[str] = set()
    for bound, parts in servers:
        for host, routes in parts.routes:
            own = rules.setdefault(host, [])
            own.extend(r for r in routes if r not in own)
        if bound.redirects:
            redirected.update(pattern for _, pattern in bound.hosts)
            redirected.update(host for host, _ in parts.routes)
    number = servers[0][0].service_port
    hosts = [
        VirtualHostView(
            name=f"{host}:{number}",
            domains=(host,),
            routes=_ordered(rules.get(host, ())),
            require_tls=host in redirected,
            include_attempt_count=http.attempts,
            forwarded_host=http.forwarded_host,
            mesh=options,
        )
        for host in sorted({h for h in rules if rules[h]} | redirected)
    ]
    if not hosts:
        hosts = [
            VirtualHostView(
                name=f"blackhole:{number}", domains=("*",), routes=(), include_attempt_count=http.attempts, mesh=options
            )
        ]
    return RouteConfigView(name=name, virtual_hosts=tuple(hosts), ignore_port=True, mesh=options)


def _ordered(routes: Iterable[RouteView]) -> tuple[RouteView, ...]:
    """What takes every request at the end; those of Ingresses among themselves by the length of their paths."""
    found = sorted(routes, key=_takes_everything)
    by_length = iter(sorted((r for r in found if r.by_length), key=_longest_first))
    return tuple(next(by_length) if r.by_length else r for r in found)


def _longest_first(route: RouteView) -> tuple[int, bool]:
    """An exact path before a prefix of the same length."""
    uri = route.match.uri if route.match is not None else None
    if uri is None:
        return (0, True)
    return (-len((uri.exact or uri.prefix or "").rstrip("/")), not uri.exact)


def _takes_everything(route: RouteView) -> bool:
    return route.match is None or outbound.catches_all(route.match)


__all__ = ["BoundServer", "GatewayKey", "GatewayViews", "is_http", "terminates_http"]
