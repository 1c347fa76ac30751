"""Tokens: RequestAuthentication as Envoy's `jwt_authn`.

In: the issuers of a chain. Out: one HTTP filter. A request without a token passes (authorization may refuse it), one
with a token that does not hold is answered 401.

Keys stand in the rule, or Envoy fetches them itself, and before the listener is ready: through the service's own
cluster where the mesh knows the host, else through a `fetch|…` cluster (`clusters_for`). Its certificate is checked
against the machine's roots.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from typing import cast

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry

from meltem import envoyapi as api
from meltem.envoyapi import Resource
from meltem.generate.filters import rbac
from meltem.objects import Json
from meltem.resources import security
from meltem.view.filters import Filters, JwtIssuer

NAME = rbac.JWT
REFRESH = 20 * 60
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian, Ubuntu and Istio's proxy images keep the public roots."""
DEFAULT_TIMEOUT = 5.0
_NOBODYS = (
    "5EbxPws3Boi86wFb5lEYPvI_0TlWvt381_yPuATqI-cSG6NUaun-"
    "htg0sTAE_-C3VLITg9qDW1JNIM9G15gv7g83Y1jR6WhdU5UtyYqLVfHrPJF_UKYQaegoNkrTSxPFFGKGqUGfsD-"
    "Gx8uTlJiZFr0ai2y3qpYoCJmSQ7S_3QF9D9AtEWrgIx-bAzcOYigVF_NmjLDwNZ0vucmXqzjihjxTWfUILb32olIKiMkuVN0U_-M"
    "QhHELXSeWMchiIUMctW9Gz5KCRhN8LW4HEU_YpmrUEkHoaswNiOsT2bYGsY9jDvLkEANonuwWIu82c0rhKn7W_lmLZYl5c3kyyS9"
    "ikQ"
)
NO_KEYS = f'{{"keys":[{{"kty":"RSA","alg":"RS256","use":"sig","kid":"nobody","e":"AQAB","n":"{_NOBODYS}"}}]}}'
"""For a rule without keys that can be used: every token of the issuer is refused. A key of which nobody has
the private half: a set without keys Envoy refuses, and the whole listener with it."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KINDS = frozenset(("RSA", "EC", "OKP", "oct"))


def http(filters: Filters) -> Iterable[api.hcm.HttpFilter]:
    if not filters.issuers:
        return
    config = api.jwt_authn.JwtAuthentication(bypass_cors_preflight=True)
    single: list[api.jwt_authn.JwtRequirement] = []
    for index, issuer in enumerate(filters.issuers):
        name = f"origins-{index}"
        config.providers[name].CopyFrom(_provider(issuer))
        alone = api.jwt_authn.JwtRequirement(provider_name=name)
        if issuer.rule.presence == "OPTIONAL":
            either = api.jwt_authn.JwtRequirementOrList(
                requirements=[alone, api.jwt_authn.JwtRequirement(allow_missing={})]
            )
            alone = api.jwt_authn.JwtRequirement(requires_any=either)
        single.append(alone)
    rule = config.rules.add(match={"prefix": "/"})
    if len(single) == 1:
        rule.requires.CopyFrom(single[0])
    else:
        rule.requires.CopyFrom(_together(filters.issuers))
    yield api.hcm.HttpFilter(name=NAME, typed_config=api.pack(config))


def _together(issuers: tuple[JwtIssuer, ...]) -> api.jwt_authn.JwtRequirement:
    """Any issuer's token will do; none at all as well, unless a rule says that there must be one."""
    names = [f"origins-{i}" for i in range(len(issuers))]
    ways = [api.jwt_authn.JwtRequirement(provider_name=n) for n in names]
    if not any(i.rule.presence == "REQUIRED" for i in issuers):
        ways.append(api.jwt_authn.JwtRequirement(allow_missing={}))
    return api.jwt_authn.JwtRequirement(requires_any=api.jwt_authn.JwtRequirementOrList(requirements=ways))


def _provider(issuer: JwtIssuer) -> api.jwt_authn.JwtProvider:
    rule = issuer.rule
    output = rule.output_payload_to_header
    made = api.jwt_authn.JwtProvider(
        issuer=rule.issuer,
        audiences=list(rule.audiences),
        forward=rule.forward_original_token,
        forward_payload_header=output if _HEADER.fullmatch(output) else "",
        payload_in_metadata=rbac.PAYLOAD,
        from_params=[p for p in rule.from_params if p],
        from_cookies=[c for c in rule.from_cookies if c],
    )
    spaced = dict.fromkeys(("scope", "permission", *rule.space_delimited_claims))
    made.normalize_payload_in_metadata.space_delimited_claims.extend(spaced)
    for header in rule.from_headers:
        if _HEADER.fullmatch(header.name) and header.prefix.isprintable():
            made.from_headers.add(name=header.name, value_prefix=header.prefix)
    for claim in rule.output_claim_to_headers:
        if claim.claim and _HEADER.fullmatch(claim.header):
            made.claim_to_headers.add(header_name=claim.header, claim_name=claim.claim)
    if made.claim_to_headers:
        made.clear_route_cache = True
    _keys(made, rule, issuer.cluster)
    return made


def _keys(made: api.jwt_authn.JwtProvider, rule: security.JWTRule, cluster: str) -> None:
    if rule.jwks or not rule.key_set_url or not cluster:
        made.local_jwks.inline_string = rule.jwks if _has_keys(rule.jwks) else NO_KEYS
        return
    remote = made.remote_jwks
    remote.http_uri.uri = rule.key_set_url
    remote.http_uri.cluster = cluster
    timeout = float(rule.timeout) if rule.timeout is not None else DEFAULT_TIMEOUT
    remote.http_uri.timeout.CopyFrom(api.duration(timeout))
    remote.cache_duration.CopyFrom(api.duration(REFRESH))
    remote.async_fetch.fast_listener = True
    remote.async_fetch.failed_refetch_duration.CopyFrom(api.duration(5))


def _has_keys(jwks: str) -> bool:
    """Whether Envoy can use one of them at least."""
    try:
        found = cast(Json, json.loads(jwks))
    except (ValueError, RecursionError):
        return False
    given = found.get("keys", [found]) if isinstance(found, dict) else None
    for key in given if isinstance(given, list) else ():
        with contextlib.suppress(ValueError, TypeError, KeyError, JoseError):
            if isinstance(key, dict) and key.get("kty") in _KINDS:
                JWKRegistry.import_key(cast("dict[str, str | list[str]]", key))
                return True
    return False


def fetch_cluster(name: str, *, ipv4: bool = True, ipv6: bool = False) -> Resource:
    """The cluster `fetch|<port>|<scheme>|<host>`: to a host outside the mesh, by DNS."""
    _, port, scheme, host = name.split("|", 3)
    made = api.cluster.Cluster(
        name=name,
        type=api.cluster.Cluster.STRICT_DNS,
        connect_timeout=api.duration(10),
        dns_lookup_family=(api.cluster.Cluster.ALL if ipv4 else api.cluster.Cluster.V6_ONLY)
        if ipv6
        else api.cluster.Cluster.V4_ONLY,
        load_assignment={
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
                    ]
                }
            ],
        },
    )
    if scheme == "https":
        context = api.tls.UpstreamTlsContext(sni=host)
        validation = context.common_tls_context.validation_context
        validation.trusted_ca.filename = SYSTEM_ROOTS  # Envoy takes no notice of `system_root_certs`
        validation.match_typed_subject_alt_names.add(san_type="DNS", matcher={"exact": host})
        made.transport_socket.name = "envoy.transport_sockets.tls"
        made.transport_socket.typed_config.CopyFrom(api.pack(context))
    return api.resource(api.CLUSTER, name, made)
