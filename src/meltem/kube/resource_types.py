"""Which kinds of object there are: group, version, plural name, kind, and whether they live in a namespace.

In: nothing. Out: `ResourceType` and one constant for every kind that Meltem itself reads or writes. Kinds that are not
listed here are found by discovery (`KubeClient.resource_type`). Sources: the Kubernetes 1.36 API and Istio's CRDs.
"""

from __future__ import annotations

import msgspec


class ResourceType(msgspec.Struct, frozen=True, order=True):
    """One served resource. `group` is empty for the core group; `plural` is the name in URLs."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` for the core group: what stands in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """`deployments.apps`, `pods`: how people and RBAC name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        """`/api/v1` or `/apis/<group>/<version>`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of a collection (no name), an object, or one of its subresources."""
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{self.root}{scope}/{self.plural}{tail}"


def _core(plural: str, kind: str, *, namespaced: bool = True) -> ResourceType:
    return ResourceType("", "v1", plural, kind, namespaced)


def _global(group: str, version: str, plural: str, kind: str) -> ResourceType:
    return ResourceType(group, version, plural, kind, False)


def _named(group: str, version: str, plural: str, kind: str) -> ResourceType:
    return ResourceType(group, version, plural, kind, True)


# Core
PODS = _core("pods", "Pod")
SERVICES = _core("services", "Service")
ENDPOINTS = _core("endpoints", "Endpoints")
NODES = _core("nodes", "Node", namespaced=False)
NAMESPACES = _core("namespaces", "Namespace", namespaced=False)
SECRETS = _core("secrets", "Secret")
CONFIG_MAPS = _core("configmaps", "ConfigMap")
SERVICE_ACCOUNTS = _core("serviceaccounts", "ServiceAccount")
EVENTS = _core("events", "Event")
PERSISTENT_VOLUMES = _core("persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = _core("persistentvolumeclaims", "PersistentVolumeClaim")
REPLICATION_CONTROLLERS = _core("replicationcontrollers", "ReplicationController")
POD_TEMPLATES = _core("podtemplates", "PodTemplate")
RESOURCE_QUOTAS = _core("resourcequotas", "ResourceQuota")
LIMIT_RANGES = _core("limitranges", "LimitRange")

# Workloads
DEPLOYMENTS = _named("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = _named("apps", "v1", "replicasets", "ReplicaSet")
STATEFUL_SETS = _named("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS = _named("apps", "v1", "daemonsets", "DaemonSet")
CONTROLLER_REVISIONS = _named("apps", "v1", "controllerrevisions", "ControllerRevision")
JOBS = _named("batch", "v1", "jobs", "Job")
CRON_JOBS = _named("batch", "v1", "cronjobs", "CronJob")
POD_DISRUPTION_BUDGETS = _named("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
HORIZONTAL_POD_AUTOSCALERS = _named("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")

# Network
ENDPOINT_SLICES = _named("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
INGRESSES = _named("networking.k8s.io", "v1", "ingresses", "Ingress")
INGRESS_CLASSES = _global("networking.k8s.io", "v1", "ingressclasses", "IngressClass")
NETWORK_POLICIES = _named("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")

# Cluster machinery
LEASES = _named("coordination.k8s.io", "v1", "leases", "Lease")
CRDS = _global("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
API_SERVICES = _global("apiregistration.k8s.io", "v1", "apiservices", "APIService")
_ADMISSION = "admissionregistration.k8s.io"
MUTATING_WEBHOOKS = _global(_ADMISSION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration")
VALIDATING_WEBHOOKS = _global(_ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
VALIDATING_ADMISSION_POLICIES = _global(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
VALIDATING_ADMISSION_POLICY_BINDINGS = _global(
    _ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"
)
CLUSTER_ROLES = _global("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole")
CLUSTER_ROLE_BINDINGS = _global("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding")
ROLES = _named("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = _named("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
PRIORITY_CLASSES = _global("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass")
STORAGE_CLASSES = _global("storage.k8s.io", "v1", "storageclasses", "StorageClass")
TOKEN_REVIEWS = _global("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
SUBJECT_ACCESS_REVIEWS = _global("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")
SELF_SUBJECT_ACCESS_REVIEWS = _global(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"
)
CERTIFICATE_SIGNING_REQUESTS = _global(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest"
)
CLUSTER_TRUST_BUNDLES = _global("certificates.k8s.io", "v1beta1", "clustertrustbundles", "ClusterTrustBundle")

# Istio
VIRTUAL_SERVICES = _named("networking.istio.io", "v1", "virtualservices", "VirtualService")
DESTINATION_RULES = _named("networking.istio.io", "v1", "destinationrules", "DestinationRule")
GATEWAYS = _named("networking.istio.io", "v1", "gateways", "Gateway")
SERVICE_ENTRIES = _named("networking.istio.io", "v1", "serviceentries", "ServiceEntry")
SIDECARS = _named("networking.istio.io", "v1", "sidecars", "Sidecar")
WORKLOAD_ENTRIES = _named("networking.istio.io", "v1", "workloadentries", "WorkloadEntry")
WORKLOAD_GROUPS = _named("networking.istio.io", "v1", "workloadgroups", "WorkloadGroup")
PROXY_CONFIGS = _named("networking.istio.io", "v1beta1", "proxyconfigs", "ProxyConfig")
ENVOY_FILTERS = _named("networking.istio.io", "v1alpha3", "envoyfilters", "EnvoyFilter")
AUTHORIZATION_POLICIES = _named("security.istio.io", "v1", "authorizationpolicies", "AuthorizationPolicy")
PEER_AUTHENTICATIONS = _named("security.istio.io", "v1", "peerauthentications", "PeerAuthentication")
REQUEST_AUTHENTICATIONS = _named("security.istio.io", "v1", "requestauthentications", "RequestAuthentication")
TELEMETRIES = _named("telemetry.istio.io", "v1", "telemetries", "Telemetry")
WASM_PLUGINS = _named("extensions.istio.io", "v1alpha1", "wasmplugins", "WasmPlugin")
TRAFFIC_EXTENSIONS = _named("extensions.istio.io", "v1alpha1", "trafficextensions", "TrafficExtension")

# Gateway API
GATEWAY_CLASSES = _global("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass")
KUBERNETES_GATEWAYS = _named("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
HTTP_ROUTES = _named("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GRPC_ROUTES = _named("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute")
TLS_ROUTES = _named("gateway.networking.k8s.io", "v1alpha2", "tlsroutes", "TLSRoute")
TCP_ROUTES = _named("gateway.networking.k8s.io", "v1alpha2", "tcproutes", "TCPRoute")
REFERENCE_GRANTS = _named("gateway.networking.k8s.io", "v1beta1", "referencegrants", "ReferenceGrant")
BACKEND_TLS_POLICIES = _named("gateway.networking.k8s.io", "v1", "backendtlspolicies", "BackendTLSPolicy")
INFERENCE_POOLS = _named("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")

ISTIO_KINDS: tuple[ResourceType, ...] = (
    VIRTUAL_SERVICES,
    DESTINATION_RULES,
    GATEWAYS,
    SERVICE_ENTRIES,
    SIDECARS,
    WORKLOAD_ENTRIES,
    WORKLOAD_GROUPS,
    PROXY_CONFIGS,
    ENVOY_FILTERS,
    AUTHORIZATION_POLICIES,
    PEER_AUTHENTICATIONS,
    REQUEST_AUTHENTICATIONS,
    TELEMETRIES,
    WASM_PLUGINS,
    TRAFFIC_EXTENSIONS,
)
"""Every kind of Istio's own API groups."""

GATEWAY_API_KINDS: tuple[ResourceType, ...] = (
    GATEWAY_CLASSES,
    KUBERNETES_GATEWAYS,
    HTTP_ROUTES,
    GRPC_ROUTES,
    TLS_ROUTES,
    TCP_ROUTES,
    REFERENCE_GRANTS,
    BACKEND_TLS_POLICIES,
    INFERENCE_POOLS,
)
"""Every kind of the Kubernetes Gateway API that a mesh reads."""
