"""The roles and bindings that every Kubernetes cluster starts with."""

from __future__ import annotations

from collections.abc import Sequence

from meltem.local.apiserver.authorization import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES
from meltem.objects import Json, JsonObject

_GROUP = "rbac.authorization.k8s.io"
_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")

_VIEWED = {
    "": (
        "configmaps endpoints events limitranges namespaces namespaces/status persistentvolumeclaims"
        " persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale"
        " replicationcontrollers/status resourcequotas resourcequotas/status serviceaccounts services services/status"
    ),
    "apps": (
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets"
        " replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"
    ),
    "autoscaling": "horizontalpodautoscalers horizontalpodautoscalers/status",
    "batch": "cronjobs cronjobs/status jobs jobs/status",
    "discovery.k8s.io": "endpointslices",
    "events.k8s.io": "events",
    "networking.k8s.io": "ingresses ingresses/status networkpolicies",
    "policy": "poddisruptionbudgets poddisruptionbudgets/status",
}
_EDITED = {
    "": (
        "configmaps endpoints events persistentvolumeclaims pods pods/attach pods/exec pods/portforward pods/proxy"
        " pods/eviction replicationcontrollers replicationcontrollers/scale secrets serviceaccounts"
        " serviceaccounts/token services services/proxy"
    ),
    "apps": (
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets"
        " statefulsets/scale"
    ),
    "autoscaling": "horizontalpodautoscalers",
    "batch": "cronjobs jobs",
    "networking.k8s.io": "ingresses networkpolicies",
    "policy": "poddisruptionbudgets",
    "coordination.k8s.io": "leases",
}


def default_rbac() -> list[tuple[str, JsonObject]]:
    """(storage, object) of every default role and binding."""
    roles = [*_user_roles(), *_system_roles()]
    return [*((CLUSTER_ROLES, r) for r in roles), *((CLUSTER_ROLE_BINDINGS, b) for b in _bindings())]


def _rule(group: str, resources: str, verbs: Sequence[str]) -> JsonObject:
    return {"apiGroups": [group], "resources": [*resources.split()], "verbs": [*verbs]}


def _paths(*paths: str) -> JsonObject:
    return {"nonResourceURLs": [*paths], "verbs": ["get"]}


def _role(
    name: str, rules: Sequence[JsonObject], *, labels: dict[str, str] | None = None, aggregates: Sequence[str] = ()
) -> JsonObject:
    meta: JsonObject = {
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults", **(labels or {})},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    }
    role: JsonObject = {"apiVersion": f"{_GROUP}/v1", "kind": "ClusterRole", "metadata": meta, "rules": [*rules]}
    if aggregates:
        selectors: list[Json] = [{"matchLabels": {f"{_GROUP}/aggregate-to-{a}": "true"}} for a in aggregates]
        role["aggregationRule"] = {"clusterRoleSelectors": selectors}
    return role


def _user_roles() -> list[JsonObject]:
    view = [_rule(g, r, _READ) for g, r in _VIEWED.items()]
    edit = [_rule("", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", _READ)]
    edit.append(_rule("coordination.k8s.io", "leases", _READ))
    edit.append(_rule("", "serviceaccounts", ("impersonate",)))
    edit.extend(_rule(g, r, _WRITE) for g, r in _EDITED.items())
    admin = [
        _rule("authorization.k8s.io", "localsubjectaccessreviews", ("create",)),
        _rule(_GROUP, "rolebindings roles", (*_WRITE, *_READ)),
    ]
    prefix = f"{_GROUP}/aggregate-to-"
    return [
        _role(
            "cluster-admin",
            [_rule("*", "*", ("*",)), {"nonResourceURLs": ["*"], "verbs": ["*"]}],
        ),
        _role("admin", [], aggregates=["admin"]),
        _role("edit", [], aggregates=["edit"], labels={f"{prefix}admin": "true"}),
        _role("view", [], aggregates=["view"], labels={f"{prefix}edit": "true"}),
        _role("system:aggregate-to-admin", admin, labels={f"{prefix}admin": "true"}),
        _role("system:aggregate-to-edit", edit, labels={f"{prefix}edit": "true"}),
        _role("system:aggregate-to-view", view, labels={f"{prefix}view": "true"}),
    ]


def _system_roles() -> list[JsonObject]:
    reviews = [
        _rule("authentication.k8s.io", "tokenreviews", ("create",)),
        _rule("authorization.k8s.io", "subjectaccessreviews", ("create",)),
    ]
    basic = [
        _rule("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", ("create",)),
        _rule("authentication.k8s.io", "selfsubjectreviews", ("create",)),
    ]
    discovery = _paths(
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    )
    public = _paths("/healthz", "/livez", "/readyz", "/version", "/version/")
    issuer = _paths(
        "/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/"
    )
    monitoring = _paths(
        "/metrics", "/metrics/slis", "/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*"
    )
    node = [
        *reviews,
        _rule("", "nodes nodes/status pods pods/status pods/eviction events", (*_WRITE, *_READ)),
        _rule("", "configmaps secrets services persistentvolumes persistentvolumeclaims", _READ),
        _rule("", "serviceaccounts/token", ("create",)),
        _rule("coordination.k8s.io", "leases", (*_WRITE, *_READ)),
        _rule("discovery.k8s.io", "endpointslices", _READ),
    ]
    dns = [
        _rule("", "endpoints services pods namespaces", ("list", "watch")),
        _rule("discovery.k8s.io", "endpointslices", ("list", "watch")),
    ]
    return [
        _role("system:auth-delegator", reviews),
        _role("system:basic-user", basic),
        _role("system:discovery", [discovery]),
        _role("system:public-info-viewer", [public]),
        _role("system:service-account-issuer-discovery", [issuer]),
        _role("system:monitoring", [monitoring]),
        _role("system:node", node),
        _role("system:kube-dns", dns),
        _role(
            "system:kube-scheduler", [_rule("", "pods nodes", _READ), _rule("", "pods/binding bindings", ("create",))]
        ),
        _role(
            "system:kube-controller-manager",
            [_rule("*", "*", _READ), _rule("", "events", ("create", "patch", "update"))],
        ),
    ]


def _bindings() -> list[JsonObject]:
    wanted = {
        "cluster-admin": ("cluster-admin", ["system:masters"]),
        "system:basic-user": ("system:basic-user", ["system:authenticated"]),
        "system:discovery": ("system:discovery", ["system:authenticated"]),
        "system:public-info-viewer": ("system:public-info-viewer", ["system:authenticated", "system:unauthenticated"]),
        "system:service-account-issuer-discovery": (
            "system:service-account-issuer-discovery",
            ["system:serviceaccounts"],
        ),
        "system:monitoring": ("system:monitoring", ["system:monitoring"]),
        "system:node": ("system:node", ["system:nodes"]),
    }
    return [_binding(name, role, groups) for name, (role, groups) in wanted.items()]


def _binding(name: str, role: str, groups: Sequence[str]) -> JsonObject:
    subjects: list[Json] = [{"apiGroup": _GROUP, "kind": "Group", "name": g} for g in groups]
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    }
