"""Envoy's matches and actions in words.

In: generated messages. Out: short text.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.simulate.matching import FilterChainMatch, R, fraction_of
from meltem.simulate.request import FAULT, Outcome

CORS = "envoy.filters.http.cors"


def route_match(match: R.RouteMatch) -> str:
    """`path /productpage`, `prefix /api, header end-user = jason`."""
    kind = match.WhichOneof("path_specifier")
    path = {
        "prefix": f"prefix {match.prefix}",
        "path": f"path {match.path}",
        "safe_regex": f"path ~ {match.safe_regex.regex}",
        "path_separated_prefix": f"prefix {match.path_separated_prefix}[/…]",
        "connect_matcher": "CONNECT",
    }.get(kind or "", "anything")
    if path == "prefix /":
        path = "every path"
    if match.HasField("case_sensitive") and not match.case_sensitive.value:
        path += " (any case)"
    asked = [header(h) for h in match.headers]
    asked += [f"query {q.name} {string(q.string_match)}" if q.HasField("string_match") else f"query {q.name}" for q in match.query_parameters]  # fmt: skip  # noqa: E501
    asked += ["claim " + ".".join(p.key for p in m.path) for m in match.dynamic_metadata]
    return ", ".join((path, *asked))


def header(matcher: R.HeaderMatcher) -> str:
    no = "not " if matcher.invert_match else ""
    name = {":method": "method", ":authority": "host", ":scheme": "scheme"}.get(matcher.name, f"header {matcher.name}")
    if matcher.HasField("string_match"):
        return f"{no}{name} {string(matcher.string_match)}"
    return f"{'no ' if matcher.invert_match else ''}{name}"


def string(matcher: api.string_matcher.StringMatcher) -> str:
    kind = matcher.WhichOneof("match_pattern")
    sign = {"exact": "=", "prefix": "starts with", "suffix": "ends with", "contains": "contains", "safe_regex": "~"}
    value = matcher.safe_regex.regex if kind == "safe_regex" else str(getattr(matcher, kind)) if kind else ""
    return f"{sign.get(kind or '', '')} {value}".strip()


def chain_match(match: FilterChainMatch | None) -> str:
    if match is None:
        return ""
    parts: list[str] = []
    if match.HasField("destination_port"):
        parts.append(f"port {match.destination_port.value}")
    if match.prefix_ranges:
        blocks = [f"{r.address_prefix}/{r.prefix_len.value}" for r in match.prefix_ranges]
        if not all(b.endswith("/0") for b in blocks):
            parts.append("address " + ", ".join(blocks))
    if match.server_names:
        parts.append("SNI " + ", ".join(match.server_names))
    if match.transport_protocol:
        parts.append({"tls": "TLS", "raw_buffer": "plain text"}.get(match.transport_protocol, match.transport_protocol))
    if match.application_protocols:
        parts.append("ALPN " + ", ".join(match.application_protocols))
    return ", ".join(parts) or "every connection"


def action(outcome: Outcome) -> list[str]:
    """What the route does besides forwarding: rewrites, limits, retries, headers, faults."""
    route = outcome.route
    if route is None:
        return []
    kind = route.WhichOneof("action")
    lines: list[str] = []
    if kind == "redirect":
        lines.append(_redirect(route.redirect))
    elif kind == "direct_response":
        lines.append(f"answers {route.direct_response.status} by itself")
    else:
        lines.extend(_forward(route.route))
    lines.extend(_headers(route))
    lines.extend(_per_filter(route))
    return lines


def _redirect(redirect: R.RedirectAction) -> str:
    parts = [f"scheme {redirect.scheme_redirect}"] if redirect.scheme_redirect else []
    parts += [f"host {redirect.host_redirect}"] if redirect.host_redirect else []
    parts += [f"port {redirect.port_redirect}"] if redirect.port_redirect else []
    parts += [f"path {redirect.path_redirect or redirect.prefix_rewrite}"] if (
        redirect.path_redirect or redirect.prefix_rewrite
    ) else []  # fmt: skip
    return "redirects to " + ", ".join(parts)


def _forward(made: R.RouteAction) -> Iterable[str]:
    if made.prefix_rewrite:
        yield f"rewrites the prefix to {made.prefix_rewrite}"
    if made.HasField("regex_rewrite"):
        yield f"rewrites {made.regex_rewrite.pattern.regex} to {made.regex_rewrite.substitution}"
    if made.host_rewrite_literal:
        yield f"rewrites the host to {made.host_rewrite_literal}"
    limit = made.timeout.ToNanoseconds()
    yield f"timeout {limit / 1e9:g}s" if limit else "no timeout"
    if made.HasField("retry_policy"):
        policy = made.retry_policy
        each = policy.per_try_timeout.ToNanoseconds()
        more = f", {each / 1e9:g}s each" if each else ""
        yield f"retries {policy.num_retries.value}×{more} on {policy.retry_on}"
    for one in made.hash_policy:
        what = one.WhichOneof("policy_specifier")
        detail = {
            "header": one.header.header_name,
            "cookie": one.cookie.name,
            "query_parameter": one.query_parameter.name,
        }
        yield f"consistent hash by {what} {detail.get(what or '', '')}".rstrip()


def _headers(route: R.Route) -> Iterable[str]:
    for one in route.request_headers_to_add:
        yield f"request header {one.header.key}: {one.header.value}"
    for name in route.request_headers_to_remove:
        yield f"request header {name} removed"
    for one in route.response_headers_to_add:
        yield f"response header {one.header.key}: {one.header.value}"
    for name in route.response_headers_to_remove:
        yield f"response header {name} removed"


def _per_filter(route: R.Route) -> Iterable[str]:
    if FAULT in route.typed_per_filter_config:
        fault = api.fault.HTTPFault.FromString(route.typed_per_filter_config[FAULT].value)
        if fault.HasField("delay"):
            share = fraction_of(fault.delay.percentage)
            yield f"fault: delays {fault.delay.fixed_delay.ToNanoseconds() / 1e9:g}s in {share:g}% of calls"
        if fault.HasField("abort"):
            status = (
                f"status {fault.abort.http_status}" if fault.abort.http_status else f"gRPC {fault.abort.grpc_status}"
            )
            yield f"fault: aborts with {status} in {fraction_of(fault.abort.percentage):g}% of calls"
    if CORS in route.typed_per_filter_config:
        yield "CORS policy"
