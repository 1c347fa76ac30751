"""RBAC escalation: nobody grants what they may not do themselves (unless they may `escalate` or `bind`)."""

from __future__ import annotations

from meltem.local.apiserver.admission.builtin import forbidden
from meltem.local.apiserver.authorization import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    Authorizer,
    Question,
    binding_role,
    covers,
)
from meltem.local.apiserver.core import Attributes
from meltem.objects import JsonObject, objects_at

_GROUP = "rbac.authorization.k8s.io"


def refuse_escalation(authorizer: Authorizer, attributes: Attributes) -> None:
    """Raises Forbidden where a role or binding would give more than its author has."""
    obj = attributes.object
    storage = attributes.resource.storage
    if obj is None or storage not in (CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS):
        return
    user = attributes.user
    if "system:masters" in user.groups:
        return
    if storage in (CLUSTER_ROLES, ROLES):
        wanted = objects_at(obj, "rules")
        verb, resource, name = "escalate", attributes.resource.info.plural, attributes.name
    else:
        kind, name = binding_role(obj)
        wanted = authorizer.role_rules(kind, attributes.namespace, name)
        verb, resource = "bind", f"{kind.lower()}s"
    question = Question(verb=verb, group=_GROUP, resource=resource, namespace=attributes.namespace, name=name)
    if not wanted or authorizer.decide(user, question).allowed:
        return
    own = [rule for rule, _ in authorizer.rules_for(user, attributes.namespace)]
    missing = [rule for rule in wanted if not covers(own, rule)]
    if missing:
        listed = "\n".join(_shown(rule) for rule in missing)
        raise forbidden(
            attributes,
            f'user "{user.name}" (groups={list(user.groups)}) is attempting to grant RBAC permissions not currently'
            f" held:\n{listed}",
        )


def _shown(rule: JsonObject) -> str:
    parts = [
        f"{k}: {rule[k]}" for k in ("apiGroups", "resources", "resourceNames", "nonResourceURLs", "verbs") if k in rule
    ]
    return "{" + ", ".join(parts) + "}"
