"""PeerAuthentication, RequestAuthentication and AuthorizationPolicy.

In: the resource. Out: findings. A policy that would not do what it seems to say is refused: policy fails closed.
"""

from __future__ import annotations

import ipaddress
import json
from typing import cast
from urllib.parse import urlsplit

from meltem.objects import Json
from meltem.resources.security import (
    AuthorizationPolicy,
    AuthzCondition,
    JWTRule,
    Operation,
    PeerAuthentication,
    RequestAuthentication,
    Rule,
    Source,
)
from meltem.validate import checks
from meltem.validate.findings import Report

DRY_RUN = "istio.io/dry-run"
_BOOLEANS = frozenset({"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"})
_ONE, _ANY = "{*}", "{**}"
_LITERAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%!$&'()+,;:@=")
_CUSTOM_KEYS = ("source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal")
_FREE_KEYS = frozenset(
    {
        *("source.namespace", "source.principal", "request.auth.principal", "request.auth.audiences"),
        *("request.auth.presenter", "connection.sni"),
    }
)
_IP_KEYS = frozenset({"source.ip", "remote.ip", "destination.ip"})
_BRACKET_KEYS = ("request.headers", "request.auth.claims", "experimental.")
_GONE_KEYS = {
    "destination.namespace": "Create the policy in that namespace.",
    "destination.name": "Use the selector.",
    "destination.user": "Use the selector.",
}


def check_peer_authentication(r: Report, policy: PeerAuthentication) -> None:
    spec = policy.spec
    selected = spec.selector is not None and bool(spec.selector.match_labels)
    if spec.port_level_mtls and not selected:
        r.at("portLevelMtls").error(
            "settings of ports are for selected workloads only", "Set selector.matchLabels, or remove portLevelMtls."
        )
    for port in spec.port_level_mtls:
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
            r.at("portLevelMtls", port).error(f"{port[:32]!r} is no port", "Write a number from 1 to 65535.")
    checks.check_selector(r, spec.selector)


def check_request_authentication(r: Report, policy: RequestAuthentication) -> None:
    spec = policy.spec
    checks.check_targets(r, spec.selector, spec.target_ref, spec.target_refs)
    for i, rule in enumerate(spec.jwt_rules):
        _jwt_rule(r.at("jwtRules", i), rule)


def _jwt_rule(r: Report, rule: JWTRule) -> None:
    url = rule.key_set_url
    if not rule.issuer and not url:
        r.error("neither issuer nor jwksUri is set", "Set issuer.")
    if sum(bool(x) for x in (rule.jwks, rule.jwks_uri, rule.jwks_uri_alias)) > 1:
        r.error("jwks and jwksUri exclude each other", "Keep one of them.")
    if url:
        _url(r.at("jwksUri"), url)
    if rule.jwks:
        _key_set(r.at("jwks"), rule.jwks)
    for field, values in (
        ("audiences", rule.audiences),
        ("fromParams", rule.from_params),
        ("fromCookies", rule.from_cookies),
        ("fromHeaders", tuple(h.name for h in rule.from_headers)),
    ):
        _not_empty(r, field, values)
    for i, one in enumerate(rule.output_claim_to_headers):
        here = r.at("outputClaimToHeaders", i)
        if not one.claim or not one.header:
            here.error("needs both header and claim")
        else:
            checks.check_strict_header_name(here.at("header"), one.header)
    checks.check_duration(r.at("timeout"), rule.timeout)


def _url(r: Report, url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        r.error(f"{url[:80]!r} is no URL")
        return
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or not checks.is_authority(parts.netloc)
    ):
        r.error(f"{url[:80]!r} is no URL of a key set", "Write https://host/path.")


def _key_set(r: Report, text: str) -> None:
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        r.error("is no JSON", "Write a JSON Web Key Set: {keys: [...]}.")
        return
    keys = value.get("keys", [value] if "kty" in value else None) if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(k, dict) and isinstance(k.get("kty"), str) for k in keys):
        r.error("is no JSON Web Key Set", "Write {keys: [{kty: ...}]}.")
        return
    for i, key in enumerate(keys):
        if isinstance(key, dict) and ("d" in key or key.get("kty") == "oct"):
            r.warn(f"key {i} is private: only public keys are needed here", "Publish the public part only.")


def check_authorization_policy(r: Report, policy: AuthorizationPolicy) -> None:
    spec = policy.spec
    checks.check_targets(r, spec.selector, spec.target_ref, spec.target_refs)
    _dry_run(r, policy)
    provider = spec.provider.name if spec.provider is not None else ""
    match spec.action:
        case "CUSTOM":
            if not spec.rules:
                r.at("rules").error(
                    "a CUSTOM policy without rules is never asked", "Write rules: [{}] to ask for every request."
                )
            elif not provider:
                r.at("provider").at("name").error("is missing", "Name one of the mesh's extensionProviders.")
            for i, rule in enumerate(spec.rules):
                _custom(r.at("rules", i), rule)
        case "DENY" if not spec.rules:
            r.at("rules").error("a DENY policy without rules denies nothing", "Write rules: [{}] to deny everything.")
        case _:
            pass
    if spec.provider is not None and spec.action != "CUSTOM":
        r.at("provider").error(f"has no effect with action {spec.action}", "Use action CUSTOM, or remove provider.")
    for i, rule in enumerate(spec.rules):
        _rule(r.at("rules", i), rule, deny=spec.action == "DENY")


def _dry_run(r: Report, policy: AuthorizationPolicy) -> None:
    value = policy.metadata.annotations.get(DRY_RUN)
    if value is None:
        return
    if policy.spec.action not in ("ALLOW", "DENY"):
        r.error(f"the annotation {DRY_RUN} works with actions ALLOW and DENY only", "Remove the annotation.")
    elif value not in _BOOLEANS:
        r.error(f"the annotation {DRY_RUN} has the value {value[:32]!r}", "Write 'true' or 'false'.")


def _custom(r: Report, rule: Rule) -> None:
    """What only the proxy that ends mutual TLS or checks tokens knows cannot steer an external authorizer."""
    for i, one in enumerate(rule.from_):
        if one.source is None:
            continue
        s = one.source
        for field, value in (
            ("namespaces", s.namespaces),
            ("notNamespaces", s.not_namespaces),
            ("principals", s.principals),
            ("notPrincipals", s.not_principals),
            ("requestPrincipals", s.request_principals),
            ("notRequestPrincipals", s.not_request_principals),
            ("serviceAccounts", s.service_accounts),
            ("notServiceAccounts", s.not_service_accounts),
            ("trustDomains", s.trust_domains),
            ("notTrustDomains", s.not_trust_domains),
        ):
            if value:
                r.at("from", i).at("source").at(field).error("is not supported with action CUSTOM")
    for i, condition in enumerate(rule.when):
        if condition.key in _CUSTOM_KEYS or condition.key.startswith("request.auth."):
            r.at("when", i).at("key").error(f"{condition.key[:64]!r} is not supported with action CUSTOM")


def _rule(r: Report, rule: Rule, *, deny: bool) -> None:
    tcp_from = any(f.source is not None and _tcp_source(f.source) for f in rule.from_)
    tcp_to = any(t.operation is not None and (t.operation.ports or t.operation.not_ports) for t in rule.to)
    for i, one in enumerate(rule.from_):
        if one.source is None:
            r.at("from", i).at("source").error("is missing")
        else:
            _source(r.at("from", i).at("source"), one.source)
    for i, one in enumerate(rule.to):
        if one.operation is None:
            r.at("to", i).at("operation").error("is missing")
        else:
            _operation(r.at("to", i).at("operation"), one.operation)
    for i, condition in enumerate(rule.when):
        _condition(r.at("when", i), condition)
    if deny and ((rule.from_ and not rule.to and not tcp_from) or (rule.to and not tcp_to)):
        r.warn(
            "a DENY rule of HTTP attributes only denies all connections to TCP ports",
            "Name the HTTP ports in to.operation.ports.",
        )


def _tcp_source(source: Source) -> bool:
    return any(
        (
            *(source.principals, source.not_principals, source.namespaces, source.not_namespaces),
            *(source.ip_blocks, source.not_ip_blocks, source.remote_ip_blocks, source.not_remote_ip_blocks),
            *(source.service_accounts, source.not_service_accounts),
        )
    )


def _not_empty(r: Report, field: str, values: tuple[str, ...]) -> None:
    for i, value in enumerate(values):
        if not value:
            r.at(field, i).error("is empty", "Remove the value.")


def _source(r: Report, source: Source) -> None:
    if source == Source():
        r.error("says nothing", "Set a field, or remove `from` to mean every source.")
    accounts = source.service_accounts or source.not_service_accounts
    others = source.principals or source.not_principals or source.namespaces or source.not_namespaces
    if accounts and others:
        r.error("serviceAccounts exclude namespaces and principals", "Keep one of them.")
    for field, values in (
        ("principals", source.principals),
        ("notPrincipals", source.not_principals),
        ("requestPrincipals", source.request_principals),
        ("notRequestPrincipals", source.not_request_principals),
        ("namespaces", source.namespaces),
        ("notNamespaces", source.not_namespaces),
    ):
        _not_empty(r, field, values)
    for field, values in (
        ("ipBlocks", source.ip_blocks),
        ("notIpBlocks", source.not_ip_blocks),
        ("remoteIpBlocks", source.remote_ip_blocks),
        ("notRemoteIpBlocks", source.not_remote_ip_blocks),
    ):
        _addresses(r, field, values)
    for field, values in (
        ("serviceAccounts", source.service_accounts),
        ("notServiceAccounts", source.not_service_accounts),
    ):
        _service_accounts(r, field, values)
    for field, values in (("trustDomains", source.trust_domains), ("notTrustDomains", source.not_trust_domains)):
        _wildcards(r, field, values)
        for i, value in enumerate(values):
            if "/" in value:
                r.at(field, i).error(f"{value[:64]!r} is no trust domain", "Write it without '/'.")


def _addresses(r: Report, field: str, values: tuple[str, ...]) -> None:
    for i, value in enumerate(values):
        try:
            ipaddress.ip_network(value, strict=False)
        except ValueError:
            r.at(field, i).error(
                f"{value[:64]!r} is neither an IP address nor a range", "Write 10.1.2.3 or 10.0.0.0/8."
            )


def _service_accounts(r: Report, field: str, values: tuple[str, ...]) -> None:
    if len(values) > 16:
        r.at(field).error("has more than 16 values")
    for i, value in enumerate(values):
        parts = value.split("/")
        if not all(parts) or len(parts) > 2 or "*" in value or len(value) > 320:
            r.at(field, i).error(f"{value[:64]!r} is no service account", "Write name or namespace/name, without '*'.")


def _wildcards(r: Report, field: str, values: tuple[str, ...]) -> None:
    for i, value in enumerate(values):
        if not value or "*" in value.removeprefix("*").removesuffix("*") or (value.count("*") > 1):
            r.at(field, i).error(f"{value[:64]!r} is no pattern", "Write '*' at one end only, such as *.example.com.")


def _operation(r: Report, operation: Operation) -> None:
    if operation == Operation():
        r.error("says nothing", "Set a field, or remove `to` to mean every operation.")
    for field, values in (
        ("hosts", operation.hosts),
        ("notHosts", operation.not_hosts),
        ("methods", operation.methods),
        ("notMethods", operation.not_methods),
    ):
        _not_empty(r, field, values)
    for field, values in (("ports", operation.ports), ("notPorts", operation.not_ports)):
        _ports(r, field, values)
    for field, values in (("paths", operation.paths), ("notPaths", operation.not_paths)):
        for i, path in enumerate(values):
            _path(r.at(field, i), path)


def _ports(r: Report, field: str, values: tuple[str, ...]) -> None:
    for i, value in enumerate(values):
        if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 65535):
            r.at(field, i).error(f"{value[:32]!r} is no port", "Write a number from 1 to 65535, as a string.")


def _path(r: Report, path: str) -> None:
    """A literal with `*` at one end, or a template of segments: `{*}` one segment, `{**}` the rest."""
    if not path:
        r.error("is empty", "Remove the value.")
        return
    segments = path.strip("/").split("/")
    template = _ONE in path or _ANY in path
    for i, segment in enumerate(segments):
        if segment in (_ONE, _ANY):
            if _ANY in segments[:i]:
                r.error(f"{path[:80]!r}: nothing but text may follow {{**}}", "Write {**} as the last template.")
                return
        elif "{" in segment or "}" in segment:
            r.error(f"{path[:80]!r}: braces stand for templates only", "Write {*} for a segment, {**} for the rest.")
            return
        elif template and not set(segment) <= _LITERAL:
            r.error(f"{path[:80]!r}: the segment {segment[:40]!r} cannot stand beside templates", "Write it literally.")
            return


def _condition(r: Report, condition: AuthzCondition) -> None:
    if not condition.key:
        r.at("key").error("is empty", "Write an attribute such as request.headers[x-user].")
        return
    if not condition.values and not condition.not_values:
        r.error(f"the condition on {condition.key[:64]!r} has no values", "Set values or notValues.")
        return
    _key(r.at("key"), condition.key)
    for field, values in (("values", condition.values), ("notValues", condition.not_values)):
        _not_empty(r, field, values)
        if condition.key in _IP_KEYS:
            _addresses(r, field, values)
        elif condition.key == "destination.port":
            _ports(r, field, values)
        elif condition.key == "source.serviceAccount":
            _service_accounts(r, field, values)
        elif condition.key == "source.trustDomain":
            _wildcards(r, field, values)


def _key(r: Report, key: str) -> None:
    if key in _FREE_KEYS or key in _IP_KEYS or key in ("destination.port", *_CUSTOM_KEYS):
        return
    gone = _GONE_KEYS.get(key) or ("Use the selector." if key.startswith("destination.labels") else "")
    if gone:
        r.error(f"the attribute {key[:64]!r} is no longer supported", gone)
    elif key.startswith(_BRACKET_KEYS):
        start = key.find("[")
        if not key.endswith("]") or not 0 < start < len(key) - 2:
            r.error(f"{key[:64]!r} does not say which one", f"Write {key.partition('[')[0][:40]}[name].")
    else:
        r.error(
            f"unknown attribute {key[:64]!r}",
            "Known are request.headers[..], request.auth.*, source.*, remote.ip, destination.ip, destination.port"
            " and connection.sni.",
        )
