"""Namespace deletion: everything in it goes, then the namespace itself.

In: namespaces with a deletion timestamp. Out: deletions of every object of every kind in them (custom resources
included), the status conditions that say what is left, and at the end `spec.finalizers` without `kubernetes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from meltem import errors
from meltem.clock import rfc3339
from meltem.kube.resource_types import NAMESPACES, PODS, ResourceType
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import Json, JsonObject, copy_object, name_of, object_at, strings_at, uid_of

_FINALIZER = "kubernetes"
_FIRST_LOOK = 0.1
_LONGEST_LOOK = 5.0


class NamespaceController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._namespaces = ctx.cache(NAMESPACES)
        self._queue: WorkQueue[str] = WorkQueue("namespaces")
        self._looks: dict[str, int] = {}

    async def run(self) -> None:
        self._namespaces.on_change(self._changed)
        await self._queue.run(self._sync)

    def _changed(self, _old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None and is_deleting(new):
            self._queue.add(name_of(new))

    async def _sync(self, name: str) -> None:
        namespace = self._namespaces.get(name)
        if (
            namespace is None
            or not is_deleting(namespace)
            or _FINALIZER not in strings_at(namespace, "spec", "finalizers")
        ):
            self._looks.pop(name, None)
            return
        types = [rt for rt in await self._ctx.client.resource_types() if rt.namespaced]
        # Pods last but one round: their controllers must be gone first, or they would be made again.
        types.sort(key=lambda rt: rt == PODS)
        remaining: dict[str, int] = {}
        finalizers: dict[str, int] = {}
        failures: list[str] = []
        for rt in types:
            await self._empty(rt, name, remaining, finalizers, failures)
        if not remaining and not failures:
            await self._finalize(namespace)
            self._looks.pop(name, None)
            return
        await self._report(namespace, remaining, finalizers, failures)
        looks = self._looks.get(name, 0)
        self._looks[name] = looks + 1
        self._queue.add_after(name, min(_FIRST_LOOK * 1.5**looks, _LONGEST_LOOK))

    async def _empty(
        self,
        rt: ResourceType,
        namespace: str,
        remaining: dict[str, int],
        finalizers: dict[str, int],
        failures: list[str],
    ) -> None:
        try:
            items = (await self._ctx.client.list(rt, namespace)).items
            for item in items:
                if not is_deleting(item):
                    await self._delete(rt, namespace, item)
            if items:
                items = (await self._ctx.client.list(rt, namespace)).items
        except (errors.NotFound, errors.MethodNotAllowed):
            return  # a CRD that went meanwhile, or a kind that cannot be listed
        except errors.ApiError as error:
            failures.append(f"{rt.full_name}: {error}")
            return
        if items:
            remaining[rt.full_name] = len(items)
        for item in items:
            for finalizer in strings_at(item, "metadata", "finalizers"):
                finalizers[finalizer] = finalizers.get(finalizer, 0) + 1

    async def _delete(self, rt: ResourceType, namespace: str, item: JsonObject) -> None:
        try:
            await self._ctx.client.delete(rt, name_of(item), namespace, uid=uid_of(item), propagation="Background")
        except (errors.NotFound, errors.Conflict, errors.MethodNotAllowed):
            return

    async def _finalize(self, namespace: JsonObject) -> None:
        changed = copy_object(namespace)
        kept: list[Json] = [f for f in strings_at(namespace, "spec", "finalizers") if f != _FINALIZER]
        object_at(changed, "spec")["finalizers"] = kept
        try:
            await self._ctx.client.replace(NAMESPACES, changed, subresource="finalize")
        except errors.NotFound:
            return

    async def _report(
        self, namespace: JsonObject, remaining: dict[str, int], finalizers: dict[str, int], failures: Sequence[str]
    ) -> None:
        counts = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(remaining.items()))
        held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
        conditions = podlib.list_conditions(namespace)
        for kind, value, reason, message in _conditions(counts, held, failures):
            conditions = podlib.set_condition(
                conditions,
                {
                    "type": kind,
                    "status": "True" if value else "False",
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": rfc3339(self._ctx.clock.now()),
                },
            )
        status: JsonObject = {**object_at(namespace, "status"), "phase": "Terminating", "conditions": conditions}
        try:
            await self._ctx.update_status(NAMESPACES, namespace, status)
        except (errors.NotFound, errors.Conflict):
            return


def _conditions(counts: str, held: str, failures: Sequence[str]) -> list[tuple[str, bool, str, str]]:
    """(type, status, reason, message) in the words that people search for."""
    return [
        (
            "NamespaceDeletionDiscoveryFailure",
            False,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            bool(failures),
            "ContentDeletionFailed" if failures else "ContentDeleted",
            "; ".join(failures) or "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            bool(counts),
            "SomeResourcesRemain" if counts else "ContentRemoved",
            f"Some resources are remaining: {counts}" if counts else "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            bool(held),
            "SomeFinalizersRemain" if held else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {held}"
            if held
            else "All content-preserving finalizers finished",
        ),
    ]
