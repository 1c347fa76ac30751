"""All volumes of one pod: made before its containers start, kept current while it runs, taken away at its end.

In: the pod, its directory, `Sources`. Out: `mount_all` (raises MountFailure; call again later), `binds` for a
container's volumeMounts, `refresh` after a change, `remove`. Volumes live in `<pod>/volumes/<name>`; host paths and
claims elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from meltem.errors import InvalidResource
from meltem.local.node import fields
from meltem.local.node.runtime import linux
from meltem.local.node.runtime.spec import Bind
from meltem.local.node.volumes.payload import MountFailure, Payload, Request, payload, write_payload
from meltem.objects import Json, JsonObject, bool_at, int_at, namespace_of, object_at, objects_at, str_at, uid_of

_PAYLOADS = ("configMap", "secret", "downwardAPI", "projected")
_EXPECTED = {
    "Directory": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


class PodVolumes:
    """`directory` is the pod's; `claims` where claims without a volume of their own get a directory."""

    def __init__(self, directory: Path, claims: Path) -> None:
        self._directory = directory
        self._claims = claims
        self._sources: dict[str, Path] = {}
        self._read_only: set[str] = set()
        self.refresh_at = 0.0
        """When a token wants renewing, or 0."""

    async def mount_all(self, request: Request) -> None:
        """Makes every volume; raises MountFailure naming the first that cannot be made."""
        refresh: list[float] = []
        for volume in objects_at(request.pod, "spec", "volumes"):
            name = str_at(volume, "name")
            try:
                content = await payload(volume, request) if any(k in volume for k in _PAYLOADS) else None
                if content is not None:
                    self._read_only.add(name)
                    self._sources[name] = await asyncio.to_thread(self._write, name, volume, content, request.pod)
                    if content.refresh_at:
                        refresh.append(content.refresh_at)
                else:
                    self._sources[name] = await self._other(name, volume, request)
            except MountFailure as error:
                raise MountFailure(f'MountVolume.SetUp failed for volume "{name}" : {error.what}') from None
            except OSError as error:
                raise MountFailure(f'MountVolume.SetUp failed for volume "{name}" : {error}') from None
        self.refresh_at = min(refresh, default=0.0)

    async def refresh(self, request: Request) -> None:
        """Writes what has changed since; what cannot be had now keeps its last contents."""
        refresh: list[float] = []
        for volume in objects_at(request.pod, "spec", "volumes"):
            if not any(k in volume for k in _PAYLOADS):
                continue
            with contextlib.suppress(MountFailure, OSError):
                content = await payload(volume, request)
                await asyncio.to_thread(self._write, str_at(volume, "name"), volume, content, request.pod)
                if content.refresh_at:
                    refresh.append(content.refresh_at)
        if self.refresh_at:
            self.refresh_at = min(refresh, default=request.clock.now() + 10.0)

    def needs(self, kind: str, name: str, pod: JsonObject) -> bool:
        """Whether a volume shows the config map or secret (`kind` is configMap or secret)."""
        key = "name" if kind == "configMap" else "secretName"
        for volume in objects_at(pod, "spec", "volumes"):
            if str_at(volume, kind, key) == name:
                return True
            if any(str_at(s, kind, "name") == name for s in objects_at(volume, "projected", "sources")):
                return True
        return False

    def binds(self, container: JsonObject, env: Mapping[str, str]) -> list[Bind]:
        """The container's volumeMounts, parents before what lies in them."""
        result: list[Bind] = []
        for mount in objects_at(container, "volumeMounts"):
            name = str_at(mount, "name")
            source = self._sources.get(name)
            if source is None:
                raise InvalidResource(f"volume {name!r} is not one of the pod's")
            readonly = bool_at(mount, "readOnly") or name in self._read_only
            part = str_at(mount, "subPath")
            if str_at(mount, "subPathExpr"):
                part = _expand_strictly(str_at(mount, "subPathExpr"), env)
            if part:
                source = _sub_path(source, part, name)
            target = "/" + str_at(mount, "mountPath").lstrip("/")
            result.append(Bind(source=str(source), target=target, readonly=readonly, recursive=True))
        return sorted(result, key=lambda b: len(PurePosixPath(b.target).parts))

    def remove(self) -> None:
        """Unmounts and deletes what belongs to the pod alone."""
        volumes = self._directory / "volumes"
        if volumes.is_dir():
            for entry in volumes.iterdir():
                unmount(entry)
            shutil.rmtree(volumes, ignore_errors=True)

    def _write(self, name: str, volume: JsonObject, content: Payload, pod: JsonObject) -> Path:
        directory = self._directory / "volumes" / name
        write_payload(directory, content, group=_fs_group(pod))
        return directory

    async def _other(self, name: str, volume: JsonObject, request: Request) -> Path:
        if "emptyDir" in volume:
            return await asyncio.to_thread(self._empty_dir, name, object_at(volume, "emptyDir"), request.pod)
        if "hostPath" in volume:
            return await asyncio.to_thread(host_path, object_at(volume, "hostPath"))
        if "persistentVolumeClaim" in volume:
            return await self._claim(object_at(volume, "persistentVolumeClaim"), name, request)
        if "ephemeral" in volume:
            claim: JsonObject = {"claimName": f"{str_at(request.pod, 'metadata', 'name')}-{name}"}
            return await self._claim(claim, name, request)
        kind = next((key for key in volume if key != "name"), "")
        if not kind:
            return await asyncio.to_thread(self._empty_dir, name, {}, request.pod)
        raise MountFailure(f"volumes of kind {kind} are not supported by the local cluster's node")

    def _empty_dir(self, name: str, source: JsonObject, pod: JsonObject) -> Path:
        directory = self._directory / "volumes" / name
        fresh = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        if str_at(source, "medium") == "Memory" and not os.path.ismount(directory):
            limit = source.get("sizeLimit")
            size = f",size={int(fields.quantity(limit))}" if limit not in (None, "", "0") else ""
            linux.mount("tmpfs", str(directory), "tmpfs", linux.MS_NODEV | linux.MS_NOSUID, f"mode=0777{size}")
            fresh = True
        if fresh:
            group = _fs_group(pod)
            if group is not None:
                os.chown(directory, -1, group)
            directory.chmod(0o777 if group is None else 0o2777)
        return directory

    async def _claim(self, source: JsonObject, name: str, request: Request) -> Path:
        namespace, claim_name = namespace_of(request.pod), str_at(source, "claimName")
        claim = await request.sources.claim(namespace, claim_name)
        if claim is None:
            raise MountFailure(f'persistentvolumeclaim "{claim_name}" not found')
        if bool_at(source, "readOnly"):
            self._read_only.add(name)
        bound = str_at(claim, "spec", "volumeName")
        if bound:
            volume = await request.sources.volume(bound)
            path = str_at(volume, "spec", "hostPath", "path") or str_at(volume, "spec", "local", "path")
            if volume is not None and not path:
                raise MountFailure(f"persistent volume {bound} is neither hostPath nor local")
            if path:
                source = {"path": path, "type": "DirectoryOrCreate"}
                return await asyncio.to_thread(host_path, source)
        directory = self._claims / f"{namespace}_{claim_name}_{uid_of(claim)}"
        await asyncio.to_thread(self._claim_directory, directory, request.pod)
        return directory

    @staticmethod
    def _claim_directory(directory: Path, pod: JsonObject) -> None:
        if not directory.exists():
            directory.mkdir(parents=True)
            directory.chmod(0o777)
        group = _fs_group(pod)
        if group is not None:
            os.chown(directory, -1, group)
            directory.chmod(0o2777)


def host_path(source: JsonObject) -> Path:
    """The path of a hostPath volume, made or checked as its `type` says."""
    path, kind = Path(str_at(source, "path")), str_at(source, "type")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    elif kind == "FileOrCreate":
        if not path.exists():
            path.touch(0o644)
    elif kind in _EXPECTED:
        check, word = _EXPECTED[kind]
        if not path.exists() or not check(path.stat().st_mode):
            raise MountFailure(f"hostPath type check failed: {path} is not a {word}")
    elif not path.exists():
        path.mkdir(parents=True, exist_ok=True)
    return path


def unmount(path: Path) -> None:
    """Unmounts whatever is mounted there, layer by layer."""
    while os.path.ismount(path):
        try:
            linux.umount(str(path), linux.MNT_DETACH)
        except OSError:
            return


def _fs_group(pod: JsonObject) -> int | None:
    value: Json = object_at(pod, "spec", "securityContext").get("fsGroup")
    return int_at({"g": value}, "g") if isinstance(value, int) else None


def _sub_path(source: Path, part: str, volume: str) -> Path:
    pure = PurePosixPath(part)
    if pure.is_absolute() or ".." in pure.parts:
        raise InvalidResource(f"subPath {part!r} of volume {volume!r} leaves the volume")
    target = source / pure
    if not target.exists():
        mode = stat.S_IMODE(source.stat().st_mode)
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(mode & 0o7777)
        info = source.stat()
        os.chown(target, info.st_uid, info.st_gid)
    real = target.resolve()
    if not real.is_relative_to(source.resolve()):
        raise InvalidResource(f"subPath {part!r} of volume {volume!r} leads out of the volume")
    return real


def _expand_strictly(text: str, env: Mapping[str, str]) -> str:
    from meltem.local.node.environment import expand

    result = expand(text, env)
    if "$(" in result:
        raise InvalidResource(f"subPathExpr {text!r} names a variable that the container does not have")
    return result
