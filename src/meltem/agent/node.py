"""Envoy's node: who this proxy is, under the names that istiod (ours and Istio's) reads.

In: `AgentSettings`. Out: the `node` object of the bootstrap. Values of ISTIO_META_* become metadata as they stand;
ISTIO_METAJSON_* are JSON objects whose members become metadata.
"""

from __future__ import annotations

import json
from typing import cast

from meltem.agent.environment import AgentSettings
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, str_at

ISTIO_VERSION = "1.27.0"
"""The Istio release whose behaviour a control plane may expect from this proxy."""

UNKNOWN = "unknown"
"""What metrics show for a value that is not there."""


def node_id(settings: AgentSettings) -> str:
    """`sidecar~10.0.0.7~reviews-v1-abc.default~default.svc.cluster.local`."""
    name = f"{settings.pod_name}.{settings.pod_namespace}"
    domain = settings.flags.domain or f"{settings.pod_namespace}.svc.cluster.local"
    return "~".join((settings.flags.role, settings.instance_ips[0], name, domain))


def service_cluster(settings: AgentSettings) -> str:
    """Envoy's `--service-cluster`, the service name in traces: by default `<app>.<namespace>`."""
    config = settings.proxy_config
    namespace = settings.pod_namespace
    canonical = settings.labels.get("service.istio.io/canonical-name", "")
    workload = settings.environment.get("ISTIO_META_WORKLOAD_NAME", "")
    naming = str_at(config, "tracingServiceName")
    if naming == "CANONICAL_NAME_ONLY" and (canonical or workload):
        return canonical or workload
    if naming == "CANONICAL_NAME_AND_NAMESPACE" and (canonical or workload):
        return f"{canonical or workload}.{namespace}"
    named = settings.flags.service_cluster or str_at(config, "serviceCluster")
    if named and named != "istio-proxy":
        return named
    app = settings.labels.get("app") or settings.labels.get("app.kubernetes.io/name") or canonical
    return f"{app or workload or 'istio-proxy'}.{namespace}"


def locality(settings: AgentSettings) -> JsonObject:
    """From the label `istio-locality` (`region.zone.subzone`) where the pod has it, else from the node's region and
    zone, which Kubernetes copies to its pods from 1.35 on. istiod knows the node's anyway; Envoy needs them itself for
    zone-aware balancing."""
    text = settings.labels.get("topology.istio.io/locality") or settings.labels.get("istio-locality", "")
    topology = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
    parts = text.replace("/", ".").split(".") if text else [settings.labels.get(name, "") for name in topology]
    return {name: part for name, part in zip(("region", "zone", "sub_zone"), parts, strict=False) if part}


def metadata(settings: AgentSettings) -> JsonObject:
    """The node metadata, keys sorted, so that the same pod always writes the same bootstrap."""
    found: JsonObject = {}
    for name, value in sorted(settings.environment.items()):
        if name.startswith("ISTIO_METAJSON_"):
            found.update(_json_object(name, value))
        elif name.startswith("ISTIO_META_"):
            found[name.removeprefix("ISTIO_META_")] = value
    if settings.environment.get("DNS_PROXY_ADDR"):
        found["DNS_PROXY_ADDR"] = settings.environment["DNS_PROXY_ADDR"]
    labels: JsonObject = dict(sorted(settings.labels.items()))
    annotations: JsonObject = dict(sorted(settings.annotations.items()))
    found |= {
        "NAME": settings.pod_name,
        "NAMESPACE": settings.pod_namespace,
        "INSTANCE_IPS": ",".join(settings.instance_ips),
        "SERVICE_ACCOUNT": settings.service_account,
        "LABELS": labels,
        "ANNOTATIONS": annotations,
        "ISTIO_VERSION": ISTIO_VERSION,
        "PROXY_CONFIG": {**settings.proxy_config, "configPath": str(settings.config_path)},
        "PILOT_SAN": [settings.istiod_san or settings.discovery_address.rpartition(":")[0]],
        "ENVOY_STATUS_PORT": settings.envoy_status_port,
        "ENVOY_PROMETHEUS_PORT": settings.envoy_prometheus_port,
        "MELTEM_SDS_PATH": str(settings.config_path),
    }
    found.setdefault("CLUSTER_ID", "Kubernetes")
    found.setdefault("INTERCEPTION_MODE", str_at(settings.proxy_config, "interceptionMode") or "REDIRECT")
    mesh_id = str_at(settings.proxy_config, "meshId")
    if mesh_id:
        found.setdefault("MESH_ID", mesh_id)
    if settings.exit_on_zero:
        found["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] = "true"
    if settings.flags.outlier_log_path:
        found["OUTLIER_LOG_PATH"] = settings.flags.outlier_log_path
    return {k: found[k] for k in sorted(found)}


def telemetry_environment(settings: AgentSettings) -> dict[str, str]:
    """What the mesh's metrics say of this workload, as environment variables of Envoy: the generated listeners, which
    many workloads share, read them from there."""
    labels, meta = settings.labels, settings.environment
    workload = meta.get("ISTIO_META_WORKLOAD_NAME", "")
    found = {
        "WORKLOAD": workload,
        "NAMESPACE": settings.pod_namespace,
        "CANONICAL_SERVICE": labels.get("service.istio.io/canonical-name")
        or labels.get("app.kubernetes.io/name")
        or labels.get("app")
        or workload,
        "CANONICAL_REVISION": labels.get("service.istio.io/canonical-revision")
        or labels.get("app.kubernetes.io/version")
        or labels.get("version")
        or "latest",
        "CLUSTER": meta.get("ISTIO_META_CLUSTER_ID", "") or "Kubernetes",
        "APP": labels.get("app", ""),
        "VERSION": labels.get("version", ""),
    }
    known = {name: value.replace(";", "") or UNKNOWN for name, value in found.items()}
    attributes = settings.environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "service.name=" not in attributes:
        attributes = ",".join(a for a in (attributes, f"service.name={service_cluster(settings)}") if a)
    return {f"MELTEM_{k}": v for k, v in known.items()} | {
        "OTEL_RESOURCE_ATTRIBUTES": attributes,
        "MELTEM_PEER": ";".join(known.values()),
        "MELTEM_UNKNOWN": UNKNOWN,
    }


def _json_object(name: str, text: str) -> JsonObject:
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise UserError("is not JSON", where=f"environment variable {name}") from None
    if not isinstance(value, dict):
        raise UserError("is not a JSON object", where=f"environment variable {name}")
    if name == "ISTIO_METAJSON_LABELS":  # these are in LABELS already
        return {}
    return value
