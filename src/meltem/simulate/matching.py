"""Envoy's matchers: filter chains, virtual hosts by domain, routes.

In: generated Envoy messages and facts of a call. Out: what Envoy would pick. Pure; every rule here was checked against
the real Envoy (tests/integration/explain). Sources: the comments of Envoy's API (v1.40) and its documentation,
"Filter chain match" and "HTTP routing".
"""

# The stubs of what is imported here leave some types open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import re2

from meltem import envoyapi as api

R = api.route_components
FilterChain = api.listener_components.FilterChain
FilterChainMatch = api.listener_components.FilterChainMatch
T = TypeVar("T")


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener knows of a connection when it picks a filter chain. `address` and `port`: where it was meant."""

    address: str
    port: int
    transport: str = "raw_buffer"
    """`tls` where a TLS inspector saw a ClientHello."""
    sni: str = ""
    protocols: tuple[str, ...] = ()
    """Application protocols: of the ClientHello, or as an HTTP inspector names them."""
    source: str = "127.0.0.1"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a route match may look at. Header names are lower case; pseudo-headers are added by `headers_of`."""

    method: str = "GET"
    scheme: str = "http"
    authority: str = ""
    path: str = "/"
    """With its query."""
    headers: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    """Claims of a verified token, dotted names."""

    @property
    def bare_path(self) -> str:
        return self.path.partition("#")[0].partition("?")[0]

    def values(self, name: str) -> list[str]:
        """Every value of a header; Envoy matches each by itself."""
        return [v for k, v in self.all_headers() if k == name.lower()]

    def header(self, name: str) -> str | None:
        """The first value; None when there is none."""
        return next(iter(self.values(name)), None)

    def all_headers(self) -> tuple[tuple[str, str], ...]:
        pseudo = (
            (":method", self.method),
            (":path", self.path),
            (":authority", self.authority),
            (":scheme", self.scheme),
        )
        return (*pseudo, *self.headers)


# --- filter chains ---


def pick_chain(listener: api.listener.Listener, call: Connection) -> tuple[FilterChain | None, bool]:
    """The filter chain that takes the connection, and whether it is the default one.

    Each criterion in turn keeps the chains whose value is the most specific that fits; there is no going back.
    """
    left = list(listener.filter_chains)
    for criterion in _CRITERIA:
        ranked = [(criterion(c.filter_chain_match, call), c) for c in left]
        fitting = [(rank, c) for rank, c in ranked if rank is not None]
        if not fitting:
            left = []
            break
        best = max(rank for rank, _ in fitting)
        left = [c for rank, c in fitting if rank == best]
    if left:
        return left[0], False
    if listener.HasField("default_filter_chain"):
        return listener.default_filter_chain, True
    return None, False


Criterion = Callable[[FilterChainMatch, Connection], float | None]
"""How specifically a chain takes a connection by one criterion (0: it does not ask); None: not at all."""


def _by_port(match: FilterChainMatch, call: Connection) -> float | None:
    if not match.HasField("destination_port"):
        return 0
    return 1 if match.destination_port.value == call.port else None


def _prefixes(ranges: Iterable[api.address.CidrRange], address: str) -> float | None:
    found = [length + 1 for r in ranges if _within(address, r.address_prefix, length := (r.prefix_len.value))]
    return max(found, default=None)


def _within(address: str, prefix: str, length: int) -> bool:
    try:
        ip, network = ipaddress.ip_address(address), ipaddress.ip_network(f"{prefix}/{length}", strict=False)
    except ValueError:
        return False
    return ip.version == network.version and ip in network


def _by_address(match: FilterChainMatch, call: Connection) -> float | None:
    return _prefixes(match.prefix_ranges, call.address) if match.prefix_ranges else 0


def _by_name(match: FilterChainMatch, call: Connection) -> float | None:
    if not match.server_names:
        return 0
    found = [r for n in match.server_names if (r := _name_rank(n.lower(), call.sni.lower())) is not None]
    return max(found, default=None)


def _name_rank(pattern: str, name: str) -> float | None:
    if pattern == name:
        return 1_000_000
    suffix = pattern.removeprefix("*")
    if suffix.startswith(".") and name.endswith(suffix) and name != suffix:
        return len(suffix)
    return None


def _by_transport(match: FilterChainMatch, call: Connection) -> float | None:
    if not match.transport_protocol:
        return 0
    return 1 if match.transport_protocol == call.transport else None


def _by_protocol(match: FilterChainMatch, call: Connection) -> float | None:
    """The first of the client's protocols that any chain names wins."""
    if not match.application_protocols:
        return 0
    offered = list(call.protocols)
    ranks = [len(offered) - offered.index(p) for p in match.application_protocols if p in offered]
    return max(ranks, default=None)


def _by_source_kind(match: FilterChainMatch, call: Connection) -> float | None:
    if match.source_type == FilterChainMatch.ANY:
        return 0
    local = call.source in ("127.0.0.1", "::1") or call.source == call.address
    return 1 if local == (match.source_type == FilterChainMatch.SAME_IP_OR_LOOPBACK) else None


def _by_direct_source(match: FilterChainMatch, call: Connection) -> float | None:
    return _prefixes(match.direct_source_prefix_ranges, call.source) if match.direct_source_prefix_ranges else 0


def _by_source(match: FilterChainMatch, call: Connection) -> float | None:
    return _prefixes(match.source_prefix_ranges, call.source) if match.source_prefix_ranges else 0


_CRITERIA: tuple[Criterion, ...] = (
    _by_port,
    _by_address,
    _by_name,
    _by_transport,
    _by_protocol,
    _by_direct_source,
    _by_source_kind,
    _by_source,
)


# --- virtual hosts ---


def pick_virtual_host(config: api.route.RouteConfiguration, authority: str) -> tuple[R.VirtualHost | None, str]:
    """The virtual host and the domain by which it was found: exact, then `*suffix`, then `prefix*` (the longest of
    each), then `*`."""
    host = authority.lower()
    if config.ignore_port_in_host_matching:
        host = without_port(host)
    best: tuple[int, int] = (-1, -1)
    found: tuple[R.VirtualHost | None, str] = (None, "")
    for one in config.virtual_hosts:
        for domain in one.domains:
            rank = _domain_rank(domain.lower(), host)
            if rank is not None and rank > best:
                best, found = rank, (one, domain)
    return found


def _domain_rank(domain: str, host: str) -> tuple[int, int] | None:
    if domain == "*":
        return (0, 0)
    if domain == host:
        return (3, 0)
    if domain.startswith("*") and host.endswith(domain[1:]) and len(host) > len(domain) - 1:
        return (2, len(domain))
    if domain.endswith("*") and host.startswith(domain[:-1]) and len(host) > len(domain) - 1:
        return (1, len(domain))
    return None


def without_port(authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host
    return authority


# --- routes ---


def pick_route(host: R.VirtualHost, request: Request) -> tuple[int, R.Route] | None:
    """The first route that matches and its index."""
    for index, route in enumerate(host.routes):
        if route_matches(route.match, request):
            return index, route
    return None


def route_matches(match: R.RouteMatch, request: Request) -> bool:
    """Runtime fractions are taken as always true (`fraction_of` says how often they are)."""
    return (
        _path_matches(match, request)
        and (not match.HasField("grpc") or is_grpc(request))
        and all(header_matches(h, request) for h in match.headers)
        and _queries_match(match, request)
        and all(claim_matches(m, request) for m in match.dynamic_metadata)
    )


def _path_matches(match: R.RouteMatch, request: Request) -> bool:
    path = request.bare_path
    sensitive = match.case_sensitive.value if match.HasField("case_sensitive") else True
    fold: Callable[[str], str] = (lambda s: s) if sensitive else str.lower
    kind = match.WhichOneof("path_specifier")
    if kind == "prefix":
        return fold(path).startswith(fold(match.prefix))
    if kind == "path":
        return fold(path) == fold(match.path)
    if kind == "safe_regex":
        return regex_matches(match.safe_regex.regex, path)
    if kind == "path_separated_prefix":
        prefix = fold(match.path_separated_prefix)
        return fold(path) == prefix or fold(path).startswith(prefix + "/")
    if kind == "connect_matcher":
        return request.method == "CONNECT"
    return False


def is_grpc(request: Request) -> bool:
    kind = request.header("content-type") or ""
    return kind == "application/grpc" or kind.startswith("application/grpc+")


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Callable[[str], object]:
    return re2.compile(pattern).fullmatch


def regex_matches(pattern: str, text: str) -> bool:
    """Whole values, RE2. A pattern that RE2 refuses matches nothing (Envoy would refuse the whole resource)."""
    try:
        return _compiled(pattern)(text) is not None
    except re2.error:
        return False


def rewritten(pattern: str, substitution: str, text: str) -> str:
    """Every place of the pattern replaced, RE2 (`\\1` is its first group). The text as it is where RE2 refuses."""
    try:
        return re2.sub(pattern, substitution, text)
    except re2.error:
        return text


def string_matches(matcher: api.string_matcher.StringMatcher, text: str) -> bool:
    fold: Callable[[str], str] = str.lower if matcher.ignore_case else (lambda s: s)
    value = fold(text)
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return value == fold(matcher.exact)
        case "prefix":
            return value.startswith(fold(matcher.prefix))
        case "suffix":
            return value.endswith(fold(matcher.suffix))
        case "contains":
            return fold(matcher.contains) in value
        case "safe_regex":
            return regex_matches(matcher.safe_regex.regex, text)
        case _:
            return False


def header_matches(matcher: R.HeaderMatcher, request: Request) -> bool:
    values = request.values(matcher.name)
    kind = matcher.WhichOneof("header_match_specifier")
    if not values and matcher.treat_missing_header_as_empty:
        values = [""]
    if kind in (None, "present_match"):
        wanted = matcher.present_match if kind else True
        return (bool(values) == wanted) != matcher.invert_match
    if not values:
        return False  # also inverted: what is not there has no value to differ
    return any(_header_value_matches(matcher, kind, v) for v in values) != matcher.invert_match


def _header_value_matches(matcher: R.HeaderMatcher, kind: str | None, value: str) -> bool:
    match kind:
        case "string_match":
            return string_matches(matcher.string_match, value)
        case "exact_match":
            return value == matcher.exact_match
        case "safe_regex_match":
            return regex_matches(matcher.safe_regex_match.regex, value)
        case "prefix_match":
            return value.startswith(matcher.prefix_match)
        case "suffix_match":
            return value.endswith(matcher.suffix_match)
        case "contains_match":
            return matcher.contains_match in value
        case "range_match":
            number = int(value) if value.removeprefix("-").isdigit() else None
            return number is not None and matcher.range_match.start <= number < matcher.range_match.end
        case _:
            return False


def _queries_match(match: R.RouteMatch, request: Request) -> bool:
    if not match.query_parameters:
        return True
    values = query_of(request.path)
    for one in match.query_parameters:
        value = values.get(one.name)
        if one.WhichOneof("query_parameter_match_specifier") == "string_match":
            if value is None or not string_matches(one.string_match, value):
                return False
        elif (value is not None) != (one.present_match or not one.WhichOneof("query_parameter_match_specifier")):
            return False
    return True


def query_of(path: str) -> Mapping[str, str]:
    """The first value of each parameter, as it stands: Envoy decodes nothing to match routes."""
    found: dict[str, str] = {}
    for pair in filter(None, path.partition("#")[0].partition("?")[2].split("&")):
        key, _, value = pair.partition("=")
        found.setdefault(key, value)
    return found


def claim_matches(matcher: api.metadata_matcher.MetadataMatcher, request: Request) -> bool:
    name = ".".join(part.key for part in matcher.path)
    claims = dict(request.claims)
    found = next((v for k, v in claims.items() if name == k or name.endswith(f".{k}")), None)
    if found is None:
        return matcher.invert
    return any(_value_matches(matcher.value, v) for v in found.split(",")) != matcher.invert


def _value_matches(matcher: api.value_matcher.ValueMatcher, value: str) -> bool:
    match matcher.WhichOneof("match_pattern"):
        case "string_match":
            return string_matches(matcher.string_match, value)
        case "list_match":
            return _value_matches(matcher.list_match.one_of, value)
        case "or_match":
            return any(_value_matches(m, value) for m in matcher.or_match.value_matchers)
        case "present_match":
            return matcher.present_match
        case "bool_match":
            return value.lower() == str(matcher.bool_match).lower()
        case _:
            return False


def fraction_of(fraction: api.percent.FractionalPercent) -> float:
    """Percent."""
    base = {0: 100, 1: 10_000, 2: 1_000_000}.get(fraction.denominator, 100)
    return fraction.numerator * 100 / base


def first(items: Sequence[T]) -> T | None:
    return items[0] if items else None
