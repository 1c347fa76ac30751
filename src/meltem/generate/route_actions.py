"""What a route does: forward, redirect or answer; rewrites, headers, timeouts, retries, faults, CORS, mirrors.

In: `RouteView` and its match. Out: one `Route`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.generate.matching import string_matcher
from meltem.resources import networking
from meltem.view.units import HashPolicy, MeshOptions, RouteView

R = api.route_components
HeaderValueOption = api.base.HeaderValueOption
FAULT = "envoy.filters.http.fault"
CORS = "envoy.filters.http.cors"
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_POLICY_TOKENS = frozenset(
    (
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
        "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers",
        "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    )
)  # fmt: skip


def route_entry(view: RouteView, match: R.RouteMatch, mesh: MeshOptions) -> R.Route:
    made = R.Route(name=view.name, match=match)
    if view.source:
        namespace, _, name = view.source.partition("/")
        made.metadata.filter_metadata["istio"]["config"] = (
            f"/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}"
        )
    if view.operation:
        made.decorator.operation = view.operation
    rule = view.rule
    if rule is not None and rule.redirect is not None:
        made.redirect.CopyFrom(_redirect(rule.redirect))
    elif rule is not None and rule.direct_response is not None:
        _direct(made, rule.direct_response)
    else:
        _forward(made, view, mesh)
    if rule is not None:
        _headers(made, rule.headers)
        if rule.fault is not None:
            made.typed_per_filter_config[FAULT].CopyFrom(api.pack(_fault(rule.fault)))
        if rule.cors_policy is not None:
            made.typed_per_filter_config[CORS].CopyFrom(api.pack(_cors(rule.cors_policy)))
    return made


# --- forward ---


def _forward(made: R.Route, view: RouteView, mesh: MeshOptions) -> None:
    rule = view.rule
    action = made.route
    timeout = rule.timeout if rule is not None else None
    action.timeout.CopyFrom(api.duration(float(timeout or 0)))  # 0: no limit, Istio's default
    if timeout:
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(api.duration(float(timeout)))
    if len(view.clusters) == 1:
        only = view.clusters[0]
        action.cluster = only.cluster
        _headers(made, only.headers)
        _authority(action, only.headers)
    else:
        split = action.weighted_clusters
        for one in view.clusters:
            if not one.weight:
                continue
            part = split.clusters.add(name=one.cluster, weight={"value": one.weight})
            _headers(part, one.headers)
            host = _host_header(one.headers)
            if host:
                part.host_rewrite_literal = host
        split.use_hash_policy.value = view.sticky
        if not view.sticky:
            split.ClearField("use_hash_policy")
        if not split.clusters:
            made.ClearField("route")
            made.direct_response.status = 500
            return
    if rule is not None:
        _rewrite(action, rule.rewrite, view)
        _authority(action, rule.headers)
    _retries(action, rule.retries if rule is not None else None, mesh, inbound=_is_inbound(view))
    action.hash_policy.extend(_hash_policy(p) for p in view.hash_policies)
    for cluster, percent in view.mirrors:
        mirror = action.request_mirror_policies.add(cluster=cluster)
        mirror.runtime_fraction.default_value.CopyFrom(fraction(percent))
    if view.idle_timeout is not None:
        action.idle_timeout.CopyFrom(api.duration(view.idle_timeout))


def _is_inbound(view: RouteView) -> bool:
    return bool(view.clusters) and view.clusters[0].cluster.startswith(("inbound|", "InboundPassthrough"))


def _rewrite(action: R.RouteAction, rewrite: networking.HTTPRewrite | None, view: RouteView) -> None:
    if rewrite is None:
        return
    if rewrite.authority:
        action.host_rewrite_literal = rewrite.authority
    if rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
    elif rewrite.uri:
        uri = view.match.uri if view.match is not None else None
        if uri is not None and uri.regex is not None:
            action.regex_rewrite.pattern.regex = uri.regex
            action.regex_rewrite.substitution = rewrite.uri
        elif (
            uri is not None
            and uri.prefix is not None
            and uri.prefix.endswith("/")
            and uri.prefix != "/"
            and (rewrite.uri == "/")
        ):
            action.prefix_rewrite = "/"
        else:
            action.prefix_rewrite = rewrite.uri


def _host_header(headers: networking.Headers | None) -> str:
    """`headers.request.set` of host or :authority is a rewrite of the host, which Envoy has a field for."""
    request = headers.request if headers is not None else None
    if request is None:
        return ""
    return next((v for k, v in request.set.items() if k.lower() in ("host", ":authority")), "")


def _authority(action: R.RouteAction, headers: networking.Headers | None) -> None:
    host = _host_header(headers)
    if host:
        action.host_rewrite_literal = host


def _retries(action: R.RouteAction, own: networking.HTTPRetry | None, mesh: MeshOptions, *, inbound: bool) -> None:
    """Istio's default is two retries on other hosts for failures that are safe to repeat; 0 attempts: none."""
    if inbound and own is None:
        return
    settings = own or mesh.default_retries
    if settings is not None and settings.attempts == 0 and (own is not None or not settings.retry_on):
        return
    policy = action.retry_policy
    retry_on = settings.retry_on if settings is not None and settings.retry_on else DEFAULT_RETRY_ON
    tokens, codes = _split_retry_on(retry_on)
    policy.retry_on = ",".join(tokens)
    policy.retriable_status_codes.extend(codes or ([503] if not (settings and settings.retry_on) else []))
    policy.num_retries.value = settings.attempts if settings is not None and settings.attempts else 2
    if settings is None or settings.retry_ignore_previous_hosts is not False:
        _previous_hosts(policy)
    policy.host_selection_retry_max_attempts = 5
    if settings is not None and settings.per_try_timeout is not None:
        policy.per_try_timeout.CopyFrom(api.duration(float(settings.per_try_timeout)))
    if settings is not None and settings.backoff is not None:
        policy.retry_back_off.base_interval.CopyFrom(api.duration(float(settings.backoff)))
    if settings is not None and settings.retry_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        priorities = api.previous_priorities.PreviousPrioritiesConfig(update_frequency=2)
        policy.retry_priority.typed_config.CopyFrom(api.pack(priorities))


def _previous_hosts(policy: R.RetryPolicy) -> None:
    policy.retry_host_predicate.add(
        name="envoy.retry_host_predicates.previous_hosts",
        typed_config=api.pack(api.previous_hosts.PreviousHostsPredicate()),
    )


def _split_retry_on(text: str) -> tuple[list[str], list[int]]:
    """Numbers in `retryOn` are status codes to retry on."""
    tokens: list[str] = []
    codes: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        if part.isdigit():
            codes.append(int(part))
        elif part in _POLICY_TOKENS:
            tokens.append(part)
    if codes and "retriable-status-codes" not in tokens:
        tokens.append("retriable-status-codes")
    return tokens, codes


def _hash_policy(policy: HashPolicy) -> R.RouteAction.HashPolicy:
    made = R.RouteAction.HashPolicy()
    if policy.header:
        made.header.header_name = policy.header
    elif policy.cookie is not None:
        made.cookie.name = policy.cookie.name
        made.cookie.path = policy.cookie.path
        if policy.cookie.ttl is not None:
            made.cookie.ttl.CopyFrom(api.duration(float(policy.cookie.ttl)))
        for attribute in policy.cookie.attributes:
            made.cookie.attributes.add(name=attribute.name, value=attribute.value)
    elif policy.query:
        made.query_parameter.name = policy.query
    else:
        made.connection_properties.source_ip = True
    return made


def fraction(percent: float) -> api.percent.FractionalPercent:
    return api.percent.FractionalPercent(
        numerator=round(percent * 10_000), denominator=api.percent.FractionalPercent.MILLION
    )


# --- headers ---


def _headers(made: R.Route | R.WeightedCluster.ClusterWeight, headers: networking.Headers | None) -> None:
    if headers is None:
        return
    if headers.request is not None:
        made.request_headers_to_add.extend(_operations(headers.request, skip=("host", ":authority")))
        made.request_headers_to_remove.extend(headers.request.remove)
    if headers.response is not None:
        made.response_headers_to_add.extend(_operations(headers.response, skip=()))
        made.response_headers_to_remove.extend(headers.response.remove)


def _operations(operations: networking.HeaderOperations, skip: tuple[str, ...]) -> Iterable[HeaderValueOption]:
    for name in sorted(operations.set):
        if name.lower() not in skip:
            yield HeaderValueOption(
                header={"key": name, "value": operations.set[name]},
                append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
    for name in sorted(operations.add):
        yield HeaderValueOption(
            header={"key": name, "value": operations.add[name]},
            append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
        )


# --- redirect, direct response ---

_CODES = {
    301: R.RedirectAction.MOVED_PERMANENTLY,
    302: R.RedirectAction.FOUND,
    303: R.RedirectAction.SEE_OTHER,
    307: R.RedirectAction.TEMPORARY_REDIRECT,
    308: R.RedirectAction.PERMANENT_REDIRECT,
}


def _redirect(redirect: networking.HTTPRedirect) -> R.RedirectAction:
    made = R.RedirectAction(host_redirect=redirect.authority)
    if redirect.prefix_rewrite:
        made.prefix_rewrite = redirect.prefix_rewrite
    elif redirect.uri:
        made.path_redirect = redirect.uri
    made.response_code = _CODES.get(redirect.redirect_code or 301, R.RedirectAction.MOVED_PERMANENTLY)
    if redirect.scheme:
        made.scheme_redirect = redirect.scheme
    if redirect.port:
        made.port_redirect = redirect.port
    elif redirect.derive_port == "FROM_PROTOCOL_DEFAULT":
        made.port_redirect = {"http": 80, "https": 443}.get(redirect.scheme, 80)
    return made


def _direct(made: R.Route, response: networking.HTTPDirectResponse) -> None:
    made.direct_response.status = response.status
    body = response.body
    if body is not None and body.string is not None:
        made.direct_response.body.inline_string = body.string
    elif body is not None and body.bytes is not None:
        made.direct_response.body.inline_bytes = base64.b64decode(body.bytes)


# --- faults and CORS ---

_GRPC_CODES = {
    name: code
    for code, name in enumerate(
        (
            "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
            "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
            "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
        )
    )
}  # fmt: skip


def _fault(fault: networking.HTTPFaultInjection) -> api.fault.HTTPFault:
    made = api.fault.HTTPFault()
    delay = fault.delay
    if delay is not None and delay.fixed_delay is not None:
        made.delay.fixed_delay.CopyFrom(api.duration(float(delay.fixed_delay)))
        percent = delay.percentage.value if delay.percentage is not None else float(delay.percent or 100)
        made.delay.percentage.CopyFrom(fraction(percent))
    abort = fault.abort
    if abort is not None:
        if abort.grpc_status:
            code = int(abort.grpc_status) if abort.grpc_status.isdigit() else _GRPC_CODES.get(abort.grpc_status, 2)
            made.abort.grpc_status = code
        else:
            made.abort.http_status = abort.http_status or 503
        made.abort.percentage.CopyFrom(fraction(abort.percentage.value if abort.percentage is not None else 100.0))
    return made


def _cors(policy: networking.CorsPolicy) -> api.cors.CorsPolicy:
    made = api.cors.CorsPolicy()
    for origin in policy.allow_origins:
        made.allow_origin_string_match.append(string_matcher(origin))
    for old in policy.allow_origin:
        made.allow_origin_string_match.append(string_matcher(networking.StringMatch(exact=old)))
    made.allow_methods = ",".join(policy.allow_methods)
    made.allow_headers = ",".join(policy.allow_headers)
    made.expose_headers = ",".join(policy.expose_headers)
    if policy.max_age is not None:
        made.max_age = str(int(policy.max_age))
    if policy.allow_credentials is not None:
        made.allow_credentials.value = policy.allow_credentials
    made.filter_enabled.default_value.CopyFrom(fraction(100.0))
    if policy.unmatched_preflights == "IGNORE":
        made.forward_not_matching_preflights.value = False
    elif policy.unmatched_preflights == "FORWARD":
        made.forward_not_matching_preflights.value = True
    return made
