"""Destination rules: which one holds for a host, as one client namespace sees it.

In: DestinationRule resources. Out: `Rule`s with their host in full, and the lookup that Istio makes: the client's own
namespace first, then the service's, then the mesh's root namespace; the most specific host wins in each.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meltem.collections import Index, Reader
from meltem.graph.inputs import ResourceKey
from meltem.graph.model import short_name
from meltem.graph.services import resolve_export_to
from meltem.resources import networking


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A destination rule with its host in full and its visibility resolved."""

    name: str
    namespace: str
    host: str
    export_to: tuple[str, ...]
    created: str
    selector: tuple[tuple[str, str], ...]
    """Client workloads that it is limited to; empty: every one."""
    policy: networking.TrafficPolicy | None
    subsets: tuple[networking.Subset, ...]

    @property
    def where(self) -> str:
        return f"DestinationRule {self.namespace}/{self.name}"


def client_label_keys(rule: Rule) -> set[str]:
    """Labels of clients that the rule looks at: its selector's, and those by which failover is ranked."""
    policies = [p for p in (rule.policy, *(s.traffic_policy for s in rule.subsets)) if p is not None]
    balancers = [b for p in policies for b in (p.load_balancer, *(q.load_balancer for q in p.port_level_settings))]
    settings = [s for b in balancers if b is not None for s in (b.locality_lb_setting, b.zone_aware_lb_setting)]
    ranked = {label.partition("=")[0] for s in settings if s is not None for label in s.failover_priority}
    return {k for k, _ in rule.selector} | ranked


RuleIndex = Index[tuple[str, str], ResourceKey, Rule]
"""(namespace, host in full) → rules"""


def from_resource(rule: networking.DestinationRule, domain: str, default_export: tuple[str, ...]) -> Rule:
    spec = rule.spec
    selector = spec.workload_selector.match_labels if spec.workload_selector is not None else {}
    return Rule(
        name=rule.name,
        namespace=rule.namespace,
        host=short_name(spec.host, rule.namespace, domain),
        export_to=resolve_export_to(spec.export_to, rule.namespace, default_export),
        created=rule.metadata.creation_timestamp,
        selector=tuple(sorted(selector.items())),
        policy=spec.traffic_policy,
        subsets=spec.subsets,
    )


def host_patterns(host: str) -> list[str]:
    """The host and every wildcard that covers it, most specific first: a.b.c → a.b.c, *.b.c, *.c, *."""
    parts = host.split(".")
    wild = ["*." + ".".join(parts[i:]) for i in range(1, len(parts))]
    return [host, *wild, "*"] if not host.startswith("*") else [host, *wild[1:], "*"]


def rule_for(
    reader: Reader,
    index: RuleIndex,
    host: str,
    *,
    client_namespace: str,
    service_namespace: str,
    root_namespace: str,
    client_labels: tuple[tuple[str, str], ...] = (),
) -> Rule | None:
    """The rule that a client follows for the host, several of the same host and namespace merged; None: defaults."""
    for namespace in dict.fromkeys((client_namespace, service_namespace, root_namespace)):
        if not namespace:
            continue
        for pattern in host_patterns(host):
            rules = reader.lookup(index, (namespace, pattern))
            if not rules:
                continue
            candidates = [r for r in rules.values() if "*" in r.export_to or client_namespace in r.export_to]
            found = _merge(candidates, client_namespace, client_labels)
            if found is not None:
                return found
    return None


def _merge(rules: Iterable[Rule], client_namespace: str, client_labels: tuple[tuple[str, str], ...]) -> Rule | None:
    """One rule from several of the same host and namespace. A rule for selected workloads beats the general ones in its
    own namespace, else the oldest holds; the others add subsets that it lacks, and their policy if it has none."""
    ordered = sorted(rules, key=lambda r: (r.created, r.name))
    general = [r for r in ordered if not r.selector]
    selecting = (r for r in ordered if r.selector and r.namespace == client_namespace)
    first = next((r for r in selecting if set(r.selector) <= set(client_labels)), None)
    together = general if first is None else [*(r for r in ordered if r.selector == first.selector), *general]
    if len(together) <= 1:
        return together[0] if together else None
    subsets: dict[str, networking.Subset] = {}
    for rule in together:
        for subset in rule.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((r.policy for r in together if r.policy is not None), None)
    return msgspec.structs.replace(together[0], policy=policy, subsets=tuple(subsets.values()))
