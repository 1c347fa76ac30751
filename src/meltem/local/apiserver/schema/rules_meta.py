"""The rules of `metadata`, for every kind: names, labels, annotations, owners, what may not change.

In: the kind, the object, the object before the update. Out: `FieldError`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.formats import (
    dns_label_problem,
    dns_subdomain_problem,
    label_value_problem,
    path_segment_problem,
    qualified_name_problem,
)
from meltem.objects import Json, JsonObject, object_at, objects_at, str_at, strings_at

_ANNOTATIONS_LIMIT = 256 << 10
NameCheck: TypeAlias = Callable[[str], str]
_RBAC_KINDS = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
IMMUTABLE = "field is immutable"


def name_check(group: str, kind: str, *, builtin: bool = True) -> NameCheck:
    """How the kind wants its names."""
    if not builtin:
        return dns_subdomain_problem
    if (group, kind) in (("", "Service"), ("", "Namespace")):
        return dns_label_problem
    if group == "rbac.authorization.k8s.io" and kind in _RBAC_KINDS:
        return path_segment_problem
    return dns_subdomain_problem


def metadata_rules(check_name: NameCheck, obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    metadata = object_at(obj, "metadata")
    yield from _names(check_name, metadata)
    yield from labels(object_at(metadata, "labels"), "metadata.labels")
    yield from _annotations(object_at(metadata, "annotations"))
    for finalizer in strings_at(metadata, "finalizers"):
        if problem := qualified_name_problem(finalizer):
            yield f.bad_value("metadata.finalizers", finalizer, problem)
    yield from _owners(metadata)
    if old is not None:
        before = object_at(old, "metadata")
        for key in ("name", "namespace", "uid", "creationTimestamp"):
            if before.get(key) is not None and metadata.get(key) not in (None, before[key]):
                yield f.bad_value(f"metadata.{key}", metadata.get(key), IMMUTABLE)
        if before.get("deletionTimestamp") is not None:
            added = [x for x in strings_at(metadata, "finalizers") if x not in strings_at(before, "finalizers")]
            if added:
                shown = ", ".join(f.shown(x) for x in added)
                yield f.forbidden(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new finalizers "
                    f"[]string{{{shown}}}",
                )


def _names(check_name: NameCheck, metadata: JsonObject) -> Iterator[FieldError]:
    name, prefix = str_at(metadata, "name"), str_at(metadata, "generateName")
    if prefix and (problem := check_name(f"{prefix[:-1]}a" if prefix.endswith("-") else prefix)):
        yield f.bad_value("metadata.generateName", prefix, problem)
    if not name:
        if not prefix:
            yield f.missing("metadata.name", "name or generateName is required")
    elif problem := check_name(name):
        yield f.bad_value("metadata.name", name, problem)
    namespace = str_at(metadata, "namespace")
    if namespace and (problem := dns_label_problem(namespace)):
        yield f.bad_value("metadata.namespace", namespace, problem)


def labels(found: JsonObject, path: str) -> Iterator[FieldError]:
    """Label keys and values; Kubernetes reports both at the map's path."""
    for key, value in found.items():
        if problem := qualified_name_problem(key):
            yield f.bad_value(path, key, problem)
        if isinstance(value, str) and (problem := label_value_problem(value)):
            yield f.bad_value(path, value, problem)


def _annotations(found: JsonObject) -> Iterator[FieldError]:
    size = 0
    for key, value in found.items():
        if problem := qualified_name_problem(key.lower()):
            yield f.bad_value("metadata.annotations", key, problem)
        size += len(key) + (len(value.encode()) if isinstance(value, str) else 0)
    if size > _ANNOTATIONS_LIMIT:
        yield f.too_long("metadata.annotations", _ANNOTATIONS_LIMIT)


def _owners(metadata: JsonObject) -> Iterator[FieldError]:
    controllers: list[JsonObject] = []
    for index, owner in enumerate(objects_at(metadata, "ownerReferences")):
        path = f"metadata.ownerReferences[{index}]"
        for key, label in (("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")):
            if not str_at(owner, key):
                yield f.bad_value(f"{path}.{key}", owner.get(key) or "", f"{label} must not be empty")
        if owner.get("controller") is True:
            controllers.append(owner)
    if len(controllers) > 1:
        names = [f"{str_at(o, 'kind')}/{str_at(o, 'name')}" for o in controllers[:2]]
        yield f.bad_value(
            "metadata.ownerReferences",
            list[Json](controllers),
            'Only one reference can have Controller set to true. Found "true" in references for '
            f"{names[0]} and {names[1]}",
        )


def label_selector(selector: JsonObject, path: str) -> Iterator[FieldError]:
    """The rules of a LabelSelector."""
    yield from labels(object_at(selector, "matchLabels"), f"{path}.matchLabels")
    for index, term in enumerate(objects_at(selector, "matchExpressions")):
        here = f"{path}.matchExpressions[{index}]"
        operator, values = term.get("operator"), strings_at(term, "values")
        if operator in ("In", "NotIn"):
            if not values:
                yield f.missing(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield f.forbidden(
                    f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
        else:
            yield f.bad_value(f"{here}.operator", operator or "", "not a valid selector operator")
        key = str_at(term, "key")
        if problem := qualified_name_problem(key):
            yield f.bad_value(f"{here}.key", key, problem)
        for at, value in enumerate(values):
            if problem := label_value_problem(value):
                yield f.bad_value(f"{here}.values[{at}]", value, problem)


def selects(selector: JsonObject, found: JsonObject) -> bool:
    """Whether a LabelSelector matches a label map; an empty selector matches everything."""
    for key, value in object_at(selector, "matchLabels").items():
        if found.get(key) != value:
            return False
    for term in objects_at(selector, "matchExpressions"):
        value = found.get(str_at(term, "key"))
        values = strings_at(term, "values")
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }.get(str_at(term, "operator"), False)
        if not fits:
            return False
    return True
