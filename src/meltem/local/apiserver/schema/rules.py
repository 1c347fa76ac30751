"""The rules of kinds, beyond what their schemas say: which module checks which kind.

In: the schema (it knows its kind), the object, the object before the update. Out: `FieldError`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

from meltem.local.apiserver.schema import crd, rules_cel
from meltem.local.apiserver.schema import rules_config as config
from meltem.local.apiserver.schema import rules_network as network
from meltem.local.apiserver.schema import rules_pod as pods
from meltem.local.apiserver.schema import rules_workloads as workloads
from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.rules_meta import metadata_rules, name_check
from meltem.local.apiserver.schema.types import Schema, metadata_name_schema
from meltem.local.apiserver.schema.values import check
from meltem.objects import JsonObject

Rule: TypeAlias = Callable[[JsonObject, JsonObject | None], Iterator[FieldError]]


def kind_rules(schema: Schema, obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    """What the kind asks of the object as a whole, and of the change from `old`."""
    group, _, kind = schema.gvk
    if "metadata" in schema.properties:
        yield from metadata_rules(name_check(group, kind, builtin=schema.builtin), obj, old)
    if schema.builtin:
        rule = _rules().get((group, kind))
        if rule is not None:
            yield from rule(obj, old)
        return
    restricted = metadata_name_schema(schema)
    if restricted is not None:
        yield from check(restricted, obj.get("metadata"), "metadata")


@cache
def _rules() -> dict[tuple[str, str], Rule]:
    rbac, registration = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
    return {
        ("", "Pod"): pods.pod,
        ("", "ReplicationController"): workloads.replication_controller,
        ("apps", "Deployment"): workloads.deployment,
        ("apps", "ReplicaSet"): workloads.replica_set,
        ("apps", "StatefulSet"): workloads.stateful_set,
        ("apps", "DaemonSet"): workloads.daemon_set,
        ("batch", "Job"): workloads.job,
        ("batch", "CronJob"): workloads.cron_job,
        ("autoscaling", "HorizontalPodAutoscaler"): workloads.autoscaler,
        ("policy", "PodDisruptionBudget"): workloads.disruption_budget,
        ("", "Service"): network.service,
        ("", "Endpoints"): network.endpoints,
        ("discovery.k8s.io", "EndpointSlice"): network.endpoint_slice,
        ("networking.k8s.io", "Ingress"): network.ingress,
        ("networking.k8s.io", "NetworkPolicy"): network.network_policy,
        ("", "ConfigMap"): config.config_map,
        ("", "Secret"): config.secret,
        ("", "PersistentVolumeClaim"): config.claim,
        ("coordination.k8s.io", "Lease"): config.lease,
        (rbac, "Role"): config.role,
        (rbac, "ClusterRole"): config.role,
        (rbac, "RoleBinding"): config.role_binding,
        (rbac, "ClusterRoleBinding"): config.role_binding,
        (registration, "MutatingWebhookConfiguration"): config.webhooks,
        (registration, "ValidatingWebhookConfiguration"): config.webhooks,
        (registration, "ValidatingAdmissionPolicy"): rules_cel.policy,
        ("apiextensions.k8s.io", "CustomResourceDefinition"): crd.definition,
    }
