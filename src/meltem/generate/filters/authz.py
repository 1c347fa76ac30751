"""Authorization: RBAC filters for HTTP and TCP, and external authorizers.

In: `Filters` of a chain. Out: filters in Istio's order: CUSTOM before authentication; AUDIT, DENY, ALLOW after it.

Policies with the annotation `istio.io/dry-run` are evaluated as shadow rules: counted and logged, without effect. A
CUSTOM policy whose provider is not there denies everything.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.generate.filters import rbac
from meltem.view.filters import Authorizer, AuthzPolicy, Filters
from meltem.view.units import MeshOptions

HttpFilter = api.hcm.HttpFilter
Filter = api.listener_components.Filter
Action = api.rbac.RBAC

HTTP_RBAC = "envoy.filters.http.rbac"
TCP_RBAC = "envoy.filters.network.rbac"
CUSTOM_PREFIX = "istio-ext-authz"
SHADOW_PREFIX = "istio_ext_authz_"
_ACTIONS = (("AUDIT", Action.LOG), ("DENY", Action.DENY), ("ALLOW", Action.ALLOW))
_DRY_RUN = {"ALLOW": "istio_dry_run_allow_", "DENY": "istio_dry_run_deny_"}


def trust_domains(mesh: MeshOptions) -> tuple[str, ...]:
    return tuple(dict.fromkeys((mesh.trust_domain, *mesh.trust_domain_aliases)))


# --- AUDIT, DENY, ALLOW ---


def http(filters: Filters, mesh: MeshOptions) -> Iterable[HttpFilter]:
    for rules, shadow, prefix in _by_action(filters, mesh, tcp=False):
        made = api.http_rbac.RBAC(shadow_rules_stat_prefix=prefix)
        if rules is not None:
            made.rules.CopyFrom(rules)
        if shadow is not None:
            made.shadow_rules.CopyFrom(shadow)
        yield HttpFilter(name=HTTP_RBAC, typed_config=api.pack(made))


def tcp(filters: Filters, mesh: MeshOptions) -> Iterable[Filter]:
    for rules, shadow, prefix in _by_action(filters, mesh, tcp=True):
        made = api.network_rbac.RBAC(shadow_rules_stat_prefix=prefix, stat_prefix="tcp.")
        if rules is not None:
            made.rules.CopyFrom(rules)
        if shadow is not None:
            made.shadow_rules.CopyFrom(shadow)
        yield Filter(name=TCP_RBAC, typed_config=api.pack(made))


def only_server_names(prefix: str) -> Filter:
    """Closes connections whose SNI does not begin so."""
    rules = Action(action=Action.ALLOW)
    names = rules.policies["names"]
    names.permissions.add(requested_server_name={"prefix": prefix})
    names.principals.add(any=True)
    return Filter(name=TCP_RBAC, typed_config=api.pack(api.network_rbac.RBAC(rules=rules, stat_prefix="sni.")))


def _by_action(filters: Filters, mesh: MeshOptions, *, tcp: bool) -> Iterable[tuple[Action | None, Action | None, str]]:
    """Rules in force, rules on trial, and the prefix of the latter's statistics."""
    domains = trust_domains(mesh)
    for name, action in _ACTIONS:
        policies = [p for p in filters.authorization if p.action == name]
        enforced = [p for p in policies if not p.dry_run]
        tried = [p for p in policies if p.dry_run] if name in _DRY_RUN else []
        rules = rbac.rbac(enforced, action, tcp=tcp, trust_domains=domains) if enforced else None
        shadow = rbac.rbac(tried, action, tcp=tcp, trust_domains=domains) if tried else None
        if rules is not None and action != Action.ALLOW and not rules.policies:
            rules = None
        if shadow is not None and action != Action.ALLOW and not shadow.policies:
            shadow = None
        if rules is not None or shadow is not None:
            yield rules, shadow, _DRY_RUN[name] if shadow is not None else ""


# --- CUSTOM ---


def custom_http(filters: Filters, mesh: MeshOptions) -> Iterable[HttpFilter]:
    for authorizer, policies in _custom(filters):
        if authorizer is None:
            yield HttpFilter(name=HTTP_RBAC, typed_config=api.pack(api.http_rbac.RBAC(rules=_deny_all())))
            continue
        shadow = _custom_rules(authorizer, policies, mesh, tcp=False)
        made = api.http_rbac.RBAC(shadow_rules=shadow, shadow_rules_stat_prefix=SHADOW_PREFIX)
        yield HttpFilter(name=HTTP_RBAC, typed_config=api.pack(made))
        yield HttpFilter(name="envoy.filters.http.ext_authz", typed_config=api.pack(_http_authorizer(authorizer)))


def custom_tcp(filters: Filters, mesh: MeshOptions) -> Iterable[Filter]:
    """Only gRPC authorizers are asked for connections; with an HTTP one they are refused, as nothing can be asked."""
    for authorizer, policies in _custom(filters):
        if authorizer is None or authorizer.grpc is None:
            made = api.network_rbac.RBAC(rules=_deny_all(), stat_prefix="tcp.")
            yield Filter(name=TCP_RBAC, typed_config=api.pack(made))
            continue
        shadow = _custom_rules(authorizer, policies, mesh, tcp=True)
        made = api.network_rbac.RBAC(shadow_rules=shadow, shadow_rules_stat_prefix=SHADOW_PREFIX, stat_prefix="tcp.")
        yield Filter(name=TCP_RBAC, typed_config=api.pack(made))
        asked = api.network_ext_authz.ExtAuthz(
            stat_prefix="tcp.",
            grpc_service=_grpc_service(authorizer),
            transport_api_version=api.config_source.V3,
            failure_mode_allow=authorizer.grpc.fail_open,
            filter_enabled_metadata=_enabled(authorizer, TCP_RBAC),
        )
        yield Filter(name="envoy.filters.network.ext_authz", typed_config=api.pack(asked))


def _custom(filters: Filters) -> Iterable[tuple[Authorizer | None, list[AuthzPolicy]]]:
    """Each authorizer with the policies that ask it; None: one that is not there."""
    known = {a.name: a for a in filters.authorizers if a.cluster}
    asked: dict[str, list[AuthzPolicy]] = {}
    for policy in filters.authorization:
        if policy.action == "CUSTOM" and not policy.dry_run:
            asked.setdefault(policy.provider, []).append(policy)
    for provider in sorted(asked):
        yield known.get(provider), asked[provider]


def _deny_all() -> Action:
    made = Action(action=Action.DENY)
    everything = made.policies["default-deny-all-due-to-bad-CUSTOM-action"]
    everything.permissions.add(any=True)
    everything.principals.add(any=True)
    return made


def _custom_rules(authorizer: Authorizer, policies: list[AuthzPolicy], mesh: MeshOptions, *, tcp: bool) -> Action:
    plain = rbac.rbac(policies, Action.DENY, tcp=tcp, trust_domains=trust_domains(mesh))
    made = Action(action=Action.DENY)
    for name in sorted(plain.policies):
        made.policies[f"{CUSTOM_PREFIX}-{authorizer.name}-{name}"].CopyFrom(plain.policies[name])
    return made


def _enabled(authorizer: Authorizer, filter_name: str) -> api.metadata_matcher.MetadataMatcher:
    """The authorizer is asked only where one of its policies matched."""
    return api.metadata_matcher.MetadataMatcher(
        filter=filter_name,
        path=[{"key": SHADOW_PREFIX + "shadow_effective_policy_id"}],
        value={"string_match": {"prefix": f"{CUSTOM_PREFIX}-{authorizer.name}-"}},
    )


def _timeout(authorizer: Authorizer) -> float:
    settings = authorizer.http or authorizer.grpc
    given = settings.timeout if settings is not None else None
    return float(given) if given is not None else 600.0


def _grpc_service(authorizer: Authorizer) -> api.grpc_service.GrpcService:
    return api.grpc_service.GrpcService(
        envoy_grpc={"cluster_name": authorizer.cluster, "authority": authorizer.authority},
        timeout=api.duration(_timeout(authorizer)),
    )


def _http_authorizer(authorizer: Authorizer) -> api.ext_authz.ExtAuthz:
    made = api.ext_authz.ExtAuthz(
        transport_api_version=api.config_source.V3, filter_enabled_metadata=_enabled(authorizer, HTTP_RBAC)
    )
    settings = authorizer.http or authorizer.grpc
    if settings is None:
        return made
    made.failure_mode_allow = settings.fail_open
    made.clear_route_cache = settings.clear_route_cache
    if settings.status_on_error.isdigit():
        made.status_on_error.code = int(settings.status_on_error)  # type: ignore[assignment]
    body = settings.include_request_body_in_check
    if body is not None:
        made.with_request_body.max_request_bytes = body.max_request_bytes
        made.with_request_body.allow_partial_message = body.allow_partial_message
        made.with_request_body.pack_as_bytes = body.pack_as_bytes
    if authorizer.http is None:
        made.grpc_service.CopyFrom(_grpc_service(authorizer))
        return made
    http_settings = authorizer.http
    service = made.http_service
    service.server_uri.uri = f"http://{authorizer.authority}"
    service.server_uri.cluster = authorizer.cluster
    service.server_uri.timeout.CopyFrom(api.duration(_timeout(authorizer)))
    service.path_prefix = http_settings.path_prefix
    sent = http_settings.include_request_headers_in_check or http_settings.include_headers_in_check
    if sent:
        made.allowed_headers.CopyFrom(_names(sent))
    for name, value in sorted(http_settings.include_additional_headers_in_check.items()):
        service.authorization_request.headers_to_add.add(key=name, value=value)
    answer = service.authorization_response
    if http_settings.headers_to_upstream_on_allow:
        answer.allowed_upstream_headers.CopyFrom(_names(http_settings.headers_to_upstream_on_allow))
    if http_settings.headers_to_downstream_on_deny:
        answer.allowed_client_headers.CopyFrom(_names(http_settings.headers_to_downstream_on_deny))
    if http_settings.headers_to_downstream_on_allow:
        answer.allowed_client_headers_on_success.CopyFrom(_names(http_settings.headers_to_downstream_on_allow))
    return made


def _names(patterns: Iterable[str]) -> api.string_matcher.ListStringMatcher:
    """Header names: exact, `x-*` or `*-x`."""
    made = api.string_matcher.ListStringMatcher()
    for one in patterns:
        matcher = rbac.pattern(one, ignore_case=True)
        made.patterns.append(matcher)
    return made
