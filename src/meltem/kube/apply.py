"""Applies a set of manifests in the order in which a cluster can take them, and prunes what is no longer in the set.

In: manifests as JSON objects, a field manager. Out: an `Applied` for each, in the order applied; `prune` deletes
objects that carry the set's label and are not in it. Server-side apply throughout: fields that others own stay
theirs, and a conflict names them. Raises the server's error with the manifest's name in front.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from meltem import errors
from meltem.clock import Clock, SystemClock
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import CRDS, ResourceType
from meltem.kube.wait import readiness
from meltem.objects import JsonObject, name_of, namespace_of, str_at, uid_of

_FIRST = (
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "StorageClass",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Service",
)
_LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet", "ReplicaSet", "Pod", "Job", "CronJob")
_CRD_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Applied(msgspec.Struct, frozen=True):
    """What became of one manifest: `created`, `configured`, `unchanged` or (prune) `deleted`."""

    rt: ResourceType
    namespace: str
    name: str
    action: str


Progress = Callable[[Applied], None]


def ordered(manifests: Iterable[JsonObject]) -> list[JsonObject]:
    """Definitions before their objects, configuration before workloads, webhooks at the very end (they would answer for
    pods that do not run yet). The order within a kind stays."""

    def rank(manifest: JsonObject) -> int:
        kind = str_at(manifest, "kind")
        if kind in _FIRST:
            return _FIRST.index(kind)
        if kind in _LAST:
            return 200
        return 100 if kind in _WORKLOADS else 150 if "." in str_at(manifest, "apiVersion") else 90

    return sorted(manifests, key=rank)


def flatten(manifests: Iterable[JsonObject]) -> list[JsonObject]:
    """The items of `List` objects in their places."""
    result: list[JsonObject] = []
    for manifest in manifests:
        items = manifest.get("items")
        if str_at(manifest, "kind").endswith("List") and isinstance(items, list):
            result += flatten(i for i in items if isinstance(i, dict))
        else:
            result.append(manifest)
    return result


async def apply_all(
    client: KubeClient,
    manifests: Sequence[JsonObject],
    *,
    field_manager: str,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> list[Applied]:
    """Applies them all, in order; waits for CRDs to be served before anything that may be of their kinds."""
    results: list[Applied] = []
    waiting: list[str] = []
    for manifest in ordered(flatten(manifests)):
        if waiting and str_at(manifest, "kind") not in _FIRST:
            if not dry_run:
                await crds_established(client, waiting, clock=clock)
            waiting = []
        result = await _apply_one(client, manifest, field_manager=field_manager, force=force, dry_run=dry_run)
        if result.rt.full_name == CRDS.full_name:
            waiting.append(result.name)
        results.append(result)
        if progress is not None:
            progress(result)
    if waiting and not dry_run:
        await crds_established(client, waiting, clock=clock)
    return results


async def crds_established(
    client: KubeClient, names: Iterable[str], *, seconds: float = _CRD_SECONDS, clock: Clock | None = None
) -> None:
    """Returns when all these CRDs are served; raises MeltemError naming the first that is not after `seconds`."""
    clock = clock or SystemClock()
    end = clock.monotonic() + seconds
    for name in names:
        while True:
            state = readiness(await client.get(CRDS, name))
            if state.ready:
                break
            if clock.monotonic() > end:
                raise errors.MeltemError(
                    f"is not served after {seconds:.0f} s: {state.message}",
                    where=f"CustomResourceDefinition {name}",
                    remedy=f"`kubectl describe crd {name}` shows its conditions.",
                )
            await clock.sleep(_LOOK_SECONDS)


async def _apply_one(
    client: KubeClient, manifest: JsonObject, *, field_manager: str, force: bool, dry_run: bool
) -> Applied:
    where = f"{str_at(manifest, 'kind')} {namespace_of(manifest)}/{name_of(manifest)}".replace(" /", " ")
    try:
        rt = await client.resource_type(str_at(manifest, "apiVersion"), str_at(manifest, "kind"))
        namespace = (namespace_of(manifest) or client.config.namespace) if rt.namespaced else ""
        before = await _existing(client, rt, name_of(manifest), namespace)
        after = await client.apply(manifest, field_manager=field_manager, force=force, dry_run=dry_run)
    except errors.ApiError as error:
        remedy = ""
        if isinstance(error, errors.Conflict):
            remedy = "Someone else set these fields; apply with force to take them over."
        raise errors.MeltemError(str(error), where=where, remedy=remedy) from error
    return Applied(rt, namespace, name_of(manifest), _action(before, after))


def _action(before: JsonObject | None, after: JsonObject) -> str:
    if before is None or uid_of(before) != uid_of(after):
        return "created"
    same = str_at(before, "metadata", "resourceVersion") == str_at(after, "metadata", "resourceVersion")
    return "unchanged" if same else "configured"


async def _existing(client: KubeClient, rt: ResourceType, name: str, namespace: str) -> JsonObject | None:
    try:
        return await client.get(rt, name, namespace)
    except errors.NotFound:
        return None


async def prune(
    client: KubeClient,
    keep: Iterable[JsonObject],
    *,
    label_selector: str,
    types: Iterable[ResourceType],
    propagation: str = "Background",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Applied]:
    """Deletes the objects of these kinds that the selector matches and that are not in `keep`; webhooks first, CRDs and
    namespaces last."""
    if not label_selector:
        raise ValueError("prune needs a label selector: without one it would delete everything")
    kept = {(str_at(m, "kind"), namespace_of(m), name_of(m)) for m in flatten(keep)}
    found: list[tuple[ResourceType, JsonObject]] = []
    for rt in types:
        try:
            items = (await client.list(rt, label_selector=label_selector)).items
        except (errors.NotFound, errors.MethodNotAllowed):
            continue  # a kind that is not served
        for item in items:
            names = {(rt.kind, namespace_of(item), name_of(item))}
            if namespace_of(item) == client.config.namespace:
                names.add((rt.kind, "", name_of(item)))  # a manifest may leave the namespace out
            if not names & kept:
                found.append((rt, item))
    order = {id(m): index for index, m in enumerate(ordered(item for _, item in found))}
    found.sort(key=lambda pair: -order[id(pair[1])])
    results: list[Applied] = []
    for rt, item in found:
        if not dry_run:
            try:
                await client.delete(rt, name_of(item), namespace_of(item), uid=uid_of(item), propagation=propagation)
            except (errors.NotFound, errors.Conflict):
                continue
        results.append(Applied(rt, namespace_of(item), name_of(item), "deleted"))
        if progress is not None:
            progress(results[-1])
        await asyncio.sleep(0)
    return results
