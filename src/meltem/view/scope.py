"""Who sees alike: proxies are sorted into scopes, and everything outbound is made once a scope.

In: proxies, Sidecar resources, and which labels any rule selects clients by. Out: `Scope` (a frozen value, itself the
key of everything made for it), and what a Sidecar resource lets its scope import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meltem.graph.model import Protocol, Service, declared_protocol, host_matches
from meltem.graph.routing import Routing
from meltem.resources import networking
from meltem.view.proxy import Proxy, ProxyKind
from meltem.view.proxy_settings import HttpOptions, http_options


class Scope(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Everything by which outbound configuration may differ between two proxies."""

    kind: str
    """`sidecar` or `router`."""
    namespace: str
    sidecar: str = ""
    """`namespace/name` of the Sidecar resource that holds; empty: none."""
    cluster: str = ""
    network: str = ""
    network_view: tuple[str, ...] = ()
    """Networks whose endpoints alone are known (and those of none): an east-west gateway leads into its own."""
    locality: tuple[str, str, str] = ("", "", "")
    labels: tuple[tuple[str, str], ...] = ()
    """Only those that some rule selects by."""
    node: str = ""
    """Set only where some service keeps traffic on the node."""
    ipv4: bool = True
    ipv6: bool = False
    by_delta: bool = True
    """Virtual hosts one by one (VHDS)."""
    secrets_by_socket: bool = False
    """The agents are Istio's own (`generate.by_socket`)."""
    capture: bool = True
    """Traffic is captured (REDIRECT or TPROXY); else listeners bind their ports."""
    dns_capture: bool = False
    http_proxy_port: int = 0
    """The proxies' own, in place of the mesh's `proxyHttpPort`."""
    http: HttpOptions = HttpOptions()
    sni_dnat: bool = False
    """A gateway that takes TLS of other networks for services by their names (AUTO_PASSTHROUGH)."""
    policies: tuple[tuple[str, str, str], ...] = ()
    """Policies with a selector that selects these proxies: kind, namespace, name."""
    patches: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    """EnvoyFilters that hold for these proxies, and which of their patches."""

    @property
    def is_router(self) -> bool:
        return self.kind == ProxyKind.ROUTER.value

    @property
    def wildcard(self) -> str:
        return "0.0.0.0" if self.ipv4 else "::"

    @property
    def loopback(self) -> str:
        return "127.0.0.1" if self.ipv4 else "::1"


def scope_of(
    proxy: Proxy,
    locality: tuple[str, str, str],
    sidecar: str,
    label_keys: Iterable[str],
    *,
    node_matters: bool,
    sni_dnat: bool = False,
) -> Scope:
    """`locality`: the proxy's region, zone and subzone."""
    wanted = set(label_keys)
    return Scope(
        kind=proxy.kind.value,
        namespace=proxy.namespace,
        sidecar=sidecar,
        cluster=proxy.cluster,
        network=proxy.network,
        network_view=proxy.requested_network_view,
        locality=locality,
        labels=tuple(pair for pair in proxy.labels if pair[0] in wanted),
        node=proxy.node_name if node_matters else "",
        ipv4=proxy.ipv4,
        ipv6=proxy.ipv6,
        by_delta=proxy.virtual_hosts_by_delta,
        secrets_by_socket=proxy.secrets_by_socket,
        capture=proxy.interception != "NONE",
        dns_capture=proxy.dns_capture,
        http_proxy_port=_port(dict(proxy.metadata).get("HTTP_PROXY_PORT", "")),
        http=http_options(proxy),
        sni_dnat=sni_dnat,
    )


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0


def sidecar_for(
    labels: Mapping[str, str],
    namespace: str,
    root_namespace: str,
    in_namespace: Iterable[networking.Sidecar],
    in_root: Iterable[networking.Sidecar],
) -> networking.Sidecar | None:
    """The Sidecar that holds: one that selects the workload, else its namespace's, else the mesh's; oldest first."""
    ordered = sorted(in_namespace, key=lambda s: (s.metadata.creation_timestamp, s.name))
    for sidecar in ordered:
        selector = sidecar.spec.workload_selector
        if selector is not None and selector.labels and all(labels.get(k) == v for k, v in selector.labels.items()):
            return sidecar
    general = [s for s in ordered if s.spec.workload_selector is None or not s.spec.workload_selector.labels]
    if general:
        return general[0]
    if namespace == root_namespace:
        return None
    mesh = sorted(in_root, key=lambda s: (s.metadata.creation_timestamp, s.name))
    return next((s for s in mesh if s.spec.workload_selector is None or not s.spec.workload_selector.labels), None)


class Imports(msgspec.Struct, frozen=True):
    """What a Sidecar's egress lets in: pairs of namespace (`*`, a name) and host pattern. None: everything visible."""

    hosts: tuple[tuple[str, str], ...]
    excluded: tuple[tuple[str, str], ...] = ()
    """Left out of what `hosts` lets in."""
    more: tuple[Imports, ...] = ()
    """Of other listeners: what one leaves out another may let in."""

    def covers(self, namespace: str, host: str) -> bool:
        own = _named(self.hosts, namespace, host) and not _named(self.excluded, namespace, host)
        return own or any(other.covers(namespace, host) for other in self.more)


def _named(pairs: tuple[tuple[str, str], ...], namespace: str, host: str) -> bool:
    return any(ns in ("*", namespace) and host_matches(pattern, host) for ns, pattern in pairs)


def parse_egress_hosts(hosts: Iterable[str], namespace: str) -> Imports:
    """`ns/host`: `.` is the Sidecar's own namespace. With `~` before the namespace the host is left out; `~` alone
    means every namespace."""
    found: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for text in hosts:
        where, _, pattern = text.partition("/")
        if not pattern:
            continue
        excluded = where.startswith("~")
        where = (where[1:] or "*") if excluded else where
        found[excluded].append((namespace if where == "." else where, pattern))
    return Imports(tuple(dict.fromkeys(found[False])), tuple(dict.fromkeys(found[True])))


def imports_of(sidecar: networking.Sidecar | None, scope: Scope) -> Imports | None:
    """Of all listeners together. None: all that is visible."""
    if sidecar is None or not sidecar.spec.egress:
        return None
    return _together(sidecar.spec.egress, scope)


def _together(listeners: Iterable[networking.EgressListener], scope: Scope) -> Imports:
    parts = [parse_egress_hosts(e.hosts, scope.namespace) for e in listeners]
    if any(p.excluded for p in parts):
        return msgspec.structs.replace(parts[0], more=tuple(parts[1:]))
    return Imports(tuple(dict.fromkeys(pair for p in parts for pair in p.hosts)))


class EgressPort(msgspec.Struct, frozen=True):
    """An egress listener of a Sidecar that names its port, or binds a unix socket: it takes only services with that
    port, and no other listener takes the port."""

    imports: Imports
    number: int
    protocol: Protocol
    bind: str = ""
    """An address or `unix://…`; empty: where the services are."""
    own_socket: bool = False
    """Clients connect to it themselves; else traffic is captured."""


def egress_ports(sidecar: networking.Sidecar | None, scope: Scope) -> tuple[EgressPort, ...]:
    out: list[EgressPort] = []
    for listener in sidecar.spec.egress if sidecar is not None else ():
        if listener.port is None and not listener.bind.startswith("unix://"):
            continue
        own = listener.capture_mode == "NONE" or listener.bind.startswith("unix://") or not scope.capture
        port = listener.port or networking.SidecarPort()
        bind = listener.bind or (scope.loopback if own else "")
        imports = parse_egress_hosts(listener.hosts, scope.namespace)
        out.append(EgressPort(imports, port.number, declared_protocol(port.protocol), bind, own))
    return tuple(out)


def rest_of(sidecar: networking.Sidecar | None, scope: Scope) -> Imports | None:
    """What listeners without a port let in: all other ports. None: all that is visible."""
    if sidecar is None or not sidecar.spec.egress:
        return None
    general = [e for e in sidecar.spec.egress if e.port is None and not e.bind.startswith("unix://")]
    return _together(general, scope)


def sees(scope: Scope, imports: Imports | None, service: Service) -> bool:
    """Whether proxies of the scope know the service at all."""
    if not service.visible_to(scope.namespace):
        return False
    return imports is None or imports.covers(service.namespace, service.hostname)


def best(scope: Scope, candidates: Iterable[Service]) -> Service | None:
    """Of services with one hostname in several namespaces: the scope's own, then Kubernetes', then the oldest."""
    return min(
        candidates,
        key=lambda s: (s.namespace != scope.namespace, not s.kubernetes, s.created, s.namespace),
        default=None,
    )


def uses(scope: Scope, imports: Imports | None, routing: Routing, host: str) -> bool:
    """Whether a routing rule for the host holds in this scope."""
    if not routing.visible_to(scope.namespace):
        return False
    return imports is None or imports.covers(routing.namespace, host)


def source_matches(scope: Scope, labels: Mapping[str, str], namespace: str) -> bool:
    """A match's sourceLabels and sourceNamespace against the scope's own."""
    if namespace and namespace != scope.namespace:
        return False
    own = dict(scope.labels)
    return all(own.get(k) == v for k, v in labels.items())


__all__ = [
    "EgressPort",
    "Imports",
    "Scope",
    "best",
    "egress_ports",
    "imports_of",
    "parse_egress_hosts",
    "rest_of",
    "scope_of",
    "sees",
    "sidecar_for",
    "source_matches",
    "uses",
]
