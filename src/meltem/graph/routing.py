"""Routing rules: the one internal form in which VirtualServices and Ingresses (and later Gateway API routes) meet.

In: VirtualService resources (delegates included) and converted Ingresses. Out: `Routing`s: hosts and destinations in
full, gateways as `namespace/name` or `mesh`, visibility resolved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from meltem.graph.model import short_name
from meltem.graph.services import resolve_export_to
from meltem.resources import networking

MESH = "mesh"


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """Routing rules for some hosts at some gateways."""

    name: str
    namespace: str
    created: str
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    export_to: tuple[str, ...]
    http: tuple[networking.HTTPRoute, ...] = ()
    tls: tuple[networking.TLSRoute, ...] = ()
    tcp: tuple[networking.TCPRoute, ...] = ()
    source: str = ""
    """The resource that it is from, as people know it: `VirtualService default/reviews`."""
    sticky: str = ""
    """Our annotation `meltem.io/sticky`: what a weighted split keeps each user on a version by."""

    @property
    def order(self) -> tuple[int, str, str, str]:
        """A rule that only its own namespace sees comes before one for chosen namespaces, that before one for all;
        then the older; then by name, so that the order never depends on history."""
        width = 2 if "*" in self.export_to else int(self.export_to != (self.namespace,))
        return (width, self.created, self.namespace, self.name)

    @property
    def by_length(self) -> bool:
        """Stands for an Ingress: of several for a host the longest path comes first, whoever is older."""
        return self.source.startswith("Ingress ")

    def visible_to(self, namespace: str) -> bool:
        return "*" in self.export_to or namespace in self.export_to


def destinations_of(routing: Routing) -> set[str]:
    """Hosts that it sends anything to."""
    found = {r.destination.host for rule in routing.http for r in rule.route}
    found |= {m.destination.host for rule in routing.http for m in rule.mirrors}
    found |= {rule.mirror.host for rule in routing.http if rule.mirror is not None}
    found |= {r.destination.host for rule in routing.tls for r in rule.route}
    return found | {r.destination.host for rule in routing.tcp for r in rule.route}


STICKY = "meltem.io/sticky"

Delegates = Callable[[str, str], networking.VirtualService | None]
"""namespace, name → the VirtualService that a delegate names"""


def from_virtual_service(
    vs: networking.VirtualService, domain: str, default_export: tuple[str, ...], delegates: Delegates
) -> Routing | None:
    """None for a delegate (it has no hosts of its own)."""
    spec = vs.spec
    if not spec.hosts:
        return None
    namespace = vs.namespace
    http: list[networking.HTTPRoute] = []
    for route in (_resolve_http(r, namespace, domain) for r in spec.http):
        http.extend(_delegated(route, namespace, domain, default_export, delegates))
    return Routing(
        name=vs.name,
        namespace=namespace,
        created=vs.metadata.creation_timestamp,
        hosts=tuple(dict.fromkeys(short_name(h, namespace, domain).lower() for h in spec.hosts)),
        gateways=resolve_gateways(spec.gateways, namespace) or (MESH,),
        export_to=resolve_export_to(spec.export_to, namespace, default_export),
        http=tuple(http),
        tls=tuple(
            msgspec.structs.replace(
                r,
                route=_resolve_destinations(r.route, namespace, domain),
                match=tuple(
                    msgspec.structs.replace(m, gateways=resolve_gateways(m.gateways, namespace)) for m in r.match
                ),
            )
            for r in spec.tls
        ),
        tcp=tuple(
            msgspec.structs.replace(
                r,
                route=_resolve_destinations(r.route, namespace, domain),
                match=tuple(
                    msgspec.structs.replace(m, gateways=resolve_gateways(m.gateways, namespace)) for m in r.match
                ),
            )
            for r in spec.tcp
        ),
        source=f"VirtualService {namespace}/{vs.name}",
        sticky=vs.metadata.annotations.get(STICKY, ""),
    )


def resolve_gateways(names: Iterable[str], namespace: str) -> tuple[str, ...]:
    """`mesh` and `ns/name` stay; `name` and `./name` are of the rule's namespace; `name.ns.svc…` is the old form."""
    out: list[str] = []
    for name in names:
        if name == MESH or "/" in name:
            out.append(name.replace("./", f"{namespace}/") if name.startswith("./") else name)
        elif "." in name:
            first, _, rest = name.partition(".")
            out.append(f"{rest.split('.')[0]}/{first}")
        else:
            out.append(f"{namespace}/{name}")
    return tuple(dict.fromkeys(out))


def _resolve(destination: networking.Destination, namespace: str, domain: str) -> networking.Destination:
    return msgspec.structs.replace(destination, host=short_name(destination.host, namespace, domain))


def _resolve_destinations(
    routes: tuple[networking.RouteDestination, ...], namespace: str, domain: str
) -> tuple[networking.RouteDestination, ...]:
    return tuple(msgspec.structs.replace(r, destination=_resolve(r.destination, namespace, domain)) for r in routes)


def _resolve_http(route: networking.HTTPRoute, namespace: str, domain: str) -> networking.HTTPRoute:
    mirrors = tuple(
        msgspec.structs.replace(m, destination=_resolve(m.destination, namespace, domain)) for m in route.mirrors
    )
    return msgspec.structs.replace(
        route,
        match=tuple(msgspec.structs.replace(m, gateways=resolve_gateways(m.gateways, namespace)) for m in route.match),
        route=tuple(
            msgspec.structs.replace(r, destination=_resolve(r.destination, namespace, domain)) for r in route.route
        ),
        mirror=None if route.mirror is None else _resolve(route.mirror, namespace, domain),
        mirrors=mirrors,
    )


def _delegated(
    route: networking.HTTPRoute,
    namespace: str,
    domain: str,
    default_export: tuple[str, ...],
    delegates: Delegates,
) -> list[networking.HTTPRoute]:
    """A route that delegates becomes the delegate's routes, each narrowed by the root's matches. What the delegate does
    not say itself is the root's. A delegate that the root's namespace may not see, or that is none, has no routes."""
    if route.delegate is None:
        return [route]
    where = route.delegate.namespace or namespace
    target = delegates(where, route.delegate.name)
    if target is None or target.spec.hosts:
        return []
    exported = resolve_export_to(target.spec.export_to, where, default_export)
    if "*" not in exported and namespace not in exported:
        return []
    out: list[networking.HTTPRoute] = []
    for inner in (_resolve_http(r, where, domain) for r in target.spec.http):
        match = narrow(route.match, inner.match)
        if match is None:
            continue
        mirrors = inner if inner.mirror is not None or inner.mirrors else route
        out.append(
            msgspec.structs.replace(
                inner,
                match=match,
                direct_response=inner.direct_response or route.direct_response,
                timeout=inner.timeout if inner.timeout is not None else route.timeout,
                retries=inner.retries or route.retries,
                headers=inner.headers or route.headers,
                cors_policy=inner.cors_policy or route.cors_policy,
                fault=inner.fault or route.fault,
                rewrite=inner.rewrite or route.rewrite,
                mirror=mirrors.mirror,
                mirrors=mirrors.mirrors,
                mirror_percent_alias=mirrors.mirror_percent_alias,
                mirror_percent=mirrors.mirror_percent,
                mirror_percentage=mirrors.mirror_percentage,
                name="-".join(n for n in (route.name, inner.name) if n),
            )
        )
    return out


def narrow(
    root: tuple[networking.HTTPMatch, ...], inner: tuple[networking.HTTPMatch, ...]
) -> tuple[networking.HTTPMatch, ...] | None:
    """Each of the delegate's matches with every one of the root's that it lies within; None when one of them lies
    within none: the whole route is then left out, as in Istio."""
    if not root or not inner:
        return root or inner
    found: list[networking.HTTPMatch] = []
    for own in inner:
        pairs = [both for outer in root if (both := _both(outer, own)) is not None]
        if not pairs:
            return None
        found += pairs
    return tuple(found)


def _both(root: networking.HTTPMatch, inner: networking.HTTPMatch) -> networking.HTTPMatch | None:
    """Both matches at once: the delegate may only narrow what the root leaves open, or a prefix of it."""
    merged: dict[str, object] = {}
    for field in ("uri", "scheme", "method", "authority"):
        outer, own = getattr(root, field), getattr(inner, field)
        if outer is not None and own is not None and not _covers(outer, own):
            return None
        merged[field] = own if own is not None else outer
    for field in ("headers", "without_headers", "query_params"):
        outer_map, own_map = getattr(root, field), getattr(inner, field)
        if any(k in own_map and not _covers(v, own_map[k]) for k, v in outer_map.items()):
            return None
        merged[field] = {**outer_map, **own_map}
    if any(inner.source_labels.get(k, v) != v for k, v in root.source_labels.items()):
        return None
    if root.port and inner.port and root.port != inner.port:
        return None
    if root.source_namespace and inner.source_namespace and root.source_namespace != inner.source_namespace:
        return None
    if root.gateways and not set(inner.gateways) <= set(root.gateways):
        return None
    if root.ignore_uri_case != inner.ignore_uri_case and root.uri is not None and inner.uri is not None:
        return None
    return msgspec.structs.replace(
        inner,
        **merged,
        source_labels={**root.source_labels, **inner.source_labels},
        port=root.port or inner.port,
        source_namespace=root.source_namespace or inner.source_namespace,
        gateways=inner.gateways or root.gateways,
        ignore_uri_case=root.ignore_uri_case or inner.ignore_uri_case,
        stat_prefix=inner.stat_prefix or root.stat_prefix,
        name="-".join(n for n in (root.name, inner.name) if n),
    )


def _covers(outer: networking.StringMatch, own: networking.StringMatch) -> bool:
    if outer == own or outer == networking.StringMatch():
        return True
    if outer.prefix is None:
        return False
    text = own.exact if own.exact is not None else own.prefix
    return text is not None and text.startswith(outer.prefix)
