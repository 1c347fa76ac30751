"""VirtualService: hosts, gateways and rules; rules that can never be reached are warnings.

In: a `VirtualService`. Out: findings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from meltem.resources.networking import HTTPMatch, HTTPRoute, TCPRoute, TLSMatch, TLSRoute, VirtualService
from meltem.resources.networking import VirtualServiceSpec as Spec
from meltem.resources.parse import to_json
from meltem.validate import checks
from meltem.validate.findings import Report
from meltem.validate.http_route import check_destinations, check_gateways, check_http_route, is_claim

MESH = "mesh"
UNREACHABLE, INEFFECTIVE = "IST0130", "IST0131"
"""What the analyzers call a rule and a match that an earlier one leaves nothing."""
MAX_PATH = 2048
MAX_SAME_PREFIX = 16
R = TypeVar("R", HTTPRoute, TCPRoute, TLSRoute)


def check_virtual_service(r: Report, vs: VirtualService) -> None:
    spec = vs.spec
    at_gateway = any(g != MESH for g in spec.gateways)
    check_gateways(r, spec.gateways)
    if not spec.hosts:
        _delegated(r, spec)
    elif _hosts(r, spec, at_gateway=at_gateway):
        _no_overlap(r, spec.hosts)
    if not (spec.http or spec.tcp or spec.tls):
        r.error("there are no rules", "Set http, tls or tcp.")
    for i, route in enumerate(spec.http):
        check_http_route(r.at("http", i), route, delegate=not spec.hosts)
        if not at_gateway:
            _no_claims(r.at("http", i), route)
    hosts = Hosts(spec.hosts)
    for i, route in enumerate(spec.tls):
        _tls_route(r.at("tls", i), route, hosts, at_gateway=at_gateway)
    for i, route in enumerate(spec.tcp):
        _tcp_route(r.at("tcp", i), route)
    checks.check_export_to(r, vs.namespace, spec.export_to)
    _unreachable(r, "http", spec.http)
    _unreachable(r, "tcp", spec.tcp)
    _unreachable(r, "tls", spec.tls)
    _covered(r, spec.http)


def _delegated(r: Report, spec: Spec) -> None:
    for name, value in (("gateways", spec.gateways), ("tls", spec.tls), ("tcp", spec.tcp)):
        if value:
            r.at(name).error(
                f"a VirtualService without hosts is delegated to and cannot have {name}",
                f"Set hosts, or remove {name}.",
            )


def _hosts(r: Report, spec: Spec, *, at_gateway: bool) -> bool:
    good = True
    for i, host in enumerate(spec.hosts):
        here = r.at("hosts", i)
        generated = at_gateway and bool(spec.tls) and host.startswith("outbound_.")
        found = "" if generated else checks.domain_error(host, wildcard=True)
        if found and not checks.is_ip(host):
            here.error(found, "Write a host name such as reviews, reviews.prod.svc.cluster.local or *.example.com.")
            good = False
        elif host == "*" and not at_gateway:
            here.error("'*' is not allowed for sidecars (gateway `mesh`)", "Name hosts, or set gateways.")
            good = False
    return good


def _no_overlap(r: Report, hosts: tuple[str, ...]) -> None:
    """Sorted from the end of the name, hosts that a wildcard covers stand right after it: no pair is compared twice."""
    entries = sorted((h.removeprefix("*")[::-1], not h.startswith("*"), i) for i, h in enumerate(hosts))
    wildcard: tuple[str, int] | None = None
    before: tuple[str, int] | None = None
    for name, exact, i in entries:
        other = None
        if wildcard is not None and name.startswith(wildcard[0]):
            other = wildcard[1]
        elif before is not None and before[0] == name:
            other = before[1]
        if other is not None:
            r.at("hosts", max(i, other)).error(
                f"{hosts[max(i, other)]!r} overlaps with {hosts[min(i, other)]!r}", "Name every host once."
            )
        elif not exact:
            wildcard = (name, i)
        before = (name, i)


class Hosts:
    """The hosts of a VirtualService, to be asked which names they cover."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._exact = frozenset(hosts)
        self._suffixes = frozenset(h.removeprefix("*") for h in hosts if h.startswith("*"))

    def cover(self, name: str) -> bool:
        """Whether every host that `name` (perhaps with a wildcard) means is meant by one of them."""
        if name in self._exact:
            return True
        text = name.removeprefix("*")[:512]
        return any(text[k:] in self._suffixes for k in range(len(text) + 1))


def _no_claims(r: Report, route: HTTPRoute) -> None:
    for i, match in enumerate(route.match):
        for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
            for name in headers:
                if is_claim(name):
                    r.at("match", i).at(field, name).error(
                        "routing by token claims works at gateways only", "Set gateways to the gateways that it is for."
                    )


def _tls_route(r: Report, route: TLSRoute, hosts: Hosts, *, at_gateway: bool) -> None:
    if not route.match:
        r.at("match").error("a TLS rule needs at least one match", "Match sniHosts.")
    for i, match in enumerate(route.match):
        _tls_match(r.at("match", i), match, hosts, at_gateway=at_gateway)
    if not route.route:
        r.at("route").error("the rule has no destination")
    check_destinations(r, route.route)


def _tls_match(r: Report, match: TLSMatch, hosts: Hosts, *, at_gateway: bool) -> None:
    if not match.sni_hosts:
        r.at("sniHosts").error("a TLS match needs at least one server name")
    for i, host in enumerate(match.sni_hosts):
        here = r.at("sniHosts", i)
        found = "" if at_gateway and host.startswith("outbound_.") else checks.domain_error(host, wildcard=True)
        if found and checks.is_ip(host):
            here.warn("server names are no IP addresses (RFC 6066): most clients will never send this")
        elif found:
            here.error(found)
        elif not hosts.cover(host):
            here.error(f"{host[:80]!r} is not among the hosts of the VirtualService", "Add it to spec.hosts.")
    for i, subnet in enumerate(match.destination_subnets):
        checks.check_subnet(r.at("destinationSubnets", i), subnet)
    if match.port:
        checks.check_port(r.at("port"), match.port)
    checks.check_labels(r.at("sourceLabels"), match.source_labels)
    check_gateways(r, match.gateways)


def _tcp_route(r: Report, route: TCPRoute) -> None:
    for i, match in enumerate(route.match):
        here = r.at("match", i)
        for j, subnet in enumerate(match.destination_subnets):
            checks.check_subnet(here.at("destinationSubnets", j), subnet)
        if match.port:
            checks.check_port(here.at("port"), match.port)
        checks.check_labels(here.at("sourceLabels"), match.source_labels)
        check_gateways(here, match.gateways)
    if not route.route:
        r.at("route").error("the rule has no destination")
    check_destinations(r, route.route)


def _rule(route: HTTPRoute | TCPRoute | TLSRoute, index: int) -> str:
    name = route.name if isinstance(route, HTTPRoute) else ""
    return f"rule {name!r}" if name else f"rule {index}"


def _unreachable(r: Report, field: str, routes: Sequence[R]) -> None:
    """Rules after one that matches everything, and matches that an earlier rule has already."""
    seen: dict[bytes, int] = {}
    catch_all = -1
    for i, route in enumerate(routes):
        here = r.at(field, i)
        if not route.match:
            if catch_all >= 0:
                text = f"{_rule(route, i)} is never used: {_rule(routes[catch_all], catch_all)} matches everything"
                here.warn(text, code=UNREACHABLE)
            catch_all = i if catch_all < 0 else catch_all
            continue
        if catch_all >= 0:
            here.warn(
                f"{_rule(route, i)} is never used: {_rule(routes[catch_all], catch_all)} before it matches everything",
                "Move the rule without matches to the end.",
                UNREACHABLE,
            )
            continue
        repeated = 0
        for j, match in enumerate(route.match):
            key = to_json(msgspec.structs.replace(match, name="") if isinstance(match, HTTPMatch) else match)
            if key in seen:
                repeated += 1
                text = f"is never used: {_rule(routes[seen[key]], seen[key])} has the same match"
                here.at("match", j).warn(text, code=INEFFECTIVE)
            else:
                seen[key] = i
        if repeated == len(route.match):
            here.warn(f"{_rule(route, i)} is never used: earlier rules have all of its matches", code=UNREACHABLE)


def _covered(r: Report, routes: tuple[HTTPRoute, ...]) -> None:
    """Matches whose path an earlier, broader prefix takes first. Looks at `MAX_SAME_PREFIX` rules a prefix at most."""
    broad: dict[str, list[tuple[int, int, HTTPMatch]]] = {}
    for i, route in enumerate(routes):
        for j, match in enumerate(route.match):
            path = _path(match)
            if path is None or len(path) > MAX_PATH:
                continue
            shorter = (broad.get(path[:k], ()) for k in range(1, len(path)))
            hit = next(
                (n for found in shorter for n, m, other in found if (n, m) != (i, j) and _looser(other, match)), None
            )
            if hit is not None:
                r.at("http", i).at("match", j).warn(
                    f"is never used: {_rule(routes[hit], hit)} matches a shorter prefix of the path first",
                    "Put the more specific rule before it." if hit != i else "Remove it.",
                    INEFFECTIVE,
                )
            if match.uri is not None and match.uri.prefix:
                same = broad.setdefault(match.uri.prefix, [])
                if len(same) < MAX_SAME_PREFIX:
                    same.append((i, j, match))


def _path(match: HTTPMatch) -> str | None:
    if match.uri is None:
        return None
    return match.uri.prefix or match.uri.exact or None


def _looser(broad: HTTPMatch, narrow: HTTPMatch) -> bool:
    """Whether `broad`, paths aside, matches whatever `narrow` does."""
    if (
        broad.uri is None
        or broad.uri.prefix in (_path(narrow), None)
        or broad.ignore_uri_case != narrow.ignore_uri_case
    ):
        return False
    simple: tuple[Callable[[HTTPMatch], object], ...] = (
        lambda m: m.scheme,
        lambda m: m.method,
        lambda m: m.authority,
        lambda m: m.port or None,
        lambda m: m.source_namespace or None,
        lambda m: m.gateways or None,
    )
    if any(get(broad) is not None and get(broad) != get(narrow) for get in simple):
        return False
    for mine, other in (
        (broad.headers, narrow.headers),
        (broad.query_params, narrow.query_params),
        (broad.source_labels, narrow.source_labels),
        (broad.without_headers, narrow.without_headers),
    ):
        if any(other.get(k) != v for k, v in mine.items()):
            return False
    return True
