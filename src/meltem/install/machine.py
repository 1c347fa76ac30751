"""The files that a machine outside Kubernetes joins the mesh with. Pure.

In: a WorkloadGroup, the mesh's configuration, what the command line says. Out: the texts of `cluster.env` and
`mesh.yaml`. Names and meaning are Istio's (`istioctl experimental workload entry configure`), so that its start script
and runbooks hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from meltem import yamlio
from meltem.errors import UserError
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    copy_object,
    int_at,
    name_of,
    namespace_of,
    object_at,
    str_at,
    string_map_at,
)

PROXY_CONFIG = "proxy.istio.io/config"
CANONICAL_NAME = "service.istio.io/canonical-name"
CANONICAL_REVISION = "service.istio.io/canonical-revision"
NEVER_CAPTURED = (22, 15090, 15021)
"""ssh, so that nobody locks himself out; Envoy's metrics and health."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of the machine. `internal_ip`, `external_ip`: at most one of them."""

    cluster_id: str
    istio_namespace: str = "istio-system"
    revision: str = ""
    autoregister: bool = False
    capture_dns: bool = True
    internal_ip: str = ""
    external_ip: str = ""

    @property
    def revisioned(self) -> bool:
        return self.revision not in ("", "default")

    @property
    def istiod(self) -> str:
        """The name under which istiod is called."""
        return f"istiod{f'-{self.revision}' if self.revisioned else ''}.{self.istio_namespace}.svc"


def service_account_of(group: JsonObject) -> str:
    return str_at(group, "spec", "template", "serviceAccount") or "default"


def proxy_config(group: JsonObject, mesh: JsonObject, machine: Machine) -> JsonObject:
    """The ProxyConfig of the group's machines: the mesh's, then the group's annotation, then what they must have."""
    config = copy_object(object_at(mesh, "defaultConfig"))
    if machine.revisioned and not str_at(config, "discoveryAddress"):
        config["discoveryAddress"] = f"{machine.istiod}:15012"
    metadata: JsonObject = dict(string_map_at(config, "proxyMetadata"))
    name = f"WorkloadGroup {namespace_of(group)}/{name_of(group)} annotation {PROXY_CONFIG}"
    for given_by in (annotations_of(group), string_map_at(group, "spec", "metadata", "annotations")):
        text = given_by.get(PROXY_CONFIG, "")
        given = yamlio.load(text, source=name) if text.strip() else {}
        if not isinstance(given, dict):
            raise UserError("is not a mapping", where=name)
        metadata |= string_map_at(given, "proxyMetadata")
        config |= given
    if probe := object_at(group, "spec", "probe"):
        config["readinessProbe"] = probe
    config["proxyMetadata"] = metadata | _metadata(group, mesh, config, machine)
    return config


def _metadata(group: JsonObject, mesh: JsonObject, config: JsonObject, machine: Machine) -> JsonObject:
    template = object_at(group, "spec", "template")
    labels = string_map_at(group, "spec", "metadata", "labels") | string_map_at(template, "labels")
    name, revision = canonical(labels, name_of(group))
    labels |= {CANONICAL_NAME: name, CANONICAL_REVISION: revision}
    found: JsonObject = {
        "CANONICAL_SERVICE": name,
        "CANONICAL_REVISION": revision,
        "POD_NAMESPACE": namespace_of(group),
        "SERVICE_ACCOUNT": service_account_of(group),
        "TRUST_DOMAIN": str_at(mesh, "trustDomain"),
        "ISTIO_META_CLUSTER_ID": machine.cluster_id,
        "ISTIO_META_MESH_ID": str_at(config, "meshId"),
        "ISTIO_META_NETWORK": str_at(template, "network"),
        "ISTIO_META_WORKLOAD_NAME": name_of(group),
        "ISTIO_METAJSON_LABELS": json.dumps(dict(sorted(labels.items())), separators=(",", ":")),
    }
    ports = object_at(template, "ports")
    if ports:
        named: list[Json] = [{"name": n, "containerPort": p} for n, p in sorted(ports.items())]
        found["ISTIO_META_POD_PORTS"] = json.dumps(named, separators=(",", ":"))
    if machine.capture_dns:
        found["ISTIO_META_DNS_CAPTURE"] = "true"
    if machine.autoregister:
        found["ISTIO_META_AUTO_REGISTER_GROUP"] = name_of(group)
    return found


def canonical(labels: Mapping[str, str], workload: str) -> tuple[str, str]:
    """Canonical name and revision, as metrics and dashboards know the workload."""
    name = labels.get(CANONICAL_NAME) or labels.get("app.kubernetes.io/name") or labels.get("app") or workload
    revision = labels.get(CANONICAL_REVISION) or labels.get("app.kubernetes.io/version") or labels.get("version")
    return name, revision or "latest"


def mesh_yaml(config: JsonObject) -> str:
    """/etc/istio/config/mesh"""
    return yamlio.dump({"defaultConfig": config})


def cluster_env(group: JsonObject, config: JsonObject, machine: Machine) -> str:
    """/var/lib/istio/envoy/cluster.env: what the start script, the capture rules and the agent are told."""
    ports = [str(p) for _, p in sorted(object_at(group, "spec", "template", "ports").items())]
    status = int_at(config, "statusPort") or 15020
    spared = NEVER_CAPTURED if status in NEVER_CAPTURED else (*NEVER_CAPTURED, status)
    found = string_map_at(config, "proxyMetadata") | {
        "ISTIO_INBOUND_PORTS": ",".join(ports) or "*",
        "ISTIO_NAMESPACE": namespace_of(group),
        "ISTIO_SERVICE": f"{name_of(group)}.{namespace_of(group)}",
        "ISTIO_SERVICE_CIDR": "*",
        "ISTIO_LOCAL_EXCLUDE_PORTS": ",".join(str(p) for p in spared),
        "SERVICE_ACCOUNT": service_account_of(group),
    }
    if machine.revisioned:
        found["CA_ADDR"] = f"{machine.istiod}:15012"
    if machine.internal_ip or machine.external_ip:
        found["ISTIO_SVC_IP"] = machine.internal_ip or machine.external_ip
    if machine.external_ip and not machine.internal_ip:
        # The machine does not have that address itself: its application is asked at localhost.
        found["REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION"] = "true"
    return "".join(f"{name}={quoted(value)}\n" for name, value in sorted(found.items()))


def quoted(value: str) -> str:
    """For a shell, whatever is in it."""
    return "'" + value.replace("'", "'\"'\"'") + "'"
