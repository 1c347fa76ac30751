"""The columns of the built-in kinds and how their cells are made.

`printers()` maps (group, kind) to a `Printer`; pods have a module of their own. Every row function takes the object
and the time in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import msgspec

from meltem.clock import parse_rfc3339
from meltem.objects import (
    Json,
    JsonObject,
    bool_at,
    int_at,
    list_at,
    name_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
)

NONE = "<none>"
UNKNOWN = "<unknown>"


class Column(msgspec.Struct, frozen=True):
    name: str
    type: str = "string"
    format: str = ""
    priority: int = 0


class Printer(msgspec.Struct, frozen=True):
    columns: tuple[Column, ...]
    row: Callable[[JsonObject, float], list[Json]]


def human_duration(seconds: float) -> str:
    """`45s`, `3m20s`, `5h`, `12d`: the two most telling units, as kubectl shows ages."""
    if seconds < -1:
        return "<invalid>"
    total = max(0, int(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return f"{days // 365}y{days % 365}d" if days % 365 else f"{days // 365}y"
    return f"{days // 365}y"


def since(text: str, now: float) -> str:
    """The time since an RFC 3339 moment; `<unknown>` for none."""
    if not text:
        return UNKNOWN
    try:
        return human_duration(now - parse_rfc3339(text))
    except ValueError:
        return UNKNOWN


def age(obj: JsonObject, now: float) -> str:
    return since(str_at(obj, "metadata", "creationTimestamp"), now)


def columns(spec: str) -> tuple[Column, ...]:
    """`Name Ready:string Desired:integer +Images`: names with types; `+` marks those of `-o wide`, `_` is a space."""
    made: list[Column] = []
    for word in spec.split():
        name, _, kind = word.removeprefix("+").partition(":")
        shown = name.replace("_", " ")
        made.append(
            Column(
                shown, kind or "string", "name" if shown == "Name" else "", priority=1 if word.startswith("+") else 0
            )
        )
    return tuple(made)


def selector_text(selector: JsonObject) -> str:
    """A LabelSelector as text: `app=a,tier in (x,y),!old`."""
    terms = [f"{k}={v}" for k, v in sorted(string_map_at(selector, "matchLabels").items())]
    for term in objects_at(selector, "matchExpressions"):
        key, values = str_at(term, "key"), ",".join(sorted(strings_at(term, "values")))
        match term.get("operator"):
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(key)
            case _:
                terms.append(f"!{key}")
    return ",".join(terms) or NONE


def labels_text(labels: dict[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(labels.items())) or NONE


def containers(pod_spec: JsonObject) -> tuple[str, str]:
    """Names and images of the containers, comma-separated."""
    found = objects_at(pod_spec, "containers")
    return ",".join(str_at(c, "name") for c in found), ",".join(str_at(c, "image") for c in found)


def _template(obj: JsonObject) -> tuple[str, str]:
    return containers(object_at(obj, "spec", "template", "spec"))


def _deployment(obj: JsonObject, now: float) -> list[Json]:
    ready = f"{int_at(obj, 'status', 'readyReplicas')}/{int_at(obj, 'spec', 'replicas')}"
    updated, available = int_at(obj, "status", "updatedReplicas"), int_at(obj, "status", "availableReplicas")
    selector = selector_text(object_at(obj, "spec", "selector"))
    return [name_of(obj), ready, updated, available, age(obj, now), *_template(obj), selector]


def _replica_set(obj: JsonObject, now: float) -> list[Json]:
    counts = (
        int_at(obj, "spec", "replicas"),
        int_at(obj, "status", "replicas"),
        int_at(obj, "status", "readyReplicas"),
    )
    selector = selector_text(object_at(obj, "spec", "selector"))
    return [name_of(obj), *counts, age(obj, now), *_template(obj), selector]


def _replication_controller(obj: JsonObject, now: float) -> list[Json]:
    row = _replica_set(obj, now)
    return [*row[:-1], labels_text(string_map_at(obj, "spec", "selector"))]


def _stateful_set(obj: JsonObject, now: float) -> list[Json]:
    ready = f"{int_at(obj, 'status', 'readyReplicas')}/{int_at(obj, 'spec', 'replicas')}"
    return [name_of(obj), ready, age(obj, now), *_template(obj)]


def _daemon_set(obj: JsonObject, now: float) -> list[Json]:
    keys = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    nodes = labels_text(string_map_at(obj, "spec", "template", "spec", "nodeSelector"))
    selector = selector_text(object_at(obj, "spec", "selector"))
    counts = [int_at(obj, "status", key) for key in keys]
    return [name_of(obj), *counts, nodes, age(obj, now), *_template(obj), selector]


def _job(obj: JsonObject, now: float) -> list[Json]:
    done, wanted = int_at(obj, "status", "succeeded"), object_at(obj, "spec").get("completions")
    parallel = int_at(obj, "spec", "parallelism")
    if wanted is not None:
        completions = f"{done}/{wanted}"
    else:
        completions = f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"
    start, end = str_at(obj, "status", "startTime"), str_at(obj, "status", "completionTime")
    took = ""
    if start:
        took = human_duration((parse_rfc3339(end) if end else now) - parse_rfc3339(start))
    selector = selector_text(object_at(obj, "spec", "selector"))
    return [name_of(obj), _job_status(obj), completions, took, age(obj, now), *_template(obj), selector]


def _job_status(obj: JsonObject) -> str:
    true = {str_at(c, "type") for c in objects_at(obj, "status", "conditions") if c.get("status") == "True"}
    for kind, shown in (("Complete", "Complete"), ("Failed", "Failed")):
        if kind in true:
            return shown
    if str_at(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if kind in true:
            return kind
    return "Running"


def _cron_job(obj: JsonObject, now: float) -> list[Json]:
    last = str_at(obj, "status", "lastScheduleTime")
    pod = object_at(obj, "spec", "jobTemplate", "spec", "template", "spec")
    return [
        name_of(obj),
        str_at(obj, "spec", "schedule"),
        str_at(obj, "spec", "timeZone") or NONE,
        "True" if bool_at(obj, "spec", "suspend") else "False",
        len(list_at(obj, "status", "active")),
        since(last, now) if last else NONE,
        age(obj, now),
        *containers(pod),
        selector_text(object_at(obj, "spec", "jobTemplate", "spec", "selector")),
    ]


def _autoscaler(obj: JsonObject, now: float) -> list[Json]:
    target = object_at(obj, "spec", "scaleTargetRef")
    least = object_at(obj, "spec").get("minReplicas")
    return [
        name_of(obj),
        f"{str_at(target, 'kind')}/{str_at(target, 'name')}",
        _targets(obj),
        "<unset>" if least is None else str(least),
        int_at(obj, "spec", "maxReplicas"),
        int_at(obj, "status", "currentReplicas"),
        age(obj, now),
    ]


def _targets(obj: JsonObject) -> str:
    specs, found = objects_at(obj, "spec", "metrics"), objects_at(obj, "status", "currentMetrics")
    shown: list[str] = []
    for index, metric in enumerate(specs):
        source = next(
            (metric[k] for k in ("resource", "pods", "object", "external", "containerResource") if k in metric), None
        )
        kind = str_at(metric, "type")
        key = kind[:1].lower() + kind[1:]
        current = object_at(found[index], key, "current") if index < len(found) else {}
        target = object_at(source, "target")
        label = f"{str_at(source, 'name')}: " if kind in ("Resource", "ContainerResource") else ""
        if target.get("averageUtilization") is not None:
            now = current.get("averageUtilization")
            shown.append(f"{label}{UNKNOWN if now is None else f'{now}%'}/{target['averageUtilization']}%")
        else:
            average = target.get("averageValue") is not None
            unit = "averageValue" if average else "value"
            suffix = " (avg)" if average and kind in ("Object", "External") else ""
            shown.append(f"{label}{current.get(unit) or UNKNOWN}/{target.get(unit) or '<auto>'}{suffix}")
    if not shown:
        return NONE
    return ", ".join(shown[:2]) + (f" + {len(shown) - 2} more..." if len(shown) > 2 else "")


def _disruption_budget(obj: JsonObject, now: float) -> list[Json]:
    spec = object_at(obj, "spec")
    bounds = [str(spec[k]) if spec.get(k) is not None else "N/A" for k in ("minAvailable", "maxUnavailable")]
    return [name_of(obj), *bounds, int_at(obj, "status", "disruptionsAllowed"), age(obj, now)]


def _name_age(*paths: tuple[str, ...]) -> Callable[[JsonObject, float], list[Json]]:
    """A row of the name, the strings at the paths, and the age."""

    def row(obj: JsonObject, now: float) -> list[Json]:
        return [name_of(obj), *(str_at(obj, *path) for path in paths), age(obj, now)]

    return row


def _count(key: str) -> Callable[[JsonObject, float], list[Json]]:
    def row(obj: JsonObject, now: float) -> list[Json]:
        return [name_of(obj), len(list_at(obj, key)), age(obj, now)]

    return row


def _namespace(obj: JsonObject, now: float) -> list[Json]:
    return [name_of(obj), str_at(obj, "status", "phase"), age(obj, now)]


def _secret(obj: JsonObject, now: float) -> list[Json]:
    return [name_of(obj), str_at(obj, "type"), len(object_at(obj, "data")), age(obj, now)]


def _config_map(obj: JsonObject, now: float) -> list[Json]:
    return [name_of(obj), len(object_at(obj, "data")) + len(object_at(obj, "binaryData")), age(obj, now)]


def _role_binding(obj: JsonObject, now: float) -> list[Json]:
    role = f"{str_at(obj, 'roleRef', 'kind')}/{str_at(obj, 'roleRef', 'name')}"
    return [name_of(obj), role, age(obj, now), *(_subjects(obj, k) for k in ("User", "Group", "ServiceAccount"))]


def _subjects(obj: JsonObject, kind: str) -> str:
    found: Iterable[JsonObject] = (s for s in objects_at(obj, "subjects") if s.get("kind") == kind)
    if kind == "ServiceAccount":
        return ", ".join(f"{str_at(s, 'namespace')}/{str_at(s, 'name')}" for s in found)
    return ", ".join(str_at(s, "name") for s in found)


def _signing_request(obj: JsonObject, now: float) -> list[Json]:
    seconds = object_at(obj, "spec").get("expirationSeconds")
    wanted = human_duration(seconds) if isinstance(seconds, int) else NONE
    states = [str_at(c, "type") for c in objects_at(obj, "status", "conditions")]
    shown = next((s for s in ("Denied", "Approved") if s in states), "Pending")
    if "Failed" in states:
        shown += ",Failed"
    if str_at(obj, "status", "certificate"):
        shown += ",Issued"
    return [
        name_of(obj),
        age(obj, now),
        str_at(obj, "spec", "signerName"),
        str_at(obj, "spec", "username"),
        wanted,
        shown,
    ]


def _api_service(obj: JsonObject, now: float) -> list[Json]:
    service = object_at(obj, "spec", "service")
    where = f"{str_at(service, 'namespace')}/{str_at(service, 'name')}" if service else "Local"
    state = next((c for c in objects_at(obj, "status", "conditions") if c.get("type") == "Available"), JsonObject())
    shown = str_at(state, "status", default="Unknown")
    if shown != "True" and state.get("reason"):
        shown = f"{shown} ({str_at(state, 'reason')})"
    return [name_of(obj), where, shown, age(obj, now)]


def _controller_revision(obj: JsonObject, now: float) -> list[Json]:
    owner = next((o for o in objects_at(obj, "metadata", "ownerReferences") if o.get("controller") is True), None)
    group = str_at(owner, "apiVersion").rpartition("/")[0]
    kind = str_at(owner, "kind").lower()
    shown = f"{kind}{f'.{group}' if group else ''}/{str_at(owner, 'name')}" if owner else NONE
    return [name_of(obj), shown, int_at(obj, "revision"), age(obj, now)]


def _policy(obj: JsonObject, now: float) -> list[Json]:
    kind = object_at(obj, "spec", "paramKind")
    shown = f"{str_at(kind, 'apiVersion')}/{str_at(kind, 'kind')}" if kind else "<unset>"
    return [name_of(obj), len(list_at(obj, "spec", "validations")), shown, age(obj, now)]


def _policy_binding(obj: JsonObject, now: float) -> list[Json]:
    ref = object_at(obj, "spec", "paramRef")
    shown = "<unset>"
    if ref:
        namespace = str_at(ref, "namespace", default="*")
        shown = f"{namespace}/{str_at(ref, 'name')}" if ref.get("name") else "*"
    return [name_of(obj), str_at(obj, "spec", "policyName"), shown, age(obj, now)]


def _priority_class(obj: JsonObject, now: float) -> list[Json]:
    policy = str_at(obj, "preemptionPolicy", default="PreemptLowerPriority")
    return [name_of(obj), int_at(obj, "value"), bool_at(obj, "globalDefault"), age(obj, now), policy]


def _storage_class(obj: JsonObject, now: float) -> list[Json]:
    name = name_of(obj)
    if str_at(obj, "metadata", "annotations", "storageclass.kubernetes.io/is-default-class") == "true":
        name += " (default)"
    expand = bool_at(obj, "allowVolumeExpansion")
    strings = [str_at(obj, k) for k in ("provisioner", "reclaimPolicy", "volumeBindingMode")]
    return [name, *strings, expand, age(obj, now)]


def _pod_template(obj: JsonObject, now: float) -> list[Json]:
    del now
    pod = object_at(obj, "template")
    return [name_of(obj), *containers(object_at(pod, "spec")), labels_text(string_map_at(pod, "metadata", "labels"))]


def _service_account(obj: JsonObject, now: float) -> list[Json]:
    return [name_of(obj), len(list_at(obj, "secrets")), age(obj, now)]


@cache
def printers() -> dict[tuple[str, str], Printer]:
    """(group, kind) → its printer; a kind that is not here shows its name and when it was made."""
    from meltem.local.apiserver.schema import printers_core as core

    apps, batch, rbac = "apps", "batch", "rbac.authorization.k8s.io"
    registration, wide = "admissionregistration.k8s.io", "+Containers +Images +Selector"
    counted = "Name Desired:integer Current:integer Ready:integer"
    table: dict[tuple[str, str], tuple[str, Callable[[JsonObject, float], list[Json]]]] = {
        (apps, "Deployment"): (f"Name Ready Up-to-date:integer Available:integer Age {wide}", _deployment),
        (apps, "ReplicaSet"): (f"{counted} Age {wide}", _replica_set),
        ("", "ReplicationController"): (f"{counted} Age {wide}", _replication_controller),
        (apps, "StatefulSet"): ("Name Ready Age +Containers +Images", _stateful_set),
        (apps, "DaemonSet"): (f"{counted} Up-to-date:integer Available:integer Node_Selector Age {wide}", _daemon_set),
        (apps, "ControllerRevision"): ("Name Controller Revision:integer Age", _controller_revision),
        (batch, "Job"): (f"Name Status Completions Duration Age {wide}", _job),
        (batch, "CronJob"): (
            f"Name Schedule Timezone Suspend:boolean Active:integer Last_Schedule Age {wide}",
            _cron_job,
        ),
        ("autoscaling", "HorizontalPodAutoscaler"): (
            "Name Reference Targets MinPods MaxPods:integer Replicas:integer Age",
            _autoscaler,
        ),
        ("policy", "PodDisruptionBudget"): (
            "Name Min_Available Max_Unavailable Allowed_Disruptions:integer Age",
            _disruption_budget,
        ),
        ("", "Namespace"): ("Name Status Age", _namespace),
        ("", "Secret"): ("Name Type Data:integer Age", _secret),
        ("", "ConfigMap"): ("Name Data:integer Age", _config_map),
        ("", "ServiceAccount"): ("Name Secrets Age", _service_account),
        ("", "PodTemplate"): ("Name Containers Images Pod_Labels", _pod_template),
        (rbac, "RoleBinding"): ("Name Role Age +Users +Groups +ServiceAccounts", _role_binding),
        (rbac, "ClusterRoleBinding"): ("Name Role Age +Users +Groups +ServiceAccounts", _role_binding),
        ("certificates.k8s.io", "CertificateSigningRequest"): (
            "Name Age SignerName Requestor RequestedDuration Condition",
            _signing_request,
        ),
        ("coordination.k8s.io", "Lease"): ("Name Holder Age", _name_age(("spec", "holderIdentity"))),
        ("node.k8s.io", "RuntimeClass"): ("Name Handler Age", _name_age(("handler",))),
        ("apiregistration.k8s.io", "APIService"): ("Name Service Available Age", _api_service),
        (registration, "MutatingWebhookConfiguration"): ("Name Webhooks:integer Age", _count("webhooks")),
        (registration, "ValidatingWebhookConfiguration"): ("Name Webhooks:integer Age", _count("webhooks")),
        (registration, "ValidatingAdmissionPolicy"): ("Name Validations:integer ParamKind Age", _policy),
        (registration, "ValidatingAdmissionPolicyBinding"): ("Name PolicyName ParamRef Age", _policy_binding),
        ("scheduling.k8s.io", "PriorityClass"): (
            "Name Value:integer Global-Default:boolean Age PreemptionPolicy",
            _priority_class,
        ),
        ("storage.k8s.io", "StorageClass"): (
            "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age",
            _storage_class,
        ),
        **core.printers(),
    }
    return {key: Printer(columns(spec), row) for key, (spec, row) in table.items()}
