"""An object as another served version of its resource has it.

In: an object as kept or as sent, and the apiVersion that is wanted. Out: the object in that version. Custom resources
with conversion strategy None change their apiVersion only; with strategy Webhook the CRD's webhook is asked. Built-in
kinds: events (core and events.k8s.io), horizontal pod autoscalers (autoscaling/v1 and v2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from meltem.local.apiserver.registry import Resource
from meltem.objects import Json, JsonObject, object_at, objects_at, str_at

WebhookConverter = Callable[[JsonObject, str, Sequence[JsonObject]], Awaitable[list[JsonObject]]]
"""(CRD, wanted apiVersion, objects) -> converted objects; raises ApiError."""

_TO_NEW_EVENT = {
    "message": "note",
    "involvedObject": "regarding",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_TO_CORE_EVENT = {new: old for old, new in _TO_NEW_EVENT.items()}


def _rename(obj: JsonObject, names: dict[str, str], api_version: str) -> JsonObject:
    renamed: JsonObject = {names.get(k, k): v for k, v in obj.items()}
    renamed["apiVersion"] = api_version
    return renamed


def _autoscaler_to_v1(obj: JsonObject) -> JsonObject:
    """v1 knows one CPU percentage; every other metric is kept aside in an annotation by the real one, here left out."""
    spec = dict(object_at(obj, "spec"))
    metrics = objects_at(spec.pop("metrics", None) and obj, "spec", "metrics")
    for metric in metrics:
        if str_at(metric, "resource", "name") == "cpu":
            percent = object_at(metric, "resource", "target").get("averageUtilization")
            if percent is not None:
                spec["targetCPUUtilizationPercentage"] = percent
    spec.pop("behavior", None)
    return {**obj, "apiVersion": "autoscaling/v1", "spec": spec}


def _autoscaler_to_v2(obj: JsonObject) -> JsonObject:
    spec = dict(object_at(obj, "spec"))
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is not None and "metrics" not in spec:
        target: JsonObject = {"type": "Utilization", "averageUtilization": percent}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return {**obj, "apiVersion": "autoscaling/v2", "spec": spec}


def _builtin(obj: JsonObject, api_version: str) -> JsonObject:
    match (str_at(obj, "apiVersion"), api_version):
        case ("v1", "events.k8s.io/v1"):
            return _rename(obj, _TO_NEW_EVENT, api_version)
        case ("events.k8s.io/v1", "v1"):
            return _rename(obj, _TO_CORE_EVENT, api_version)
        case ("autoscaling/v2", "autoscaling/v1"):
            return _autoscaler_to_v1(obj)
        case ("autoscaling/v1", "autoscaling/v2"):
            return _autoscaler_to_v2(obj)
        case _:
            return {**obj, "apiVersion": api_version}


def _by_webhook(resource: Resource) -> bool:
    return resource.crd is not None and str_at(resource.crd, "spec", "conversion", "strategy") == "Webhook"


async def convert_all(
    resource: Resource, objects: Sequence[JsonObject], api_version: str, webhook: WebhookConverter
) -> list[JsonObject]:
    """Each object in `api_version`, in order; those that are in it already are returned as they are."""
    different = [o for o in objects if o.get("apiVersion") != api_version]
    if not different:
        return list(objects)
    if resource.crd is not None and _by_webhook(resource):
        converted = iter(await webhook(resource.crd, api_version, different))
        return [o if o.get("apiVersion") == api_version else next(converted) for o in objects]
    if resource.crd is not None:
        return [{**o, "apiVersion": api_version} for o in objects]
    return [o if o.get("apiVersion") == api_version else _builtin(o, api_version) for o in objects]


async def convert(resource: Resource, obj: JsonObject, api_version: str, webhook: WebhookConverter) -> JsonObject:
    return (await convert_all(resource, [obj], api_version, webhook))[0]


def partial_metadata(obj: JsonObject) -> JsonObject:
    """The object's PartialObjectMetadata."""
    metadata: Json = obj.get("metadata")
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
