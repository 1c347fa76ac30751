"""Renders injection templates for one pod.

In: a pod, its workload, proxy and mesh configuration, values. Out: the partial pod that the template describes. The
template sees what Istio's sees: `.ObjectMeta`, `.Spec`, `.DeploymentMeta`, `.TypeMeta`, `.ProxyConfig`, `.MeshConfig`,
`.Values`, `.Revision`, `.ProxyImage`, `.ProxyInitImage`, `.NativeSidecars`, `.ProxyUID`, `.ProxyGID` …, with Go's field
names (`.Spec.Containers`, `$container.Name`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from meltem import yamlio
from meltem.errors import UserError
from meltem.gotemplate.values import Function, GoStruct, Value, function, is_list, is_map
from meltem.inject import functions
from meltem.inject.config import InjectorConfig
from meltem.inject.workload import Workload
from meltem.objects import (
    JsonObject,
    annotations_of,
    at,
    bool_at,
    int_at,
    labels_of,
    name_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)

PROXY_ID = 1337
IMAGE_TYPES = ("distroless", "debug")
_INITIALISMS = {
    "apiVersion": "APIVersion",
    "uid": "UID",
    "dnsPolicy": "DNSPolicy",
    "dnsConfig": "DNSConfig",
    "fsGroup": "FSGroup",
    "httpGet": "HTTPGet",
    "tcpSocket": "TCPSocket",
    "grpc": "GRPC",
    "tty": "TTY",
    "podIP": "PodIP",
    "hostIP": "HostIP",
    "seLinuxOptions": "SELinuxOptions",
    "claimName": "ClaimName",
    "configMap": "ConfigMap",
}
_PROXY_DEFAULTS = {
    "configPath": ("./etc/istio/proxy", "/etc/istio/proxy"),
    "binaryPath": ("/usr/local/bin/envoy",),
    "serviceCluster": ("istio-proxy",),
    "drainDuration": ("45s",),
    "terminationDrainDuration": ("5s",),
    "discoveryAddress": ("istiod.istio-system.svc:15012",),
    "proxyAdminPort": (15000,),
    "controlPlaneAuthPolicy": ("MUTUAL_TLS",),
    "statNameLength": (189,),
    "statusPort": (15020,),
}


@dataclass(frozen=True, slots=True)
class TemplateInput:
    """`proxy_config`: what applies to this pod: mesh default, ProxyConfig resources and annotation merged."""

    pod: JsonObject
    workload: Workload
    proxy_config: JsonObject
    config: InjectorConfig
    native_sidecars: bool
    proxy_uid: int = PROXY_ID
    proxy_gid: int = PROXY_ID


def render(name: str, given: TemplateInput) -> JsonObject:
    """The partial pod of template `name`. Raises UserError where it is unknown, fails, or writes no YAML mapping."""
    template = given.config.templates.get(name)
    if template is None:
        known = ", ".join(sorted(given.config.templates)) or "none"
        raise UserError(
            f"injection template {name[:80]!r} does not exist (there are: {known})",
            where="annotation inject.istio.io/templates",
        )
    view = _View(given)
    text = template.run(view.data(), view.functions())
    rendered = yamlio.load(text, source=f"injection template {name}")
    if rendered is None:
        return {}
    if not isinstance(rendered, dict):
        raise UserError("does not render to a mapping", where=f"injection template {name}")
    return rendered


def image_url(values: JsonObject, image: str, annotations: Mapping[str, str], image_type: str = "") -> str:
    """`hub/image:tag`, the tag with the image type (`-debug`, `-distroless`) that pod or mesh asks for."""
    hub = str_at(values, "global", "hub")
    tag_value = at(values, "global", "tag")
    tag = "" if tag_value is None else str(tag_value)
    kind = annotations.get("sidecar.istio.io/proxyImageType") or image_type or str_at(values, "global", "variant")
    if kind:
        for known in IMAGE_TYPES:
            tag = tag.removesuffix(f"-{known}")
        if kind != "default":
            tag = f"{tag}-{kind}"
    return f"{hub}/{image}:{tag}"


class _View:
    """One pod as a template sees it; remembers which JSON each struct came from, for `structToJSON`."""

    def __init__(self, given: TemplateInput) -> None:
        self._given = given
        self._origins: dict[int, tuple[Value, JsonObject]] = {}

    def data(self) -> Value:
        given = self._given
        pod, values, mesh = given.pod, given.config.values, given.config.mesh
        annotations = annotations_of(pod)
        proxy_image = str_at(values, "global", "proxy", "image") or "proxyv2"
        init_image = str_at(values, "global", "proxy_init", "image") or "proxyv2"
        image_type = str_at(given.proxy_config, "image", "imageType")
        mode = str_at(mesh, "inboundTrafficPolicy", "mode").lower() or "passthrough"
        return {
            "TypeMeta": {"APIVersion": given.workload.api_version, "Kind": given.workload.kind},
            "DeploymentMeta": {"Name": given.workload.name, "Namespace": given.workload.namespace},
            "ObjectMeta": self._metadata(pod),
            "Spec": self._spec(object_at(pod, "spec")),
            "ProxyConfig": self._proxy_config(),
            "MeshConfig": self._mesh(mesh),
            "Values": values,
            "Revision": given.config.revision,
            "ProxyImage": image_url(values, proxy_image, annotations, image_type),
            "ProxyInitImage": image_url(values, init_image, annotations),
            "NativeSidecars": given.native_sidecars,
            "ProxyUID": given.proxy_uid,
            "ProxyGID": given.proxy_gid,
            "InboundTrafficPolicyMode": mode,
            "CompliancePolicy": given.config.environment.get("COMPLIANCE_POLICY", ""),
        }

    def functions(self) -> dict[str, Function]:
        per_pod = {
            "env": functions.environment_function(self._given.config.environment),
            "structToJSON": self._struct_to_json,
            "protoToJSON": self._proto_to_json,
            "otelResourceAttributes": self._otel_attributes,
        }
        return {name: function(call) for name, call in {**functions.FIXED, **per_pod}.items()}

    def _struct_to_json(self, value: Value) -> Value:
        origin = self._origins.get(id(value))
        plain = origin[1] if origin else functions.as_object(value)
        return json.dumps(plain, separators=(",", ":"))

    def _proto_to_json(self, value: Value) -> Value:
        """ProxyConfig without what is default anyway; any other struct as it is."""
        origin = self._origins.get(id(value))
        if origin is None:
            return "{}"
        slim = {k: v for k, v in origin[1].items() if v not in _PROXY_DEFAULTS.get(k, ()) and v not in ({}, [])}
        return json.dumps(slim, separators=(",", ":"))

    def _otel_attributes(
        self, mesh: Value, annotations: Value, labels: Value, namespace: Value, containers: Value
    ) -> Value:
        """OTEL_RESOURCE_ATTRIBUTES where a tracing provider asks for OpenTelemetry's semantic conventions."""
        providers = objects_at(self._given.config.mesh, "extensionProviders")
        wanted = any(
            str_at(p, "opentelemetry", "serviceAttributeEnrichment") == "OTEL_SEMANTIC_CONVENTIONS" for p in providers
        )
        if not wanted:
            return ""
        pod_annotations, pod_labels = annotations_of(self._given.pod), labels_of(self._given.pod)
        prefix = "resource.opentelemetry.io/"
        attributes = {k.removeprefix(prefix): v for k, v in pod_annotations.items() if k.startswith(prefix)}
        app = pod_labels.get("app.kubernetes.io/name") or self._given.workload.name
        attributes.setdefault("service.name", app)
        attributes.setdefault("service.namespace", self._given.workload.namespace)
        if version := pod_labels.get("app.kubernetes.io/version", ""):
            attributes.setdefault("service.version", version)
        return ",".join(f"{k}={_percent(v)}" for k, v in sorted(attributes.items()))

    def _metadata(self, pod: JsonObject) -> Value:
        meta = self._struct(object_at(pod, "metadata"))
        meta |= {
            "Name": name_of(pod),
            "GenerateName": str_at(pod, "metadata", "generateName"),
            "Namespace": self._given.workload.namespace,
            "Labels": labels_of(pod),
            "Annotations": annotations_of(pod),
        }
        return meta

    def _spec(self, spec: JsonObject) -> Value:
        shown = self._struct(spec)
        for name in ("Containers", "InitContainers", "Volumes"):
            shown.setdefault(name, [])
        shown.setdefault("ServiceAccountName", "")
        shown.setdefault("HostNetwork", False)
        return shown

    def _proxy_config(self) -> Value:
        config = self._given.proxy_config
        shown = self._struct(config)
        mode = str_at(config, "interceptionMode") or "REDIRECT"
        hold = bool_at(config, "holdApplicationUntilProxyStarts")
        shown |= {
            "InterceptionMode": _enumeration(mode),
            "ProxyMetadata": string_map_at(config, "proxyMetadata"),
            "HoldApplicationUntilProxyStarts": GoStruct(
                "*wrapperspb.BoolValue",
                {"Value": hold},
                {"GetValue": Function(lambda: hold, (), False)},
                "true" if hold else "false",
            ),
            "StatusPort": int_at(config, "statusPort", default=15020),
            "ConfigPath": str_at(config, "configPath") or "./etc/istio/proxy",
            "DiscoveryAddress": str_at(config, "discoveryAddress"),
        }
        self._origins[id(shown)] = (shown, config)
        return shown

    def _mesh(self, mesh: JsonObject) -> Value:
        shown = self._struct(mesh)
        shown |= {
            "ProxyListenPort": int_at(mesh, "proxyListenPort") or 15001,
            "ProxyInboundListenPort": int_at(mesh, "proxyInboundListenPort") or 15006,
            "TrustDomain": str_at(mesh, "trustDomain") or "cluster.local",
        }
        return shown

    def _struct(self, value: JsonObject) -> dict[str, Value]:
        """A JSON object with Go's field names; maps from names to values (labels, limits) keep theirs."""
        shown: dict[str, Value] = {_go_name(k): self._shown(k, v) for k, v in value.items()}
        self._origins[id(shown)] = (shown, value)
        return shown

    def _shown(self, key: str, value: Value) -> Value:
        if is_map(value):
            if key in _PLAIN_MAPS:
                return value
            return self._struct(functions.as_object(value))
        if is_list(value):
            return [self._shown(key, item) for item in value]
        return value


_PLAIN_MAPS = frozenset(
    {"labels", "annotations", "limits", "requests", "nodeSelector", "matchLabels", "proxyMetadata", "runtimeValues"}
)


def _go_name(name: str) -> str:
    return _INITIALISMS.get(name) or (name[:1].upper() + name[1:])


def _enumeration(text: str) -> GoStruct:
    """A protobuf enum value: prints as its name, has `.String`."""
    return GoStruct("v1alpha1.Enum", {}, {"String": Function(lambda: text, (), False)}, text)


def _percent(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-._~/:" else f"%{ord(c):02X}" for c in text)
