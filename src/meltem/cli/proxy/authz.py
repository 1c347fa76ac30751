"""`istioctl experimental authz check`: which AuthorizationPolicies a pod's Envoy enforces, by what its filters hold.

In: a config dump. Out: a row for each action and policy, with how many of its rules are in force. What was applied but
is not here has not reached the proxy, or selects another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from meltem.cli.base import Globals, command, group, run_async
from meltem.cli.proxy.config import ADMIN_PORT, FILE, POD, load_dump
from meltem.objects import JsonObject, object_at, objects_at, str_at

_RULE = re.compile(r"(istio-ext-authz-)?ns\[(.+)\]-policy\[(.+)\]-rule\[(.+)\]")
_RBAC = ("envoy.extensions.filters.http.rbac.v3.RBAC", "envoy.extensions.filters.network.rbac.v3.RBAC")
_ORDER = ("CUSTOM", "DENY", "ALLOW", "LOG")
NOTHING = "_anonymous_match_nothing_"
_EXAMPLES = """Examples:

\b
  istioctl x authz check productpage-v1-7d6cfb7dfd-5w5q9
  istioctl x authz check deploy/productpage-v1.default
  istioctl x authz check -f config_dump.json
"""


@group("authz", help="Shows what of authorization a proxy has.")
def authz() -> None:
    pass


@command("check", help="Lists the AuthorizationPolicies that the Envoy of a pod enforces.", epilog=_EXAMPLES)
@POD
@FILE
@ADMIN_PORT
@click.pass_obj
def check(settings: Globals, pod: str | None, file: str, admin_port: int) -> None:
    from meltem.cli.proxy import dump
    from meltem.cli.tag import table

    rows = policy_rows(dump.listeners(run_async(load_dump(settings, pod, file, admin_port))))
    for line in table(rows):
        click.echo(line)


authz.add_command(check)


def policy_rows(listeners: list[JsonObject]) -> list[tuple[str, ...]]:
    """Istio's columns. Policies that are only tried (`istio.io/dry-run`) are shown as such."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for filter_ in _filters(listeners):
        for key, note in (("rules", ""), ("shadow_rules", " (dry run)")):
            rules = object_at(filter_, key)
            if not rules:
                continue
            action = str_at(rules, "action") or "ALLOW"
            policies = object_at(rules, "policies")
            if not policies and not note:
                found.setdefault((action, NOTHING, ""), set()).add("0")
            for name in policies:
                match = _RULE.fullmatch(name)
                if match is None:
                    continue
                custom = bool(match[1])
                place = ("CUSTOM", f"{match[3]}.{match[2]}", "") if custom else (action, f"{match[3]}.{match[2]}", note)
                found.setdefault(place, set()).add(match[4])
    ordered = sorted(found, key=lambda k: (_ORDER.index(k[0]) if k[0] in _ORDER else len(_ORDER), k[2], k[1]))
    rows = [(action + note, name, str(len(found[action, name, note]))) for action, name, note in ordered]
    return [("ACTION", "AuthorizationPolicy", "RULES"), *rows]


def _filters(listeners: list[JsonObject]) -> Iterator[JsonObject]:
    """Every RBAC filter, of connections and of requests."""
    for listener in listeners:
        for chain in [*objects_at(listener, "filter_chains"), object_at(listener, "default_filter_chain")]:
            for one in objects_at(chain, "filters"):
                config = object_at(one, "typed_config")
                for candidate in [config, *(object_at(f, "typed_config") for f in objects_at(config, "http_filters"))]:
                    if str_at(candidate, "@type").rpartition("/")[2] in _RBAC:
                        yield candidate
