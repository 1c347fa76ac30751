"""One service as one scope sees it: its clusters and its virtual hosts.

In: a scope, a service, and through `Outbound` the rules and routings of its host. Out: units of view, keyed so that
units of different services never meet, except where they share an address and port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from meltem.graph.destinations import Rule
from meltem.graph.model import Endpoint, Port, Protocol, Resolution, Service
from meltem.graph.routing import MESH, Routing
from meltem.graph.services import is_network
from meltem.resources import networking
from meltem.view import policy
from meltem.view.proxy_settings import limits
from meltem.view.scope import Scope, source_matches
from meltem.view.units import (
    Balance,
    ClusterView,
    EndpointsKey,
    HashPolicy,
    MeshOptions,
    RouteView,
    VirtualHostView,
    WeightedCluster,
)


class Outbound(msgspec.Struct, frozen=True):
    """What a scope knows beside the service itself; the functions read (and so depend on) what they are asked."""

    scope: Scope
    mesh: MeshOptions
    domain: str
    auto_mtls: bool
    rule_for: Callable[[Service], Rule | None]
    service_for: Callable[[str], Service | None]
    """hostname → the service that this scope means by it"""
    endpoints_of: Callable[[Service], list[Endpoint]]
    identities_of: Callable[[Service], tuple[str, ...]]
    """SPIFFE ids of the service's endpoints, sorted"""
    gateway: str = MESH
    """Which gateway's matches hold: `mesh` for sidecars, `namespace/name` at a gateway."""
    gateway_port: int = 0
    tls: bool = False
    """Whether clients speak TLS to the listener in question."""


def cluster_name(port: int, subset: str, hostname: str) -> str:
    return f"outbound|{port}|{subset}|{hostname}"


# --- clusters ---


def clusters(view: Outbound, service: Service) -> Iterator[tuple[ClusterView, EndpointsKey | None]]:
    """Every cluster of the service, with what its endpoints depend on (None where the cluster itself has them)."""
    if service.resolution is Resolution.ALIAS:
        return
    rule = view.rule_for(service)
    for port in service.ports:
        if port.protocol is Protocol.UDP:
            continue
        for subset in (None, *(rule.subsets if rule is not None else ())):
            made = _cluster(view, service, port, rule, subset)
            yield made
            if view.scope.sni_dnat and not service.external:
                yield _for_sni(*made)


def _for_sni(unit: ClusterView, endpoints: EndpointsKey | None) -> tuple[ClusterView, EndpointsKey | None]:
    """The same under the name by which clients of other networks ask for it: their TLS passes through."""
    made = msgspec.structs.replace(unit, name=unit.sni, sni_dnat=True, auto_mtls=False, default_sans=())
    return made, None if endpoints is None else msgspec.structs.replace(endpoints, name=unit.sni)


def _cluster(
    view: Outbound, service: Service, port: Port, rule: Rule | None, subset: networking.Subset | None
) -> tuple[ClusterView, EndpointsKey | None]:
    name = cluster_name(port.number, subset.name if subset is not None else "", service.hostname)
    held = _with_mesh_defaults(policy.merged(rule, subset, port.number), view.mesh)
    balancer = held.load_balancer if held is not None else None
    resolution = _resolution(view, service, balancer)
    in_cluster = resolution in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN)
    labels = tuple(sorted(subset.labels.items())) if subset is not None else ()
    auto = (held is None or held.tls is None) and view.auto_mtls and not service.external
    if auto and resolution is Resolution.PASSTHROUGH:
        auto = _all_take_mutual_tls(view, service, port)
    endpoints: tuple[Endpoint, ...] = ()
    if in_cluster:
        endpoints = tuple(
            e for e in view.endpoints_of(service) if e.service_port == port.name and set(labels) <= set(e.labels)
        )
    sans = service.subject_alt_names
    if not sans and not service.external and (auto or _wants_identities(held)):
        sans = view.identities_of(service)
    balance = _balance(view, service, balancer, held) if resolution is not Resolution.PASSTHROUGH else ""
    ranking = {label.partition("=")[0] for label in Balance.of(balance).failover_priority}
    client_labels = tuple(pair for pair in view.scope.labels if pair[0] in ranking)
    unit = ClusterView(
        name=name,
        hostname=service.hostname,
        namespace=service.namespace,
        service_name=service.name,
        port=port.number,
        port_name=port.name if "%SERVICE_PORT_NAME%" in view.mesh.outbound_stat_name else "",
        protocol=port.protocol,
        resolution=resolution,
        external=service.external,
        subset=subset.name if subset is not None else "",
        policy=held,
        policy_source=f"{rule.namespace}/{rule.name}" if rule is not None else "",
        auto_mtls=auto,
        default_sans=sans,
        sni=f"outbound_.{port.number}_.{subset.name if subset is not None else ''}_.{service.hostname}",
        endpoints=endpoints,
        locality=view.scope.locality if in_cluster and balance else ("", "", ""),
        balance=balance,
        client_labels=client_labels if in_cluster else (),
        secrets_by_sds=view.scope.is_router or bool(rule is not None and rule.selector),
        ipv4=view.scope.ipv4,
        ipv6=view.scope.ipv6,
        follows_client=not view.scope.is_router,  # browsers choose HTTP/2 with the gateway, whatever the server speaks
        preserve_case=view.scope.http.preserve_case and (port.protocol.is_http or port.protocol is Protocol.AUTO),
        buffer=limits(view.scope.http.connections, view.mesh.connections, gateway=view.scope.is_router).cluster_buffer,
        port_override=_port_override(service, port) if resolution is Resolution.PASSTHROUGH else 0,
        mesh=view.mesh,
    )
    if resolution is not Resolution.ENDPOINTS:
        return unit, None
    return unit, EndpointsKey(
        name=name,
        service=service.key,
        port=port.number,
        labels=labels,
        locality=view.scope.locality if balance else ("", "", ""),
        balance=balance,
        client_labels=client_labels,
        cluster=view.scope.cluster if service.cluster_local or balance else "",
        network=view.scope.network,
        network_view=view.scope.network_view,
        node=view.scope.node if service.internal_local or _NODE in ranking else "",
        node_local=service.internal_local,
        cluster_local=service.cluster_local,
        ipv4=view.scope.ipv4 or not view.scope.ipv6,
        ipv6=view.scope.ipv6,
    )


def _all_take_mutual_tls(view: Outbound, service: Service, port: Port) -> bool:
    """Where the caller picks the endpoint by its address there is nothing to tell one from another: all of them take
    mutual TLS, or none is offered it."""
    endpoints = [e for e in view.endpoints_of(service) if e.service_port == port.name]
    return bool(endpoints) and all(e.mutual_tls for e in endpoints)


def _with_mesh_defaults(held: networking.TrafficPolicy | None, mesh: MeshOptions) -> networking.TrafficPolicy | None:
    """MeshConfig's defaultTrafficPolicy where the rule has no such part at all."""
    default = mesh.default_traffic
    if default is None:
        return held
    base = held or networking.TrafficPolicy()
    pool = base.connection_pool or default.connection_pool
    outliers = base.outlier_detection or default.outlier_detection
    made = msgspec.structs.replace(base, connection_pool=pool, outlier_detection=outliers)
    return held if made == base else made


def _port_override(service: Service, port: Port) -> int:
    """A ServiceEntry that resolves nothing may still name another port (`targetPort`)."""
    moved = not service.kubernetes and isinstance(port.target, int) and port.target != port.number
    return int(port.target) if moved else 0


def _resolution(view: Outbound, service: Service, balancer: networking.LoadBalancer | None) -> Resolution:
    if view.scope.is_router and service.headless:
        return Resolution.ENDPOINTS  # a gateway has no original destination to pass through to
    if balancer is not None and balancer.simple == "PASSTHROUGH":
        return Resolution.PASSTHROUGH
    if service.resolution is Resolution.DYNAMIC_DNS and not service.hostname.startswith("*"):
        return Resolution.DNS
    return service.resolution


def _wants_identities(held: networking.TrafficPolicy | None) -> bool:
    return held is not None and held.tls is not None and held.tls.mode == "ISTIO_MUTUAL"


_NETWORK, _REGION, _ZONE = "topology.istio.io/network", "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
_SUBZONE, _NODE = "topology.istio.io/subzone", "kubernetes.io/hostname"
_TRAFFIC_DISTRIBUTION = {
    "PreferClose": (_NETWORK, _REGION, _ZONE),
    "PreferSameZone": (_NETWORK, _REGION, _ZONE),
    "PreferSameNode": (_NETWORK, _REGION, _ZONE, _SUBZONE, _NODE),
}


def _balance(
    view: Outbound,
    service: Service,
    balancer: networking.LoadBalancer | None,
    held: networking.TrafficPolicy | None,
) -> str:
    """How localities count, as `Balance.text`; empty: they do not. The rule's own setting comes first, then the
    Service's traffic distribution, then the mesh's; at each level zones come before localities.

    Locality load balancing holds only with outlier detection (to fail over), a `distribute`, or a traffic distribution.
    """
    own = balancer.zone_aware_lb_setting if balancer is not None else None
    setting = balancer.locality_lb_setting if balancer is not None else None
    if own is not None:
        return Balance(zones=own).text
    if setting is None:
        priorities = _TRAFFIC_DISTRIBUTION.get(service.traffic_distribution)
        if priorities is not None:
            wanted = networking.LocalityLoadBalancer(enabled=True, failover_priority=priorities)
            return Balance(localities=wanted).text
        if view.mesh.zones is not None:
            return Balance(zones=view.mesh.zones).text
        setting = view.mesh.locality
    if setting is None or setting.enabled is False:
        return ""
    outliers = held is not None and held.outlier_detection is not None
    if not setting.distribute and not outliers:
        return ""
    return Balance(localities=setting).text


# --- virtual hosts ---


def meant(view: Outbound, service: Service) -> Service | None:
    """The service that takes the calls: an ExternalName's target, if the mesh knows it; else the service itself."""
    if not service.alias_of:
        return service
    found = view.service_for(service.alias_of)
    return found if found is not None and not found.alias_of else None


class Place(msgspec.Struct, frozen=True):
    """An egress listener of a Sidecar: which of a service's ports it takes, and where it listens."""

    number: int
    """0: every port, told apart by the host header (unix sockets)."""
    protocol: Protocol
    bind: str

    @property
    def route(self) -> str:
        return str(self.number) if self.number else self.bind


def ports_at(service: Service, place: Place | None, taken: frozenset[int]) -> Iterator[Port]:
    """The ports of a service that a place takes (None: the general listeners, which leave `taken` to the others)."""
    for port in service.ports:
        if place is None and port.number not in taken:
            yield port
        elif place is not None and place.number in (0, port.number):
            protocol = place.protocol if place.protocol is not Protocol.AUTO else port.protocol
            yield msgspec.structs.replace(port, protocol=protocol)


def http_virtual_hosts(
    view: Outbound,
    service: Service,
    routings: list[Routing],
    place: Place | None = None,
    taken: frozenset[int] = frozenset(),
) -> Iterator[tuple[str, VirtualHostView]]:
    """(route configuration, virtual host) for each HTTP or sniffed port of the service. An ExternalName has the ports
    of the service that it stands for; for one that the mesh does not know there is nothing to do."""
    target = meant(view, service)
    for port in ports_at(target, place, taken) if target is not None else ():
        if target is None or not (port.protocol.is_http or port.protocol is Protocol.AUTO):
            continue
        routes = routes_for(view, service.hostname, port.number, routings) if routings else ()
        if not routes:
            routes = (default_route(view, service, target, port),)
        name = f"{service.hostname}:{port.number}"
        unit = VirtualHostView(
            name=name, domains=service_domains(view, service, port.number), routes=tuple(routes), mesh=view.mesh,
            include_attempt_count=view.scope.http.attempts, forwarded_host=view.scope.http.forwarded_host,
        )  # fmt: skip
        if place is not None:
            if not place.number:
                with_port = tuple(f"{d}:{port.number}" for d in unit.domains)
                unit = msgspec.structs.replace(
                    unit, domains=unit.domains + with_port if port.number == 80 else with_port
                )
            yield place.route, unit
            continue
        yield str(port.number), unit
        if port.protocol is Protocol.AUTO and target is service and sniffed_alone(view.scope, service):
            yield name, msgspec.structs.replace(unit, domains=("*",))


def service_domains(view: Outbound, service: Service, port: int) -> tuple[str, ...]:
    """Every way to write the host: in full, shortened as the client's namespace allows, by virtual IP. Ports are left
    out: the route configuration ignores them in the host header."""
    names = [service.hostname]
    suffix = f".{service.namespace}.svc.{view.domain}"
    if service.kubernetes and service.hostname.endswith(suffix):
        short = service.hostname.removesuffix(suffix)
        if service.namespace == view.scope.namespace:
            names.append(short)
        names += [f"{short}.{service.namespace}", f"{short}.{service.namespace}.svc"]
    if service.headless:
        names += [f"*.{n}" for n in names]
    names += [f"[{a}]" if ":" in a else a for a in addresses_of(view.scope, service) if not is_network(a)]
    return tuple(dict.fromkeys(names))


def default_route(view: Outbound, service: Service, target: Service, port: Port) -> RouteView:
    """The route of a service without routing rules."""
    return RouteView(
        name="default",
        clusters=(WeightedCluster(cluster=cluster_name(port.number, "", target.hostname)),),
        hash_policies=_hash_policies(view, target, port.number, ""),
        operation=f"{service.hostname}:{port.number}/*",
    )


def routes_for(view: Outbound, host: str, port: int, routings: Iterable[Routing]) -> tuple[RouteView, ...]:
    """The routes of the first rule for the host that has any here: sidecars do not merge several."""
    for routing in routings:
        found = routes_of(view, host, port, routing)
        if found:
            return found
    return ()


def routes_of(view: Outbound, host: str, port: int, routing: Routing) -> tuple[RouteView, ...]:
    """The routes of one rule as far as they hold here, up to the first that takes everything."""
    out: list[RouteView] = []
    for rule in routing.http:
        for match in _holding_matches(view, rule, port):
            out.append(_route(view, routing, rule, match, host, port))
            if match is None or catches_all(match):
                return tuple(out)
    return tuple(out)


def catches_all(match: networking.HTTPMatch) -> bool:
    """It takes every request: later routes are never reached."""
    uri = match.uri
    return (
        (uri is None or uri.prefix == "/" or uri.regex == ".*" or uri.regex == "*")
        and not (match.headers or match.without_headers or match.query_params)
        and match.method is None
        and match.authority is None
        and match.scheme is None
    )


def _holding_matches(view: Outbound, rule: networking.HTTPRoute, port: int) -> list[networking.HTTPMatch | None]:
    """The rule's matches that can hold for this scope, gateway and port; [None] for a rule without matches."""
    if not rule.match:
        return [None]
    return [m for m in rule.match if holds(view, m, port)]


def holds(view: Outbound, match: networking.HTTPMatch | networking.TCPMatch | networking.TLSMatch, port: int) -> bool:
    """Of the conditions on who asks and where: an HTTP match that names gateways is not narrowed by who the client is,
    as in Istio; one of connections is."""
    if match.port and match.port != (view.gateway_port or port):
        return False
    if match.gateways and view.gateway not in match.gateways:
        return False
    if match.gateways and isinstance(match, networking.HTTPMatch):
        return True
    return source_matches(view.scope, match.source_labels, match.source_namespace)


def _route(
    view: Outbound,
    routing: Routing,
    rule: networking.HTTPRoute,
    match: networking.HTTPMatch | None,
    host: str,
    port: int,
) -> RouteView:
    clusters: list[WeightedCluster] = []
    hashes: list[HashPolicy] = []
    for one in rule.route:
        where = destination_cluster(view, one.destination, port)
        clusters.append(WeightedCluster(cluster=where, weight=one.weight, headers=one.headers))
        target = view.service_for(one.destination.host)
        if target is not None and (one.weight > 0 or len(rule.route) == 1):
            for policy_ in _hash_policies(view, target, port_of(view, one.destination, port), one.destination.subset):
                if policy_ not in hashes:
                    hashes.append(policy_)
    sticky = _sticky(routing.sticky) if len(clusters) > 1 else None
    copies = [] if rule.mirror is None else [(rule.mirror, rule.mirror_share)]
    copies += [(m.destination, 100.0 if m.percentage is None else m.percentage.value) for m in rule.mirrors]
    return RouteView(
        name=".".join(n for n in (rule.name, match.name if match is not None else "") if n),
        match=match,
        rule=rule,
        clusters=tuple(clusters),
        mirrors=tuple((destination_cluster(view, d, port), share) for d, share in copies if share > 0),
        hash_policies=(sticky, *hashes) if sticky is not None else tuple(hashes),
        sticky=sticky is not None,
        operation=_operation(clusters, routing.name, port, match),
        source=f"{routing.namespace}/{routing.name}" if routing.source.startswith("VirtualService") else "",
        by_length=routing.by_length,
        redirect_port=redirect_port(rule.redirect, view.gateway_port or port, tls=view.tls),
    )


def redirect_port(redirect: networking.HTTPRedirect | None, port: int, *, tls: bool) -> int:
    """The port that the redirect names; 0 where none is written: the scheme's own, or Envoy's own choice."""
    if redirect is None:
        return 0
    number = port if redirect.derive_port == "FROM_REQUEST_PORT" else redirect.port or 0
    scheme = redirect.scheme or ("https" if tls else "http")
    return 0 if (scheme, number) in (("http", 80), ("https", 443)) else number


def _operation(clusters: list[WeightedCluster], host: str, port: int, match: networking.HTTPMatch | None) -> str:
    """What tracing calls the operation: `host:port/path` of the only destination, else `rule:port/path`."""
    if len(clusters) == 1 and clusters[0].cluster.startswith("outbound|"):
        _, number, _, hostname = clusters[0].cluster.split("|", 3)
        host, port = hostname, int(number)
    path = "/*"
    uri = match.uri if match is not None else None
    if uri is not None:
        path = uri.exact or (f"{uri.prefix}*" if uri.prefix else None) or uri.regex or path
    return f"{host}:{port}{path}"


def _sticky(text: str) -> HashPolicy | None:
    """`header:NAME`, `cookie:NAME` or `source-ip`. Envoy has one hash for the version and for its endpoint: were others
    mixed in, a user's version would change with them."""
    kind, _, name = text.partition(":")
    if kind == "header" and name:
        return HashPolicy(header=name, alone=True)
    if kind == "cookie" and name:
        return HashPolicy(cookie=networking.HTTPCookie(name=name), alone=True)
    return HashPolicy(source_ip=True, alone=True) if kind == "source-ip" else None


def destination_cluster(view: Outbound, destination: networking.Destination, listener_port: int) -> str:
    """The cluster of a destination; a host that nobody knows still gets its name, and no endpoints."""
    target = view.service_for(destination.host)
    host = target.hostname if target is not None else destination.host
    if target is not None and target.alias_of:
        host = target.alias_of
    return cluster_name(port_of(view, destination, listener_port), destination.subset, host)


def port_of(view: Outbound, destination: networking.Destination, listener_port: int) -> int:
    if destination.port is not None and destination.port.number:
        return destination.port.number
    target = view.service_for(destination.host)
    if target is not None and len(target.ports) == 1:
        return target.ports[0].number
    return listener_port


def _hash_policies(view: Outbound, service: Service, port: int, subset: str) -> tuple[HashPolicy, ...]:
    held = policy_of(view, service, port, subset)
    consistent = held.load_balancer.consistent_hash if held is not None and held.load_balancer is not None else None
    if consistent is None:
        return ()
    if consistent.http_header_name:
        return (HashPolicy(header=consistent.http_header_name),)
    if consistent.http_cookie is not None:
        return (HashPolicy(cookie=consistent.http_cookie),)
    if consistent.http_query_parameter_name:
        return (HashPolicy(query=consistent.http_query_parameter_name),)
    return (HashPolicy(source_ip=True),) if consistent.use_source_ip else ()


# --- listeners ---


def own_addresses(scope: Scope, service: Service) -> tuple[str, ...]:
    """Virtual addresses by which a connection can be told to be for this service, of the families that clients speak.
    Automatic ones count only where clients learn them: where DNS is captured."""
    return tuple(
        a
        for a in addresses_of(scope, service)
        if not is_network(a) and (scope.ipv6 if ":" in a else scope.ipv4 or not scope.ipv6)
    )


def addresses_of(scope: Scope, service: Service) -> tuple[str, ...]:
    return service.addresses_for(scope.cluster) or (service.auto_addresses if scope.dns_capture else ())


def sniffed_alone(scope: Scope, service: Service) -> bool:
    """A sniffed port has a listener, and a route configuration, of its own."""
    if service.headless:
        return scope.capture and service.kubernetes
    return scope.capture and bool(own_addresses(scope, service))


def policy_of(view: Outbound, service: Service, port: int, subset: str) -> networking.TrafficPolicy | None:
    rule = view.rule_for(service)
    if rule is None:
        return None
    part = next((s for s in rule.subsets if s.name == subset), None) if subset else None
    return policy.merged(rule, part, port)
