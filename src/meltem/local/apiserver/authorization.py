"""RBAC: may this user do this? Roles and bindings from the store in; yes or no, with the reason, out.

`system:masters` may do everything. Rules are looked up in memory on every question; a cluster of this size has a few
hundred at most. Aggregated cluster roles are computed here too, when asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meltem.local.apiserver.core import User
from meltem.local.apiserver.selectors import matches_labels, selector_from_object
from meltem.local.apiserver.storage import Key, Store
from meltem.objects import JsonObject, labels_of, list_at, object_at, objects_at, str_at, strings_at

_GROUP = "rbac.authorization.k8s.io"
CLUSTER_ROLES = f"clusterroles.{_GROUP}"
ROLES = f"roles.{_GROUP}"
CLUSTER_ROLE_BINDINGS = f"clusterrolebindings.{_GROUP}"
ROLE_BINDINGS = f"rolebindings.{_GROUP}"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One access. For non-resource paths `path` is set and the resource fields are empty."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Decision(msgspec.Struct, frozen=True):
    allowed: bool
    reason: str = ""


class Authorizer:
    def __init__(self, store: Store) -> None:
        self._store = store

    def decide(self, user: User, question: Question) -> Decision:
        if "system:masters" in user.groups:
            return Decision(True)
        for rule, source in self.rules_for(user, question.namespace):
            if rule_allows(rule, question):
                return Decision(True, f"RBAC: allowed by {source}")
        return Decision(False)

    def rules_for(self, user: User, namespace: str) -> Iterator[tuple[JsonObject, str]]:
        """Every rule that applies to the user, cluster-wide or in the namespace, and the binding that says so."""
        for entry in self._store.entries(CLUSTER_ROLE_BINDINGS):
            binding = entry.object
            if _binds(binding, user, ""):
                yield from self._rules(binding, "", f'ClusterRoleBinding "{entry.key.name}"')
        if not namespace:
            return
        for entry in self._store.entries(ROLE_BINDINGS, namespace):
            binding = entry.object
            if _binds(binding, user, namespace):
                yield from self._rules(binding, namespace, f'RoleBinding "{entry.key.name}/{namespace}"')

    def _rules(self, binding: JsonObject, namespace: str, source: str) -> Iterator[tuple[JsonObject, str]]:
        kind, name = str_at(binding, "roleRef", "kind"), str_at(binding, "roleRef", "name")
        said = f'{source} of {kind} "{name}"'
        for rule in self.role_rules(kind, namespace, name):
            yield rule, said

    def role_rules(self, kind: str, namespace: str, name: str) -> list[JsonObject]:
        """The rules of a Role or ClusterRole, aggregated ones included; empty when it does not exist."""
        if kind == "Role":
            entry = self._store.get(Key(ROLES, namespace, name))
            return objects_at(entry.object, "rules") if entry else []
        entry = self._store.get(Key(CLUSTER_ROLES, "", name))
        if entry is None:
            return []
        rules = objects_at(entry.object, "rules")
        for selector in objects_at(entry.object, "aggregationRule", "clusterRoleSelectors"):
            rules = [*rules, *self._aggregated(selector, name, depth=0)]
        return rules

    def _aggregated(self, selector: JsonObject, own: str, depth: int) -> list[JsonObject]:
        terms = selector_from_object(selector)
        rules: list[JsonObject] = []
        for entry in self._store.entries(CLUSTER_ROLES):
            if entry.key.name == own or not matches_labels(terms, labels_of(entry.object)):
                continue
            rules.extend(objects_at(entry.object, "rules"))
            if depth < 4:
                for inner in objects_at(entry.object, "aggregationRule", "clusterRoleSelectors"):
                    rules.extend(self._aggregated(inner, entry.key.name, depth + 1))
        return rules


def _binds(binding: JsonObject, user: User, namespace: str) -> bool:
    for subject in objects_at(binding, "subjects"):
        name = str_at(subject, "name")
        match str_at(subject, "kind"):
            case "User" if name == user.name:
                return True
            case "Group" if name in user.groups:
                return True
            case "ServiceAccount":
                where = str_at(subject, "namespace") or namespace
                if user.name == f"system:serviceaccount:{where}:{name}":
                    return True
            case _:
                pass
    return False


def rule_allows(rule: JsonObject, question: Question) -> bool:
    verbs = strings_at(rule, "verbs")
    if "*" not in verbs and question.verb not in verbs:
        return False
    if question.path:
        return any(_path_matches(pattern, question.path) for pattern in strings_at(rule, "nonResourceURLs"))
    groups = strings_at(rule, "apiGroups")
    if "*" not in groups and question.group not in groups:
        return False
    if not any(_resource_matches(r, question) for r in strings_at(rule, "resources")):
        return False
    names = strings_at(rule, "resourceNames")
    return not names or question.name in names


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return pattern in ("*", path)


def _resource_matches(pattern: str, question: Question) -> bool:
    combined = f"{question.resource}/{question.subresource}" if question.subresource else question.resource
    if pattern in ("*", combined):
        return True
    return bool(question.subresource) and pattern == f"*/{question.subresource}"


def covers(rules: list[JsonObject], wanted: JsonObject) -> bool:
    """Do `rules` allow everything that `wanted` allows? What escalation prevention asks."""
    for verb in strings_at(wanted, "verbs"):
        for path in strings_at(wanted, "nonResourceURLs"):
            if not any(rule_allows(r, Question(verb=verb, path=path)) for r in rules):
                return False
        for group in strings_at(wanted, "apiGroups"):
            for resource in strings_at(wanted, "resources"):
                plural, _, subresource = resource.partition("/")
                for name in strings_at(wanted, "resourceNames") or [""]:
                    question = Question(verb=verb, group=group, resource=plural, subresource=subresource, name=name)
                    if not any(rule_allows(r, question) for r in rules):
                        return False
    return True


def rules_status(authorizer: Authorizer, user: User, namespace: str) -> JsonObject:
    """SubjectRulesReviewStatus: what the user may do in a namespace."""
    resource_rules: list[JsonObject] = []
    path_rules: list[JsonObject] = []
    if "system:masters" in user.groups:
        resource_rules.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        path_rules.append({"verbs": ["*"], "nonResourceURLs": ["*"]})
    for rule, _ in authorizer.rules_for(user, namespace):
        if list_at(rule, "nonResourceURLs"):
            path_rules.append({k: rule[k] for k in ("verbs", "nonResourceURLs") if k in rule})
        if list_at(rule, "resources"):
            shown = {k: rule[k] for k in ("verbs", "apiGroups", "resources", "resourceNames") if k in rule}
            resource_rules.append(shown)
    return {"resourceRules": [*resource_rules], "nonResourceRules": [*path_rules], "incomplete": False}


def forbidden_message(user: User, question: Question) -> str:
    """`User "a" cannot get resource "pods" in API group "" in the namespace "b"`."""
    if question.path:
        return f'User "{user.name}" cannot {question.verb} path "{question.path}"'
    resource = f"{question.resource}/{question.subresource}" if question.subresource else question.resource
    where = f'in the namespace "{question.namespace}"' if question.namespace else "at the cluster scope"
    return f'User "{user.name}" cannot {question.verb} resource "{resource}" in API group "{question.group}" {where}'


def forbidden_prefix(question: Question) -> str:
    """`pods "a" is forbidden: `, as every refusal begins."""
    resource = f"{question.resource}.{question.group}" if question.group else question.resource
    name = f'"{question.name}" ' if question.name else ""
    return "forbidden: " if question.path else f"{resource} {name}is forbidden: "


def binding_role(binding: JsonObject) -> tuple[str, str]:
    role = object_at(binding, "roleRef")
    return str_at(role, "kind"), str_at(role, "name")
