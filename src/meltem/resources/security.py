"""PeerAuthentication, RequestAuthentication and AuthorizationPolicy.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from meltem.resources.base import Message, Resource, Schema, Timeout, cel
from meltem.resources.common import ONE_TARGET, IstioStatus, PolicyTargetReference, TargetRefs, WorkloadSelector


class AuthzProvider(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, provider: one part of it."""

    name: str = ""


class Source(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, rules.from.source: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "Cannot set serviceAccounts with namespaces or principals",
            "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) "
            "&&\n!has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true",
        ),
    )

    ip_blocks: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    not_service_accounts: Annotated[tuple[Annotated[str, Schema(maxLength=320)], ...], Schema(maxItems=16)] = ()
    not_trust_domains: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    service_accounts: Annotated[tuple[Annotated[str, Schema(maxLength=320)], ...], Schema(maxItems=16)] = ()
    trust_domains: tuple[str, ...] = ()


class RuleFrom(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, rules.from: one part of it."""

    source: Source | None = None


class Operation(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, rules.to.operation: one part of it."""

    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


class RuleTo(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, rules.to: one part of it."""

    operation: Operation | None = None


class AuthzCondition(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, rules.when: one part of it."""

    key: str
    not_values: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


class Rule(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy, rules: one part of it."""

    from_: Annotated[tuple[RuleFrom, ...], Schema(maxItems=512)] = ()
    to: tuple[RuleTo, ...] = ()
    when: tuple[AuthzCondition, ...] = ()


class AuthorizationPolicySpec(Message, frozen=True, kw_only=True):
    """AuthorizationPolicy: one part of it."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("provider",),)
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    action: Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"] = "ALLOW"
    provider: AuthzProvider | None = None
    rules: Annotated[tuple[Rule, ...], Schema(maxItems=512)] = ()
    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()


class MutualTLS(Message, frozen=True, kw_only=True):
    """PeerAuthentication, mtls: one part of it."""

    mode: Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] = "UNSET"


class PeerAuthenticationSpec(Message, frozen=True, kw_only=True):
    """PeerAuthentication: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "portLevelMtls requires selector",
            "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? "
            "self.selector.matchLabels : {}).size() > 0) : true",
        ),
    )

    mtls: MutualTLS | None = None
    port_level_mtls: Annotated[
        dict[str, MutualTLS],
        Schema(minProperties=1),
        cel(("port must be between 1-65535", "self.all(key, 0 < int(key) && int(key) <= 65535)")),
    ] = {}
    selector: WorkloadSelector | None = None


class JWTHeader(Message, frozen=True, kw_only=True):
    """RequestAuthentication, jwtRules.fromHeaders: one part of it."""

    name: Annotated[str, Schema(minLength=1)]
    prefix: str = ""


class ClaimToHeader(Message, frozen=True, kw_only=True):
    """RequestAuthentication, jwtRules.outputClaimToHeaders: one part of it."""

    claim: Annotated[str, Schema(minLength=1)]
    header: Annotated[str, Schema(minLength=1, pattern="^[-_A-Za-z0-9]+$")]


class JWTRule(Message, frozen=True, kw_only=True):
    """RequestAuthentication, jwtRules: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "only one of jwks or jwksUri can be set",
            "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
        ),
    )

    audiences: tuple[Annotated[str, Schema(minLength=1)], ...] = ()
    forward_original_token: bool = False
    from_cookies: tuple[Annotated[str, Schema(minLength=1)], ...] = ()
    from_headers: tuple[JWTHeader, ...] = ()
    from_params: tuple[Annotated[str, Schema(minLength=1)], ...] = ()
    issuer: Annotated[str, Schema(minLength=1)] = ""
    jwks: str = ""
    jwks_uri_alias: Annotated[
        str,
        Schema(maxLength=2048, minLength=1),
        cel(("url must have scheme http:// or https://", 'url(self).getScheme() in ["http", "https"]')),
    ] = msgspec.field(name="jwks_uri", default="")
    jwks_uri: Annotated[
        str,
        Schema(maxLength=2048, minLength=1),
        cel(("url must have scheme http:// or https://", 'url(self).getScheme() in ["http", "https"]')),
    ] = ""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    output_payload_to_header: str = ""
    presence: Literal["OPTIONAL", "REQUIRED"] = "OPTIONAL"
    space_delimited_claims: Annotated[tuple[Annotated[str, Schema(minLength=1)], ...], Schema(maxItems=64)] = ()
    timeout: Timeout | None = None


class RequestAuthenticationSpec(Message, frozen=True, kw_only=True):
    """RequestAuthentication: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    jwt_rules: Annotated[tuple[JWTRule, ...], Schema(maxItems=4096)] = ()
    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()


class PeerAuthentication(Resource, frozen=True, kw_only=True):
    """A PeerAuthentication."""

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: IstioStatus = IstioStatus()


class RequestAuthentication(Resource, frozen=True, kw_only=True):
    """A RequestAuthentication."""

    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: IstioStatus = IstioStatus()


class AuthorizationPolicy(Resource, frozen=True, kw_only=True):
    """A AuthorizationPolicy."""

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: IstioStatus = IstioStatus()
