"""HTTP rules of a VirtualService: one rule at a time.

In: an `HTTPRoute`. Out: findings. `kind` says where the rule stands: in an ordinary VirtualService, in one that others
delegate to (it has no hosts), or in the rule that delegates.
"""

from __future__ import annotations

from http import HTTPStatus

from meltem.resources.networking import (
    CorsPolicy,
    Destination,
    FaultAbort,
    FaultDelay,
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPFaultInjection,
    HTTPMatch,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    Percent,
    RouteDestination,
)
from meltem.validate import checks
from meltem.validate.findings import Report

CLAIM_PREFIX = "@request.auth.claims"
_PSEUDO = frozenset({":method", ":scheme", ":authority", ":path", ":status"})
_CORS_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"})
_RETRY_ON = frozenset(
    {
        *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx"),
        *("refused-stream", "retriable-status-codes", "retriable-headers", "envoy-ratelimited"),
        *("http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted"),
        "unavailable",
    }
)
_HTTP_CODES = frozenset(str(s.value) for s in HTTPStatus)
GRPC_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def check_http_route(r: Report, route: HTTPRoute, *, delegate: bool) -> None:
    """`delegate`: the VirtualService has no hosts, so others delegate to it."""
    if route.delegate is not None and not delegate:
        _delegating(r, route)
    else:
        _actions(r, route, delegate=delegate)
    for i, match in enumerate(route.match):
        check_match(r.at("match", i), match)
    check_headers(r.at("headers"), route.headers)
    _cors(r.at("corsPolicy"), route.cors_policy)
    _fault(r.at("fault"), route.fault)
    _mirrors(r, route)
    _redirect(r.at("redirect"), route.redirect, route.match)
    _direct_response(r.at("directResponse"), route.direct_response)
    check_retries(r.at("retries"), route.retries)
    _rewrite(r.at("rewrite"), route.rewrite)
    _one_authority(r, route)
    check_destinations(r, route.route)
    for i, one in enumerate(route.route):
        check_headers(r.at("route", i).at("headers"), one.headers)
    checks.check_duration(r.at("timeout"), route.timeout)


def _delegating(r: Report, route: HTTPRoute) -> None:
    for name, there in (("redirect", route.redirect is not None), ("route", bool(route.route))):
        if there:
            r.at(name).error("a rule that delegates has no actions of its own", f"Remove {name} or delegate.")


def _actions(r: Report, route: HTTPRoute, *, delegate: bool) -> None:
    if delegate and route.delegate is not None:
        r.at("delegate").error(
            "a VirtualService that is delegated to (it has no hosts) cannot delegate further", "Remove delegate."
        )
    actions = {
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "route": bool(route.route),
    }
    given = [name for name, there in actions.items() if there]
    if not given:
        r.error("the rule does nothing", "Set route, redirect or directResponse.")
    elif len(given) > 1:
        r.error(f"{given[0]} and {given[1]} exclude each other", "Keep one of route, redirect and directResponse.")
    if given and given[0] != "route":
        for name, there in (("fault", route.fault is not None), ("rewrite", route.rewrite is not None)):
            if there:
                r.at(name).error(f"has no effect beside {given[0]}", f"Remove {name} or {given[0]}.")


def check_match(r: Report, match: HTTPMatch) -> None:
    for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name, value in headers.items():
            here = r.at(field, name)
            if not is_claim(name) and name not in _PSEUDO:
                checks.check_header_name(here, name)
            if not (field == "withoutHeaders" and value.regex == "*"):
                checks.check_string_match(here, value)
    if match.uri is not None and match.uri.regex is not None:
        checks.check_regex(r.at("uri").at("regex"), match.uri.regex)
    for field, one in (("scheme", match.scheme), ("method", match.method), ("authority", match.authority)):
        checks.check_string_match(r.at(field), one)
    for name, one in match.query_params.items():
        checks.check_string_match(r.at("queryParams", name), one)
    if match.port:
        checks.check_port(r.at("port"), match.port)
    checks.check_labels(r.at("sourceLabels"), match.source_labels)
    check_gateways(r, match.gateways)
    if match.source_namespace and not checks.is_label(match.source_namespace):
        r.at("sourceNamespace").error(f"{match.source_namespace[:64]!r} is no namespace")


def is_claim(header: str) -> bool:
    """`@request.auth.claims.a` or `@request.auth.claims[a][b]`: a token's claim rather than a header."""
    rest = header.lower().removeprefix(CLAIM_PREFIX)
    return rest != header.lower() and len(rest) > 1 and (rest[0] == "." or (rest[0] == "[" and rest[-1] == "]"))


def check_gateways(r: Report, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        here = r.at("gateways", i)
        namespace, slash, gateway = name.partition("/")
        if not slash:
            if "." in name:
                old = name.split(".")
                here.warn(f"{name[:80]!r} is the old form of a gateway's name", f"Write {old[1][:63]}/{old[0][:63]}.")
            checks.check_fqdn(here, name)
        elif not checks.is_label(namespace):
            here.error(f"{namespace[:64]!r} is no namespace", "Write namespace/name.")
        elif not checks.is_label(gateway):
            here.error(f"{gateway[:64]!r} is no gateway name", "Write namespace/name.")


def check_headers(r: Report, headers: Headers | None) -> None:
    if headers is not None:
        _operations(r.at("request"), headers.request, request=True)
        _operations(r.at("response"), headers.response, request=False)


def _operations(r: Report, operations: HeaderOperations | None, *, request: bool) -> None:
    if operations is None:
        return
    for field, values in (("add", operations.add), ("set", operations.set)):
        for name, value in values.items():
            _operation_name(r.at(field, name), name, authority=request)
            checks.check_header_value(r.at(field, name), value)
    for i, name in enumerate(operations.remove):
        _operation_name(r.at("remove", i), name, authority=False)


def _operation_name(r: Report, name: str, *, authority: bool) -> None:
    if not name:
        r.error("the header name is empty")
    elif _is_authority(name):
        if not authority:
            r.error("the Host header cannot be changed here", "Use rewrite.authority.")
    elif name.startswith(":"):
        r.error(f"{name[:64]!r}: pseudo headers cannot be changed", "Use rewrite.")


def _is_authority(name: str) -> bool:
    return name.lower() in ("host", ":authority")


def _one_authority(r: Report, route: HTTPRoute) -> None:
    operations = route.headers.request if route.headers else None
    values = [route.rewrite.authority] if route.rewrite and route.rewrite.authority else []
    if operations is not None:
        for headers in (operations.set, operations.add):
            values += [v for k, v in headers.items() if _is_authority(k)]
    if len(values) > 1:
        r.error("the host is set more than once", "Keep one of rewrite.authority and the host header.")


def _cors(r: Report, policy: CorsPolicy | None) -> None:
    if policy is None:
        return
    for i, origin in enumerate(policy.allow_origins):
        here = r.at("allowOrigins", i)
        if not (origin.exact or origin.prefix or origin.regex):
            here.error("the origin is empty", "Write exact: https://example.com, or a prefix or regex.")
        elif origin.regex:
            checks.check_regex(here.at("regex"), origin.regex)
    for i, method in enumerate(policy.allow_methods):
        if method not in _CORS_METHODS:
            r.at("allowMethods", i).error(f"{method[:64]!r} is no HTTP method", "Write it in upper case.")
    for field, names in (("allowHeaders", policy.allow_headers), ("exposeHeaders", policy.expose_headers)):
        for i, name in enumerate(names):
            if name != "*":
                checks.check_header_name(r.at(field, i), name)
    checks.check_duration(r.at("maxAge"), policy.max_age)
    if policy.max_age is not None and policy.max_age.nanoseconds % 1_000_000_000:
        r.at("maxAge").error("must be in whole seconds")


def check_percent(r: Report, percent: Percent | None) -> None:
    if percent is not None and not (percent.value == 0 or 0.0001 <= percent.value <= 100):
        r.at("value").error(f"{percent.value:g} is no percentage", "Write 0, or a number from 0.0001 to 100.")


def _fault(r: Report, fault: HTTPFaultInjection | None) -> None:
    if fault is None:
        return
    if fault.abort is None and fault.delay is None:
        r.error("nothing is injected", "Set abort or delay.")
    _abort(r.at("abort"), fault.abort)
    _delay(r.at("delay"), fault.delay)


def _abort(r: Report, abort: FaultAbort | None) -> None:
    if abort is None:
        return
    check_percent(r.at("percentage"), abort.percentage)
    if abort.grpc_status is not None:
        if abort.grpc_status not in GRPC_STATUSES:
            r.at("grpcStatus").error(
                f"{abort.grpc_status[:64]!r} is no gRPC status", f"Write one of {', '.join(GRPC_STATUSES)}."
            )
    elif abort.http2_error is not None:
        r.at("http2Error").error("HTTP/2 errors cannot be injected", "Use httpStatus or grpcStatus.")
    elif abort.http_status is not None:
        _status(r.at("httpStatus"), abort.http_status, 600)
    else:
        r.warn("nothing is aborted", "Set httpStatus or grpcStatus.")


def _status(r: Report, status: int, last: int = 599) -> None:
    if not 200 <= status <= last:
        r.error(f"{status} is no HTTP status that can be answered", f"Write a number from 200 to {last}.")


def _delay(r: Report, delay: FaultDelay | None) -> None:
    if delay is None:
        return
    check_percent(r.at("percentage"), delay.percentage)
    if not 0 <= delay.percent <= 100:
        r.at("percent").error(f"{delay.percent} is no percentage", "Write a number from 0 to 100.")
    checks.check_duration(r.at("fixedDelay"), delay.fixed_delay)
    if delay.exponential_delay is not None:
        r.at("exponentialDelay").error("is not supported", "Use fixedDelay.")


def _mirrors(r: Report, route: HTTPRoute) -> None:
    if route.mirror is not None and route.mirrors:
        r.error("mirror and mirrors exclude each other", "Keep mirrors.")
    for field, percent in (("mirrorPercent", route.mirror_percent), ("mirror_percent", route.mirror_percent_alias)):
        if percent is not None:
            r.at(field).warn("is deprecated", "Use mirrorPercentage.")
            if percent > 100:
                r.at(field).error(f"{percent} is more than 100")
    if route.mirror_percentage is not None and not 0 <= route.mirror_percentage.value <= 100:
        r.at("mirrorPercentage").error(f"{route.mirror_percentage.value:g} is no percentage")
    check_destination(r.at("mirror"), route.mirror)
    for i, mirror in enumerate(route.mirrors):
        check_destination(r.at("mirrors", i).at("destination"), mirror.destination)
        if mirror.percentage is not None and not 0 <= mirror.percentage.value <= 100:
            r.at("mirrors", i).at("percentage").error(f"{mirror.percentage.value:g} is no percentage")


def _redirect(r: Report, redirect: HTTPRedirect | None, matches: tuple[HTTPMatch, ...]) -> None:
    if redirect is None:
        return
    if redirect.uri and redirect.prefix_rewrite:
        r.error("uri and prefixRewrite exclude each other")
    if redirect.prefix_rewrite and any(m.uri is not None and m.uri.prefix is None for m in matches):
        r.at("prefixRewrite").error("needs every match of the path to be a prefix", "Match with prefix, or use uri.")
    changes = (redirect.uri, redirect.prefix_rewrite, redirect.authority, redirect.scheme)
    if not any(changes) and redirect.port is None and redirect.derive_port is None:
        r.error("the redirect changes nothing", "Set uri, prefixRewrite, authority, scheme or port.")
    if redirect.redirect_code and not 300 <= redirect.redirect_code <= 399:
        r.at("redirectCode").error(f"{redirect.redirect_code} is no redirect", "Write a number from 300 to 399.")
    if redirect.scheme not in ("", "http", "https"):
        r.at("scheme").error(f"{redirect.scheme[:64]!r} is no scheme of a redirect", "Write http or https.")
    if redirect.port:
        checks.check_port(r.at("port"), redirect.port)


def _direct_response(r: Report, response: HTTPDirectResponse | None) -> None:
    if response is None:
        return
    _status(r.at("status"), response.status)
    if response.body is None:
        return
    size = len((response.body.string or "").encode())
    if response.body.bytes is not None:
        size = len(response.body.bytes.rstrip("=")) * 3 // 4
    if size > 1 << 20:
        r.at("body").error("is larger than 1 MiB", "Serve it from a service.")
    elif size > 100 << 10:
        r.at("body").warn("a large body slows the control plane down", "Serve it from a service.")


def check_retries(r: Report, retries: HTTPRetry | None) -> None:
    if retries is None:
        return
    if retries.attempts < 0:
        r.at("attempts").error("must not be negative")
    others = (retries.per_try_timeout, retries.retry_on or None, retries.retry_remote_localities)
    if retries.attempts == 0 and any(x is not None for x in others):
        r.at("attempts").error("0 turns retries off, but other settings are given", "Set attempts, or remove the rest.")
    checks.check_duration(r.at("perTryTimeout"), retries.per_try_timeout)
    checks.check_duration(r.at("backoff"), retries.backoff)
    for word in retries.retry_on.split(",") if retries.retry_on else ():
        if word not in _RETRY_ON and word not in _HTTP_CODES:
            r.at("retryOn").error(
                f"{word[:64]!r} is no retry condition",
                f"Write HTTP status codes or conditions such as {', '.join(sorted(_RETRY_ON)[:6])}, without spaces.",
            )


def _rewrite(r: Report, rewrite: HTTPRewrite | None) -> None:
    if rewrite is None:
        return
    expression = rewrite.uri_regex_rewrite
    if rewrite.uri and expression is not None:
        r.error("uri and uriRegexRewrite exclude each other")
    if not rewrite.uri and expression is None and not rewrite.authority:
        r.error("nothing is rewritten", "Set uri, uriRegexRewrite or authority.")
    if expression is not None:
        if not expression.match or not expression.rewrite:
            r.at("uriRegexRewrite").error("needs both match and rewrite")
        else:
            checks.check_regex(r.at("uriRegexRewrite").at("match"), expression.match)


def check_destination(r: Report, destination: Destination | None) -> None:
    if destination is None:
        return
    if destination.host == "*":
        r.at("host").error("'*' is no destination", "Write the name of a service.")
    else:
        checks.check_wildcard_domain(r.at("host"), destination.host)
    if destination.subset and not checks.is_label(destination.subset):
        r.at("subset").error(f"{destination.subset[:64]!r} is no subset name")
    if destination.port is not None:
        checks.check_port(r.at("port").at("number"), destination.port.number)


def check_destinations(r: Report, routes: tuple[HTTPRouteDestination, ...] | tuple[RouteDestination, ...]) -> None:
    for i, one in enumerate(routes):
        here = r.at("route", i)
        check_destination(here.at("destination"), one.destination)
        if one.weight < 0:
            here.at("weight").error(f"{one.weight} is negative")
    if len(routes) > 1 and sum(one.weight for one in routes) == 0:
        r.at("route").error("all weights are 0", "Give every destination a weight; usually they add up to 100.")
