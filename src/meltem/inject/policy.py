"""Whether a pod gets a proxy. Pure.

The API server's webhook rules have already looked at namespace labels; this is the second look, with the precedence of
Istio: host network never; system namespaces never; label (older: annotation) `sidecar.istio.io/inject` of the pod; the
never-selectors; the always-selectors; the configured policy. `namespace_decides` is the first look, for those who have
no API server (`istioctl kube-inject`, `check-inject`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meltem.inject.config import InjectorConfig
from meltem.objects import (
    JsonObject,
    annotations_of,
    bool_at,
    labels_of,
    objects_at,
    str_at,
    string_map_at,
    strings_at,
)

INJECT = "sidecar.istio.io/inject"
REVISION = "istio.io/rev"
NAMESPACE_SWITCH = "istio-injection"
IGNORED_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason`: one clause, for logs and for `istioctl x check-inject`."""

    inject: bool
    reason: str


def decide(pod: JsonObject, namespace: str, config: InjectorConfig) -> Decision:
    """For a pod (or pod template) that has reached the webhook."""
    if bool_at(pod, "spec", "hostNetwork"):
        return Decision(False, "the pod uses the host's network")
    if namespace in IGNORED_NAMESPACES:
        return Decision(False, f"namespace {namespace} is never injected")
    labels = labels_of(pod)
    asked = labels.get(INJECT, annotations_of(pod).get(INJECT, ""))
    if asked == "true":
        return Decision(True, f"the pod says {INJECT}=true")
    if asked == "false":
        return Decision(False, f"the pod says {INJECT}=false")
    for selector in config.never_inject:
        if selector_matches(selector, labels):
            return Decision(False, "the pod's labels match a neverInjectSelector")
    for selector in config.always_inject:
        if selector_matches(selector, labels):
            return Decision(True, "the pod's labels match an alwaysInjectSelector")
    return Decision(config.policy == "enabled", f"the injection policy is {config.policy}")


def namespace_decides(
    pod_labels: Mapping[str, str],
    namespace_labels: Mapping[str, str],
    *,
    revision: str = "default",
    tags: frozenset[str] = frozenset(),
    default_revision: bool = True,
    enabled_by_default: bool = False,
) -> Decision:
    """Whether the webhooks of one revision (with its tags) would be called for a pod, by labels alone."""
    names = tags | {revision}
    switch = namespace_labels.get(NAMESPACE_SWITCH, "")
    namespace_revision = namespace_labels.get(REVISION, "")
    asked = pod_labels.get(INJECT, "")
    pod_revision = pod_labels.get(REVISION, "")
    if switch == "disabled":
        return Decision(False, f"the namespace says {NAMESPACE_SWITCH}=disabled")
    if asked == "false":
        return Decision(False, f"the pod says {INJECT}=false")
    if switch == "enabled":
        return Decision(
            default_revision, f"the namespace says {NAMESPACE_SWITCH}=enabled: the default revision injects"
        )
    if namespace_revision:
        mine = namespace_revision in names
        return Decision(mine, f"the namespace says {REVISION}={namespace_revision}")
    if pod_revision:
        mine = pod_revision in names
        return Decision(mine, f"the pod says {REVISION}={pod_revision}")
    if asked == "true":
        return Decision(default_revision, f"the pod says {INJECT}=true: the default revision injects")
    return Decision(
        enabled_by_default and default_revision,
        "neither pod nor namespace says anything"
        + (": enableNamespacesByDefault is set" if enabled_by_default else ""),
    )


def selector_matches(selector: JsonObject, labels: Mapping[str, str]) -> bool:
    """A Kubernetes label selector; an empty one matches nothing here, so that a slip does not catch every pod."""
    exact = string_map_at(selector, "matchLabels")
    expressions = objects_at(selector, "matchExpressions")
    if not exact and not expressions:
        return False
    if any(labels.get(k) != v for k, v in exact.items()):
        return False
    return all(_expression(e, labels) for e in expressions)


def _expression(expression: JsonObject, labels: Mapping[str, str]) -> bool:
    key = str_at(expression, "key")
    values = strings_at(expression, "values")
    match str_at(expression, "operator"):
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False
