"""Are the settings of an installation ones that exist? A name that is mistyped must not be passed over in silence.

In: the spec of an IstioOperator and the charts' schemas (`values.schema.json`). Out: `Finding`s. What no chart has is
an error, as in Istio, with the name that was probably meant; what Istio has and our charts have no use for is a
warning. What a chart must take unchecked goes into `unvalidatedValues`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable

import msgspec

from meltem import yamlio
from meltem.errors import MeltemError
from meltem.objects import Json, JsonObject, at, list_at, object_at, objects_at, strings_at
from meltem.resources.mesh import read_meshconfig

_CHARTS = ("base", "istiod", "cni")
_COMPONENT = ("enabled", "namespace", "hub", "tag", "k8s")
_GATEWAY = (*_COMPONENT, "name", "label")
_KUBERNETES = (
    "affinity", "env", "hpaSpec", "imagePullPolicy", "nodeSelector", "podDisruptionBudget", "podAnnotations",
    "priorityClassName", "readinessProbe", "replicaCount", "resources", "service", "strategy", "tolerations",
    "serviceAnnotations", "securityContext", "volumes", "volumeMounts", "overlays",
)  # fmt: skip
_GATEWAY_VALUES = (
    "name", "labels", "type", "ports", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy",
    "externalIPs", "ipFamilyPolicy", "ipFamilies", "loadBalancerClass", "serviceAnnotations", "serviceAccount",
    "autoscaleEnabled", "autoscaleMin", "autoscaleMax", "cpu", "memory", "resources", "env", "nodeSelector",
    "tolerations", "affinity", "replicaCount", "podAnnotations", "podLabels", "topologySpreadConstraints",
    "networkGateway", "secretVolumes", "configVolumes", "additionalContainers", "rollingMaxSurge",
    "rollingMaxUnavailable",
)  # fmt: skip
_GATEWAY_WITHOUT_EFFECT = (
    "enabled", "injectionTemplate", "runAsRoot", "customService", "podAntiAffinityLabelSelector",
    "podAntiAffinityTermLabelSelector",
)  # fmt: skip
"""Values of a gateway that Istio has and ours do not read."""
_OPEN = ("resources", "limits", "requests", "affinity", "securityContext", "seccompProfile", "cpu", "memory")
"""Kubernetes' own objects: the API server checks them."""
_WITHOUT_EFFECT = (
    "ztunnel", "istioCni", "profile", "compatibilityVersion", "experimental", "gatewayClasses", "base.validateGateway",
    "base.enableIstioConfigCRDs", "cni.ambient", "cni.cniNetnsDir", "cni.logLevel",
    "cni.privileged", "cni.pspClusterRole", "cni.repair.hub", "cni.repair.tag", "cni.repair.image",
    "cni.repair.repairPods", "cni.repair.createEvents", "cni.istioOwnedCNIConfig",
    "cni.istioOwnedCNIConfigFileName", "cni.useAppArmorAnnotation", "global.agentgateway", "global.arch",
    "global.enableReaderRBAC", "global.ipFamilies", "global.ipFamilyPolicy",
    "global.podDNSSearchNamespaces", "global.readerServiceAccount", "global.resourceScope", "global.revision",
    "global.tracer", "global.trustBundleName", "istiodRemote.enabledLocalInjectorIstiod", "pilot.crlConfigMapName",
    "pilot.enabled", "pilot.istiodRemote", "pilot.taint", "pilot.trustedZtunnelNamespace",
    "sidecarInjectorWebhook.injectionURL",
)  # fmt: skip
"""Values that Istio has and our charts do not read."""
_USELESS = "changes nothing here: our charts have no use for it"


class Finding(msgspec.Struct, frozen=True):
    """`path` as it would stand after `--set`."""

    path: str
    what: str
    remedy: str = ""
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.path} {self.what}" + (f". {self.remedy}" if self.remedy else "")


def check(spec: JsonObject, charts: Traversable) -> list[Finding]:
    """All that is wrong, in the order in which it stands. `charts` is the directory with the charts' directories."""
    return [*_shapes(spec), *_components(object_at(spec, "components")), *_values(spec, charts), *_mesh(spec)]


def _shapes(spec: JsonObject) -> Iterator[Finding]:
    """What must be a map is one: the other checks look into maps only."""
    for path in (("components",), ("meshConfig",), ("values",), ("values", "gateways"), ("values", "meshConfig")):
        if not isinstance(at(spec, *path), dict | None):
            yield Finding(".".join(path), "must be a map")


def _components(components: JsonObject) -> Iterator[Finding]:
    for name, component in components.items():
        listed = component if isinstance(component, list) else [component]
        for index, one in enumerate(listed):
            path = f"components.{name}" + (f"[{index}]" if isinstance(component, list) else "")
            if not isinstance(one, dict):
                yield Finding(path, "must be a map")
                continue
            yield from _unknown(path, one, _GATEWAY if isinstance(component, list) else _COMPONENT)
            yield from _unknown(f"{path}.k8s", object_at(one, "k8s"), _KUBERNETES)
            if not isinstance(one.get("enabled", False), bool):
                yield Finding(f"{path}.enabled", "must be true or false")
            for number, overlay in enumerate(objects_at(one, "k8s", "overlays")):
                yield from _unknown(
                    f"{path}.k8s.overlays[{number}]", overlay, ("apiVersion", "kind", "name", "patches")
                )


def _unknown(path: str, found: JsonObject, known: Sequence[str]) -> Iterator[Finding]:
    for key in found:
        if key not in known:
            yield Finding(f"{path}.{key}", "is not known", _meant(key, known))


def _meant(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(sorted(known))}"


def _values(spec: JsonObject, charts: Traversable) -> Iterator[Finding]:
    schema: JsonObject = {}
    for chart in _CHARTS:
        file = charts / chart / "values.schema.json"
        if not file.is_file():  # charts of one's own without a schema: nothing to hold the values against
            return
        schema = _merged(schema, json.loads(file.read_text()))
    values = {k: v for k, v in object_at(spec, "values").items() if k not in ("gateways", "meshConfig")}
    yield from _tree("", values, schema)
    for name, gateway in object_at(spec, "values", "gateways").items():
        if name in ("securityContext", "seccompProfile"):  # of all gateways' pods
            continue
        for key in gateway if isinstance(gateway, dict) else ():
            path = f"values.gateways.{name}.{key}"
            if key in _GATEWAY_WITHOUT_EFFECT:
                yield Finding(path, _USELESS, warning=True)
            elif key not in _GATEWAY_VALUES:
                yield Finding(path, "is not known", _meant(key, _GATEWAY_VALUES))


def _merged(one: JsonObject, other: Mapping[str, Json]) -> JsonObject:
    """A schema that knows what either knows."""
    mine, theirs = object_at(one, "properties"), other.get("properties")
    if not isinstance(theirs, dict):
        return one
    out = dict(mine)
    for key, value in theirs.items():
        have = out.get(key)
        out[key] = _merged(have, value) if isinstance(have, dict) and isinstance(value, dict) else value
    return {**one, "properties": out}


def _tree(path: str, found: JsonObject, schema: JsonObject) -> Iterator[Finding]:
    known = object_at(schema, "properties")
    for key, value in found.items():
        here = f"{path}.{key}" if path else key
        below = known.get(key)
        if here in _WITHOUT_EFFECT:
            yield Finding(f"values.{here}", _USELESS, warning=True)
        elif not isinstance(below, dict):
            yield Finding(f"values.{here}", "is not known", _meant(key, tuple(known)))
        elif problem := _mistyped(value, below):
            yield Finding(f"values.{here}", problem)
        elif isinstance(value, dict) and object_at(below, "properties") and key not in _OPEN:
            yield from _tree(here, value, below)


def _mistyped(value: Json, schema: JsonObject) -> str:
    declared = schema.get("type")
    types = [declared] if isinstance(declared, str) else strings_at(schema, "type")
    if types and _type_of(value) not in types and not (_type_of(value) == "integer" and "number" in types):
        names = [t for t in types if t != "null"]
        return f"must be {' or '.join(f'an {t}' if t[0] in 'aio' else f'a {t}' for t in names)}"
    choices = list_at(schema, "enum")
    if choices and value not in choices:
        return f"must be one of {', '.join(str(c) for c in choices if c not in ('', None))}"
    return ""


def _type_of(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _mesh(spec: JsonObject) -> Iterator[Finding]:
    for path in (("meshConfig",), ("values", "meshConfig")):
        mesh = object_at(spec, *path)
        where = ".".join(path)
        try:
            _, problems = read_meshconfig(yamlio.dump(mesh), source=where)
        except MeltemError as error:
            yield Finding(where, f"cannot be used: {error}")
            continue
        for problem in problems:
            yield Finding(f"{where}.{problem.path}", problem.what, problem.remedy)
