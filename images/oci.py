"""Writes OCI images from root file systems' tars: the same bytes for the same input.

`normalized(tar, epoch)` is the tar with sorted entries, one time and no names of users; `packed(tar, file)` a `Layer`,
compressed, in a file. An `Image` is settings over layers;
`write_archive` makes of images the OCI archive (a tar with `oci-layout`, `index.json` and `blobs/`) that containerd,
podman, skopeo and `docker load` take. Sources: the OCI image format specification 1.1 (layout, manifest, config).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

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
    command: tuple[str, ...] = ()
    """Arguments that a pod's `args` replace."""
    stop_signal: str = ""

    @property
    def created(self) -> str:
        return time_of(self.epoch)


def time_of(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def normalized(source: bytes, epoch: int, *, keep: Callable[[str], bool] = lambda name: True) -> bytes:
    """A tar with the entries that `keep` likes (paths without a leading ./), sorted, with one time, numeric
    owners, no device nodes and no set-user-ID or set-group-ID files. Hard links are kept; they sort after what they
    point at when their path does."""
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
            # Nothing that runs gains rights by a file's mode.
            mode = member.mode & ~0o6000 if entry.isfile() else member.mode
            entry.mode, entry.uid, entry.gid, entry.mtime = mode, member.uid, member.gid, epoch
            after.addfile(entry, content)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, compressed, in a file that stays as it is. `diff_id` is the digest of the tar within."""

    path: Path
    digest: str
    diff_id: str
    size: int


def packed(tar: bytes, path: Path) -> Layer:
    """Compresses a tar into `path`; its digests are kept beside it, for `kept`."""
    data = gzip.compress(tar, compresslevel=6, mtime=0)
    layer = Layer(path, _digest(data), _digest(tar), len(data))
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
    path.with_suffix(".json").write_bytes(_json([layer.digest, layer.diff_id, layer.size]))
    return layer


def kept(path: Path) -> Layer | None:
    """The layer that `packed` once wrote there."""
    beside = path.with_suffix(".json")
    if not beside.exists() or not path.exists():
        return None
    digest, diff_id, size = json.loads(beside.read_bytes())
    return Layer(path, digest, diff_id, size)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(kind: str, data: bytes, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data), **more}


@dataclass(frozen=True, slots=True)
class Image:
    settings: Settings
    layers: tuple[Layer, ...]

    @property
    def config(self) -> bytes:
        return _json(config(self.settings, [layer.diff_id for layer in self.layers]))

    @property
    def manifest(self) -> bytes:
        layers = [{"mediaType": LAYER, "digest": la.digest, "size": la.size} for la in self.layers]
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, self.config),
                "layers": layers,
                "annotations": dict(self.settings.labels),
            }
        )

    @property
    def digest(self) -> str:
        """The manifest's: what a name resolves to."""
        return _digest(self.manifest)


def config(settings: Settings, diff_ids: list[str]) -> dict[str, object]:
    """The image's configuration."""
    return {
        "created": settings.created,
        "architecture": settings.architecture,
        "os": "linux",
        "config": {
            "User": settings.user,
            "Entrypoint": list(settings.entrypoint),
            **({"Cmd": list(settings.command)} if settings.command else {}),
            **({"StopSignal": settings.stop_signal} if settings.stop_signal else {}),
            "Env": [f"{k}={v}" for k, v in sorted(settings.environment.items())],
            "WorkingDir": settings.working_directory,
            "Labels": dict(settings.labels),
            "ExposedPorts": {f"{port}/tcp": {} for port in settings.ports},
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": settings.created, "created_by": "images/build.py"} for _ in diff_ids],
    }


def write_archive(images: Sequence[Image], path: Path) -> str:
    """Writes the archive; a blob that several images have is in it once. Returns its SHA-256 in hexadecimal."""
    manifests: list[dict[str, object]] = []
    blobs: dict[str, bytes | Path] = {}
    for image in images:
        manifest, settled, settings = image.manifest, image.config, image.settings
        blobs[_digest(manifest)], blobs[_digest(settled)] = manifest, settled
        blobs |= {layer.digest: layer.path for layer in image.layers}
        tag = settings.name.rpartition(":")[2]
        named = {"io.containerd.image.name": settings.name, "org.opencontainers.image.ref.name": tag}
        platform = {"architecture": settings.architecture, "os": "linux"}
        manifests.append(_descriptor(MANIFEST, manifest, annotations=named, platform=platform))
    index = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    files: dict[str, bytes | Path] = {"index.json": index, "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    files |= {"blobs/sha256/" + digest.removeprefix("sha256:"): blob for digest, blob in blobs.items()}
    epoch = max((i.settings.epoch for i in images), default=0)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as out:
        summed = _Summing(out)
        _write_tar(files, epoch, summed)
    partial.replace(path)
    return summed.sum.hexdigest()


class _Summing:
    """A file to write to that sums what passes."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self._out.write(data)


def _write_tar(files: Mapping[str, bytes | Path], epoch: int, out: _Summing) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for directory in ("blobs", "blobs/sha256"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, epoch
            tar.addfile(entry)
        for path in sorted(files):
            content = files[path]
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = 0o644, epoch
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.size = content.stat().st_size
                with content.open("rb") as file:
                    tar.addfile(entry, file)
