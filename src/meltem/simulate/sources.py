"""Which field of which resource decided: from generated configuration back to what people wrote.

In: an outcome of the walk, the world. Out: lines such as `VirtualService default/reviews spec.http[1].match[0]
(reviews.yaml:14)`.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem.generate.matching import route_match
from meltem.graph.model import Service, host_matches, labels_match
from meltem.graph.routing import MESH, resolve_gateways
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


def of_route(world: World, proxy: Proxy, route: R.Route) -> list[str]:
    """The VirtualService rule that a route was made from."""
    fields = route.metadata.filter_metadata
    config = str(fields["istio"].fields["config"].string_value) if "istio" in fields else ""
    parts = config.strip("/").split("/")
    if len(parts) < 7:
        return []
    namespace, name = parts[4], parts[6]
    resource = world.engine.inputs.virtual_services.get(("Kubernetes", namespace, name))
    if resource is None:
        return [f"{parts[5]} {namespace}/{name}"]
    path = _rule_of(world, resource, proxy, route)
    return [field(world, "VirtualService", namespace, name, *path)]


def _rule_of(world: World, vs: networking.VirtualService, proxy: Proxy, route: R.Route) -> tuple[Step, ...]:
    """The first rule and match whose generated form is the route's."""
    wanted = route.match.SerializeToString(deterministic=True)
    for i, rule in enumerate(vs.spec.http):
        if rule.name and route.name and rule.name not in route.name:
            continue
        if not rule.match and wanted == route_match(None).SerializeToString(deterministic=True):
            return ("spec", "http", i)
        for j, match in enumerate(rule.match):
            made = route_match(match).SerializeToString(deterministic=True)
            if made == wanted and _for_proxy(match, vs, proxy):
                return ("spec", "http", i, "match", j)
    return ("spec", "http")


def _for_proxy(match: networking.HTTPMatch, vs: networking.VirtualService, proxy: Proxy) -> bool:
    gateways = resolve_gateways(match.gateways, vs.namespace)
    if gateways and (MESH in gateways) != (proxy.kind is ProxyKind.SIDECAR):
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
    if placed is None or known is None:
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
