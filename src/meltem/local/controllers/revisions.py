"""ControllerRevisions: the past templates of StatefulSets and DaemonSets, by which their pods say how old they are.

In: an owner with `spec.template`. Out: `current_revision` makes or finds the ControllerRevision of that template;
`prune_revisions` keeps as many old ones as `revisionHistoryLimit` says. `kubectl rollout history|undo` read them.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import errors
from meltem.kube.resource_types import CONTROLLER_REVISIONS, ResourceType
from meltem.kube.store import Store
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import OWNER_INDEX, Context, owner_reference
from meltem.objects import (
    JsonObject,
    annotations_of,
    copy_object,
    int_at,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    uid_of,
)

_SKIPPED = {"kubectl.kubernetes.io/last-applied-configuration"}


def revisions_of(store: Store, owner: JsonObject) -> list[JsonObject]:
    """Oldest first."""
    return sorted(store.by_index(OWNER_INDEX, uid_of(owner)), key=lambda r: int_at(r, "revision"))


async def current_revision(ctx: Context, rt: ResourceType, owner: JsonObject, store: Store) -> JsonObject:
    """The revision of the owner's present template, with the highest number."""
    template = copy_object(object_at(owner, "spec", "template"))
    template["$patch"] = "replace"
    data: JsonObject = {"spec": {"template": template}}
    known = revisions_of(store, owner)
    newest = max((int_at(r, "revision") for r in known), default=0)
    for revision in known:
        if object_at(revision, "data") == data:
            if int_at(revision, "revision") < newest:  # rolled back: it is the newest again
                return await ctx.patch(CONTROLLER_REVISIONS, revision, {"revision": newest + 1})
            return revision
    digest = podlib.template_hash(data, int_at(owner, "status", "collisionCount"))
    made: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{name_of(owner)}-{digest}",
            "namespace": namespace_of(owner),
            "labels": {
                **labels_of({"metadata": object_at(template, "metadata")}),
                podlib.REVISION_HASH_LABEL: digest,
            },
            "annotations": {k: v for k, v in annotations_of(owner).items() if k not in _SKIPPED},
            "ownerReferences": [owner_reference(rt, owner)],
        },
        "data": data,
        "revision": newest + 1,
    }
    try:
        return await ctx.create(CONTROLLER_REVISIONS, made)
    except errors.AlreadyExists:
        found = await ctx.client.get(CONTROLLER_REVISIONS, f"{name_of(owner)}-{digest}", namespace_of(owner))
        if podlib.controlled_by(found, owner) and object_at(found, "data") == data:
            return found
        raise


def template_of(revision: JsonObject) -> JsonObject:
    template = copy_object(object_at(revision, "data", "spec", "template"))
    template.pop("$patch", None)
    return template


async def prune_revisions(ctx: Context, owner: JsonObject, store: Store, used: Iterable[str]) -> None:
    """Deletes the oldest revisions that no pod uses, past the limit."""
    keep = int_at(owner, "spec", "revisionHistoryLimit", default=10)
    names = set(used)
    idle = [r for r in revisions_of(store, owner) if name_of(r) not in names]
    for revision in idle[: max(0, len(idle) - keep)]:
        await ctx.delete(CONTROLLER_REVISIONS, revision)
