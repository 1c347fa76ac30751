"""What the API server itself writes into objects: system metadata, generation, and who may change spec or status.

In: the wanted object and the live one. Out: the wanted object, changed in place, so that a client cannot set what is
the server's to set.
"""

from __future__ import annotations

from meltem.local.apiserver.core import User
from meltem.local.apiserver.registry import Resource
from meltem.objects import (
    Json,
    JsonObject,
    copy_json,
    ensure_object,
    list_at,
    object_at,
    objects_at,
    str_at,
    strings_at,
)

_KEEPS_STATUS_ON_CREATE = frozenset({"nodes"})
_WITH_GENERATION = frozenset(
    {
        "pods",
        "replicationcontrollers",
        "ingresses.networking.k8s.io",
        "networkpolicies.networking.k8s.io",
        "poddisruptionbudgets.policy",
        "ingressclasses.networking.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
    }
)
_GENERATION_GROUPS = ("apps", "batch", "admissionregistration.k8s.io")
_NO_GENERATION = frozenset({"controllerrevisions.apps"})
_FREE_METADATA_ON_STATUS = frozenset({"pods", "nodes", "namespaces"})
_SYSTEM_FIELDS = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)


def has_generation(resource: Resource) -> bool:
    if resource.crd is not None:
        return True
    if resource.info.group in _GENERATION_GROUPS:
        return resource.storage not in _NO_GENERATION
    return resource.storage in _WITH_GENERATION


def has_status(resource: Resource) -> bool:
    return "status" in resource.info.subresources


def for_create(resource: Resource, obj: JsonObject, now: str, user: User) -> None:
    """A new object: no status of the client's making, generation 1, and each kind's own beginnings."""
    meta = ensure_object(obj, "metadata")
    if has_generation(resource):
        meta["generation"] = 1
    else:
        meta.pop("generation", None)
    if has_status(resource) and resource.storage not in _KEEPS_STATUS_ON_CREATE:
        obj.pop("status", None)
    initial = _INITIAL_STATUS.get(resource.storage)
    if initial is not None:
        obj["status"] = copy_json(initial)
    match resource.storage:
        case "pods":
            ensure_object(obj, "status")["qosClass"] = qos_class(object_at(obj, "spec"))
        case "namespaces":
            _for_namespace(obj)
        case "certificatesigningrequests.certificates.k8s.io":
            spec = ensure_object(obj, "spec")
            spec["username"], spec["groups"] = user.name, list(user.groups)
            if user.uid:
                spec["uid"] = user.uid
        case _:
            pass


_INITIAL_STATUS: dict[str, JsonObject] = {
    "pods": {"phase": "Pending"},
    "namespaces": {"phase": "Active"},
    "services": {"loadBalancer": {}},
    "persistentvolumes": {"phase": "Pending"},
    "persistentvolumeclaims": {"phase": "Pending"},
    "deployments.apps": {},
    "replicasets.apps": {"replicas": 0},
    "statefulsets.apps": {"replicas": 0, "availableReplicas": 0},
    "daemonsets.apps": {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    },
    "jobs.batch": {},
    "cronjobs.batch": {},
    "ingresses.networking.k8s.io": {"loadBalancer": {}},
}


def _for_namespace(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    finalizers = strings_at(spec, "finalizers")
    if "kubernetes" not in finalizers:
        spec["finalizers"] = [*finalizers, "kubernetes"]
    ensure_object(ensure_object(obj, "metadata"), "labels")["kubernetes.io/metadata.name"] = str_at(
        obj, "metadata", "name"
    )


def qos_class(spec: JsonObject) -> str:
    """Guaranteed, Burstable or BestEffort, from the containers' cpu and memory."""
    guaranteed, asked = True, False
    for container in [*objects_at(spec, "containers"), *objects_at(spec, "initContainers")]:
        limits = object_at(container, "resources", "limits")
        requests = object_at(container, "resources", "requests")
        for name in ("cpu", "memory"):
            if limits.get(name) or requests.get(name):
                asked = True
            if not limits.get(name) or requests.get(name, limits.get(name)) != limits.get(name):
                guaranteed = False
    if not asked:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def system_metadata(obj: JsonObject, old: JsonObject) -> None:
    """Takes from the live object what no client may change."""
    meta, before = ensure_object(obj, "metadata"), object_at(old, "metadata")
    for name in _SYSTEM_FIELDS:
        if name in before:
            meta[name] = copy_json(before[name])
        else:
            meta.pop(name, None)
    for name in ("name", "namespace"):
        if name in before:
            meta[name] = before[name]
    if str_at(before, "generateName"):
        meta["generateName"] = before["generateName"]


def new_finalizers(obj: JsonObject, old: JsonObject | None) -> list[str]:
    """Finalizers that an update would add to an object that is being deleted: it takes no new ones."""
    before = object_at(old, "metadata")
    if "deletionTimestamp" not in before:
        return []
    return [f for f in strings_at(obj, "metadata", "finalizers") if f not in strings_at(before, "finalizers")]


def for_update(resource: Resource, obj: JsonObject, old: JsonObject, subresource: str) -> None:
    """Main resource: status stays as it was. Status subresource: everything else does."""
    if subresource == "status":
        _status_only(resource, obj, old)
    elif not subresource and has_status(resource):
        _keep(obj, old, "status")
    if resource.storage == "namespaces" and subresource != "finalize":
        spec = ensure_object(obj, "spec")
        spec["finalizers"] = copy_json(list_at(old, "spec", "finalizers"))
    if resource.storage == "services" and not subresource:
        _keep(obj, old, "status")


def _status_only(resource: Resource, obj: JsonObject, old: JsonObject) -> None:
    status = obj.get("status")
    meta = object_at(obj, "metadata")
    managed = meta.get("managedFields")
    metadata = copy_json(object_at(old, "metadata"))
    assert isinstance(metadata, dict)
    if resource.storage in _FREE_METADATA_ON_STATUS:
        metadata = dict(meta)
    if managed is not None:
        metadata["managedFields"] = managed
    if "resourceVersion" in meta:
        metadata["resourceVersion"] = meta["resourceVersion"]
    for name in [n for n in obj if n not in ("status", "metadata")]:
        del obj[name]
    for name, value in old.items():
        if name not in ("status", "metadata"):
            obj[name] = copy_json(value)
    obj["metadata"] = metadata
    if status is None:
        obj.pop("status", None)
    else:
        obj["status"] = status


def _keep(obj: JsonObject, old: JsonObject, name: str) -> None:
    if name in old:
        obj[name] = copy_json(old[name])
    else:
        obj.pop(name, None)


def generation(resource: Resource, obj: JsonObject, old: JsonObject) -> None:
    """One more where the desired state changed: all but metadata, and status where it is a subresource."""
    if not has_generation(resource):
        return
    ignored = {"metadata", "apiVersion", "kind"}
    if has_status(resource) or resource.crd is None:
        ignored.add("status")
    changed = {k: v for k, v in obj.items() if k not in ignored} != {k: v for k, v in old.items() if k not in ignored}
    if changed:
        meta = ensure_object(obj, "metadata")
        current = object_at(old, "metadata").get("generation")
        meta["generation"] = (current if isinstance(current, int) else 0) + 1


def same(a: JsonObject, b: JsonObject) -> bool:
    """Equal but for resourceVersion and the times in managedFields: storing it would be no change."""
    return _comparable(a) == _comparable(b)


def _comparable(obj: JsonObject) -> JsonObject:
    meta = {k: v for k, v in object_at(obj, "metadata").items() if k not in ("resourceVersion", "managedFields")}
    managed: list[Json] = [
        {k: v for k, v in item.items() if k != "time"} for item in objects_at(obj, "metadata", "managedFields")
    ]
    return {**obj, "metadata": meta, "managed": managed}
