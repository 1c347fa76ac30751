"""Persistent volume claims: each is bound to a directory on this machine, made for it.

In: PersistentVolumeClaims (of no class, or of class `local-path`/`standard`/any default), PersistentVolumes. Out: a
PersistentVolume of type hostPath under `<home>/volumes`, both bound; volumes of deleted claims are deleted (or kept
as Released, by their reclaim policy). A claim that names an existing volume, or fits one that a person made, is bound
to that.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from meltem import errors
from meltem.kube.resource_types import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES
from meltem.kube.selectors import selects
from meltem.kube.store import Key, key_of
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import (
    JsonObject,
    annotations_of,
    at,
    copy_object,
    labels_of,
    name_of,
    namespace_of,
    object_at,
    str_at,
    strings_at,
    uid_of,
)

PROVISIONER = "meltem.local/directory"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class VolumeController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._claims = ctx.cache(PERSISTENT_VOLUME_CLAIMS)
        self._volumes = ctx.cache(PERSISTENT_VOLUMES)
        self._classes = ctx.cache(STORAGE_CLASSES)
        self._queue: WorkQueue[Key] = WorkQueue("claims")
        self._released: WorkQueue[str] = WorkQueue("volumes")

    async def run(self) -> None:
        self._claims.on_change(self._claim_changed)
        self._volumes.on_change(self._volume_changed)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(self._bind, workers=1))
            group.create_task(self._released.run(self._reclaim))

    def _claim_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None:
            self._queue.add(key_of(new))
        elif old is not None and str_at(old, "spec", "volumeName"):
            self._released.add(str_at(old, "spec", "volumeName"))

    def _volume_changed(self, _old: JsonObject | None, new: JsonObject | None) -> None:
        if new is None:
            return
        self._released.add(name_of(new))
        for claim in self._claims:
            if str_at(claim, "status", "phase") != "Bound":
                self._queue.add(key_of(claim))

    async def _bind(self, key: Key) -> None:
        claim = self._claims.get(key[1], key[0])
        if claim is None or is_deleting(claim) or str_at(claim, "status", "phase") == "Bound":
            return
        volume = self._existing(claim)
        if volume is None:
            if str_at(claim, "spec", "volumeName") or not self._provisions(claim):
                return  # the named volume, or somebody else's provisioner, is still to come
            volume = await self._provision(claim)
        if str_at(volume, "spec", "claimRef", "uid") != uid_of(claim):
            volume = await self._ctx.patch(PERSISTENT_VOLUMES, volume, {"spec": {"claimRef": _reference(claim)}})
        if str_at(volume, "status", "phase") != "Bound":
            volume = await self._ctx.update_status(PERSISTENT_VOLUMES, volume, {"phase": "Bound"})
        if str_at(claim, "spec", "volumeName") != name_of(volume):
            note: JsonObject = {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
            claim = await self._ctx.patch(
                PERSISTENT_VOLUME_CLAIMS, claim, {"metadata": note, "spec": {"volumeName": name_of(volume)}}
            )
        status: JsonObject = {
            "phase": "Bound",
            "accessModes": at(volume, "spec", "accessModes"),
            "capacity": at(volume, "spec", "capacity"),
        }
        await self._ctx.update_status(PERSISTENT_VOLUME_CLAIMS, claim, status)

    def _existing(self, claim: JsonObject) -> JsonObject | None:
        """The volume made for this claim, named by it, or fitting it; the smallest that fits."""
        named = str_at(claim, "spec", "volumeName")
        if named:
            return self._volumes.get(named)
        fitting: list[JsonObject] = []
        for volume in self._volumes:
            owner = object_at(volume, "spec", "claimRef")
            if str_at(owner, "uid") == uid_of(claim):
                return volume
            mine = str_at(owner, "namespace") == namespace_of(claim) and str_at(owner, "name") == name_of(claim)
            if owner and not (mine and not str_at(owner, "uid")):
                continue
            if not is_deleting(volume) and _fits(claim, volume):
                fitting.append(volume)
        return min(fitting, key=lambda v: _bytes(str_at(v, "spec", "capacity", "storage")), default=None)

    def _provisions(self, claim: JsonObject) -> bool:
        name = at(claim, "spec", "storageClassName")
        if name == "" or str_at(claim, "spec", "volumeMode") == "Block":
            return False  # asks for a volume that a person makes
        found = self._classes.get(name) if isinstance(name, str) else None
        return found is None or str_at(found, "provisioner") in (PROVISIONER, "kubernetes.io/no-provisioner", "")

    async def _provision(self, claim: JsonObject) -> JsonObject:
        name = f"pvc-{uid_of(claim)}"
        directory = self._ctx.config.path / "volumes" / name
        await asyncio.to_thread(_make, directory)
        made: JsonObject = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}},
            "spec": {
                "capacity": {"storage": str_at(claim, "spec", "resources", "requests", "storage", default="1Gi")},
                "accessModes": [*strings_at(claim, "spec", "accessModes")],
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": str_at(claim, "spec", "storageClassName"),
                "volumeMode": "Filesystem",
                "hostPath": {"path": str(directory), "type": "DirectoryOrCreate"},
                "claimRef": _reference(claim),
            },
        }
        try:
            volume = await self._ctx.create(PERSISTENT_VOLUMES, made)
        except errors.AlreadyExists:
            return await self._ctx.client.get(PERSISTENT_VOLUMES, name)
        message = f"Successfully provisioned volume {name}"
        self._ctx.events.event(claim, "Normal", "ProvisioningSucceeded", message)
        return volume

    async def _reclaim(self, name: str) -> None:
        volume = self._volumes.get(name)
        if volume is None or is_deleting(volume):
            return
        owner = object_at(volume, "spec", "claimRef")
        if not owner:
            if not str_at(volume, "status", "phase") or str_at(volume, "status", "phase") == "Pending":
                await self._ctx.update_status(PERSISTENT_VOLUMES, volume, {"phase": "Available"})
            return
        claim = self._claims.get(str_at(owner, "name"), str_at(owner, "namespace"))
        if not str_at(owner, "uid") or (claim is not None and uid_of(claim) == str_at(owner, "uid")):
            return
        ours = annotations_of(volume).get(_PROVISIONED_BY) == PROVISIONER
        if str_at(volume, "spec", "persistentVolumeReclaimPolicy") == "Delete" and ours:
            directory = Path(str_at(volume, "spec", "hostPath", "path"))
            if directory.parent == self._ctx.config.path / "volumes":
                await asyncio.to_thread(shutil.rmtree, directory, True)
            await self._ctx.delete(PERSISTENT_VOLUMES, volume)
        elif str_at(volume, "status", "phase") != "Released":
            await self._ctx.update_status(
                PERSISTENT_VOLUMES, volume, {**copy_object(object_at(volume, "status")), "phase": "Released"}
            )


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)  # any pod's user may write, as on other local provisioners


def _reference(claim: JsonObject) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "name": name_of(claim),
        "namespace": namespace_of(claim),
        "uid": uid_of(claim),
    }


def _fits(claim: JsonObject, volume: JsonObject) -> bool:
    selector = at(claim, "spec", "selector")
    return (
        str_at(claim, "spec", "storageClassName") == str_at(volume, "spec", "storageClassName")
        and set(strings_at(claim, "spec", "accessModes")) <= set(strings_at(volume, "spec", "accessModes"))
        and (selector is None or selects(selector, labels_of(volume)))
        and _bytes(str_at(volume, "spec", "capacity", "storage"))
        >= _bytes(str_at(claim, "spec", "resources", "requests", "storage"))
    )


def _bytes(quantity: str) -> float:
    digits = quantity.rstrip("kMGTKi")
    try:
        return float(digits or 0) * _UNITS.get(quantity[len(digits) :], 1)
    except ValueError:
        return 0.0
