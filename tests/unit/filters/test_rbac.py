"""Authorization rules as Envoy's RBAC: what they match, and that they fail closed."""

from __future__ import annotations

import pytest
from google.protobuf import json_format

from meltem import envoyapi as api
from meltem.generate.filters import rbac
from meltem.resources import security

DOMAINS = ("cluster.local",)
Action = api.rbac.RBAC


def source(**fields: object) -> security.Rule:
    return security.Rule(from_=(security.RuleFrom(source=security.Source(**fields)),))  # type: ignore[arg-type]


def operation(**fields: object) -> security.Rule:
    return security.Rule(to=(security.RuleTo(operation=security.Operation(**fields)),))  # type: ignore[arg-type]


def when(key: str, *values: str) -> security.Rule:
    return security.Rule(when=(security.AuthzCondition(key=key, values=values),))


def convert(
    rule: security.Rule, *, tcp: bool = False, deny: bool = False, domains: tuple[str, ...] = DOMAINS
) -> object:
    made = rbac.convert(rule, "foo", tcp=tcp, deny=deny, trust_domains=domains)
    return None if made is None else json_format.MessageToDict(made, preserving_proto_field_name=True)


def principal(value: str, domains: tuple[str, ...] = DOMAINS) -> object:
    made = convert(source(principals=(value,)), domains=domains)
    assert isinstance(made, dict)
    (one,) = made["principals"][0]["and_ids"]["ids"][0]["or_ids"]["ids"]
    return one


def named(**matcher: object) -> object:
    return {"authenticated": {"principal_name": matcher}}


def test_an_empty_rule_matches_everything() -> None:
    assert convert(security.Rule()) == {"permissions": [{"any": True}], "principals": [{"any": True}]}


@pytest.mark.parametrize(
    ("value", "matcher"),
    [
        ("cluster.local/ns/a/sa/b", {"exact": "spiffe://cluster.local/ns/a/sa/b"}),
        ("cluster.local/ns/a/*", {"prefix": "spiffe://cluster.local/ns/a/"}),
        ("*/sa/b", {"suffix": "/sa/b"}),
        ("*", {"safe_regex": {"regex": ".+"}}),
    ],
)
def test_principals_by_exact_value_prefix_and_suffix(value: str, matcher: dict[str, object]) -> None:
    assert principal(value) == named(**matcher)


def test_the_meshs_trust_domain_stands_for_its_aliases() -> None:
    made = principal("new/ns/a/sa/b", ("new", "old"))
    both = [named(exact=f"spiffe://{d}/ns/a/sa/b") for d in ("new", "old")]
    assert made == {"or_ids": {"ids": both}}


def test_another_trust_domain_is_only_itself() -> None:
    assert principal("other/ns/a/sa/b", ("new", "old")) == named(exact="spiffe://other/ns/a/sa/b")


def test_a_namespace_cannot_smuggle_a_regular_expression_in() -> None:
    made = rbac.peer_namespace("a.b|.*")
    assert made.authenticated.principal_name.safe_regex.regex == r".*/ns/a\.b\|\.[^/]*/.*"


def test_a_service_account_without_namespace_is_of_the_policys_own() -> None:
    made = convert(source(service_accounts=("sleep", "other/curl")))
    assert isinstance(made, dict)
    ids = made["principals"][0]["and_ids"]["ids"][0]["or_ids"]["ids"]
    assert ids == [named(suffix="/ns/foo/sa/sleep"), named(suffix="/ns/other/sa/curl")]


@pytest.mark.parametrize(
    "rule",
    [
        operation(methods=("GET",)),
        operation(hosts=("a",)),
        operation(not_paths=("/a",)),
        source(request_principals=("*",)),
        when("request.headers[a]", "b"),
        when("request.auth.claims[a]", "b"),
    ],
)
def test_what_tcp_cannot_evaluate_never_allows_and_denies_all_the_more(rule: security.Rule) -> None:
    assert convert(rule, tcp=True) is None
    assert convert(rule, tcp=True, deny=True) == {"permissions": [{"any": True}], "principals": [{"any": True}]}


def test_tcp_keeps_the_rest_of_a_deny_rule() -> None:
    made = convert(operation(methods=("GET",), ports=("9090",)), tcp=True, deny=True)
    assert isinstance(made, dict)
    assert made["permissions"] == [{"and_rules": {"rules": [{"or_rules": {"rules": [{"destination_port": 9090}]}}]}}]


@pytest.mark.parametrize(
    "rule",
    [
        operation(ports=("http",)),
        operation(ports=("0",)),
        operation(ports=("70000",)),
        source(ip_blocks=("300.0.0.1",)),
        when("no.such.attribute", "x"),
        when("request.headers", "x"),
    ],
)
def test_a_rule_with_a_value_that_cannot_be_evaluated_never_matches(rule: security.Rule) -> None:
    assert convert(rule) is None


def test_request_principals_with_slashes_are_split_in_every_way() -> None:
    made = rbac.request_principal("https://a/b")
    ways = [tuple(i.metadata.value.string_match.exact for i in way.and_ids.ids) for way in made.or_ids.ids]
    assert ways == [("https:", "/a/b"), ("https:/", "a/b"), ("https://a", "b")]


def test_rules_of_all_policies_are_named_as_istio_names_them() -> None:
    from meltem.view.filters import AuthzPolicy

    policy = AuthzPolicy(namespace="foo", name="p", action="ALLOW", rules=(security.Rule(), when("nonsense", "x")))
    made = rbac.rbac([policy], Action.ALLOW, tcp=False, trust_domains=DOMAINS)
    assert list(made.policies) == ["ns[foo]-policy[p]-rule[0]"]


def test_path_templates() -> None:
    made = rbac.path("/a/{*}/b/{**}")
    config = api.uri_template.UriTemplateMatchConfig.FromString(made.uri_template.typed_config.value)
    assert config.path_template == "/a/*/b/**"
