"""Which writes a webhook or policy concerns: rules with wildcards and scope, matchPolicy, namespace and object
selectors."""

from __future__ import annotations

import msgspec

from meltem.errors import ApiError
from meltem.local.apiserver.core import Attributes
from meltem.local.apiserver.registry import Registry, Resource
from meltem.local.apiserver.selectors import matches_labels, selector_from_object
from meltem.local.apiserver.storage import Key, Store
from meltem.objects import JsonObject, at, labels_of, object_at, objects_at, str_at, strings_at


class Target(msgspec.Struct, frozen=True):
    """What rules speak of."""

    operation: str
    resource: Resource
    subresource: str
    namespaced: bool
    name: str

    @classmethod
    def of(cls, attributes: Attributes) -> Target:
        return cls(
            attributes.operation,
            attributes.resource,
            attributes.subresource,
            attributes.resource.info.namespaced,
            attributes.name,
        )


def rule_matches(rule: JsonObject, target: Target, resource: Resource) -> bool:
    """Does a rule match the target, taken as `resource` (the target's own or an equivalent version)?"""
    operations = strings_at(rule, "operations")
    if "*" not in operations and target.operation not in operations:
        return False
    info = resource.info
    if not _among(strings_at(rule, "apiGroups"), info.group) or not _among(
        strings_at(rule, "apiVersions"), info.version
    ):
        return False
    scope = str_at(rule, "scope") or "*"
    if scope != "*" and (scope == "Namespaced") != target.namespaced:
        return False
    names = strings_at(rule, "resourceNames")
    if names and target.name not in names:
        return False
    return any(_resource_matches(r, info.plural, target.subresource) for r in strings_at(rule, "resources"))


def _among(allowed: list[str], value: str) -> bool:
    return "*" in allowed or value in allowed


def _resource_matches(pattern: str, plural: str, subresource: str) -> bool:
    name, slash, sub = pattern.partition("/")
    if name not in ("*", plural):
        return False
    if not slash:
        return not subresource
    return sub in ("*", subresource)


def matching_resource(webhook: JsonObject, target: Target, registry: Registry) -> Resource | None:
    """The version of the resource that a rule names: the request's own, else (matchPolicy Equivalent) another one."""
    rules = objects_at(webhook, "rules")
    if any(rule_matches(r, target, target.resource) for r in rules):
        return target.resource
    if (str_at(webhook, "matchPolicy") or "Equivalent") != "Equivalent":
        return None
    for other in registry.versions_of(target.resource.storage):
        if any(rule_matches(r, target, other) for r in rules):
            return other
    return None


def selected(webhook: JsonObject, attributes: Attributes, store: Store) -> bool:
    """Do namespaceSelector and objectSelector match? A selector that cannot be read matches nothing."""
    try:
        return _namespace_selected(webhook, attributes, store) and _object_selected(webhook, attributes)
    except ApiError:
        return False


def _namespace_selected(webhook: JsonObject, attributes: Attributes, store: Store) -> bool:
    selector = object_at(webhook, "namespaceSelector")
    if not selector:
        return True
    terms = selector_from_object(selector)
    if attributes.resource.storage == "namespaces":
        obj = attributes.object if attributes.object is not None and not attributes.subresource else attributes.old
        return matches_labels(terms, labels_of(obj or {}))
    if not attributes.resource.info.namespaced:
        return True
    namespace = store.head(Key("namespaces", "", attributes.namespace))
    return matches_labels(terms, labels_of(namespace.object) if namespace else {})


def _object_selected(webhook: JsonObject, attributes: Attributes) -> bool:
    selector = object_at(webhook, "objectSelector")
    if not selector:
        return True
    terms = selector_from_object(selector)
    return any(
        obj is not None and isinstance(at(obj, "metadata"), dict) and matches_labels(terms, labels_of(obj))
        for obj in (attributes.object, attributes.old)
    )
