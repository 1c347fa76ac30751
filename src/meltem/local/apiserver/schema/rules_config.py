"""The rules of ConfigMaps, Secrets, claims, leases, RBAC and webhook configurations.

In: the object (defaulted), the object before the update. Out: `FieldError`s.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator

from meltem.local.apiserver.schema import checks as c
from meltem.local.apiserver.schema import fielderrors as f
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.formats import dns_subdomain_problem
from meltem.local.apiserver.schema.rules_meta import label_selector
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    at,
    bool_at,
    list_at,
    object_at,
    objects_at,
    str_at,
    strings_at,
)

_SIZE_LIMIT = 1 << 20
_RBAC = "rbac.authorization.k8s.io"
_FROZEN = "field is immutable when `immutable` is set"
_REQUIRED_KEYS: dict[str, tuple[str, ...]] = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}


def config_map(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    data, binary = object_at(obj, "data"), object_at(obj, "binaryData")
    for key in data:
        yield from c.config_key(key, f"data[{key}]")
        if key in binary:
            yield f.bad_value(f"data[{key}]", key, "duplicate of key present in binaryData")
    for key in binary:
        yield from c.config_key(key, f"binaryData[{key}]")
    yield from _base64(binary, "binaryData")
    if _size(data) + _size(binary) * 3 // 4 > _SIZE_LIMIT:
        yield f.too_long("", _SIZE_LIMIT)
    if old is not None and bool_at(old, "immutable"):
        yield from _frozen(obj, old, ("data", "binaryData"))


def _size(data: JsonObject) -> int:
    return sum(len(v.encode()) for v in data.values() if isinstance(v, str))


def _frozen(obj: JsonObject, old: JsonObject, keys: tuple[str, ...]) -> Iterator[FieldError]:
    if not bool_at(obj, "immutable"):
        yield f.forbidden("immutable", _FROZEN)
    for key in keys:
        if obj.get(key) != old.get(key):
            yield f.forbidden(key, _FROZEN)


def _base64(data: JsonObject, path: str) -> Iterator[FieldError]:
    for key, value in data.items():
        try:
            base64.b64decode(value if isinstance(value, str) else "", validate=True)
        except (binascii.Error, ValueError):
            yield f.bad_value(f"{path}[{key}]", "<value>", "must be base64")


def secret(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    data, kind = object_at(obj, "data"), str_at(obj, "type")
    for key in data:
        yield from c.config_key(key, f"data[{key}]")
    yield from _base64(data, "data")
    if _size(data) * 3 // 4 > _SIZE_LIMIT:
        yield f.too_long("data", _SIZE_LIMIT)
    for key in _REQUIRED_KEYS.get(kind, ()):
        if key not in data:
            yield f.missing(f"data[{key}]")
    if kind == "kubernetes.io/basic-auth" and not ({"username", "password"} & data.keys()):
        yield f.missing("data[username]")
        yield f.missing("data[password]")
    if kind == "kubernetes.io/service-account-token" and not annotations_of(obj).get(
        "kubernetes.io/service-account.name"
    ):
        yield f.missing("metadata.annotations[kubernetes.io/service-account.name]")
    for key in (".dockerconfigjson", ".dockercfg") if kind.startswith("kubernetes.io/docker") else ():
        try:
            json.loads(base64.b64decode(str_at(data, key) or "e30="))
        except ValueError:
            yield f.bad_value(f"data[{key}]", "<secret contents redacted>", "invalid character in the JSON text")
    if old is not None:
        yield from c.unchanged(obj, old, "type", "")
        if bool_at(old, "immutable"):
            yield from _frozen(obj, old, ("data",))


def claim(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = object_at(obj, "spec")
    modes = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
    found = strings_at(spec, "accessModes")
    if not found:
        yield f.missing("spec.accessModes", "at least 1 access mode is required")
    for mode in found:
        if mode not in modes:
            yield f.unsupported("spec.accessModes", mode, modes)
    if at(spec, "resources", "requests", "storage") is None:
        yield f.missing("spec.resources[storage]")
    if old is not None:
        before = object_at(old, "spec")
        free = ("resources", "volumeName", "volumeAttributesClassName")
        if before.get("volumeName") and before.get("volumeName") != spec.get("volumeName"):
            free = ("resources", "volumeAttributesClassName")
        if {k: v for k, v in spec.items() if k not in free} != {k: v for k, v in before.items() if k not in free}:
            yield f.forbidden(
                "spec",
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
                "bound claims",
            )


def lease(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    spec = object_at(obj, "spec")
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if isinstance(duration, int) and duration <= 0:
        yield f.bad_value("spec.leaseDurationSeconds", duration, "must be greater than 0")
    if isinstance(transitions, int) and transitions < 0:
        yield f.bad_value("spec.leaseTransitions", transitions, "must be greater than or equal to 0")


def role(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    namespaced = str_at(obj, "kind") == "Role"
    for index, rule in enumerate(objects_at(obj, "rules")):
        here = f"rules[{index}]"
        urls, resources = strings_at(rule, "nonResourceURLs"), strings_at(rule, "resources")
        if not list_at(rule, "verbs"):
            yield f.missing(f"{here}.verbs", "verbs must contain at least one value")
        if urls:
            if namespaced:
                yield f.bad_value(
                    f"{here}.nonResourceURLs", list[Json](urls), "namespaced rules cannot apply to non-resource URLs"
                )
            if resources or list_at(rule, "apiGroups"):
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                yield f.bad_value(f"{here}.nonResourceURLs", list[Json](urls), detail)
            continue
        if not list_at(rule, "apiGroups"):
            yield f.missing(f"{here}.apiGroups", "resource rules must supply at least one api group")
        if not resources:
            yield f.missing(f"{here}.resources", "resource rules must supply at least one resource")


def role_binding(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    ref = object_at(obj, "roleRef")
    if ref.get("apiGroup") != _RBAC:
        yield f.unsupported("roleRef.apiGroup", ref.get("apiGroup"), (_RBAC,))
    kinds = ("ClusterRole",) if str_at(obj, "kind") == "ClusterRoleBinding" else ("Role", "ClusterRole")
    if ref.get("kind") not in kinds:
        yield f.unsupported("roleRef.kind", ref.get("kind"), kinds)
    if not str_at(ref, "name"):
        yield f.missing("roleRef.name")
    for index, subject in enumerate(objects_at(obj, "subjects")):
        here = f"subjects[{index}]"
        kind = str_at(subject, "kind")
        if not str_at(subject, "name"):
            yield f.missing(f"{here}.name")
        if kind == "ServiceAccount":
            if kinds == ("ClusterRole",) and not str_at(subject, "namespace"):
                yield f.missing(f"{here}.namespace")
        elif kind not in ("User", "Group"):
            yield f.unsupported(f"{here}.kind", kind, ("ServiceAccount", "User", "Group"))
    if old is not None and old.get("roleRef") != ref:
        yield f.bad_value("roleRef", ref, "cannot change roleRef")


_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")


def webhooks(obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    del old
    mutating = str_at(obj, "kind").startswith("Mutating")
    names: set[str] = set()
    for index, hook in enumerate(objects_at(obj, "webhooks")):
        here = f"webhooks[{index}]"
        name = str_at(hook, "name")
        if name in names:
            yield f.duplicate(f"{here}.name", name)
        names.add(name)
        if problem := dns_subdomain_problem(name):
            yield f.bad_value(f"{here}.name", name, problem)
        elif name.count(".") < 2:
            yield f.bad_value(f"{here}.name", name, "should be a domain with at least three segments separated by dots")
        yield from _webhook(hook, here)
        if mutating and hook.get("reinvocationPolicy") not in ("Never", "IfNeeded"):
            yield f.unsupported(f"{here}.reinvocationPolicy", hook.get("reinvocationPolicy"), ("IfNeeded", "Never"))


def _webhook(hook: JsonObject, here: str) -> Iterator[FieldError]:
    yield from _rules(objects_at(hook, "rules"), f"{here}.rules")
    for key, choices in (
        ("failurePolicy", ("Fail", "Ignore")),
        ("matchPolicy", ("Equivalent", "Exact")),
        ("sideEffects", ("None", "NoneOnDryRun")),
    ):
        value = hook.get(key)
        if value is None:
            yield f.missing(f"{here}.{key}", f"must specify one of {', '.join(choices)}")
        elif value not in choices:
            yield f.unsupported(f"{here}.{key}", value, choices)
    timeout = hook.get("timeoutSeconds")
    if isinstance(timeout, int) and not 1 <= timeout <= 30:
        yield f.bad_value(f"{here}.timeoutSeconds", timeout, "the timeout value must be between 1 and 30 seconds")
    for key in ("namespaceSelector", "objectSelector"):
        yield from label_selector(object_at(hook, key), f"{here}.{key}")
    versions = strings_at(hook, "admissionReviewVersions")
    if not versions:
        yield f.missing(f"{here}.admissionReviewVersions", "must specify one of v1, v1beta1")
    elif not {"v1", "v1beta1"} & set(versions):
        detail = "must include at least one of v1, v1beta1"
        yield f.bad_value(f"{here}.admissionReviewVersions", list[Json](versions), detail)
    yield from client_config(object_at(hook, "clientConfig"), f"{here}.clientConfig")


def client_config(config: JsonObject, path: str) -> Iterator[FieldError]:
    """A webhook's address: a URL or a service, not both."""
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        yield f.missing(path, "exactly one of url or service is required")
    elif isinstance(url, str):
        if not url.startswith("https://"):
            yield f.bad_value(
                f"{path}.url", url, "'https' is the only allowed URL scheme; desired format: https://host[/path]"
            )
    elif isinstance(service, dict):
        for key in ("name", "namespace"):
            if not str_at(service, key):
                yield f.missing(f"{path}.service.{key}", f"service {key} is required")
        yield from c.port(service.get("port", 443), f"{path}.service.port")
        where = service.get("path")
        if isinstance(where, str) and not where.startswith("/"):
            yield f.bad_value(f"{path}.service.path", where, "must start with a '/'")


def _rules(rules: list[JsonObject], path: str) -> Iterator[FieldError]:
    for index, rule in enumerate(rules):
        here = f"{path}[{index}]"
        for key in ("operations", "apiGroups", "apiVersions", "resources"):
            values = strings_at(rule, key)
            if not values:
                yield f.missing(f"{here}.{key}")
            elif "*" in values and len(values) > 1 and key != "resources":
                detail = (
                    f"if '*' is present, must not specify other {key}"
                    if key != "apiGroups"
                    else ("if '*' is present, must not specify other API groups")
                )
                yield f.bad_value(f"{here}.{key}", list[Json](values), detail)
        for at_, operation in enumerate(strings_at(rule, "operations")):
            if operation not in _OPERATIONS:
                yield f.unsupported(f"{here}.operations[{at_}]", operation, _OPERATIONS)
        if rule.get("scope") not in (None, "*", "Cluster", "Namespaced"):
            yield f.unsupported(f"{here}.scope", rule.get("scope"), ("*", "Cluster", "Namespaced"))
