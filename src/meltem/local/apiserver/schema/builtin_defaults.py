"""What Kubernetes fills in for its built-in kinds, kind by kind.

In: (group, version, kind) and an object, changed in place (`defaulting.default` owns the copy). What is allocated,
such as cluster IPs and node ports, is not decided here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

from meltem.local.apiserver.schema import pod_defaults as pods
from meltem.local.apiserver.schema.pod_defaults import fill
from meltem.objects import Json, JsonObject, at, ensure_object, name_of, object_at, objects_at, str_at, uid_of

_RBAC = "rbac.authorization.k8s.io"
Filler: TypeAlias = Callable[[JsonObject], None]


def default_builtin(gvk: tuple[str, str, str], obj: JsonObject) -> None:
    """Fills in the defaults of the kind; kinds without any are left as they are."""
    group, version, kind = gvk
    filler = _fillers().get((group, kind))
    if filler is not None and not (kind == "HorizontalPodAutoscaler" and version == "v1"):
        filler(obj)
    elif kind == "HorizontalPodAutoscaler":
        fill(ensure_object(obj, "spec"), minReplicas=1)


@cache
def _fillers() -> dict[tuple[str, str], Filler]:
    return {
        ("", "Pod"): pods.pod,
        ("", "PodTemplate"): _pod_template,
        ("", "ReplicationController"): _replication_controller,
        ("", "Service"): _service,
        ("", "Endpoints"): _endpoints,
        ("", "Event"): _event,
        ("", "Secret"): _secret,
        ("", "Namespace"): _namespace,
        ("", "PersistentVolume"): _persistent_volume,
        ("", "PersistentVolumeClaim"): _claim,
        ("", "LimitRange"): _limit_range,
        ("apps", "Deployment"): _deployment,
        ("apps", "ReplicaSet"): _replica_set,
        ("apps", "StatefulSet"): _stateful_set,
        ("apps", "DaemonSet"): _daemon_set,
        ("batch", "Job"): _job,
        ("batch", "CronJob"): _cron_job,
        ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
        ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
        ("networking.k8s.io", "NetworkPolicy"): _network_policy,
        ("networking.k8s.io", "IngressClass"): _ingress_class,
        (_RBAC, "RoleBinding"): _binding,
        (_RBAC, "ClusterRoleBinding"): _binding,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _mutating,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"): _policy,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"): _policy_binding,
        ("apiextensions.k8s.io", "CustomResourceDefinition"): _crd,
        ("apiregistration.k8s.io", "APIService"): _api_service,
        ("scheduling.k8s.io", "PriorityClass"): lambda obj: fill(obj, preemptionPolicy="PreemptLowerPriority"),
        ("storage.k8s.io", "StorageClass"): lambda obj: fill(
            obj, reclaimPolicy="Delete", volumeBindingMode="Immediate"
        ),
        ("authentication.k8s.io", "TokenRequest"): lambda obj: fill(ensure_object(obj, "spec"), expirationSeconds=3600),
    }


def _pod_template(obj: JsonObject) -> None:
    if isinstance(spec := at(obj, "template", "spec"), dict):
        pods.pod_spec(spec)


def _replication_controller(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    labels = object_at(spec, "template", "metadata", "labels")
    if labels:
        fill(spec, selector=dict(labels))
        fill(ensure_object(obj, "metadata"), labels=dict(labels))
    fill(spec, replicas=1)
    pods.template(obj)


def _deployment(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = ensure_object(spec, "strategy")
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        fill(ensure_object(strategy, "rollingUpdate"), maxUnavailable="25%", maxSurge="25%")
    pods.template(obj)


def _replica_set(obj: JsonObject) -> None:
    fill(ensure_object(obj, "spec"), replicas=1)
    pods.template(obj)


def _stateful_set(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    fill(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady", serviceName="")
    strategy = ensure_object(spec, "updateStrategy")
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        fill(ensure_object(strategy, "rollingUpdate"), partition=0)
    fill(ensure_object(spec, "persistentVolumeClaimRetentionPolicy"), whenDeleted="Retain", whenScaled="Retain")
    for claim in objects_at(spec, "volumeClaimTemplates"):
        fill(claim, apiVersion="v1", kind="PersistentVolumeClaim")
        _claim(claim)
    pods.template(obj)


def _daemon_set(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    fill(spec, revisionHistoryLimit=10)
    strategy = ensure_object(spec, "updateStrategy")
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        fill(ensure_object(strategy, "rollingUpdate"), maxUnavailable=1, maxSurge=0)
    pods.template(obj)


def _job(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    if spec.get("completions") is None and spec.get("parallelism") is None:
        fill(spec, completions=1)
    per_index = spec.get("backoffLimitPerIndex") is not None
    fill(
        spec,
        parallelism=1,
        backoffLimit=(1 << 31) - 1 if per_index else 6,
        completionMode="NonIndexed",
        suspend=False,
        podReplacementPolicy="Failed" if spec.get("podFailurePolicy") is not None else "TerminatingOrFailed",
    )
    _job_selector(obj, spec)
    pods.template(obj)


def _job_selector(obj: JsonObject, spec: JsonObject) -> None:
    """A job without a selector of its own selects the pods that carry its UID."""
    uid = uid_of(obj)
    if not uid or spec.get("manualSelector") is True or spec.get("selector") is not None:
        return
    template = ensure_object(spec, "template")
    labels = ensure_object(ensure_object(template, "metadata"), "labels")
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = uid
        labels[f"{prefix}job-name"] = name_of(obj)
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    fill(spec, manualSelector=False)
    fill(ensure_object(obj, "metadata"), labels=dict(labels))


def _cron_job(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    fill(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    if isinstance(pod := at(spec, "jobTemplate", "spec", "template", "spec"), dict):
        pods.pod_spec(pod)
        fill(object_at(spec, "jobTemplate"), metadata={})
        fill(object_at(spec, "jobTemplate", "spec", "template"), metadata={})


def _autoscaler(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    cpu: JsonObject = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    fill(spec, minReplicas=1, metrics=[{"type": "Resource", "resource": cpu}])
    behavior = spec.get("behavior")
    if not isinstance(behavior, dict):
        return
    percent: JsonObject = {"type": "Percent", "value": 100, "periodSeconds": 15}
    four_pods: JsonObject = {"type": "Pods", "value": 4, "periodSeconds": 15}
    fill(
        ensure_object(behavior, "scaleUp"),
        stabilizationWindowSeconds=0,
        selectPolicy="Max",
        policies=[four_pods, dict(percent)],
    )
    fill(ensure_object(behavior, "scaleDown"), selectPolicy="Max", policies=[percent])


def _service(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    if not spec.get("type"):
        spec["type"] = "ClusterIP"
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        fill(ensure_object(ensure_object(spec, "sessionAffinityConfig"), "clientIP"), timeoutSeconds=10800)
    for port in objects_at(spec, "ports"):
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    kind = spec["type"]
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        fill(spec, internalTrafficPolicy="Cluster")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        fill(spec, externalTrafficPolicy="Cluster")
    if kind == "LoadBalancer":
        fill(spec, allocateLoadBalancerNodePorts=True)
    fill(ensure_object(obj, "status"), loadBalancer={})


def _event(obj: JsonObject) -> None:
    for moment in ("eventTime", "firstTimestamp", "lastTimestamp"):
        obj.setdefault(moment, None)
    fill(obj, reportingComponent="", reportingInstance="", source={})


def _endpoints(obj: JsonObject) -> None:
    for subset in objects_at(obj, "subsets"):
        for port in objects_at(subset, "ports"):
            fill(port, protocol="TCP")


def _endpoint_slice(obj: JsonObject) -> None:
    for port in objects_at(obj, "ports"):
        fill(port, name="", protocol="TCP")
    for endpoint in objects_at(obj, "endpoints"):
        fill(endpoint, conditions={})


def _secret(obj: JsonObject) -> None:
    texts = obj.pop("stringData", None)
    if isinstance(texts, dict) and texts:
        data = ensure_object(obj, "data")
        for key, text in texts.items():
            data[key] = base64.b64encode(text.encode()).decode() if isinstance(text, str) else text
    if not obj.get("type"):
        obj["type"] = "Opaque"


def _namespace(obj: JsonObject) -> None:
    metadata = ensure_object(obj, "metadata")
    if name := name_of(obj):
        ensure_object(metadata, "labels")["kubernetes.io/metadata.name"] = name
    if metadata.get("deletionTimestamp") is None:
        fill(ensure_object(obj, "spec"), finalizers=["kubernetes"])
        fill(ensure_object(obj, "status"), phase="Active")


def _persistent_volume(obj: JsonObject) -> None:
    fill(ensure_object(obj, "spec"), persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    fill(ensure_object(obj, "status"), phase="Pending")
    if isinstance(path := at(obj, "spec", "hostPath"), dict):
        fill(path, type="")


def _claim(obj: JsonObject) -> None:
    fill(ensure_object(obj, "spec"), volumeMode="Filesystem")
    fill(ensure_object(obj, "status"), phase="Pending")


def _limit_range(obj: JsonObject) -> None:
    for item in objects_at(obj, "spec", "limits"):
        if item.get("type") != "Container":
            continue
        for target, sources in (("default", ("max",)), ("defaultRequest", ("default", "min"))):
            for source in sources:
                for key, value in object_at(item, source).items():
                    fill(ensure_object(item, target), **{key: value})


def _network_policy(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    for direction in ("ingress", "egress"):
        for rule in objects_at(spec, direction):
            for port in objects_at(rule, "ports"):
                fill(port, protocol="TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    fill(spec, podSelector={})


def _ingress_class(obj: JsonObject) -> None:
    if isinstance(parameters := at(obj, "spec", "parameters"), dict):
        fill(parameters, scope="Cluster")


def _binding(obj: JsonObject) -> None:
    role = ensure_object(obj, "roleRef")
    if not role.get("apiGroup"):
        role["apiGroup"] = _RBAC
    for subject in objects_at(obj, "subjects"):
        if str_at(subject, "kind") in ("User", "Group") and not subject.get("apiGroup"):
            subject["apiGroup"] = _RBAC


def _selectors(target: JsonObject) -> None:
    fill(target, matchPolicy="Equivalent", namespaceSelector={}, objectSelector={})


def _webhooks(obj: JsonObject) -> None:
    for webhook in objects_at(obj, "webhooks"):
        fill(webhook, failurePolicy="Fail", timeoutSeconds=10)
        _selectors(webhook)
        _client(webhook.get("clientConfig"))
        for rule in objects_at(webhook, "rules"):
            fill(rule, scope="*")


def _mutating(obj: JsonObject) -> None:
    _webhooks(obj)
    for webhook in objects_at(obj, "webhooks"):
        fill(webhook, reinvocationPolicy="Never")


def _client(config: Json) -> None:
    if isinstance(service := at(config, "service"), dict):
        fill(service, port=443)


def _match_resources(target: Json) -> None:
    if isinstance(target, dict):
        _selectors(target)
        for key in ("resourceRules", "excludeResourceRules"):
            for rule in objects_at(target, key):
                fill(rule, scope="*")


def _policy(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    fill(spec, failurePolicy="Fail")
    _match_resources(spec.get("matchConstraints"))


def _policy_binding(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    _match_resources(spec.get("matchResources"))


def _crd(obj: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    names = ensure_object(spec, "names")
    kind = str_at(names, "kind")
    if kind and not names.get("singular"):
        names["singular"] = kind.lower()
    if kind and not names.get("listKind"):
        names["listKind"] = f"{kind}List"
    conversion = ensure_object(spec, "conversion")
    fill(conversion, strategy="None")
    _client(at(conversion, "webhook", "clientConfig"))


def _api_service(obj: JsonObject) -> None:
    if isinstance(service := at(obj, "spec", "service"), dict):
        fill(service, port=443)
