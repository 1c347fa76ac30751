"""The walk: from a connection at a listener to the endpoints that a call would reach.

In: a proxy's `Configuration` and a `Call`. Out: an `Outcome`, step by step, as Envoy would decide. Pure.
"""

# The stubs of what is imported here leave some types open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meltem import envoyapi as api
from meltem.simulate import paths
from meltem.simulate.configuration import Configuration, listener_at
from meltem.simulate.matching import (
    Connection,
    FilterChain,
    Request,
    fraction_of,
    is_grpc,
    pick_chain,
    pick_route,
    pick_virtual_host,
    rewritten,
    without_port,
)

R = api.route_components
Listener = api.listener.Listener
HCM = api.hcm.HttpConnectionManager
HTTP1 = ("http/1.1",)
HTTP2 = ("h2c",)
_OVERWRITE = api.base.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
FAULT = "envoy.filters.http.fault"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the application makes it. `address` and `port`: where it connects to."""

    address: str
    port: int
    request: Request | None = None
    """None: bytes that are no HTTP."""
    tls: bool = False
    sni: str = ""
    protocols: tuple[str, ...] = ()
    """ALPN of a TLS client; for plain HTTP, what an HTTP inspector would see."""
    source: str = "127.0.0.1"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of a cluster."""

    address: str
    port: int
    health: str = "HEALTHY"
    priority: int = 0
    locality: str = ""
    weight: int = 1
    tls: str = ""
    """Empty: plain text; `mutual TLS` (of the mesh) or `TLS`."""
    sni: str = ""
    alpn: tuple[str, ...] = ()


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster that the call may go to. `share`: percent."""

    cluster: str
    share: float = 100.0
    exists: bool = True
    kind: str = ""
    balancing: str = ""
    config: str = ""
    """The Istio resource that shaped it, as its metadata says."""
    subset: str = ""
    targets: tuple[Target, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen. Empty where the walk did not get so far."""

    listener: str = ""
    chain: str = ""
    chain_match: api.listener_components.FilterChainMatch | None = None
    chain_default: bool = False
    terminates_tls: bool = False
    http: bool = False
    filters: tuple[str, ...] = ()
    manager: HCM | None = None
    network_filters: tuple[api.listener_components.Filter, ...] = ()
    route_config: str = ""
    virtual_host: str = ""
    domain: str = ""
    route_index: int = -1
    route: R.Route | None = None
    request: Request | None = None
    """As routes and policies see it."""
    status: int = 0
    """What Envoy answers by itself; 0: it forwards."""
    reason: str = ""
    """Why it goes no further."""
    destinations: tuple[Destination, ...] = ()
    mirrors: tuple[Destination, ...] = ()
    """`share`: percent of the calls that are copied."""
    aborted: str = ""
    """What a fault answers instead, and how often; empty when it does so never or always."""

    @property
    def forwards(self) -> bool:
        return bool(self.destinations) and not self.status


def outbound(config: Configuration, call: Call) -> Outcome:
    """A captured connection of a sidecar's application: `virtualOutbound` hands it to the listener of its address."""
    found = listener_at(config.listeners.values(), call.address, call.port)
    capture = config.listeners.get("virtualOutbound")
    if found is None or found.name == "virtualInbound":
        found = capture
    if found is None:
        return Outcome(reason="no listener takes outgoing connections of this proxy")
    return at_listener(config, found, call)


def inbound(config: Configuration, call: Call) -> Outcome:
    """A connection that was captured on its way into a sidecar's pod."""
    own = [x for x in config.listeners.values() if x.traffic_direction == api.base.INBOUND]
    bound = listener_at((x for x in own if x.name != "virtualInbound"), call.address, call.port)
    found = bound or config.listeners.get("virtualInbound")
    if found is None:
        return Outcome(reason="no listener takes incoming connections of this proxy")
    return at_listener(config, found, call)


def gateway(config: Configuration, call: Call) -> Outcome:
    """A connection to one of a gateway's own ports."""
    found = listener_at(config.listeners.values(), call.address, call.port)
    if found is None:
        ports = sorted({x.address.socket_address.port_value for x in config.listeners.values()})
        shown = ", ".join(map(str, ports)) or "none"
        return Outcome(reason=f"the gateway listens on no port {call.port} (it listens on: {shown})")
    return at_listener(config, found, call)


def at_listener(config: Configuration, listener: Listener, call: Call) -> Outcome:
    """From the listener on."""
    seen = _inspected(listener, call)
    chain, default = pick_chain(listener, seen)
    if chain is None:
        return Outcome(listener=listener.name, reason="no filter chain takes this connection: it is closed")
    outcome = Outcome(
        listener=listener.name,
        chain=chain.name,
        chain_match=chain.filter_chain_match,
        chain_default=default,
        terminates_tls=chain.HasField("transport_socket"),
        network_filters=tuple(chain.filters),
    )
    return _through(config, chain, call, seen, outcome)


def _through(config: Configuration, chain: FilterChain, call: Call, seen: Connection, outcome: Outcome) -> Outcome:
    encrypted = call.tls and not outcome.terminates_tls
    if outcome.terminates_tls and not call.tls:
        return _with(outcome, reason="the chain expects TLS and the client speaks plain text: the connection is closed")
    for one in chain.filters:
        kind = one.typed_config.type_url.rpartition(".")[2]
        if kind == "HttpConnectionManager":
            manager = HCM.FromString(one.typed_config.value)
            if call.request is None or encrypted:
                what = "TLS" if encrypted else "something that is no HTTP"
                return _with(outcome, http=True, manager=manager, reason=f"the listener expects HTTP and gets {what}")
            return _http(config, manager, call.request, outcome, call)
        if kind == "TcpProxy":
            proxy = api.tcp_proxy.TcpProxy.FromString(one.typed_config.value)
            by_sni = any(f.name == "envoy.filters.network.sni_cluster" for f in chain.filters)
            wanted = [(seen.sni, 1)] if by_sni and seen.sni else _tcp_clusters(proxy)
            found = _destinations(config, wanted, call)
            return _with(outcome, destinations=found, reason=_all_dead(found))
    return _with(outcome, reason="the filter chain has no filter that forwards")


def _tcp_clusters(proxy: api.tcp_proxy.TcpProxy) -> list[tuple[str, int]]:
    if proxy.WhichOneof("cluster_specifier") == "weighted_clusters":
        return [(c.name, c.weight) for c in proxy.weighted_clusters.clusters]
    return [(proxy.cluster, 1)]


def _http(config: Configuration, manager: HCM, request: Request, outcome: Outcome, call: Call) -> Outcome:
    outcome = _with(
        outcome, http=True, manager=manager, filters=tuple(f.name for f in manager.http_filters if not f.disabled)
    )
    by_name = manager.rds.route_config_name
    routes = config.route(by_name) if by_name else manager.route_config
    outcome = _with(outcome, route_config=by_name or manager.route_config.name)
    if routes is None:
        return _with(outcome, status=404, reason=f"there is no route configuration {by_name}")
    path = paths.normalized(request.path, manager)
    if path is None:
        return _with(outcome, status=400, reason="the path cannot be normalized")
    authority = _host(request.authority, manager)
    scheme = "https" if call.tls else request.scheme
    request = msgspec.structs.replace(request, path=path, authority=authority, scheme=scheme)
    host, domain = pick_virtual_host(routes, authority)
    outcome = _with(outcome, request=request)
    if host is None:
        return _with(outcome, status=404, reason=f"no virtual host of {outcome.route_config} is for {authority}")
    outcome = _with(outcome, virtual_host=host.name, domain=domain)
    if host.require_tls and scheme != "https":
        return _with(outcome, status=301, reason="the virtual host redirects everything to HTTPS")
    found = pick_route(host, request)
    if found is None:
        return _with(outcome, status=404, reason=f"no route of virtual host {host.name} matches")
    index, route = found
    return _act(config, _with(outcome, route_index=index, route=route), route, request, call)


def _host(authority: str, manager: HCM) -> str:
    host = authority.lower()
    if manager.strip_any_host_port or manager.strip_matching_host_port:
        host = without_port(host)
    if manager.strip_trailing_host_dot:
        name, colon, port = host.rpartition(":") if without_port(host) != host else (host, "", "")
        host = name.removesuffix(".") + colon + port
    return host


def _act(config: Configuration, outcome: Outcome, route: R.Route, request: Request, call: Call) -> Outcome:
    match route.WhichOneof("action"):
        case "redirect":
            codes = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}
            return _with(outcome, status=codes.get(route.redirect.response_code, 301), reason="the route redirects")
        case "direct_response":
            return _with(outcome, status=route.direct_response.status, reason="the route answers by itself")
        case "route":
            share, status, what = _abort(route, request)
            if share >= 100:
                return _with(outcome, status=status, reason=f"the route's fault aborts every call{what}")
            if share:
                outcome = _with(outcome, aborted=f"a fault aborts {share:g}% of calls with {status}{what}")
            wanted = _route_clusters(route.route, request)
            found = _destinations(config, wanted, call)
            copies = tuple(
                _destination(config, m.cluster, _fraction(m.runtime_fraction), call)
                for m in route.route.request_mirror_policies
                if m.cluster
            )
            dead = _all_dead(found)
            return _with(outcome, destinations=found, mirrors=copies, reason=dead, status=503 if dead else 0)
        case _:
            return _with(outcome, status=404, reason="the route has no action")


def _route_clusters(action: R.RouteAction, request: Request) -> list[tuple[str, int]]:
    match action.WhichOneof("cluster_specifier"):
        case "cluster":
            return [(action.cluster, 1)]
        case "weighted_clusters":
            return [(c.name, c.weight.value) for c in action.weighted_clusters.clusters]
        case "cluster_header":
            return [(request.header(action.cluster_header) or "", 1)]
        case _:
            return []


def _fraction(found: api.base.RuntimeFractionalPercent) -> float:
    return fraction_of(found.default_value) if found.HasField("default_value") else 100.0


_GRPC_AS_HTTP = {0: 200, 3: 400, 5: 404, 7: 403, 8: 429, 12: 501, 13: 500, 14: 503, 16: 401}


def _abort(route: R.Route, request: Request) -> tuple[float, int, str]:
    """Percent of calls that the route's fault aborts, with which status, and what is to be added."""
    if FAULT not in route.typed_per_filter_config:
        return 0.0, 0, ""
    fault = api.fault.HTTPFault.FromString(route.typed_per_filter_config[FAULT].value)
    if not fault.HasField("abort"):
        return 0.0, 0, ""
    share = fraction_of(fault.abort.percentage)
    if fault.abort.http_status:
        return share, fault.abort.http_status, ""
    code = fault.abort.grpc_status
    status = 200 if is_grpc(request) else _GRPC_AS_HTTP.get(code, 500)
    return share, status, f" (gRPC status {code})"


def _all_dead(found: Iterable[Destination]) -> str:
    """Why none of the clusters that calls go to can be reached; empty when any can."""
    why = [dead_end(d) for d in found if d.share > 0]
    return next(iter(why), "") if all(why) else ""


def dead_end(one: Destination) -> str:
    """Why a call ends at this cluster, or empty."""
    if not one.exists:
        return f"cluster {one.cluster} does not exist"
    if one.cluster == "BlackHoleCluster":
        return "it is refused: nothing in the mesh is known there"
    if one.kind in ("EDS", "STATIC", "STRICT_DNS", "LOGICAL_DNS") and not _usable(one):
        return f"cluster {one.cluster} has no healthy endpoint"
    return ""


def _usable(one: Destination) -> bool:
    return any(t.health in ("HEALTHY", "UNKNOWN", "DEGRADED") for t in one.targets)


def forwarded(outcome: Outcome) -> Request | None:
    """The request as the next proxy gets it: with what the route rewrites and sets."""
    request, route = outcome.request, outcome.route
    if request is None or route is None or route.WhichOneof("action") != "route":
        return request
    made = route.route
    path, mark, query = request.path.partition("?")
    if made.prefix_rewrite:
        matched = route.match.path or route.match.prefix or route.match.path_separated_prefix
        path = made.prefix_rewrite + path[len(matched) :]
    elif made.HasField("regex_rewrite"):
        path = rewritten(made.regex_rewrite.pattern.regex, made.regex_rewrite.substitution, path)
    added = [
        (o.header.key.lower(), o.header.value)
        for o in route.request_headers_to_add
        if "%" not in o.header.value and not o.header.key.startswith(":")
    ]
    replaced = {o.header.key.lower() for o in route.request_headers_to_add if o.append_action == _OVERWRITE}
    gone = {n.lower() for n in route.request_headers_to_remove} | replaced
    return msgspec.structs.replace(
        request,
        path=path + mark + query,
        authority=made.host_rewrite_literal or request.authority,
        headers=(*(h for h in request.headers if h[0] not in gone), *added),
    )


# --- clusters ---


def _destinations(config: Configuration, wanted: Iterable[tuple[str, int]], call: Call) -> tuple[Destination, ...]:
    pairs = list(wanted)
    total = sum(w for _, w in pairs) or 1
    return tuple(_destination(config, name, weight * 100 / total, call) for name, weight in pairs)


def _destination(config: Configuration, name: str, share: float, call: Call) -> Destination:
    cluster = config.cluster(name)
    if cluster is None:
        return Destination(cluster=name, share=share, exists=False)
    fields = cluster.metadata.filter_metadata
    istio = fields["istio"].fields if "istio" in fields else {}
    return Destination(
        cluster=name,
        share=share,
        kind=cluster.cluster_type.name or api.cluster.Cluster.DiscoveryType.Name(cluster.type),
        balancing=api.cluster.Cluster.LbPolicy.Name(cluster.lb_policy),
        config=istio["config"].string_value if "config" in istio else "",
        subset=istio["subset"].string_value if "subset" in istio else "",
        targets=tuple(_targets(config, cluster, call)),
    )


def _targets(config: Configuration, cluster: api.cluster.Cluster, call: Call) -> Iterable[Target]:
    if cluster.type == api.cluster.Cluster.ORIGINAL_DST and not cluster.HasField("cluster_type"):
        port = cluster.original_dst_lb_config.upstream_port_override.value or call.port
        yield _encrypted(cluster, api.base.Metadata(), Target(address=call.address, port=port))
        return
    found = config.assignment(cluster)
    for group in found.endpoints if found is not None else ():
        where = group.locality
        locality = "/".join(p for p in (where.region, where.zone, where.sub_zone) if p)
        for one in group.lb_endpoints:
            socket = one.endpoint.address.socket_address
            pipe = one.endpoint.address.pipe.path
            target = Target(
                address=f"unix://{pipe}" if pipe else socket.address,
                port=socket.port_value,
                health=api.health_check.HealthStatus.Name(one.health_status).replace("UNKNOWN", "HEALTHY"),
                priority=group.priority,
                locality=locality,
                weight=one.load_balancing_weight.value or 1,
            )
            yield _encrypted(cluster, one.metadata, target)


def _encrypted(cluster: api.cluster.Cluster, metadata: api.base.Metadata, target: Target) -> Target:
    """How the connection to this endpoint is made: the first transport socket whose criteria its metadata has."""
    socket = cluster.transport_socket
    if cluster.transport_socket_matches:
        has = _plain(metadata, "envoy.transport_socket_match")
        for one in cluster.transport_socket_matches:
            wanted = {k: v.string_value for k, v in one.match.fields.items()}
            if wanted.items() <= has.items():
                socket = one.transport_socket
                break
    if not socket.typed_config.type_url.endswith("UpstreamTlsContext"):
        return target
    context = api.tls.UpstreamTlsContext.FromString(socket.typed_config.value)
    common = context.common_tls_context
    names = [c.name for c in common.tls_certificate_sds_secret_configs]
    kind = "mutual TLS" if "default" in names else ("mutual TLS of its own" if names else "TLS")
    return msgspec.structs.replace(target, tls=kind, sni=context.sni, alpn=tuple(common.alpn_protocols))


def _plain(metadata: api.base.Metadata, namespace: str) -> Mapping[str, str]:
    if namespace not in metadata.filter_metadata:
        return {}
    return {k: v.string_value for k, v in metadata.filter_metadata[namespace].fields.items()}


# --- listener filters ---


def _inspected(listener: Listener, call: Call) -> Connection:
    """The connection as the listener's inspectors show it: without them TLS and HTTP are not told apart."""
    seen = Connection(address=call.address, port=call.port, source=call.source)
    kinds = {
        f.typed_config.type_url.rpartition(".")[2]
        for f in listener.listener_filters
        if not _disabled(f.filter_disabled, call)
    }
    if call.tls and "TlsInspector" in kinds:
        return msgspec.structs.replace(seen, transport="tls", sni=call.sni, protocols=call.protocols)
    if not call.tls and call.request is not None and "HttpInspector" in kinds:
        return msgspec.structs.replace(seen, protocols=call.protocols or HTTP1)
    return seen


def _disabled(rule: api.listener_components.ListenerFilterChainMatchPredicate, call: Call) -> bool:
    match rule.WhichOneof("rule"):
        case "destination_port_range":
            return rule.destination_port_range.start <= call.port < rule.destination_port_range.end
        case "or_match":
            return any(_disabled(r, call) for r in rule.or_match.rules)
        case "and_match":
            return all(_disabled(r, call) for r in rule.and_match.rules)
        case "not_match":
            return not _disabled(rule.not_match, call)
        case "any_match":
            return rule.any_match
        case _:
            return False


def _with(outcome: Outcome, **changes: object) -> Outcome:
    return msgspec.structs.replace(outcome, **changes)
