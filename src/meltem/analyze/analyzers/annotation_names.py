"""IST0107, IST0108, IST0125, IST0135, IST0136: annotations of Istio on the wrong kind, unknown, with a value that is
none, deprecated or young."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.inject.annotations import problem_of
from meltem.objects import JsonObject, annotations_of, object_at
from meltem.simulate.origin import Placed

_ANY = "Any"
KNOWN: Mapping[str, tuple[tuple[str, ...], str]] = {
    "prometheus.istio.io/merge-metrics": (("Pod",), "alpha"),
    "alpha.istio.io/kubernetes-serviceaccounts": (("Service",), "deprecated"),
    "alpha.istio.io/canonical-serviceaccounts": (("Service",), "deprecated"),
    "networking.istio.io/exportTo": (("Service",), "alpha"),
    "sidecar.istio.io/inject": (("Pod",), "deprecated"),
    "sidecar.istio.io/status": (("Pod",), "alpha"),
    "sidecar.istio.io/rewriteAppHTTPProbers": (("Pod",), "alpha"),
    "sidecar.istio.io/discoveryAddress": (("Pod",), "deprecated"),
    "sidecar.istio.io/proxyImage": (("Pod",), "alpha"),
    "sidecar.istio.io/proxyImageType": (("Pod",), "alpha"),
    "sidecar.istio.io/proxyCPU": (("Pod",), "alpha"),
    "sidecar.istio.io/proxyCPULimit": (("Pod",), "alpha"),
    "sidecar.istio.io/proxyMemory": (("Pod",), "alpha"),
    "sidecar.istio.io/proxyMemoryLimit": (("Pod",), ""),
    "sidecar.istio.io/interceptionMode": (("Pod",), "alpha"),
    "sidecar.istio.io/bootstrapOverride": (("Pod",), "alpha"),
    "sidecar.istio.io/statsInclusionPrefixes": (("Pod",), "deprecated"),
    "sidecar.istio.io/statsInclusionSuffixes": (("Pod",), "deprecated"),
    "sidecar.istio.io/statsInclusionRegexps": (("Pod",), "deprecated"),
    "sidecar.istio.io/statsHistogramBuckets": (("Pod",), "alpha"),
    "sidecar.istio.io/statsFlushInterval": (("Pod",), "alpha"),
    "sidecar.istio.io/statsEvictionInterval": (("Pod",), "alpha"),
    "sidecar.istio.io/statsHistogramBins": (("Pod",), "alpha"),
    "sidecar.istio.io/userVolume": (("Pod",), "alpha"),
    "sidecar.istio.io/userVolumeMount": (("Pod",), ""),
    "status.sidecar.istio.io/port": (("Pod",), "alpha"),
    "sidecar.istio.io/logLevel": (("Pod",), "alpha"),
    "sidecar.istio.io/componentLogLevel": (("Pod",), "alpha"),
    "sidecar.istio.io/agentLogLevel": (("Pod",), "alpha"),
    "sidecar.istio.io/nativeSidecar": (("Pod",), "alpha"),
    "readiness.status.sidecar.istio.io/initialDelaySeconds": (("Pod",), "alpha"),
    "readiness.status.sidecar.istio.io/periodSeconds": (("Pod",), "alpha"),
    "readiness.status.sidecar.istio.io/failureThreshold": (("Pod",), "alpha"),
    "readiness.status.sidecar.istio.io/applicationPorts": (("Pod",), "alpha"),
    "traffic.istio.io/nodeSelector": (("Service",), ""),
    "traffic.sidecar.istio.io/includeOutboundIPRanges": (("Pod",), "alpha"),
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": (("Pod",), "alpha"),
    "traffic.sidecar.istio.io/includeInboundPorts": (("Pod",), ""),
    "traffic.sidecar.istio.io/excludeInboundPorts": (("Pod",), "alpha"),
    "traffic.sidecar.istio.io/excludeInterfaces": (("Pod",), "alpha"),
    "traffic.sidecar.istio.io/includeOutboundPorts": (("Pod",), "alpha"),
    "traffic.sidecar.istio.io/excludeOutboundPorts": (("Pod",), "alpha"),
    "traffic.sidecar.istio.io/kubevirtInterfaces": (("Pod",), "deprecated"),
    "kubernetes.io/ingress.class": (("Ingress",), ""),
    "galley.istio.io/analyze-suppress": (("Any",), "alpha"),
    "proxy.istio.io/config": (("Pod",), ""),
    "istio.io/dry-run": (("AuthorizationPolicy",), "alpha"),
    "istio.io/rev": (("Pod",), "alpha"),
    "proxy.istio.io/overrides": (("Pod",), ""),
    "inject.istio.io/templates": (("Pod",), "alpha"),
    "sidecar.istio.io/extraStatTags": (("Pod",), "deprecated"),
    "istio.io/autoRegistrationGroup": (("WorkloadEntry",), ""),
    "istio.io/workloadController": (("WorkloadEntry",), ""),
    "istio.io/connectedAt": (("WorkloadEntry",), ""),
    "istio.io/disconnectedAt": (("WorkloadEntry",), ""),
    "topology.istio.io/controlPlaneClusters": (("Namespace",), "alpha"),
    "gateway.istio.io/controller-version": (("Any",), ""),
    "ambient.istio.io/redirection": (("Pod",), ""),
    "ambient.istio.io/waypoint-inbound-binding": (("GatewayClass", "Gateway"), ""),
    "gateway.istio.io/service-account": (("Gateway",), ""),
    "gateway.istio.io/name-override": (("Gateway",), ""),
    "networking.istio.io/service-type": (("Gateway",), ""),
    "networking.istio.io/traffic-distribution": (("Namespace", "Service", "ServiceEntry"), "alpha"),
    "istio.io/use-waypoint-canary-weight": (("Service", "ServiceEntry", "Namespace"), "alpha"),
    "ambient.istio.io/bypass-inbound-capture": (("Pod",), "alpha"),
    "istio.io/reroute-virtual-interfaces": (("Pod",), "alpha"),
    "ambient.istio.io/dns-capture": (("Pod",), ""),
    "sidecar.istio.io/statsCompression": (("Pod",), "deprecated"),
    "meltem.io/sticky": (("VirtualService",), ""),
    "sidecar.istio.io/capNetBindService": (("Pod",), ""),
}
"""Name → the kinds that it is for, and its state (deprecated, alpha or nothing)."""
_TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
_LOOKED_AT = ("Namespace", "Service", "Pod", "Ingress", *_TEMPLATED)
_OURS = "istio.io/"
_UNCHECKED = ("install.operator.istio.io/", "operator.istio.io/", "topology.istio.io/", "ambient.istio.io/")


def analyze(context: Context) -> Iterable[Message]:
    for kind in _LOOKED_AT:
        for placed in context.own(kind):
            if kind == "Pod" and "sidecar.istio.io/status" in annotations_of(placed.obj):
                continue  # the injector wrote there; its workload's template says what people wrote
            yield from _of(placed, kind, annotations_of(placed.obj), ("metadata", "annotations"))
            if kind in _TEMPLATED:
                template: JsonObject = object_at(placed.obj, "spec", "template")
                path = ("spec", "template", "metadata", "annotations")
                yield from _of(placed, "Pod", annotations_of(template), path)


def _of(placed: Placed, kind: str, found: Mapping[str, str], path: tuple[str, ...]) -> Iterable[Message]:
    for name in sorted(found):
        known = KNOWN.get(name)
        if known is None:
            domain = name.partition("/")[0] + "/"
            if (domain.endswith("." + _OURS) or domain == _OURS) and not domain.startswith(_UNCHECKED):
                yield message("IST0108", placed, f"Unknown annotation: {name}", *path, name)
            continue
        kinds, state = known
        if _ANY not in kinds and kind not in kinds:
            text = f"Misplaced annotation: {name} is for {', '.join(kinds)}, not for {kind}."
            yield message("IST0107", placed, text, *path, name)
            continue
        wrong = problem_of(name, found[name])
        if wrong:
            yield message("IST0125", placed, f"Invalid annotation {name}: {wrong}", *path, name)
        if state == "deprecated":
            yield message(
                "IST0135", placed, f"Annotation {name} is deprecated and may not work in later versions.", *path, name
            )
        elif state == "alpha":
            yield message("IST0136", placed, f"Annotation {name} is of an alpha feature: it may change.", *path, name)
