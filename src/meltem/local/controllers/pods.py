"""What all workload controllers know about pods: making them from a template, who owns them, which are ready, which one
to delete first.

In: templates, owners and pods as JSON. Out: pods to create, pods that belong to an owner (adopted and released as their
labels say), and answers about readiness. Times are seconds since the epoch.
"""

from __future__ import annotations

import hashlib

import msgspec

from meltem import errors
from meltem.clock import parse_rfc3339
from meltem.kube.resource_types import PODS, ResourceType
from meltem.kube.selectors import selects
from meltem.kube.store import Store
from meltem.local.controllers.runtime import OWNER_INDEX, Context, controller_of, is_deleting, owner_reference
from meltem.objects import (
    Json,
    JsonObject,
    copy_object,
    ensure_object,
    labels_of,
    list_at,
    name_of,
    namespace_of,
    object_at,
    objects_at,
    str_at,
    strings_at,
    uid_of,
)

HASH_LABEL = "pod-template-hash"
REVISION_HASH_LABEL = "controller-revision-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: a hash never spells a word


def template_hash(value: Json, collisions: int = 0, length: int = 10) -> str:
    """A short name for a template: equal templates have equal hashes; `collisions` gives another try."""
    data = msgspec.json.encode([value, collisions], order="deterministic")
    number = int.from_bytes(hashlib.sha256(data).digest()[:12])
    letters: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "".join(letters)


def pod_from_template(template: JsonObject, rt: ResourceType, owner: JsonObject) -> JsonObject:
    """A new pod of `owner`, with a generated name (the API server draws the last five letters)."""
    source = object_at(template, "metadata")
    metadata: JsonObject = {
        "generateName": f"{name_of(owner)[:57]}-",
        "namespace": namespace_of(owner),
        "labels": dict(object_at(source, "labels")),
        "annotations": dict(object_at(source, "annotations")),
        "ownerReferences": [owner_reference(rt, owner)],
    }
    if strings_at(source, "finalizers"):
        metadata["finalizers"] = [*strings_at(source, "finalizers")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": copy_object(object_at(template, "spec")),
    }


async def create_pod(ctx: Context, pod: JsonObject, owner: JsonObject) -> JsonObject:
    """Creates it and says so in an event on the owner; a refusal is an event as well, and raises."""
    try:
        made = await ctx.create(PODS, pod, namespace_of(owner))
    except errors.ApiError as error:
        if not isinstance(error, errors.AlreadyExists):
            ctx.events.event(owner, "Warning", "FailedCreate", f"Error creating: {error}")
        raise
    ctx.events.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name_of(made)}")
    return made


async def delete_pod(ctx: Context, pod: JsonObject, owner: JsonObject) -> None:
    await ctx.delete(PODS, pod)
    ctx.events.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")


async def claim(
    ctx: Context, rt: ResourceType, owner: JsonObject, child_rt: ResourceType, store: Store, selector: Json
) -> list[JsonObject]:
    """The children that `owner` controls: orphans that its selector matches are adopted, own ones that it does not
    match any more are released."""
    own: list[JsonObject] = []
    for child in store.by_index(OWNER_INDEX, uid_of(owner)):
        if selects(selector, labels_of(child)):
            own.append(child)
        elif not is_deleting(child):
            await _release(ctx, child_rt, owner, child)
    if is_deleting(owner):
        return own
    for child in store.by_index(OWNER_INDEX, ""):
        if (
            namespace_of(child) == namespace_of(owner)
            and not is_deleting(child)
            and selects(selector, labels_of(child))
        ):
            if child_rt == PODS and is_finished(child):
                continue
            references: list[Json] = [*objects_at(child, "metadata", "ownerReferences"), owner_reference(rt, owner)]
            own.append(await ctx.patch(child_rt, child, {"metadata": {"ownerReferences": references}}))
    return own


async def _release(ctx: Context, child_rt: ResourceType, owner: JsonObject, child: JsonObject) -> None:
    references: list[Json] = [
        r for r in objects_at(child, "metadata", "ownerReferences") if str_at(r, "uid") != uid_of(owner)
    ]
    try:
        await ctx.patch(child_rt, child, {"metadata": {"ownerReferences": references}})
    except errors.NotFound:
        return


def condition(obj: JsonObject, kind: str) -> JsonObject:
    """The status condition of that type, or an empty object."""
    for found in objects_at(obj, "status", "conditions"):
        if str_at(found, "type") == kind:
            return found
    return {}


def list_conditions(obj: JsonObject) -> list[Json]:
    return list_at(obj, "status", "conditions")


def set_condition(conditions: list[Json], new: JsonObject) -> list[Json]:
    """The list with one condition put in; `lastTransitionTime` stays while the status does."""
    result: list[Json] = []
    placed = False
    for old in conditions:
        if isinstance(old, dict) and str_at(old, "type") == str_at(new, "type"):
            placed = True
            same = str_at(old, "status") == str_at(new, "status")
            kept = {"lastTransitionTime": old["lastTransitionTime"]} if same and "lastTransitionTime" in old else {}
            merged = {**new, **kept}
            unchanged = same and all(old.get(k) == v for k, v in new.items() if not k.startswith("last"))
            result.append(old if unchanged else merged)
        else:
            result.append(old)
    if not placed:
        result.append(new)
    return result


def is_ready(pod: JsonObject) -> bool:
    return str_at(condition(pod, "Ready"), "status") == "True"


def is_finished(pod: JsonObject) -> bool:
    return str_at(pod, "status", "phase") in ("Succeeded", "Failed")


def is_active(pod: JsonObject) -> bool:
    return not is_deleting(pod) and not is_finished(pod)


def ready_since(pod: JsonObject) -> float | None:
    """When it became ready, or None while it is not."""
    ready = condition(pod, "Ready")
    if str_at(ready, "status") != "True":
        return None
    return moment(str_at(ready, "lastTransitionTime")) or 0.0


def available_in(pod: JsonObject, min_ready_seconds: int, now: float) -> float | None:
    """0 when it counts as available, the seconds until it will, or None while it is not ready."""
    since = ready_since(pod)
    if since is None:
        return None
    return max(0.0, since + min_ready_seconds - now) if min_ready_seconds else 0.0


def moment(text: str) -> float | None:
    """Seconds since the epoch, or None for what is no RFC 3339 time."""
    try:
        return parse_rfc3339(text) if text else None
    except ValueError:
        return None


def deletion_rank(pod: JsonObject) -> tuple[int, int, int, int, float, float]:
    """Sort key: first the pods whose loss matters least (unbound, pending, not ready, cheap, newest)."""
    phase = str_at(pod, "status", "phase")
    cost = object_at(pod, "metadata", "annotations").get("controller.kubernetes.io/pod-deletion-cost")
    return (
        1 if str_at(pod, "spec", "nodeName") else 0,
        {"Pending": 0, "Unknown": 1}.get(phase, 2 if phase else 0),
        1 if is_ready(pod) else 0,
        int(cost) if isinstance(cost, str) and cost.lstrip("-").isdigit() else 0,
        -(ready_since(pod) or 0.0),
        -(moment(str_at(pod, "metadata", "creationTimestamp")) or 0.0),
    )


def with_label(template: JsonObject, key: str, value: str) -> JsonObject:
    """A copy of a pod template with one more label."""
    changed = copy_object(template)
    ensure_object(ensure_object(changed, "metadata"), "labels")[key] = value
    return changed


def without_label(template: JsonObject, key: str) -> JsonObject:
    changed = copy_object(template)
    object_at(changed, "metadata", "labels").pop(key, None)
    return changed


def controlled_by(obj: JsonObject, owner: JsonObject) -> bool:
    reference = controller_of(obj)
    return reference is not None and str_at(reference, "uid") == uid_of(owner)
