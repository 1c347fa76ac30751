"""Injection into manifests, for `istioctl kube-inject`: any workload kind, lists, several documents.

In: JSON objects and `InjectorConfig`. Out: the same objects with the proxy in their pod templates; what has no pod, and
what says `sidecar.istio.io/inject: "false"`, comes back as it was.
"""

from __future__ import annotations

from meltem import yamlio
from meltem.errors import UserError
from meltem.inject import policy
from meltem.inject.config import InjectorConfig
from meltem.inject.injector import PodContext, inject_pod
from meltem.inject.workload import Workload
from meltem.objects import Json, JsonObject, copy_object, name_of, namespace_of, object_at, objects_at, str_at

POD_TEMPLATES: dict[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "DeploymentConfig": ("spec", "template"),
    "Rollout": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}


def inject_text(text: str, config: InjectorConfig, *, source: str = "input", namespace: str = "default") -> str:
    """YAML or JSON of one or more documents, injected, as YAML. Raises UserError naming source and object."""
    documents: list[Json] = []
    for document in yamlio.load_all(text, source=source):
        if not isinstance(document, dict):
            raise UserError("has a document that is not an object", where=source)
        documents.append(inject_object(document, config, namespace=namespace))
    return yamlio.dump_all(documents)


def inject_object(obj: JsonObject, config: InjectorConfig, *, namespace: str = "default") -> JsonObject:
    """One object of any kind, lists included."""
    kind = str_at(obj, "kind")
    if kind == "List" or (kind.endswith("List") and isinstance(obj.get("items"), list)):
        return {**obj, "items": [inject_object(item, config, namespace=namespace) for item in objects_at(obj, "items")]}
    if kind not in POD_TEMPLATES:
        return obj
    place = POD_TEMPLATES[kind]
    template = object_at(obj, *place)
    if not object_at(template, "spec"):
        return obj
    own_namespace = namespace_of(obj) or namespace
    if not policy.decide(template, own_namespace, config).inject:
        return obj
    # A pod on its own may have an owner, which is what the webhook goes by too.
    workload = Workload(name_of(obj), own_namespace, kind, str_at(obj, "apiVersion")) if place else None
    try:
        injected = inject_pod(template, config, PodContext(own_namespace, workload=workload))
    except UserError as error:
        raise UserError(error.what, where=f"{kind} {own_namespace}/{name_of(obj)} {error.where}") from None
    if not place:
        return injected
    result = copy_object(obj)
    parent = object_at(result, *place[:-1])
    parent[place[-1]] = injected
    # What was read from a cluster may be older than it is there by now; the answer is to be applied all the same.
    object_at(result, "metadata").pop("resourceVersion", None)
    return result
