"""The built-in kinds that the local API server serves: names, scope, verbs and subresources as Kubernetes has them.

In: nothing. Out: `builtin_kinds()`, in the order in which `kubectl api-resources` lists them within a group. Kinds
that are only ever posted (reviews, bindings) have `create` as their one verb.
"""

from __future__ import annotations

from functools import cache

import msgspec

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_NAMESPACE_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")
_CREATE = ("create",)


class KindInfo(msgspec.Struct, frozen=True):
    """One served kind. `group` is empty for the core group; `subresources` are bare names (`status`, `scale`)."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    verbs: tuple[str, ...] = ALL_VERBS
    list_kind: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """`deployments.apps`, or `pods`: the name that messages use."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _kind(
    api_version: str,
    kind: str,
    plural: str,
    *,
    cluster: bool = False,
    short: str = "",
    categories: str = "",
    sub: str = "",
    verbs: tuple[str, ...] = ALL_VERBS,
) -> KindInfo:
    group, _, version = api_version.rpartition("/")
    return KindInfo(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        namespaced=not cluster,
        short_names=tuple(short.split()),
        categories=tuple(categories.split()),
        subresources=frozenset(sub.split()),
        verbs=verbs,
        list_kind=f"{kind}List",
    )


def _core() -> list[KindInfo]:
    pod_subresources = "attach binding ephemeralcontainers eviction exec log portforward proxy resize status"
    return [
        _kind("v1", "Binding", "bindings", verbs=_CREATE),
        _kind("v1", "ConfigMap", "configmaps", short="cm"),
        _kind("v1", "Endpoints", "endpoints", short="ep"),
        _kind("v1", "Event", "events", short="ev"),
        _kind("v1", "LimitRange", "limitranges", short="limits"),
        _kind("v1", "Namespace", "namespaces", cluster=True, short="ns", sub="finalize status", verbs=_NAMESPACE_VERBS),
        _kind("v1", "Node", "nodes", cluster=True, short="no", sub="proxy status"),
        _kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", short="pvc", sub="status"),
        _kind("v1", "PersistentVolume", "persistentvolumes", cluster=True, short="pv", sub="status"),
        _kind("v1", "Pod", "pods", short="po", categories="all", sub=pod_subresources),
        _kind("v1", "PodTemplate", "podtemplates"),
        _kind(
            "v1", "ReplicationController", "replicationcontrollers", short="rc", categories="all", sub="scale status"
        ),
        _kind("v1", "ResourceQuota", "resourcequotas", short="quota", sub="status"),
        _kind("v1", "Secret", "secrets"),
        _kind("v1", "ServiceAccount", "serviceaccounts", short="sa", sub="token"),
        _kind("v1", "Service", "services", short="svc", categories="all", sub="proxy status"),
    ]


def _workloads() -> list[KindInfo]:
    return [
        _kind("apps/v1", "ControllerRevision", "controllerrevisions"),
        _kind("apps/v1", "DaemonSet", "daemonsets", short="ds", categories="all", sub="status"),
        _kind("apps/v1", "Deployment", "deployments", short="deploy", categories="all", sub="scale status"),
        _kind("apps/v1", "ReplicaSet", "replicasets", short="rs", categories="all", sub="scale status"),
        _kind("apps/v1", "StatefulSet", "statefulsets", short="sts", categories="all", sub="scale status"),
        _kind("batch/v1", "CronJob", "cronjobs", short="cj", categories="all", sub="status"),
        _kind("batch/v1", "Job", "jobs", categories="all", sub="status"),
        *(
            _kind(v, "HorizontalPodAutoscaler", "horizontalpodautoscalers", short="hpa", categories="all", sub="status")
            for v in ("autoscaling/v2", "autoscaling/v1")
        ),
        _kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", short="pdb", sub="status"),
    ]


def _administration() -> list[KindInfo]:
    ext = "api-extensions"
    registration = "admissionregistration.k8s.io/v1"
    return [
        _kind(
            registration,
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            cluster=True,
            categories=ext,
        ),
        _kind(
            registration,
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            cluster=True,
            categories=ext,
            sub="status",
        ),
        _kind(
            registration,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            cluster=True,
            categories=ext,
        ),
        _kind(
            registration,
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            cluster=True,
            categories=ext,
        ),
        _kind(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            cluster=True,
            short="crd crds",
            categories=ext,
            sub="status",
        ),
        _kind("apiregistration.k8s.io/v1", "APIService", "apiservices", cluster=True, categories=ext, sub="status"),
        _kind(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            cluster=True,
            short="csr",
            sub="approval status",
        ),
        _kind("coordination.k8s.io/v1", "Lease", "leases"),
        _kind("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", cluster=True),
        _kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", cluster=True, short="pc"),
        _kind("storage.k8s.io/v1", "StorageClass", "storageclasses", cluster=True, short="sc"),
    ]


def _access() -> list[KindInfo]:
    authn, authz, rbac = "authentication.k8s.io/v1", "authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1"
    return [
        _kind(authn, "SelfSubjectReview", "selfsubjectreviews", cluster=True, verbs=_CREATE),
        _kind(authn, "TokenReview", "tokenreviews", cluster=True, verbs=_CREATE),
        _kind(authz, "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=_CREATE),
        _kind(authz, "SelfSubjectAccessReview", "selfsubjectaccessreviews", cluster=True, verbs=_CREATE),
        _kind(authz, "SelfSubjectRulesReview", "selfsubjectrulesreviews", cluster=True, verbs=_CREATE),
        _kind(authz, "SubjectAccessReview", "subjectaccessreviews", cluster=True, verbs=_CREATE),
        _kind(rbac, "ClusterRoleBinding", "clusterrolebindings", cluster=True),
        _kind(rbac, "ClusterRole", "clusterroles", cluster=True),
        _kind(rbac, "RoleBinding", "rolebindings"),
        _kind(rbac, "Role", "roles"),
    ]


def _network() -> list[KindInfo]:
    return [
        _kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
        _kind("events.k8s.io/v1", "Event", "events", short="ev"),
        _kind("networking.k8s.io/v1", "IngressClass", "ingressclasses", cluster=True),
        _kind("networking.k8s.io/v1", "Ingress", "ingresses", short="ing", sub="status"),
        _kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", short="netpol"),
    ]


@cache
def builtin_kinds() -> tuple[KindInfo, ...]:
    """Every built-in kind; a preferred version stands before the others of its group (autoscaling/v2 before v1)."""
    return (*_core(), *_workloads(), *_network(), *_access(), *_administration())
