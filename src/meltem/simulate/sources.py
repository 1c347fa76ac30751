"""Which field of which resource decided: from generated configuration back to what people wrote.

In: an outcome of the walk, the world. Out: lines such as `VirtualService default/reviews spec.http[1].match[0]
(reviews.yaml:14)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from meltem.generate.matching import route_match
from meltem.graph.model import Service, host_matches, labels_match
from meltem.graph.routing import MESH, Routing, narrow, resolve_gateways
from meltem.objects import (
    JsonObject,
    Step,
    at,
    int_at,
    labels_of,
    namespace_of,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
)
from meltem.resources import networking
from meltem.simulate.matching import R
from meltem.simulate.request import Destination, Outcome
from meltem.simulate.world import World
from meltem.view.proxy import Proxy, ProxyKind


def field(world: World, kind: str, namespace: str, name: str, *path: Step) -> str:
    """One line for a field of an object; its file and line where it is from a file."""
    where = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    text = f"{where} {dotted(path)}".rstrip()
    placed = world.find(kind, namespace, name)
    place = placed.origin.place(*path) if placed is not None else ""
    return f"{text} ({place})" if place else text


def dotted(path: Iterable[Step]) -> str:
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else (f".{step}" if out else step)
    return out


def of_route(world: World, proxy: Proxy, route: R.Route, port: int) -> list[str]:
    """The VirtualService rule that a route was made from. `port`: the listener's."""
    fields = route.metadata.filter_metadata
    config = str(fields["istio"].fields["config"].string_value) if "istio" in fields else ""
    parts = config.strip("/").split("/")
    if len(parts) < 7:
        return []
    namespace, name = parts[4], parts[6]
    resource = world.engine.inputs.virtual_services.get(("Kubernetes", namespace, name))
    if resource is None:
        return [f"{parts[5]} {namespace}/{name}"]
    return _rule_of(world, resource, proxy, route, frozenset(_ports(world, proxy, port)))


def _rule_of(
    world: World, vs: networking.VirtualService, proxy: Proxy, route: R.Route, ports: frozenset[int]
) -> list[str]:
    """The first rule and match whose generated form is the route's; of a rule that delegates also the delegate's."""
    wanted = route.match.SerializeToString(deterministic=True)

    def fits(match: networking.HTTPMatch | None) -> bool:
        if match is not None and not _for_client(match, vs.namespace, proxy, ports):
            return False
        return route_match(match).SerializeToString(deterministic=True) == wanted

    for i, rule in enumerate(vs.spec.http):
        if rule.name and route.name and rule.name not in route.name:
            continue
        if rule.delegate is not None:
            found = _delegated(world, vs, i, fits)
            if found:
                return found
        for path, match in _matches(("spec", "http", i), rule.match):
            if rule.delegate is None and fits(match):
                return [field(world, "VirtualService", vs.namespace, vs.name, *path)]
    return [field(world, "VirtualService", vs.namespace, vs.name, "spec", "http")]


def _matches(
    rule: tuple[Step, ...], matches: Sequence[networking.HTTPMatch]
) -> list[tuple[tuple[Step, ...], networking.HTTPMatch | None]]:
    """Each match with its path; a rule without any stands for itself."""
    return [((*rule, "match", j), m) for j, m in enumerate(matches)] or [(rule, None)]


def _delegated(
    world: World, vs: networking.VirtualService, index: int, fits: Callable[[networking.HTTPMatch | None], bool]
) -> list[str]:
    """The root's rule and the delegate's rule that fit together; empty when none do."""
    root = vs.spec.http[index]
    named = root.delegate
    if named is None:
        return []
    where = named.namespace or vs.namespace
    target = world.engine.inputs.virtual_services.get(("Kubernetes", where, named.name))
    if target is None:
        return []
    for i, rule in enumerate(target.spec.http):
        for path, own in _matches(("spec", "http", i), rule.match):
            for outer_path, outer in _matches(("spec", "http", index), root.match):
                both = narrow(() if outer is None else (outer,), () if own is None else (own,))
                if both is not None and fits(both[0] if both else None):
                    return [
                        field(world, "VirtualService", vs.namespace, vs.name, *outer_path),
                        field(world, "VirtualService", where, named.name, *path),
                    ]
    return []


def of_connection(world: World, proxy: Proxy, outcome: Outcome, service: Service | None, port: int) -> list[str]:
    """The VirtualService rule (`tls` or `tcp`) that says where a connection that is no HTTP goes; empty without one."""
    goes = {
        (d.cluster.split("|")[3], d.cluster.split("|")[2]) for d in outcome.destinations if d.cluster.count("|") == 3
    }
    if not goes:
        return []
    names = set(outcome.chain_match.server_names) if outcome.chain_match is not None else set[str]()
    for routing in sorted(world.engine.mesh.routings.values(), key=lambda r: r.order):
        kind, _, key = routing.source.partition(" ")
        if kind != "VirtualService" or not _concerns(routing, proxy, service, names):
            continue
        namespace, _, name = key.partition("/")
        rules = [("tls", i, r.route, r.match) for i, r in enumerate(routing.tls) if names]
        rules += [("tcp", i, r.route, r.match) for i, r in enumerate(routing.tcp)]
        for title, index, made, matches in rules:
            if {(r.destination.host, r.destination.subset) for r in made} != goes:
                continue
            path: tuple[Step, ...] = ("spec", title, index)
            if not matches:
                return [field(world, "VirtualService", namespace, name, *path)]
            for j, match in enumerate(matches):
                asked = match.sni_hosts if isinstance(match, networking.TLSMatch) else ()
                if (not asked or names & {h.lower() for h in asked}) and _for_client(
                    match, routing.namespace, proxy, _ports(world, proxy, port)
                ):
                    return [field(world, "VirtualService", namespace, name, *path, "match", j)]
    return []


def _concerns(routing: Routing, proxy: Proxy, service: Service | None, names: set[str]) -> bool:
    """Whether rules of it may hold for connections of this proxy."""
    if proxy.kind is ProxyKind.ROUTER:
        return any(g != MESH for g in routing.gateways)
    if MESH not in routing.gateways or not routing.visible_to(proxy.namespace):
        return False
    wanted = {*names, *((service.hostname,) if service is not None else ())}
    return any(host_matches(h, w) for h in routing.hosts for w in wanted)


def _for_client(
    match: networking.HTTPMatch | networking.TLSMatch | networking.TCPMatch,
    namespace: str,
    proxy: Proxy,
    ports: Set[int],
) -> bool:
    """What a match asks of the client and the port, which no generated match shows."""
    gateways = resolve_gateways(match.gateways, namespace)
    if gateways and (MESH in gateways) != (proxy.kind is ProxyKind.SIDECAR):
        return False
    if match.port and match.port not in ports:
        return False
    own = proxy.label_map
    if any(own.get(k) != v for k, v in match.source_labels.items()):
        return False
    return match.source_namespace in ("", proxy.namespace)


def of_cluster(world: World, destination: Destination) -> list[str]:
    """The DestinationRule (and its subset) that shaped a cluster."""
    parts = destination.config.strip("/").split("/")
    if len(parts) < 7:
        return []
    namespace, name = parts[4], parts[6]
    placed = world.find("DestinationRule", namespace, name)
    subset = destination.cluster.split("|")[2] if destination.cluster.count("|") == 3 else ""
    if placed is None:
        return [f"DestinationRule {namespace}/{name}"]
    lines: list[str] = []
    for index, one in enumerate(objects_at(placed.obj, "spec", "subsets")):
        if subset and str_at(one, "name") == subset:
            lines.append(field(world, "DestinationRule", namespace, name, "spec", "subsets", index))
    if at(placed.obj, "spec", "trafficPolicy") is not None:
        lines.append(field(world, "DestinationRule", namespace, name, "spec", "trafficPolicy"))
    return lines or [field(world, "DestinationRule", namespace, name, "spec")]


def of_service_port(world: World, service: Service, port: int) -> list[str]:
    """The port of the Service (or ServiceEntry) that made an outbound listener speak what it speaks."""
    kind, _, rest = service.source.partition(" ")
    namespace, _, name = rest.partition("/")
    placed = world.find(kind, namespace, name)
    known = service.port(port)
    if known is None:
        return []
    if placed is None:
        return [service.source] if service.source else []
    key = "number" if kind == "ServiceEntry" else "port"
    for index, one in enumerate(objects_at(placed.obj, "spec", "ports")):
        if int_at(one, key) == port:
            line = field(world, kind, namespace, name, "spec", "ports", index)
            return [f"{line}: name {known.name or '(none)'} → {known.protocol.value or 'found out on the first bytes'}"]
    return [service.source]


def of_gateway(world: World, proxy: Proxy, outcome: Outcome, host: str, port: int) -> list[str]:
    """Servers of Gateways that select this proxy and take the host."""
    lines: list[str] = []
    for placed in world.of_kind("Gateway"):
        selector = tuple(string_map_at(placed.obj, "spec", "selector").items())
        if not selector or not labels_match(selector, proxy.labels):
            continue
        for index, server in enumerate(objects_at(placed.obj, "spec", "servers")):
            number = int_at(server, "port", "number")
            if number not in _ports(world, proxy, port) or not _takes(server, host):
                continue
            namespace, name = namespace_of(placed.obj), str_at(placed.obj, "metadata", "name")
            lines.append(field(world, "Gateway", namespace, name, "spec", "servers", index))
    return lines


def _takes(server: JsonObject, host: str) -> bool:
    patterns = [h.rpartition("/")[2] for h in strings_at(server, "hosts")]
    return not host or any(host_matches(p, host) for p in patterns)


def _ports(world: World, proxy: Proxy, port: int) -> set[int]:
    """The proxy's port and the ports of Services that lead to it."""
    found = {port}
    for placed in world.of_kind("Service"):
        selector = tuple(string_map_at(placed.obj, "spec", "selector").items())
        if namespace_of(placed.obj) == proxy.namespace and selector and labels_match(selector, proxy.labels):
            for one in objects_at(placed.obj, "spec", "ports"):
                if int_at(one, "targetPort", default=int_at(one, "port")) == port:
                    found.add(int_at(one, "port"))
    return found


def gateway_port(world: World, proxy: Proxy, port: int) -> int:
    """The proxy's own port for a port of the Service in front of it."""
    for placed in world.of_kind("Service"):
        selector = tuple(string_map_at(placed.obj, "spec", "selector").items())
        if namespace_of(placed.obj) == proxy.namespace and selector and labels_match(selector, proxy.labels):
            for one in objects_at(placed.obj, "spec", "ports"):
                if int_at(one, "port") == port:
                    return int_at(one, "targetPort", default=port)
    return port


def of_peer_policy(world: World, proxy: Proxy, port: int) -> list[str]:
    """The PeerAuthentication that set the mode of a port; the default has none."""
    settings = world.engine.mesh.settings.get("")
    root = settings.root_namespace if settings is not None else "istio-system"
    best: tuple[int, str, str, tuple[Step, ...]] | None = None
    for placed in world.of_kind("PeerAuthentication"):
        namespace, name = namespace_of(placed.obj), str_at(placed.obj, "metadata", "name")
        selector = string_map_at(placed.obj, "spec", "selector", "matchLabels")
        if namespace not in (proxy.namespace, root):
            continue
        if selector and (namespace != proxy.namespace or not selector.items() <= proxy.label_map.items()):
            continue
        by_port = str_at(placed.obj, "spec", "portLevelMtls", str(port), "mode")
        mode = str_at(placed.obj, "spec", "mtls", "mode")
        path: tuple[Step, ...] = ("spec", "portLevelMtls", str(port)) if selector and by_port else ("spec", "mtls")
        if not (selector and by_port) and mode in ("", "UNSET"):
            continue
        rank = 3 if selector else (2 if namespace == proxy.namespace else 1)
        if best is None or rank > best[0]:
            best = (rank, namespace, name, path)
    return [] if best is None else [field(world, "PeerAuthentication", best[1], best[2], *best[3])]


def of_ingress(world: World, route: R.Route, domain: str) -> list[str]:
    """The path of an Ingress that a gateway's route was made from; `domain`: of the virtual host."""
    lines: list[str] = []
    wanted = (route.match.path or route.match.path_separated_prefix or route.match.prefix).rstrip("/")
    for placed in world.of_kind("Ingress"):
        namespace, name = namespace_of(placed.obj), str_at(placed.obj, "metadata", "name")
        for i, rule in enumerate(objects_at(placed.obj, "spec", "rules")):
            if (str_at(rule, "host") or "*") != domain:
                continue
            for j, one in enumerate(objects_at(rule, "http", "paths")):
                if str_at(one, "path").rstrip("/") == wanted:
                    lines.append(field(world, "Ingress", namespace, name, "spec", "rules", i, "http", "paths", j))
    return lines[:1]


def of_pod(world: World, address: str) -> str:
    """`Pod default/reviews-v1-…` at an address, or empty."""
    keys = world.engine.mesh.pods_by_address.lookup(address)
    return next((f"{k[1]}/{k[2]}" for k in keys), "")


def version_of(world: World, address: str) -> str:
    """The `version` label of the pod at an address."""
    for key in world.engine.mesh.pods_by_address.lookup(address):
        placed = world.find("Pod", key[1], key[2])
        if placed is not None:
            return labels_of(placed.obj).get("version", "")
    return ""
