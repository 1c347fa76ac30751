"""The writer of OCI archives: what container runtimes read in it, and that the same input gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

_IMAGES = Path(__file__).resolve().parents[3] / "images"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"meltem_images_{name}", _IMAGES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


oci, sbom = _module("oci"), _module("sbom")


def _tar(*entries: tuple[str, bytes | str | None], mtime: int = 5) -> bytes:
    """(name, bytes) a file, (name, "->target") a hard link, (name, None) a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in entries:
            entry = tarfile.TarInfo("./" + name)
            entry.mtime, entry.uname, entry.mode = mtime, "somebody", 0o755
            if content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.LNKTYPE, "./" + content.removeprefix("->")
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _settings(**changes: object) -> object:
    values = {"name": "example.com/meltem/pilot:1.0", "entrypoint": ("istiod",), "user": "1337:1337"}
    return oci.Settings(**{**values, "architecture": "amd64", "epoch": 1_700_000_000, **changes})


def test_the_order_and_times_of_a_root_file_system_do_not_matter() -> None:
    one = _tar(("bin", None), ("bin/b", b"2"), ("bin/a", b"1"), mtime=7)
    other = _tar(("bin/a", b"1"), ("bin/b", b"2"), ("bin", None), mtime=99)
    assert oci.normalized(one, 1000) == oci.normalized(other, 1000)
    assert oci.normalized(one, 1000) != oci.normalized(one, 1001)


def test_hard_links_point_at_the_name_that_comes_first() -> None:
    source = _tar(("z", b"same"), ("a", "->z"))
    with tarfile.open(fileobj=io.BytesIO(oci.normalized(source, 0))) as tar:
        assert [m.name for m in tar] == ["a", "z"]
        assert tar.extractfile("a").read() == b"same"  # type: ignore[union-attr]
        assert tar.getmember("z").islnk() and tar.getmember("z").linkname == "a"


def test_no_file_gives_whoever_runs_it_the_rights_of_its_owner() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, mode in (("su", tarfile.REGTYPE, 0o4755), ("mail", tarfile.DIRTYPE, 0o2775)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, mode
            tar.addfile(entry)
    with tarfile.open(fileobj=io.BytesIO(oci.normalized(out.getvalue(), 0))) as tar:
        assert {m.name: m.mode for m in tar} == {"su": 0o755, "mail": 0o2775}


def test_every_digest_of_an_archive_is_that_of_its_blob_and_the_image_is_not_root(tmp_path: Path) -> None:
    layer = oci.normalized(_tar(("file", b"content")), 0)
    settings = _settings(labels={"org.opencontainers.image.version": "1.0"}, ports=(15012,))
    image = oci.Image(settings, (oci.packed(layer, tmp_path / "layer.tar.gz"),))
    assert oci.kept(tmp_path / "layer.tar.gz") == image.layers[0]
    summed = oci.write_archive([image], tmp_path / "one.tar")
    assert hashlib.sha256((tmp_path / "one.tar").read_bytes()).hexdigest() == summed
    assert oci.write_archive([image], tmp_path / "again.tar") == summed
    with tarfile.open(tmp_path / "one.tar") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    for path, blob in files.items():
        if path.startswith("blobs/"):
            assert path == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"

    def blob(descriptor: dict[str, str]) -> bytes:
        found = files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert len(found) == descriptor["size"]
        return found

    index = json.loads(files["index.json"])
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "example.com/meltem/pilot:1.0"
    manifest = json.loads(blob(index["manifests"][0]))
    config = json.loads(blob(manifest["config"]))
    assert config["config"]["User"] == "1337:1337"
    assert config["config"]["ExposedPorts"] == {"15012/tcp": {}}
    assert config["created"] == "2023-11-14T22:13:20Z"
    unpacked = gzip.decompress(blob(manifest["layers"][0]))
    assert unpacked == layer
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]


def test_images_of_one_archive_share_their_layers(tmp_path: Path) -> None:
    layer = oci.packed(oci.normalized(_tar(("file", b"content")), 0), tmp_path / "layer.tar.gz")
    images = [oci.Image(_settings(name=f"docker.io/meltem/{n}:1", command=(n,)), (layer,)) for n in ("a", "b")]
    oci.write_archive(images, tmp_path / "both.tar")
    with tarfile.open(tmp_path / "both.tar") as tar:
        names = tar.getnames()
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
    assert len([n for n in names if n.startswith("blobs/sha256/")]) == 5  # two manifests, two configurations, one layer
    assert [m["annotations"]["io.containerd.image.name"] for m in index["manifests"]] == [
        "docker.io/meltem/a:1",
        "docker.io/meltem/b:1",
    ]


def test_the_bill_of_materials_names_debian_and_python_packages(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    (tmp_path / "lib/aiohttp-3.1.dist-info").mkdir(parents=True)
    (tmp_path / "lib/aiohttp-3.1.dist-info/METADATA").write_text("Name: aiohttp\nVersion: 3.1\nLicense: Apache-2\n")
    components = [*sbom.debian(tmp_path), *sbom.python(tmp_path / "lib")]
    assert [c["purl"] for c in components] == ["pkg:deb/debian/libc6@2.36?arch=amd64", "pkg:pypi/aiohttp@3.1"]
    assert json.loads(sbom.document("pilot", "1", "2026-01-01T00:00:00Z", components))["bomFormat"] == "CycloneDX"
