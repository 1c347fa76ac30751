"""The built-in admission steps: namespace lifecycle, service accounts, limit ranges, priority, default classes.

In: a write's `Attributes` and the object (changed in place by mutating steps). Raises Forbidden or NotFound to refuse.
"""

from __future__ import annotations

import secrets

from meltem.errors import Forbidden
from meltem.local.apiserver.admission.quantity import compare
from meltem.local.apiserver.core import Attributes
from meltem.local.apiserver.status import not_found
from meltem.local.apiserver.storage import Key, Store
from meltem.objects import (
    Json,
    JsonObject,
    bool_at,
    ensure_object,
    int_at,
    list_at,
    object_at,
    objects_at,
    str_at,
)

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
_LIFECYCLE_FREE = frozenset({"localsubjectaccessreviews.authorization.k8s.io"})
PRIORITY_CLASSES = "priorityclasses.scheduling.k8s.io"


def with_object(attributes: Attributes, obj: JsonObject | None) -> Attributes:
    return Attributes(
        operation=attributes.operation,
        resource=attributes.resource,
        subresource=attributes.subresource,
        namespace=attributes.namespace,
        name=attributes.name,
        user=attributes.user,
        object=obj,
        old=attributes.old,
        options=attributes.options,
        dry_run=attributes.dry_run,
        kind=attributes.kind,
    )


def forbidden(attributes: Attributes, why: str, causes: list[Json] | None = None) -> Forbidden:
    info = attributes.resource.info
    details: dict[str, object] = {"name": attributes.name, "group": info.group, "kind": info.plural}
    if causes:
        details["causes"] = causes
    return Forbidden(f'{info.resource} "{attributes.name}" is forbidden: {why}', details=details)


def namespace_lifecycle(store: Store, attributes: Attributes) -> None:
    """Nothing is created where there is no namespace, or where it is going; some namespaces stay for ever."""
    storage = attributes.resource.storage
    if attributes.operation == "DELETE" and storage == "namespaces" and attributes.name in _IMMORTAL:
        raise forbidden(attributes, "this namespace may not be deleted")
    if not attributes.resource.info.namespaced or storage in _LIFECYCLE_FREE or attributes.operation == "DELETE":
        return
    namespace = store.head(Key("namespaces", "", attributes.namespace))
    if namespace is None:
        raise not_found("namespaces", attributes.namespace)
    if attributes.operation != "CREATE":
        return
    if str_at(namespace.object, "metadata", "deletionTimestamp"):
        why = f"unable to create new content in namespace {attributes.namespace} because it is being terminated"
        cause: Json = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {attributes.namespace} is being terminated",
            "field": "metadata.namespace",
        }
        raise forbidden(attributes, why, [cause])


# Service accounts


def service_account(store: Store, attributes: Attributes, pod: JsonObject) -> None:
    """A pod runs as a service account that exists, and finds its token where every client looks."""
    if attributes.resource.storage != "pods" or attributes.operation != "CREATE":
        return
    spec = ensure_object(pod, "spec")
    name = str_at(spec, "serviceAccountName") or str_at(spec, "serviceAccount") or "default"
    if "kubernetes.io/config.mirror" in object_at(pod, "metadata", "annotations"):
        return
    spec["serviceAccountName"] = name
    spec["serviceAccount"] = name
    account = store.head(Key("serviceaccounts", attributes.namespace, name))
    if account is None:
        raise forbidden(
            attributes,
            f'error looking up service account {attributes.namespace}/{name}: serviceaccount "{name}" not found',
        )
    if not list_at(spec, "imagePullSecrets"):
        pulls = list_at(account.object, "imagePullSecrets")
        if pulls:
            spec["imagePullSecrets"] = [*pulls]
    wanted = spec.get("automountServiceAccountToken")
    if wanted is None:
        wanted = bool_at(account.object, "automountServiceAccountToken", default=True)
    if wanted:
        _mount_token(spec)


def _mount_token(spec: JsonObject) -> None:
    volumes = list_at(spec, "volumes")
    volume = next((str_at(v, "name") for v in volumes if _is_token_volume(v)), "")
    mount_name = volume or "kube-api-access-" + "".join(secrets.choice(_LETTERS) for _ in range(5))
    mounted = False
    for field in ("containers", "initContainers"):
        for container in objects_at(spec, field):
            mounts = list_at(container, "volumeMounts")
            if any(str_at(m, "mountPath") == TOKEN_PATH for m in mounts):
                continue
            container["volumeMounts"] = [*mounts, {"name": mount_name, "readOnly": True, "mountPath": TOKEN_PATH}]
            mounted = True
    if mounted and not volume:
        spec["volumes"] = [*volumes, _token_volume(mount_name)]


def _is_token_volume(volume: Json) -> bool:
    return str_at(volume, "name").startswith("kube-api-access-") and bool(list_at(volume, "projected", "sources"))


def _token_volume(name: str) -> JsonObject:
    token: JsonObject = {"expirationSeconds": 3607, "path": "token"}
    root: JsonObject = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    field: JsonObject = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources: list[Json] = [
        {"serviceAccountToken": token},
        {"configMap": root},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    return {"name": name, "projected": {"defaultMode": 420, "sources": sources}}


# Limit ranges, priority, default classes


def limit_ranges(store: Store, attributes: Attributes, pod: JsonObject) -> None:
    """Containers without limits or requests get the namespace's defaults."""
    if attributes.resource.storage != "pods" or attributes.operation != "CREATE":
        return
    for item in _limits(store, attributes.namespace, "Container"):
        for container in _containers(pod):
            resources = ensure_object(container, "resources")
            limits, requests = ensure_object(resources, "limits"), ensure_object(resources, "requests")
            for name, value in object_at(item, "default").items():
                limits.setdefault(name, value)
            for name, value in object_at(item, "defaultRequest").items():
                requests.setdefault(name, value)
            for name in ("limits", "requests"):
                if not resources[name]:
                    del resources[name]


def _containers(pod: JsonObject) -> list[JsonObject]:
    return [*objects_at(pod, "spec", "containers"), *objects_at(pod, "spec", "initContainers")]


def _limits(store: Store, namespace: str, kind: str) -> list[JsonObject]:
    ranges = store.entries("limitranges", namespace)
    return [i for e in ranges for i in objects_at(e.object, "spec", "limits") if str_at(i, "type") == kind]


def limit_check(store: Store, attributes: Attributes) -> None:
    """Containers outside the namespace's minimum and maximum are refused."""
    obj = attributes.object
    if (
        attributes.resource.storage != "pods"
        or attributes.operation != "CREATE"
        or obj is None
        or attributes.subresource
    ):
        return
    problems: list[str] = []
    for item in _limits(store, attributes.namespace, "Container"):
        for container in _containers(obj):
            for name, most in object_at(item, "max").items():
                limit = object_at(container, "resources", "limits").get(name)
                if limit is None:
                    problems.append(f"maximum {name} usage per Container is {most}.  No limit is specified")
                elif compare(limit, most) > 0:
                    problems.append(f"maximum {name} usage per Container is {most}, but limit is {limit}")
            for name, least in object_at(item, "min").items():
                request = object_at(container, "resources", "requests").get(name)
                if request is None:
                    problems.append(f"minimum {name} usage per Container is {least}.  No request is specified")
                elif compare(request, least) < 0:
                    problems.append(f"minimum {name} usage per Container is {least}, but request is {request}")
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        raise forbidden(attributes, text)


def priority(store: Store, attributes: Attributes, pod: JsonObject) -> None:
    """Turns priorityClassName into a number; raises Forbidden for a class that is not there."""
    if attributes.resource.storage != "pods" or attributes.operation != "CREATE":
        return
    spec = ensure_object(pod, "spec")
    name = str_at(spec, "priorityClassName")
    if not name:
        chosen = next((e.object for e in store.entries(PRIORITY_CLASSES) if bool_at(e.object, "globalDefault")), None)
        if chosen is not None:
            spec["priorityClassName"] = str_at(chosen, "metadata", "name")
        spec["priority"] = int_at(chosen, "value") if chosen else 0
        policy = str_at(chosen, "preemptionPolicy") if chosen else ""
    else:
        entry = store.head(Key(PRIORITY_CLASSES, "", name))
        if entry is None and name not in _SYSTEM_PRIORITIES:
            raise forbidden(attributes, f"no PriorityClass with name {name} was found")
        spec["priority"] = int_at(entry.object, "value") if entry else _SYSTEM_PRIORITIES[name]
        policy = str_at(entry.object, "preemptionPolicy") if entry else ""
    spec["preemptionPolicy"] = policy or str_at(spec, "preemptionPolicy") or "PreemptLowerPriority"


def default_classes(store: Store, attributes: Attributes, obj: JsonObject) -> None:
    """The default IngressClass and StorageClass, where an object names none."""
    if attributes.operation != "CREATE":
        return
    match attributes.resource.storage:
        case "ingresses.networking.k8s.io":
            annotated = "kubernetes.io/ingress.class" in object_at(obj, "metadata", "annotations")
            mark, field = "ingressclass.kubernetes.io/is-default-class", "ingressClassName"
            classes = [] if annotated else store.entries("ingressclasses.networking.k8s.io")
        case "persistentvolumeclaims":
            mark, field = "storageclass.kubernetes.io/is-default-class", "storageClassName"
            classes = store.entries("storageclasses.storage.k8s.io")
        case _:
            return
    spec = ensure_object(obj, "spec")
    if spec.get(field) is not None:
        return
    chosen = [e for e in classes if object_at(e.object, "metadata", "annotations").get(mark) == "true"]
    if chosen:
        spec[field] = chosen[0].key.name
