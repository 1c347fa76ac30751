"""Authorization as Envoy's RBAC filters decide it.

In: RBAC rules of a filter chain, a request, who calls. Out: allowed or not, and the policy that decided. What cannot
be known from a simulated call (metadata of tokens that were not given) reads as absent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from meltem import envoyapi as api
from meltem.simulate.matching import Request, claim_matches, header_matches, regex_matches, string_matches
from meltem.simulate.request import Outcome

RBAC = api.rbac.RBAC


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, as the server's proxy sees it. `principal`: SPIFFE id of mutual TLS, empty for plain text."""

    principal: str = ""
    address: str = "127.0.0.1"
    port: int = 0
    """Destination port."""
    destination: str = ""
    sni: str = ""


class Decision(msgspec.Struct, frozen=True):
    """One RBAC filter's word."""

    allowed: bool
    action: str
    policy: str
    """Name of the policy that matched, empty when none did."""
    shadow: bool = False
    considered: tuple[str, ...] = ()
    """Names of the policies that would have allowed it, when none of them matched."""


def decisions(outcome: Outcome, caller: Caller) -> list[Decision]:
    """What the RBAC filters on the way say, in their order; the first refusal ends it."""
    out: list[Decision] = []
    for rules, shadow in _rules(outcome):
        made = decide(rules, outcome.request, caller, shadow=shadow)
        out.append(made)
        if not made.allowed and not shadow:
            break
    return out


def _rules(outcome: Outcome) -> Iterable[tuple[RBAC, bool]]:
    for one in outcome.network_filters:
        if one.typed_config.type_url.endswith("network.rbac.v3.RBAC"):
            config = api.network_rbac.RBAC.FromString(one.typed_config.value)
            if config.HasField("rules"):
                yield config.rules, False
            if config.HasField("shadow_rules"):
                yield config.shadow_rules, True
    for one in outcome.manager.http_filters if outcome.manager is not None else ():
        if one.typed_config.type_url.endswith("http.rbac.v3.RBAC"):
            config = api.http_rbac.RBAC.FromString(one.typed_config.value)
            if config.HasField("rules"):
                yield config.rules, False
            if config.HasField("shadow_rules"):
                yield config.shadow_rules, True


def decide(rules: RBAC, request: Request | None, caller: Caller, *, shadow: bool = False) -> Decision:
    asked = request if request is not None else Request()
    name = RBAC.Action.Name(rules.action)
    matched = next(
        (
            n
            for n in sorted(rules.policies)
            if any(_permitted(p, asked, caller) for p in rules.policies[n].permissions)
            and any(_is_principal(p, asked, caller) for p in rules.policies[n].principals)
        ),
        "",
    )
    allowed = True if name == "LOG" else bool(matched) == (name == "ALLOW")
    considered = () if matched or name != "ALLOW" else tuple(sorted(rules.policies))
    return Decision(allowed, name, matched, shadow, considered)


def _permitted(rule: api.rbac.Permission, request: Request, caller: Caller) -> bool:
    match rule.WhichOneof("rule"):
        case "any":
            return rule.any
        case "and_rules":
            return all(_permitted(r, request, caller) for r in rule.and_rules.rules)
        case "or_rules":
            return any(_permitted(r, request, caller) for r in rule.or_rules.rules)
        case "not_rule":
            return not _permitted(rule.not_rule, request, caller)
        case "header":
            return header_matches(rule.header, request)
        case "url_path":
            return string_matches(rule.url_path.path, request.bare_path)
        case "uri_template":
            config = api.uri_template.UriTemplateMatchConfig.FromString(rule.uri_template.typed_config.value)
            return template_matches(config.path_template, request.bare_path)
        case "destination_port":
            return caller.port == rule.destination_port
        case "destination_port_range":
            return rule.destination_port_range.start <= caller.port < rule.destination_port_range.end
        case "destination_ip":
            return _inside(caller.destination, rule.destination_ip)
        case "requested_server_name":
            return string_matches(rule.requested_server_name, caller.sni)
        case _:
            return False


def _is_principal(rule: api.rbac.Principal, request: Request, caller: Caller) -> bool:
    match rule.WhichOneof("identifier"):
        case "any":
            return rule.any
        case "and_ids":
            return all(_is_principal(r, request, caller) for r in rule.and_ids.ids)
        case "or_ids":
            return any(_is_principal(r, request, caller) for r in rule.or_ids.ids)
        case "not_id":
            return not _is_principal(rule.not_id, request, caller)
        case "authenticated":
            name = rule.authenticated
            if not caller.principal:
                return False
            return not name.HasField("principal_name") or string_matches(name.principal_name, caller.principal)
        case "source_ip" | "direct_remote_ip" | "remote_ip" as kind:
            return _inside(caller.address, getattr(rule, kind))
        case "header":
            return header_matches(rule.header, request)
        case "url_path":
            return string_matches(rule.url_path.path, request.bare_path)
        case "metadata":
            return claim_matches(rule.metadata, request)
        case "filter_state":
            # Peer identities are kept in filter state under keys of Istio's; the value is the SPIFFE id.
            return bool(caller.principal) and string_matches(rule.filter_state.string_match, caller.principal)
        case _:
            return False


_TEMPLATE = re.compile(r"\*\*|\*")


def template_matches(template: str, path: str) -> bool:
    """`*` is one segment, `**` any number of them."""
    parts = _TEMPLATE.split(template)
    signs = ["[^/]+" if sign == "*" else ".*" for sign in _TEMPLATE.findall(template)]
    pattern = "".join(re.escape(a) + b for a, b in zip(parts, [*signs, ""], strict=True))
    return regex_matches(pattern, path)


def _inside(address: str, block: api.address.CidrRange) -> bool:
    try:
        network = ipaddress.ip_network(f"{block.address_prefix}/{block.prefix_len.value}", strict=False)
        return ipaddress.ip_address(address) in network
    except (ValueError, TypeError):
        return False
