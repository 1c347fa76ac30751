"""PeerAuthentication, RequestAuthentication and AuthorizationPolicy.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from meltem.resources.base import Message, Resource, Schema, Timeout, cel
from meltem.resources.common import ONE_TARGET, IstioStatus, PolicyTargetReference, TargetRefs, WorkloadSelector


class AuthzProvider(Message, frozen=True, kw_only=True):
    """An external authorizer.

    name: Its name in the mesh's `extensionProviders`.
    """

    name: str = ""


class Source(Message, frozen=True, kw_only=True):
    """Who sends the request; all that are set must hold.

    ip_blocks: Addresses or ranges of the peer.
    namespaces: Namespaces of the peer.
    not_ip_blocks: Addresses that the peer must not have.
    not_namespaces: Namespaces that the peer must not be of.
    not_principals: Identities that the peer must not have.
    not_remote_ip_blocks: Addresses that the client must not have.
    not_request_principals: Token identities that the request must not have.
    not_service_accounts: Service accounts that the peer must not have.
    not_trust_domains: Trust domains that the peer must not be of.
    principals: Identities of the peer; needs mutual TLS.
    remote_ip_blocks: Addresses of the client, found behind trusted proxies.
    request_principals: Token identities (`issuer/subject`).
    service_accounts: Service accounts of the peer, as `name` or `namespace/name`.
    trust_domains: Trust domains of the peer.
    """

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
    """Where requests come from.

    source: Who sends them.
    """

    source: Source | None = None


class Operation(Message, frozen=True, kw_only=True):
    """What is asked for; all that are set must hold.

    hosts: Hosts.
    methods: HTTP methods.
    not_hosts: Hosts that must not match.
    not_methods: Methods that must not match.
    not_paths: Paths that must not match.
    not_ports: Ports that must not match.
    paths: Paths; `*` at one end, or templates with `{*}` and `{**}`.
    ports: Ports.
    """

    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


class RuleTo(Message, frozen=True, kw_only=True):
    """What requests ask for.

    operation: What is asked for.
    """

    operation: Operation | None = None


class AuthzCondition(Message, frozen=True, kw_only=True):
    """A condition on an attribute.

    key: Name of the attribute, such as `request.headers[version]`.
    not_values: Values that it must not have.
    values: Values of which it must have one.
    """

    key: str
    not_values: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


class Rule(Message, frozen=True, kw_only=True):
    """A request matches when a source, an operation and all conditions match.

    from_: Sources, of which one must match; none means any.
    to: Operations, of which one must match; none means any.
    when: Conditions that must all hold.
    """

    from_: Annotated[tuple[RuleFrom, ...], Schema(maxItems=512)] = ()
    to: tuple[RuleTo, ...] = ()
    when: tuple[AuthzCondition, ...] = ()


class AuthorizationPolicySpec(Message, frozen=True, kw_only=True):
    """Who may do what.

    action: What happens to a request that matches.
    provider: Who decides, for CUSTOM.
    rules: Rules, of which one must match; an ALLOW policy without rules allows nothing.
    selector: Workloads that it is for; none means all of the namespace.
    target_ref: Object that it attaches to.
    target_refs: Objects that it attaches to.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("provider",),)
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    action: Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"] = "ALLOW"
    provider: AuthzProvider | None = None
    rules: Annotated[tuple[Rule, ...], Schema(maxItems=512)] = ()
    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()


class MutualTLS(Message, frozen=True, kw_only=True):
    """Whether callers must use mutual TLS.

    mode: UNSET inherits, PERMISSIVE takes both, STRICT takes mutual TLS only.
    """

    mode: Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"] = "UNSET"


class PeerAuthenticationSpec(Message, frozen=True, kw_only=True):
    """Whether callers must use mutual TLS.

    mtls: The mode of the workload.
    port_level_mtls: Modes of single ports, by number.
    selector: Workloads that it is for; none means all of the namespace.
    """

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
    """A header that holds a token.

    name: Name of the header.
    prefix: What stands before the token, such as `Bearer `.
    """

    name: Annotated[str, Schema(minLength=1)]
    prefix: str = ""


class ClaimToHeader(Message, frozen=True, kw_only=True):
    """A header made from a claim.

    claim: Name of the claim.
    header: Name of the header.
    """

    claim: Annotated[str, Schema(minLength=1)]
    header: Annotated[str, Schema(minLength=1, pattern="^[-_A-Za-z0-9]+$")]


class JWTRule(Message, frozen=True, kw_only=True):
    """An issuer whose tokens are accepted.

    audiences: Audiences, of which a token must name one.
    forward_original_token: Whether the service sees the token.
    from_cookies: Cookies that may hold the token.
    from_headers: Headers that may hold the token.
    from_params: Query parameters that may hold the token.
    issuer: Who issued the token.
    jwks: The keys.
    jwks_uri_alias: Older spelling of `jwksUri`.
    jwks_uri: Where the keys are.
    output_claim_to_headers: Claims that the service gets as headers.
    output_payload_to_header: Header in which the service gets the token's payload.
    presence: Whether a request must have a token.
    space_delimited_claims: Claims that are lists separated by spaces.
    timeout: How long fetching keys may take.
    """

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

    @property
    def key_set_url(self) -> str:
        """`jwksUri`, under either spelling."""
        return self.jwks_uri or self.jwks_uri_alias


class RequestAuthenticationSpec(Message, frozen=True, kw_only=True):
    """Which tokens are accepted.

    jwt_rules: Issuers whose tokens are accepted.
    selector: Workloads that it is for; none means all of the namespace.
    target_ref: Object that it attaches to.
    target_refs: Objects that it attaches to.
    """

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (ONE_TARGET,)

    jwt_rules: Annotated[tuple[JWTRule, ...], Schema(maxItems=4096)] = ()
    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()


class PeerAuthentication(Resource, frozen=True, kw_only=True):
    """Mutual TLS of workloads."""

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: IstioStatus = IstioStatus()


class RequestAuthentication(Resource, frozen=True, kw_only=True):
    """Tokens that requests may carry."""

    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: IstioStatus = IstioStatus()


class AuthorizationPolicy(Resource, frozen=True, kw_only=True):
    """Access control of workloads."""

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: IstioStatus = IstioStatus()
