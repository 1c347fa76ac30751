"""The injection webhook: AdmissionReview in, AdmissionReview out. Pure; who serves HTTPS wires it.

A pod that cannot be injected is refused with the reason: a pod of the mesh without its proxy would be worse.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

from meltem.errors import BadRequest, MeltemError
from meltem.inject import patch, policy
from meltem.inject.config import InjectorConfig
from meltem.inject.injector import PodContext, inject_pod, path_environment
from meltem.objects import JsonObject, copy_object, ensure_object, object_at, str_at

ContextOf = Callable[[JsonObject, str], PodContext]
"""Pod and namespace → what the cluster knows about them (ProxyConfig resources, namespace annotations)."""


def review(request: JsonObject, path: str, config: InjectorConfig, context_of: ContextOf | None = None) -> JsonObject:
    """`request`: an AdmissionReview; `path`: of the HTTP request. Raises BadRequest for what is no AdmissionReview."""
    asked = object_at(request, "request")
    uid = str_at(asked, "uid")
    if str_at(request, "kind") != "AdmissionReview" or not uid:
        raise BadRequest("the body is no AdmissionReview with a request")
    version = str_at(request, "apiVersion") or "admission.k8s.io/v1"
    response = _response(asked, path, config, context_of)
    return {"apiVersion": version, "kind": "AdmissionReview", "response": {"uid": uid, **response}}


def _response(asked: JsonObject, path: str, config: InjectorConfig, context_of: ContextOf | None) -> JsonObject:
    pod = object_at(asked, "object")
    if str_at(asked, "kind", "kind") != "Pod" or str_at(asked, "subResource"):
        return {"allowed": True}
    namespace = str_at(asked, "namespace") or str_at(pod, "metadata", "namespace")
    decision = policy.decide(pod, namespace, config)
    if not decision.inject:
        return {"allowed": True, "auditAnnotations": {"injection": decision.reason}}
    bare = copy_object(pod)
    ensure_object(bare, "metadata").pop("managedFields", None)  # large, and of no use here
    context = context_of(bare, namespace) if context_of else PodContext(namespace)
    context = replace(context, environment={**context.environment, **path_environment(path)})
    try:
        injected = inject_pod(bare, config, context)
    except MeltemError as error:
        name = str_at(pod, "metadata", "name") or str_at(pod, "metadata", "generateName")
        message = f"the pod {namespace}/{name} cannot be injected: {error}"
        return {"allowed": False, "status": {"status": "Failure", "code": 400, "reason": "Invalid", "message": message}}
    operations = patch.create(bare, injected)
    encoded = base64.b64encode(json.dumps(operations, separators=(",", ":")).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": encoded}
