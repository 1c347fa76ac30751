"""From AuthorizationPolicy rules to Envoy's RBAC policies.

In: rules of one policy, and whether they are for HTTP or TCP. Out: `rbac.Policy` by name.

Fails closed. What TCP cannot evaluate (anything of the request) never matches in an ALLOW rule, and is left out of a
DENY rule, which so denies more. Names from resources reach a regular expression escaped only.

Source: https://istio.io/latest/docs/reference/config/security/authorization-policy/ and .../conditions/
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping

from meltem import envoyapi as api
from meltem.resources import security
from meltem.view.filters import AuthzPolicy

Policy = api.rbac.Policy
Permission = api.rbac.Permission
Principal = api.rbac.Principal
StringMatcher = api.string_matcher.StringMatcher
SPIFFE = "spiffe://"
JWT = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")


class NotForTcp(Exception):
    """A field of the request in a rule for a TCP port."""


class Unusable(Exception):
    """A value that cannot be evaluated; admission refuses it, so this is for what was stored before."""


def rbac(policies: Iterable[AuthzPolicy], action: int, *, tcp: bool, trust_domains: tuple[str, ...]) -> api.rbac.RBAC:
    """All rules of the policies under one action."""
    made = api.rbac.RBAC(action=action)  # type: ignore[arg-type]
    deny = action == api.rbac.RBAC.DENY
    for policy in policies:
        for index, rule in enumerate(policy.rules):
            converted = convert(rule, policy.namespace, tcp=tcp, deny=deny, trust_domains=trust_domains)
            if converted is not None:
                made.policies[f"ns[{policy.namespace}]-policy[{policy.name}]-rule[{index}]"].CopyFrom(converted)
    return made


def convert(
    rule: security.Rule, namespace: str, *, tcp: bool, deny: bool, trust_domains: tuple[str, ...]
) -> Policy | None:
    """None: the rule never matches."""
    maker = _Maker(namespace, tcp=tcp, deny=deny, trust_domains=trust_domains)
    try:
        base_ids, base_rules = maker.conditions(rule.when)
        sources = [f.source for f in rule.from_ if f.source is not None] or [None]
        operations = [t.operation for t in rule.to if t.operation is not None] or [None]
        principals = [all_ids([*(maker.source(s) if s is not None else ()), *base_ids]) for s in sources]
        permissions = [all_rules([*(maker.operation(o) if o is not None else ()), *base_rules]) for o in operations]
    except (NotForTcp, Unusable):
        return None
    return Policy(permissions=permissions, principals=principals)


def all_ids(ids: list[Principal]) -> Principal:
    return Principal(and_ids=Principal.Set(ids=ids)) if ids else Principal(any=True)


def any_id(ids: list[Principal]) -> Principal:
    return Principal(or_ids=Principal.Set(ids=ids))


def all_rules(rules: list[Permission]) -> Permission:
    return Permission(and_rules=Permission.Set(rules=rules)) if rules else Permission(any=True)


def any_rule(rules: list[Permission]) -> Permission:
    return Permission(or_rules=Permission.Set(rules=rules))


class _Maker:
    """Makes principals and permissions of one rule."""

    def __init__(self, namespace: str, *, tcp: bool, deny: bool, trust_domains: tuple[str, ...]) -> None:
        self.namespace = namespace
        self.tcp = tcp
        self.deny = deny
        self.trust_domains = trust_domains

    # --- sets of values ---

    def _ids(
        self, values: Iterable[str], excluded: Iterable[str], one: Callable[[str], Principal], *, http: bool = False
    ) -> list[Principal]:
        """One of `values`, none of `excluded`. `http`: only HTTP has it."""
        given, unwanted = list(values), list(excluded)
        if not given and not unwanted:
            return []
        if http and self.tcp:
            if self.deny:
                return []
            raise NotForTcp
        out = [any_id([one(v) for v in given])] if given else []
        return [*out, *([Principal(not_id=any_id([one(v) for v in unwanted]))] if unwanted else [])]

    def _rules(
        self, values: Iterable[str], excluded: Iterable[str], one: Callable[[str], Permission], *, http: bool = False
    ) -> list[Permission]:
        given, unwanted = list(values), list(excluded)
        if not given and not unwanted:
            return []
        if http and self.tcp:
            if self.deny:
                return []
            raise NotForTcp
        out = [any_rule([one(v) for v in given])] if given else []
        return [*out, *([Permission(not_rule=any_rule([one(v) for v in unwanted]))] if unwanted else [])]

    # --- from ---

    def source(self, s: security.Source) -> list[Principal]:
        return [
            *self._ids(s.principals, s.not_principals, self.peer),
            *self._ids(s.namespaces, s.not_namespaces, peer_namespace),
            *self._ids(s.service_accounts, s.not_service_accounts, self.service_account),
            *self._ids(s.trust_domains, s.not_trust_domains, trust_domain),
            *self._ids(s.ip_blocks, s.not_ip_blocks, lambda v: Principal(direct_remote_ip=cidr(v))),
            *self._ids(s.remote_ip_blocks, s.not_remote_ip_blocks, lambda v: Principal(remote_ip=cidr(v))),
            *self._ids(s.request_principals, s.not_request_principals, request_principal, http=True),
        ]

    def peer(self, value: str) -> Principal:
        """An identity `trust-domain/ns/…/sa/…`; the mesh's own trust domain stands for its aliases too."""
        domain, slash, rest = value.partition("/")
        if slash and "*" not in domain and domain in self.trust_domains and len(self.trust_domains) > 1:
            return any_id([authenticated(f"{d}/{rest}") for d in self.trust_domains])
        if slash and domain == "cluster.local" and self.trust_domains and domain not in self.trust_domains:
            # Istio's documents write cluster.local for "the mesh's own trust domain", whatever it is.
            return any_id([authenticated(f"{d}/{rest}") for d in self.trust_domains])
        return authenticated(value)

    def service_account(self, value: str) -> Principal:
        namespace, slash, account = value.rpartition("/")
        if not account:
            raise Unusable
        suffix = f"/ns/{namespace if slash else self.namespace}/sa/{account}"
        return by_name(StringMatcher(suffix=suffix))

    # --- to ---

    def operation(self, o: security.Operation) -> list[Permission]:
        return [
            *self._rules(o.hosts, o.not_hosts, host, http=True),
            *self._rules(o.methods, o.not_methods, lambda v: header_rule(":method", v), http=True),
            *self._rules(o.paths, o.not_paths, path, http=True),
            *self._rules(o.ports, o.not_ports, port),
        ]

    # --- when ---

    def conditions(self, when: Iterable[security.AuthzCondition]) -> tuple[list[Principal], list[Permission]]:
        ids: list[Principal] = []
        rules: list[Permission] = []
        for one in when:
            of_id = self._id_condition(one.key)
            if of_id is not None:
                make, http = of_id
                ids.extend(self._ids(one.values, one.not_values, make, http=http))
                continue
            of_rule = _rule_condition(one.key)
            if of_rule is None:
                raise Unusable
            rules.extend(self._rules(one.values, one.not_values, of_rule))
        return ids, rules

    def _id_condition(self, key: str) -> tuple[Callable[[str], Principal], bool] | None:
        """How a value of the attribute is matched, and whether only HTTP has it."""
        known: Mapping[str, tuple[Callable[[str], Principal], bool]] = {
            "source.ip": (lambda v: Principal(direct_remote_ip=cidr(v)), False),
            "remote.ip": (lambda v: Principal(remote_ip=cidr(v)), False),
            "source.namespace": (peer_namespace, False),
            "source.principal": (self.peer, False),
            "source.serviceAccount": (self.service_account, False),
            "source.trustDomain": (trust_domain, False),
            "request.auth.principal": (request_principal, True),
            "request.auth.audiences": (lambda v: claim(("aud",), v), True),
            "request.auth.presenter": (lambda v: claim(("azp",), v), True),
        }
        if key in known:
            return known[key]
        inside = tuple(_BRACKETS.findall(key))
        if key.startswith("request.headers[") and len(inside) == 1:
            return (lambda v: header_id(inside[0], v)), True
        if key.startswith("request.auth.claims[") and inside:
            return (lambda v: claim(inside, v)), True
        return None


# --- values ---


def pattern(value: str, *, prefix: str = "", ignore_case: bool = False) -> StringMatcher:
    """Exact, `x*`, `*x`, or `*` for anything that is not empty. `prefix`: stands before every exact value and
    prefix."""
    if value == "*":
        return StringMatcher(safe_regex={"regex": ".+"})
    if value.startswith("*"):
        return StringMatcher(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return StringMatcher(prefix=prefix + value[:-1], ignore_case=ignore_case)
    return StringMatcher(exact=prefix + value, ignore_case=ignore_case)


def by_name(matcher: StringMatcher) -> Principal:
    return Principal(authenticated=Principal.Authenticated(principal_name=matcher))


def authenticated(value: str) -> Principal:
    return by_name(pattern(value, prefix=SPIFFE))


def peer_namespace(value: str) -> Principal:
    """`*` in a namespace stands for any text within it."""
    inner = "[^/]*".join(re.escape(part) for part in value.split("*"))
    return by_name(StringMatcher(safe_regex={"regex": f".*/ns/{inner}/.*"}))


def trust_domain(value: str) -> Principal:
    inner = "[^/]*".join(re.escape(part) for part in value.split("*"))
    return by_name(StringMatcher(safe_regex={"regex": f"spiffe://{inner}/.*"}))


def cidr(value: str) -> api.address.CidrRange:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Unusable from None
    return api.address.CidrRange(address_prefix=str(network.network_address), prefix_len={"value": network.prefixlen})


def _header(name: str, value: str, *, ignore_case: bool = False) -> api.route_components.HeaderMatcher:
    if value == "*":
        return api.route_components.HeaderMatcher(name=name, present_match=True)
    return api.route_components.HeaderMatcher(name=name, string_match=pattern(value, ignore_case=ignore_case))


def header_id(name: str, value: str) -> Principal:
    return Principal(header=_header(name, value))


def header_rule(name: str, value: str) -> Permission:
    return Permission(header=_header(name, value))


def host(value: str) -> Permission:
    """Hosts are compared without regard to case."""
    return Permission(header=_header(":authority", value, ignore_case=True))


def path(value: str) -> Permission:
    """Exact, prefix or suffix; or a template with `{*}` (one segment) and `{**}` (the rest)."""
    if "{*}" in value or "{**}" in value:
        template = value.replace("{**}", "**").replace("{*}", "*")
        config = api.uri_template.UriTemplateMatchConfig(path_template=template)
        return Permission(
            uri_template={
                "name": "envoy.path.match.uri_template.uri_template_matcher",
                "typed_config": api.pack(config),
            }
        )
    return Permission(url_path=api.path_matcher.PathMatcher(path=pattern(value)))


def port(value: str) -> Permission:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 65536:
        raise Unusable
    return Permission(destination_port=int(value))


def _rule_condition(key: str) -> Callable[[str], Permission] | None:
    if key == "destination.ip":
        return lambda v: Permission(destination_ip=cidr(v))
    if key == "destination.port":
        return port
    if key == "connection.sni":
        return lambda v: Permission(requested_server_name=pattern(v))
    prefix = "experimental."
    inside = _BRACKETS.findall(key)
    if key.startswith(prefix + "envoy.filters.") and len(inside) == 1 and key.endswith("]"):
        filter_name = key.removeprefix(prefix).partition("[")[0]
        return lambda v: Permission(metadata=filter_metadata(filter_name, inside[0], v))
    return None


def filter_metadata(filter_name: str, key: str, value: str) -> api.metadata_matcher.MetadataMatcher:
    """`[x]`: a list that holds x; else a text."""
    if value.startswith("[") and value.endswith("]"):
        inner = api.value_matcher.ValueMatcher(string_match=pattern(value[1:-1]))
        matcher = api.value_matcher.ValueMatcher(list_match={"one_of": inner})
    else:
        matcher = api.value_matcher.ValueMatcher(string_match=pattern(value))
    return api.metadata_matcher.MetadataMatcher(filter=filter_name, path=[{"key": key}], value=matcher)


# --- tokens ---


def payload(path_of: tuple[str, ...], matcher: api.value_matcher.ValueMatcher) -> Principal:
    found = api.metadata_matcher.MetadataMatcher(
        filter=JWT, path=[{"key": PAYLOAD}, *({"key": p} for p in path_of)], value=matcher
    )
    return Principal(metadata=found)


def claim(path_of: tuple[str, ...], value: str) -> Principal:
    """A claim that is the text, or a list that holds it."""
    text = api.value_matcher.ValueMatcher(string_match=pattern(value))
    return any_id(
        [payload(path_of, text), payload(path_of, api.value_matcher.ValueMatcher(list_match={"one_of": text}))]
    )


def _text(path_of: str, matcher: StringMatcher) -> Principal:
    return payload((path_of,), api.value_matcher.ValueMatcher(string_match=matcher))


def request_principal(value: str) -> Principal:
    """`issuer/subject`, both of which may hold slashes themselves: every way to split it."""

    def exact(text: str) -> StringMatcher | None:
        return StringMatcher(exact=text) if text else None

    if value == "*":
        anything = StringMatcher(safe_regex={"regex": ".+"})
        return all_ids([_text("iss", anything), _text("sub", anything)])
    ways: list[Principal] = []
    if value.startswith("*"):
        rest = value[1:]
        ways.append(_text("sub", StringMatcher(suffix=rest)))
        splits = [(StringMatcher(suffix=a) if a else None, exact(b)) for a, b in _splits(rest)]
    elif value.endswith("*"):
        rest = value[:-1]
        ways.append(_text("iss", StringMatcher(prefix=rest)))
        splits = [(exact(a), StringMatcher(prefix=b) if b else StringMatcher(safe_regex={"regex": ".+"}))
                  for a, b in _splits(rest)]  # fmt: skip
    else:
        splits = [(exact(a), exact(b)) for a, b in _splits(value)]
    for issuer, subject in splits:
        ids = [*([_text("iss", issuer)] if issuer is not None else []), *([_text("sub", subject)] if subject else [])]
        if issuer is not None and subject is not None:
            ways.append(all_ids(ids))
    if not ways:
        raise Unusable
    return any_id(ways)


def _splits(text: str) -> Iterable[tuple[str, str]]:
    """(before, after) of every slash, at most 16."""
    places = [i for i, c in enumerate(text) if c == "/"][-16:]
    return [(text[:i], text[i + 1 :]) for i in places]
