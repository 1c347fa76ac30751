"""Writes an OCI image archive from a root file system's tar: pure, and the same bytes for the same input.

`normalized(tar, epoch)` is the tar with sorted entries, one time and no names of users; `archive(...)` the OCI archive
(a tar with `oci-layout`, `index.json` and `blobs/`) that containerd, podman, skopeo and `docker load` take. Both as
bytes. Sources: the OCI image format specification 1.1 (layout, manifest, config).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a container of the image starts with. `name` is the whole reference, `docker.io/meltem/pilot:1.0`."""

    name: str
    entrypoint: tuple[str, ...]
    user: str
    architecture: str
    epoch: int
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    working_directory: str = "/"
    ports: tuple[int, ...] = ()

    @property
    def created(self) -> str:
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def normalized(source: bytes, epoch: int, *, keep: Callable[[str], bool] = lambda name: True) -> bytes:
    """A tar with the entries that `keep` likes (paths without a leading ./), sorted, with one time, numeric
    owners and no device nodes. Hard links are kept; they sort after what they point at when their path does."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(source)) as before,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        members = {m.name.removeprefix("./").strip("/"): m for m in before.getmembers()}
        # Whichever name of a file sorts first has its bytes; the others link to that one.
        first: dict[str, str] = {}
        for name in sorted(members):
            member = members[name]
            if not name or name == "." or not keep(name) or member.isdev():
                continue
            content = None
            if member.isfile() or member.islnk():
                origin = member
                while origin.islnk():
                    origin = members[origin.linkname.removeprefix("./").strip("/")]
                known = first.setdefault(origin.name, name)
                if known == name:
                    content = before.extractfile(origin)
                    size = origin.size
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.type = size, tarfile.REGTYPE
                else:
                    entry = tarfile.TarInfo(name)
                    entry.type, entry.linkname = tarfile.LNKTYPE, known
            else:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = member.type, member.linkname
            entry.mode, entry.uid, entry.gid, entry.mtime = member.mode, member.uid, member.gid, epoch
            after.addfile(entry, content)
    return out.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(kind: str, data: bytes, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data), **more}


def config(settings: Settings, diff_ids: list[str]) -> dict[str, object]:
    """The image's configuration."""
    return {
        "created": settings.created,
        "architecture": settings.architecture,
        "os": "linux",
        "config": {
            "User": settings.user,
            "Entrypoint": list(settings.entrypoint),
            "Env": [f"{k}={v}" for k, v in sorted(settings.environment.items())],
            "WorkingDir": settings.working_directory,
            "Labels": dict(settings.labels),
            "ExposedPorts": {f"{port}/tcp": {} for port in settings.ports},
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": settings.created, "created_by": "images/build.py"} for _ in diff_ids],
    }


def archive(layers: list[bytes], settings: Settings) -> bytes:
    """The archive; `layers` are tars, lowest first."""
    blobs: dict[str, bytes] = {}

    def put(data: bytes) -> bytes:
        blobs[_digest(data)] = data
        return data

    packed = [put(gzip.compress(layer, compresslevel=6, mtime=0)) for layer in layers]
    settled = put(_json(config(settings, [_digest(layer) for layer in layers])))
    manifest = put(
        _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, settled),
                "layers": [_descriptor(LAYER, layer) for layer in packed],
                "annotations": dict(settings.labels),
            }
        )
    )
    tag = settings.name.rpartition(":")[2]
    named = {"io.containerd.image.name": settings.name, "org.opencontainers.image.ref.name": tag}
    platform = {"architecture": settings.architecture, "os": "linux"}
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [_descriptor(MANIFEST, manifest, annotations=named, platform=platform)],
    }
    files = {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    files |= {"blobs/sha256/" + digest.removeprefix("sha256:"): data for digest, data in blobs.items()}
    return _tar(files, settings.epoch)


def _tar(files: Mapping[str, bytes], epoch: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for directory in ("blobs", "blobs/sha256"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, epoch
            tar.addfile(entry)
        for path in sorted(files):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(files[path]), 0o644, epoch
            tar.addfile(entry, io.BytesIO(files[path]))
    return out.getvalue()
