"""From an installation to Kubernetes objects: each enabled component's chart, rendered and labelled.

`render(installation)` gives the components in the order in which they are applied. What `helm install` makes of the
same chart and values is the same, but for the ownership labels that the installer prunes by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meltem import __version__
from meltem.gotemplate.chart import Capabilities, Chart, Release, install_rank, load_chart, manifests, render_chart
from meltem.install.overlays import apply_settings
from meltem.install.spec import Installation, overlay, package_root
from meltem.objects import (
    Json,
    JsonObject,
    at,
    bool_at,
    copy_object,
    ensure_object,
    int_at,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)

OWNER_LABEL = "install.operator.istio.io/owning-resource"
OWNER_NAMESPACE_LABEL = "install.operator.istio.io/owning-resource-namespace"
COMPONENT_LABEL = "operator.istio.io/component"
MANAGED_LABEL = "operator.istio.io/managed"
VERSION_LABEL = "operator.istio.io/version"
REVISION_LABEL = "istio.io/rev"
RELEASE = "istio"
CLUSTER_KINDS = frozenset(
    (
        "Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration", "PriorityClass", "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding", "GatewayClass", "StorageClass", "APIService",
    )
)  # fmt: skip
"""Kinds of our charts that live in no namespace."""


@dataclass(frozen=True, slots=True)
class Component:
    """`title` is what progress lines call it; `key` is the component label's value; `name` its instance."""

    key: str
    name: str
    title: str
    namespace: str
    objects: tuple[JsonObject, ...]


def enabled(installation: Installation, component: str) -> bool:
    return bool_at(installation.spec, "components", component, "enabled")


def values_of(installation: Installation) -> JsonObject:
    """The values tree that every chart gets: hub, tag, revision and mesh configuration put where charts look."""
    spec = installation.spec
    values = overlay(object_at(spec, "values"), object_at(spec, "unvalidatedValues"))
    shared = ensure_object(values, "global")
    for field in ("hub", "tag"):
        if field in spec and field not in shared:
            shared[field] = _text(spec[field])
    shared["istioNamespace"] = installation.namespace
    if installation.revision:
        values["revision"] = installation.revision
    mesh = overlay(object_at(spec, "meshConfig"), object_at(values, "meshConfig"))
    if mesh:
        values["meshConfig"] = mesh
    values["ownerName"] = installation.owner
    # With the plugin on the nodes, injected pods need no container that sets the rules.
    ensure_object(ensure_object(values, "pilot"), "cni").setdefault("enabled", enabled(installation, "cni"))
    return values


def _text(value: Json) -> Json:
    """A tag that was written as a number is text."""
    return value if isinstance(value, str) else str(value)


def render(installation: Installation, capabilities: Capabilities | None = None) -> list[Component]:
    """The enabled components, in order: base, CNI, control plane, gateways. Raises UserError with the place."""
    return list(_components(installation, capabilities or Capabilities()))


def _components(installation: Installation, capabilities: Capabilities) -> Iterator[Component]:
    values = values_of(installation)
    namespace = installation.namespace
    if enabled(installation, "base"):
        yield _simple(installation, "Base", "base", "Istio core", values, namespace, capabilities)
    if enabled(installation, "cni"):
        cni_namespace = str_at(installation.spec, "components", "cni", "namespace") or namespace
        yield _simple(installation, "Cni", "cni", "CNI", _cni_values(values), cni_namespace, capabilities)
    if enabled(installation, "pilot"):
        yield _simple(installation, "Pilot", "pilot", "Istiod", values, namespace, capabilities)
    elif enabled(installation, "istiodRemote"):
        remote = overlay(values, {"istiodRemote": {"enabled": True}})
        yield _simple(installation, "IstiodRemote", "istiodRemote", "Istiod remote", remote, namespace, capabilities)
    for kind, key, title in (
        ("egressGateways", "EgressGateways", "Egress gateways"),
        ("ingressGateways", "IngressGateways", "Ingress gateways"),
    ):
        for index, gateway in enumerate(objects_at(installation.spec, "components", kind)):
            if bool_at(gateway, "enabled"):
                where = f"components.{kind}[{index}]"
                yield _gateway(installation, gateway, key, title, values, capabilities, where)


def _chart(installation: Installation, name: str) -> Chart:
    return load_chart(package_root(installation.package) / "charts" / name)


_CHARTS = {"base": "base", "cni": "cni", "pilot": "istiod", "istiodRemote": "istiod"}


def _simple(
    installation: Installation,
    key: str,
    component: str,
    title: str,
    values: JsonObject,
    namespace: str,
    capabilities: Capabilities,
) -> Component:
    settings = object_at(installation.spec, "components", component)
    for field in ("hub", "tag"):
        if settings.get(field):
            values = overlay(values, {"pilot" if component == "pilot" else component: {field: settings[field]}})
    chart = _chart(installation, _CHARTS[component])
    rendered = render_chart(chart, values, Release(RELEASE, namespace), capabilities)
    objects = apply_settings(manifests(rendered), object_at(settings, "k8s"), f"components.{component}")
    return Component(key, component, title, namespace, _labelled(installation, key, objects, namespace))


def _cni_values(values: JsonObject) -> JsonObject:
    return overlay(values, object_at(values, "cni"))


def _gateway(
    installation: Installation,
    gateway: JsonObject,
    key: str,
    title: str,
    values: JsonObject,
    capabilities: Capabilities,
    where: str,
) -> Component:
    name = str_at(gateway, "name")
    namespace = str_at(gateway, "namespace") or installation.namespace
    chart_values = gateway_values(installation, gateway, values, ingress=key == "IngressGateways")
    rendered = render_chart(_chart(installation, "gateway"), chart_values, Release(name, namespace), capabilities)
    objects = apply_settings(manifests(rendered), object_at(gateway, "k8s"), where)
    return Component(key, name, title, namespace, _labelled(installation, key, objects, namespace))


def gateway_values(installation: Installation, gateway: JsonObject, values: JsonObject, *, ingress: bool) -> JsonObject:
    """The gateway chart's values for one gateway of an IstioOperator: `values.gateways.<kind>` under its new names."""
    name = str_at(gateway, "name")
    kind = "istio-ingressgateway" if ingress else "istio-egressgateway"
    old = overlay(object_at(values, "gateways", kind), object_at(values, "gateways", name) if name != kind else {})
    labels: JsonObject = {"app": name, "istio": kind.removeprefix("istio-")}
    labels.update(object_at(old, "labels"))
    labels.update(object_at(gateway, "label"))
    service: JsonObject = {"type": str_at(old, "type") or ("LoadBalancer" if ingress else "ClusterIP")}
    for field in (
        "ports", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy", "externalIPs", "ipFamilyPolicy",
        "ipFamilies", "loadBalancerClass",
    ):  # fmt: skip
        if old.get(field):
            service[field] = old[field]
    if object_at(old, "serviceAnnotations"):
        service["annotations"] = object_at(old, "serviceAnnotations")
    account = object_at(old, "serviceAccount", "annotations")
    out: JsonObject = {
        "name": name,
        "revision": installation.revision,
        "labels": labels,
        "service": service,
        "serviceAccount": {"name": f"{name}-service-account", "annotations": account},
        "autoscaling": {
            "enabled": bool_at(old, "autoscaleEnabled", default=True),
            "minReplicas": old.get("autoscaleMin", 1),
            "maxReplicas": old.get("autoscaleMax", 5),
            "targetCPUUtilizationPercentage": at(old, "cpu", "targetAverageUtilization") or 80,
        },
        "platform": str_at(values, "global", "platform"),
        "imagePullSecrets": [{"name": s} for s in _strings(at(values, "global", "imagePullSecrets"))],
        "imagePullPolicy": str_at(values, "global", "imagePullPolicy"),
        "priorityClassName": str_at(values, "global", "priorityClassName"),
    }
    for field in (
        "resources", "env", "nodeSelector", "tolerations", "affinity", "replicaCount", "podAnnotations", "podLabels",
        "topologySpreadConstraints", "networkGateway", "additionalContainers",
    ):  # fmt: skip
        if old.get(field):
            out[field] = old[field]
    rolling: JsonObject = {"maxSurge": old.get("rollingMaxSurge") or "100%"}
    rolling["maxUnavailable"] = old.get("rollingMaxUnavailable") or "25%"
    out["strategy"] = {"rollingUpdate": rolling}
    out["securityContext"] = _pod_security(object_at(values, "gateways"))
    replicas = int_at(old, "autoscaleMin" if bool_at(old, "autoscaleEnabled", default=True) else "replicaCount") or 1
    # A budget for a single pod would never let a node be drained.
    if replicas > 1 and bool_at(values, "global", "defaultPodDisruptionBudget", "enabled", default=True):
        out["podDisruptionBudget"] = {"minAvailable": 1}
    if bool_at(values, "global", "networkPolicy", "enabled"):
        out["global"] = {"networkPolicy": {"enabled": True}}
    _secrets(old, out)
    return out


def _pod_security(gateways: JsonObject) -> JsonObject:
    """What `values.gateways.securityContext` says of all gateways' pods, or the chart's own with their
    `seccompProfile`; empty for the chart's own as it is."""
    own = object_at(gateways, "securityContext")
    profile = object_at(gateways, "seccompProfile")
    if own or not profile:
        return own
    ports: Json = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    return {"sysctls": ports, "seccompProfile": profile}


def _strings(value: Json) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _secrets(old: JsonObject, out: JsonObject) -> None:
    """`secretVolumes` and `configVolumes`: mounted where they say, and optional."""
    volumes: list[Json] = []
    mounts: list[Json] = []
    for field, kind, key in (("secretVolumes", "secret", "secretName"), ("configVolumes", "configMap", "name")):
        for volume in objects_at(old, field):
            name = str_at(volume, "name")
            source = str_at(volume, "secretName" if kind == "secret" else "configMapName") or name
            volumes.append({"name": name, kind: {key: source, "optional": True}})
            mounts.append({"name": name, "mountPath": str_at(volume, "mountPath"), "readOnly": True})
    if volumes:
        out["volumes"], out["volumeMounts"] = volumes, mounts


def _labelled(
    installation: Installation, key: str, objects: list[JsonObject], namespace: str
) -> tuple[JsonObject, ...]:
    """The objects with the labels that say who installed them, and with their namespace."""
    out: list[JsonObject] = []
    for obj in objects:
        obj = copy_object(obj)
        metadata = ensure_object(obj, "metadata")
        labels = ensure_object(metadata, "labels")
        labels[OWNER_LABEL] = installation.owner
        labels[OWNER_NAMESPACE_LABEL] = installation.namespace
        labels[COMPONENT_LABEL] = key
        labels[MANAGED_LABEL] = "Reconcile"
        labels[VERSION_LABEL] = __version__
        labels.setdefault("release", RELEASE)
        labels.setdefault(REVISION_LABEL, installation.revision or "default")
        if str_at(obj, "kind") in CLUSTER_KINDS:
            metadata.pop("namespace", None)
        else:
            metadata.setdefault("namespace", namespace)
        out.append(obj)
    return tuple(sorted(out, key=lambda o: install_rank(str_at(o, "kind"))))


def describe(obj: JsonObject) -> str:
    """`Deployment istio-system/istiod`, `ClusterRole istiod`."""
    namespace = namespace_of(obj)
    return f"{str_at(obj, 'kind')} {namespace + '/' if namespace else ''}{name_of(obj)}"


def labels_match(obj: JsonObject, wanted: dict[str, str]) -> bool:
    labels = string_map_at(obj, "metadata", "labels")
    return all(labels.get(k) == v for k, v in wanted.items())
