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
INBOUND_RETRY_ON = "reset-before-request"
_POLICY_TOKENS = frozenset(
    (
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
        "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers",
        "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    )
)  # fmt: skip


def route_entry(view: RouteView, match: R.RouteMatch, mesh: MeshOptions) -> R.Route:
    made = R.Route(name=view.name, match=match)
    if view.match is not None and view.match.stat_prefix:
        made.stat_prefix = view.match.stat_prefix
    if view.source:
        namespace, _, name = view.source.partition("/")
        made.metadata.filter_metadata["istio"]["config"] = (
            f"/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}"
        )
    if view.operation:
        made.decorator.operation = view.operation
    rule = view.rule
    if rule is not None:
        _headers(made, rule.headers)
        if rule.fault is not None and (fault := _fault(rule.fault)) is not None:
            made.typed_per_filter_config[FAULT].CopyFrom(api.pack(fault))
        if rule.cors_policy is not None:
            made.typed_per_filter_config[CORS].CopyFrom(api.pack(_cors(rule.cors_policy)))
    if rule is not None and rule.redirect is not None:
        made.redirect.CopyFrom(_redirect(rule.redirect, view.redirect_port))
    elif rule is not None and rule.direct_response is not None:
        _direct(made, rule.direct_response)
    else:
        _forward(made, view, mesh)
    if view.alt_svc_port:
        made.response_headers_to_add.add(
            header={"key": "alt-svc", "value": f'h3=":{view.alt_svc_port}"; ma=86400'},
            append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
        )
    return made


# --- forward ---


def _forward(made: R.Route, view: RouteView, mesh: MeshOptions) -> None:
    """The rule's own host rewrite comes before one in a destination's headers; several destinations each have theirs,
    which Envoy lets win."""
    rule = view.rule
    action = made.route
    timeout = float(rule.timeout) if rule is not None and rule.timeout is not None else 0.0
    action.timeout.CopyFrom(api.duration(timeout))  # 0: no limit, Istio's default
    # A gRPC client's own deadline holds, as long as it is within the route's. The field is old, but with the newer
    # `max_stream_duration` Envoy takes no notice of `timeout`.
    action.max_grpc_timeout.CopyFrom(action.timeout)
    if rule is not None:
        _rewrite(action, rule)
    if len(view.clusters) == 1:
        only = view.clusters[0]
        action.cluster = only.cluster
        _headers(made, only.headers)
        host = _host_header(only.headers)
        if host and not action.host_rewrite_literal:
            action.host_rewrite_literal = host
    elif not _split(action, view):
        made.ClearField("route")
        made.direct_response.status = 500
        return
    consistent = len(view.clusters) == 1 and bool(view.hash_policies)
    _retries(action, rule.retries if rule is not None else None, mesh, view=view, consistent=consistent)
    action.hash_policy.extend(_hash_policy(p) for p in view.hash_policies)
    for cluster, percent in view.mirrors:
        mirror = action.request_mirror_policies.add(cluster=cluster, disable_shadow_host_suffix_append=True)
        mirror.trace_sampled.value = False
        mirror.runtime_fraction.default_value.CopyFrom(fraction(percent))
    if view.idle_timeout is not None:
        action.idle_timeout.CopyFrom(api.duration(view.idle_timeout))


def _split(action: R.RouteAction, view: RouteView) -> bool:
    """Weighted destinations; False when none has any weight."""
    split = action.weighted_clusters
    for one in view.clusters:
        if one.weight <= 0:
            continue
        part = split.clusters.add(name=one.cluster, weight={"value": one.weight})
        _headers(part, one.headers)
        host = _host_header(one.headers)
        if host:
            part.host_rewrite_literal = host
    if view.sticky:
        split.use_hash_policy.value = True
    return bool(split.clusters)


def _is_inbound(view: RouteView) -> bool:
    return bool(view.clusters) and view.clusters[0].cluster.startswith(("inbound|", "InboundPassthrough"))


def _rewrite(action: R.RouteAction, rule: networking.HTTPRoute) -> None:
    """A new path stands for the matched prefix, or for the whole path where the match was exact or by expression."""
    rewrite = rule.rewrite
    if rewrite is not None and rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
    elif rewrite is not None and rewrite.uri:
        action.prefix_rewrite = rewrite.uri
    host = (rewrite.authority if rewrite is not None else "") or _host_header(rule.headers)
    if host:
        action.host_rewrite_literal = host


def _host_header(headers: networking.Headers | None) -> str:
    """`headers.request.set` (or `add`) of host or :authority is a rewrite of the host, which Envoy has a field for."""
    request = headers.request if headers is not None else None
    for operations in (request.set, request.add) if request is not None else ():
        for name in sorted(operations):
            if name.lower() in ("host", ":authority"):
                return operations[name]
    return ""


def _retries(
    action: R.RouteAction,
    own: networking.HTTPRetry | None,
    mesh: MeshOptions,
    *,
    view: RouteView,
    consistent: bool,
) -> None:
    """Istio's default is two retries on other hosts for failures that are safe to repeat; 0 attempts: none. With
    consistent hashing a retry stays on the host of its key. The server's proxy sends again only what its application
    never saw, and nothing of gRPC, whose streams may be under way."""
    if own is None and _is_inbound(view):
        if not view.grpc:
            action.retry_policy.retry_on = INBOUND_RETRY_ON
            action.retry_policy.num_retries.value = 2
        return
    settings = own or mesh.default_retries
    if settings is not None and settings.attempts <= 0:
        return
    policy = action.retry_policy
    policy.host_selection_retry_max_attempts = 5
    policy.num_retries.value = settings.attempts if settings is not None else 2
    policy.retry_on = DEFAULT_RETRY_ON
    ignore_previous = not consistent
    if settings is None:
        if ignore_previous:
            _previous_hosts(policy)
        return
    if settings.retry_on:
        tokens, codes = _split_retry_on(settings.retry_on)
        policy.retry_on = ",".join(tokens)
        policy.retriable_status_codes.extend(codes)
    if settings.retry_ignore_previous_hosts is not None:
        ignore_previous = settings.retry_ignore_previous_hosts
    if ignore_previous:
        _previous_hosts(policy)
    if settings.per_try_timeout is not None:
        policy.per_try_timeout.CopyFrom(api.duration(float(settings.per_try_timeout)))
    if settings.backoff is not None:
        policy.retry_back_off.base_interval.CopyFrom(api.duration(float(settings.backoff)))
    if settings.retry_remote_localities:
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
    made = R.RouteAction.HashPolicy(terminal=policy.alone)
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
        made.request_headers_to_add.extend(_operations(headers.request))
        made.request_headers_to_remove.extend(n for n in headers.request.remove if not _untouchable(n))
    if headers.response is not None:
        made.response_headers_to_add.extend(_operations(headers.response))
        made.response_headers_to_remove.extend(n for n in headers.response.remove if not _untouchable(n))


def _untouchable(name: str) -> bool:
    """Envoy refuses a whole route that names one of these."""
    return name.startswith(":") or name.lower() == "host"


def _operations(operations: networking.HeaderOperations) -> Iterable[HeaderValueOption]:
    for name in sorted(operations.set):
        if not _untouchable(name):
            yield HeaderValueOption(
                header={"key": name, "value": operations.set[name]},
                append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
    for name in sorted(operations.add):
        if not _untouchable(name):
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


def _redirect(redirect: networking.HTTPRedirect, port: int) -> R.RedirectAction:
    made = R.RedirectAction(host_redirect=redirect.authority)
    if redirect.prefix_rewrite:
        made.prefix_rewrite = redirect.prefix_rewrite
    elif redirect.uri:
        made.path_redirect = redirect.uri
    made.response_code = _CODES.get(redirect.redirect_code or 301, R.RedirectAction.MOVED_PERMANENTLY)
    if redirect.scheme:
        made.scheme_redirect = redirect.scheme
    if port:
        made.port_redirect = port
    return made


def _direct(made: R.Route, response: networking.HTTPDirectResponse) -> None:
    made.direct_response.status = response.status
    body = response.body
    if body is not None and body.string is not None:
        made.direct_response.body.inline_string = body.string
    elif body is not None and body.bytes is not None:
        made.direct_response.body.inline_bytes = _decoded(body.bytes)


def _decoded(text: str) -> bytes:
    """As protobuf reads base64: either alphabet, with padding or without."""
    plain = text.rstrip("=")
    return base64.urlsafe_b64decode(plain.translate(_URL_SAFE) + "=" * (-len(plain) % 4))


_URL_SAFE = str.maketrans("+/", "-_")


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


def _fault(fault: networking.HTTPFaultInjection) -> api.fault.HTTPFault | None:
    """A share that is not given is none, as Istio documents it. None when there is nothing to inject."""
    made = api.fault.HTTPFault()
    delay = fault.delay
    if delay is not None and delay.fixed_delay is not None:
        made.delay.fixed_delay.CopyFrom(api.duration(float(delay.fixed_delay)))
        percent = delay.percentage.value if delay.percentage is not None else float(delay.percent)
        made.delay.percentage.CopyFrom(fraction(percent))
    abort = fault.abort
    if abort is not None and (abort.grpc_status or abort.http_status):
        if abort.grpc_status:
            code = int(abort.grpc_status) if abort.grpc_status.isdigit() else _GRPC_CODES.get(abort.grpc_status, 2)
            made.abort.grpc_status = code
        else:
            made.abort.http_status = abort.http_status or 503
        made.abort.percentage.CopyFrom(fraction(abort.percentage.value if abort.percentage is not None else 0.0))
    return made if made.HasField("delay") or made.HasField("abort") else None


def _cors(policy: networking.CorsPolicy) -> api.cors.CorsPolicy:
    made = api.cors.CorsPolicy()
    for origin in policy.allow_origins:
        made.allow_origin_string_match.append(string_matcher(origin))
    for old in policy.allow_origin if not policy.allow_origins else ():
        made.allow_origin_string_match.append(string_matcher(networking.StringMatch(exact=old)))
    made.allow_methods = ",".join(policy.allow_methods)
    made.allow_headers = ",".join(policy.allow_headers)
    made.expose_headers = ",".join(policy.expose_headers)
    if policy.max_age is not None:
        made.max_age = str(int(policy.max_age))
    if policy.allow_credentials is not None:
        made.allow_credentials.value = policy.allow_credentials
    made.filter_enabled.default_value.CopyFrom(fraction(100.0))
    made.forward_not_matching_preflights.value = policy.unmatched_preflights != "IGNORE"
    return made
