"""Which workload a pod belongs to: the name and kind that metrics, traces and ISTIO_META_OWNER show. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meltem.objects import JsonObject, bool_at, labels_of, objects_at, str_at

_CRON_JOB = re.compile(r"(.+)-\d{8,10}")
_CONFIG_REVISION = re.compile(r"(.+)-\d+")


@dataclass(frozen=True, slots=True)
class Workload:
    """`Deployment` `apps/v1` `reviews-v1`, for instance."""

    name: str
    namespace: str
    kind: str
    api_version: str


def workload_of(pod: JsonObject, namespace: str) -> Workload:
    """By the controller in `ownerReferences`; a pod on its own is its own workload."""
    labels = labels_of(pod)
    for owner in objects_at(pod, "metadata", "ownerReferences"):
        if not bool_at(owner, "controller"):
            continue
        name, kind, version = str_at(owner, "name"), str_at(owner, "kind"), str_at(owner, "apiVersion")
        template_hash = labels.get("pod-template-hash", "")
        rollout_hash = labels.get("rollouts-pod-template-hash", "")
        if kind == "ReplicaSet" and rollout_hash and name.endswith(f"-{rollout_hash}"):
            return Workload(name.removesuffix(f"-{rollout_hash}"), namespace, "Rollout", "argoproj.io/v1alpha1")
        if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
            return Workload(name.removesuffix(f"-{template_hash}"), namespace, "Deployment", "apps/v1")
        if kind == "ReplicationController" and (found := _CONFIG_REVISION.fullmatch(name)):
            return Workload(found[1], namespace, "DeploymentConfig", "apps.openshift.io/v1")
        if kind == "Job" and (found := _CRON_JOB.fullmatch(name)):
            return Workload(found[1], namespace, "CronJob", "batch/v1")
        return Workload(name, namespace, kind, version)
    name = str_at(pod, "metadata", "name") or str_at(pod, "metadata", "generateName").rstrip("-")
    return Workload(name, namespace, "Pod", "v1")
