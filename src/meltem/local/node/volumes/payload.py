"""What a config map, secret, downward API or projected volume contains, and writing it so that readers see it whole.

In: a volume of the pod's spec, `Sources`. Out: `Payload`, files by path with their modes; `write_payload` puts it into
a directory behind the `..data` symbolic link, replaced in one rename, as the kubelet does: a reader sees the old set of
files or the new one. Missing objects raise `MountFailure`, whose text is the FailedMount event's.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from meltem.clock import Clock
from meltem.errors import ApiError, InvalidResource, UserError
from meltem.local.node import fields
from meltem.local.node.volumes.sources import Sources, items_of
from meltem.objects import JsonObject, bool_at, int_at, namespace_of, object_at, objects_at, str_at

_REFRESH = 0.8
"""A token is renewed when this part of its life has passed."""
_TOKEN_MODE_WITH_GROUP = 0o640


class MountFailure(UserError):
    """A volume cannot be made ready; tried again until it can."""


class File(msgspec.Struct, frozen=True):
    content: bytes
    mode: int
    owner: int | None = None


class Payload(msgspec.Struct, frozen=True):
    """Files by relative path. `refresh_at`: when its tokens want renewing (seconds since the epoch), or 0."""

    files: dict[str, File]
    refresh_at: float = 0.0


class Request(msgspec.Struct, frozen=True):
    """Whose volume it is: all that a payload may depend on."""

    pod: JsonObject
    addresses: fields.Addresses
    capacity: fields.Capacity
    sources: Sources
    clock: Clock


async def payload(volume: JsonObject, request: Request) -> Payload:
    """The contents of one volume of kind configMap, secret, downwardAPI or projected."""
    if "configMap" in volume:
        source = object_at(volume, "configMap")
        return Payload(await _keys("configMap", source, str_at(source, "name"), request, _mode(source)))
    if "secret" in volume:
        source = object_at(volume, "secret")
        return Payload(await _keys("secret", source, str_at(source, "secretName"), request, _mode(source)))
    if "downwardAPI" in volume:
        source = object_at(volume, "downwardAPI")
        return Payload(_downward(source, request, _mode(source)))
    return await _projected(object_at(volume, "projected"), request)


async def _projected(projected: JsonObject, request: Request) -> Payload:
    mode = _mode(projected)
    files: dict[str, File] = {}
    refresh = 0.0
    for source in objects_at(projected, "sources"):
        if "serviceAccountToken" in source:
            token = object_at(source, "serviceAccountToken")
            file, at = await _token(token, request, mode)
            files[_checked(str_at(token, "path"))] = file
            refresh = min(refresh, at) if refresh else at
        elif "configMap" in source:
            part = object_at(source, "configMap")
            files |= await _keys("configMap", part, str_at(part, "name"), request, mode)
        elif "secret" in source:
            part = object_at(source, "secret")
            files |= await _keys("secret", part, str_at(part, "name"), request, mode)
        elif "downwardAPI" in source:
            files |= _downward(object_at(source, "downwardAPI"), request, mode)
        else:
            kind = next(iter(source), "nothing")
            raise MountFailure(f"projected volume source {kind} is not supported by the local cluster's node")
    return Payload(files, refresh)


async def _keys(kind: str, source: JsonObject, name: str, request: Request, mode: int) -> dict[str, File]:
    namespace = namespace_of(request.pod)
    get = request.sources.config_map if kind == "configMap" else request.sources.secret
    try:
        data = await get(namespace, name)
    except ApiError as error:
        raise MountFailure(f"failed to get {kind.lower()} {namespace}/{name}: {error}") from None
    optional = bool_at(source, "optional")
    if data is None:
        if optional:
            return {}
        raise MountFailure(f'{kind.lower()} "{name}" not found')
    return _select(data, source, kind, f"{namespace}/{name}", mode, optional=optional)


def _select(
    data: Mapping[str, bytes], source: JsonObject, kind: str, where: str, mode: int, *, optional: bool
) -> dict[str, File]:
    items = items_of(source)
    if not items:
        return {key: File(value, mode) for key, value in data.items()}
    files: dict[str, File] = {}
    for key, path, own_mode in items:
        if key not in data:
            if optional:
                continue
            raise MountFailure(f"references non-existent {kind.lower()} key: {key} ({where})")
        files[_checked(path)] = File(data[key], mode if own_mode is None else own_mode)
    return files


def _downward(source: JsonObject, request: Request, mode: int) -> dict[str, File]:
    files: dict[str, File] = {}
    for item in objects_at(source, "items"):
        try:
            if "fieldRef" in item:
                text = fields.field(request.pod, str_at(item, "fieldRef", "fieldPath"), request.addresses)
            else:
                text = fields.resource(request.pod, {}, object_at(item, "resourceFieldRef"), request.capacity)
        except InvalidResource as error:
            raise MountFailure(str(error)) from None
        files[_checked(str_at(item, "path"))] = File(text.encode(), int_at(item, "mode", default=mode))
    return files


async def _token(source: JsonObject, request: Request, mode: int) -> tuple[File, float]:
    seconds = int_at(source, "expirationSeconds", default=3600)
    try:
        token = await request.sources.token(request.pod, str_at(source, "audience"), seconds)
    except ApiError as error:
        raise MountFailure(f"failed to fetch token: {error}") from None
    now = request.clock.now()
    owner = _single_user(request.pod)
    if "fsGroup" in object_at(request.pod, "spec", "securityContext"):
        mode = _TOKEN_MODE_WITH_GROUP if owner is None else mode & 0o770 | 0o600
    elif owner is not None:
        mode = 0o600
    return File(token.token.encode(), mode, owner), now + max(1.0, (token.expires - now) * _REFRESH)


def _single_user(pod: JsonObject) -> int | None:
    """The one user that all containers run as, when their security contexts say so: the token becomes theirs."""
    default = object_at(pod, "spec", "securityContext").get("runAsUser")
    users: set[int | None] = set()
    for container in objects_at(pod, "spec", "initContainers") + objects_at(pod, "spec", "containers"):
        user = object_at(container, "securityContext").get("runAsUser", default)
        users.add(user if isinstance(user, int) else None)
    return next(iter(users)) if len(users) == 1 else None


def _mode(source: JsonObject) -> int:
    return int_at(source, "defaultMode", default=0o644)


def _checked(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or not path or ".." in pure.parts:
        raise MountFailure(f"path {path!r} leaves the volume")
    return str(pure)


# ---- writing ----


def write_payload(directory: Path, content: Payload, *, group: int | None) -> bool:
    """Makes `directory` show exactly these files; False when it did already. `group` is the pod's fsGroup."""
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / "..data"
    if link.is_symlink() and _same(link, content, group):
        return False
    fresh = directory / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{time.time_ns() % 10**9}"
    fresh.mkdir(mode=0o755)
    fresh.chmod(0o755)
    for path, file in content.files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        os.chown(target, -1 if file.owner is None else file.owner, -1 if group is None else group)
        target.chmod(_effective(file.mode, group))
    old = link.readlink() if link.is_symlink() else None
    partial = directory / "..data_tmp"
    partial.unlink(missing_ok=True)
    partial.symlink_to(fresh.name)
    partial.rename(link)
    tops = {PurePosixPath(path).parts[0] for path in content.files}
    for top in tops:
        shown = directory / top
        if not shown.is_symlink():
            shown.symlink_to(f"..data/{top}")
    for shown in directory.iterdir():
        if not shown.name.startswith("..") and shown.name not in tops:
            shown.unlink()
    if old is not None:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _effective(mode: int, group: int | None) -> int:
    return mode | 0o040 if group is not None and mode & 0o400 else mode


def _same(link: Path, content: Payload, group: int | None) -> bool:
    shown = {str(p.relative_to(link)): p for p in link.rglob("*") if p.is_file()}
    if shown.keys() != content.files.keys():
        return False
    for path, file in content.files.items():
        if shown[path].read_bytes() != file.content or shown[path].stat().st_mode & 0o7777 != _effective(
            file.mode, group
        ):
            return False
    return True
