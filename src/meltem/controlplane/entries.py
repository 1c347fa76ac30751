"""WorkloadEntries of workloads that register themselves, as plain objects: what they are made of. Pure.

In: proxies, WorkloadGroups and WorkloadEntries as JSON. Out: JSON for the API server, or answers.
"""

from __future__ import annotations

from typing import NamedTuple

from meltem.ca.identity import CallerIdentity
from meltem.clock import parse_rfc3339, rfc3339
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    copy_object,
    ensure_object,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
    uid_of,
)
from meltem.resources.workload import HEALTH_CHECKED, HEALTHY
from meltem.view.proxy import REGISTERS_BY, Proxy

GROUP = "istio.io/autoRegistrationGroup"
CONTROLLER = "istio.io/workloadController"
CONNECTED = "istio.io/connectedAt"
DISCONNECTED = "istio.io/disconnectedAt"
LOCALITY_LABEL = "istio-locality"


class EntryKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def group_of(proxy: Proxy) -> str:
    """The WorkloadGroup by which the proxy wants to be registered."""
    return dict(proxy.metadata).get(REGISTERS_BY, "")


def entry_name(proxy: Proxy, *, registers: bool) -> str:
    """Of the entry that is made for the proxy, or that it says it is; empty for proxies in pods."""
    if group_of(proxy) and not registers:
        return dict(proxy.metadata).get("WORKLOAD_ENTRY", "")
    return proxy.entry_name


def entry_from_group(key: EntryKey, proxy: Proxy, group: JsonObject) -> JsonObject:
    """The entry of a proxy: the group's template, over it what the proxy says of itself."""
    spec = copy_object(object_at(group, "spec", "template"))
    metadata = object_at(group, "spec", "metadata")
    labels = string_map_at(spec, "labels") | string_map_at(metadata, "labels") | dict(proxy.labels)
    labels.pop(LOCALITY_LABEL, None)
    annotations = {GROUP: name_of(group)} | string_map_at(metadata, "annotations")
    if '"readinessProbe"' in proxy.proxy_config:
        annotations[HEALTH_CHECKED] = "true"
    spec["address"] = proxy.addresses[0]
    own_labels: JsonObject = dict(sorted(labels.items()))
    own_annotations: JsonObject = dict(annotations)
    if labels:
        spec["labels"] = own_labels
    if proxy.network:
        spec["network"] = proxy.network
    if str(proxy.locality):
        spec["locality"] = str(proxy.locality)
    owner: JsonObject = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "name": name_of(group),
        "uid": uid_of(group),
        "controller": True,
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": dict(own_labels),
            "annotations": own_annotations,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def is_registered(entry: JsonObject) -> bool:
    """Whether it was made by registration, and not by a person."""
    return bool(annotations_of(entry).get(GROUP))


def health_checked(entry: JsonObject) -> bool:
    """Whether agents may say its health."""
    return HEALTH_CHECKED in annotations_of(entry)


def check_identity(entry: JsonObject, caller: CallerIdentity | None) -> str:
    """Why this caller may not be the entry's workload; empty where it may."""
    if caller is None:
        return "its identity is not known (it must connect over TLS, to port 15012)"
    if caller.namespace != namespace_of(entry):
        return f"its identity is of namespace {caller.namespace}"
    wanted = str_at(entry, "spec", "serviceAccount")
    if wanted and caller.service_account != wanted:
        return f"its service account is {caller.service_account}, not {wanted}"
    return ""


def with_health(entry: JsonObject, problem: str | None, at: float) -> JsonObject | None:
    """The entry with the condition Healthy (`problem` None: without it); None where it says so already, or newer."""
    conditions = objects_at(entry, "status", "conditions")
    before = next((c for c in conditions if str_at(c, "type") == HEALTHY), None)
    others: list[Json] = [c for c in conditions if str_at(c, "type") != HEALTHY]
    if problem is None:
        if before is None:
            return None
        made: list[Json] = others
    else:
        status = "False" if problem else "True"
        if before is not None:
            same = str_at(before, "status") == status and str_at(before, "message") == problem
            if same or _seconds(str_at(before, "lastProbeTime")) > at:
                return None
        changed = before is None or str_at(before, "status") != status
        moment = rfc3339(at, micros=True)
        condition: JsonObject = {
            "type": HEALTHY,
            "status": status,
            "lastProbeTime": moment,
            "lastTransitionTime": moment if changed else str_at(before, "lastTransitionTime"),
        }
        if problem:
            condition["message"] = problem
        made = [*others, condition]
    result = copy_object(entry)
    ensure_object(result, "status")["conditions"] = made
    return result


def _seconds(text: str) -> float:
    try:
        return parse_rfc3339(text)
    except ValueError:
        return 0.0
