"""Builds meltem/pilot and meltem/proxyv2 as OCI archives, without a Docker daemon, and the samples' images if asked:

    python images/build.py                       # both, into dist/images/
    python images/build.py pilot --hub example.com/mesh --tag 1.0
    python images/build.py samples               # one archive with every image that samples/ names

What it takes: root, mmdebstrap, uv (in the environment this runs in) and access to a Debian mirror and a package index.
The base is Debian's smallest root file system with Python; Meltem and its dependencies, at the versions of
constraints.txt, go into /opt/meltem. Layers are kept in `$XDG_CACHE_HOME/meltem/images`: after a change of the sources
a build takes seconds. The same sources and mirror state give the same bytes, from the cache or without it
(`--cache DIRECTORY`); the image's own time is $SOURCE_DATE_EPOCH, or the last commit's. Beside each archive lies its
bill of materials, which is in the image too.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import oci
import samples
import sbom
from layers import PREFIX, ROOT, STAMP, BuildError, Kitchen, default_cache, project, run

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LOCAL_ONLY = ("kubernetes-validate", "dnspython", "pyroute2")
"""Python packages that only the local cluster needs."""


@dataclass(frozen=True, slots=True)
class Image:
    """`packages` are Debian's. The layer of Python packages, Envoy among them, is the same in all images: istiod tries
    EnvoyFilters on Envoy before a proxy is sent what they change."""

    name: str
    title: str
    packages: tuple[str, ...]
    entrypoint: tuple[str, ...]
    ports: tuple[int, ...]


IMAGES = {
    "pilot": Image(
        "pilot",
        "Meltem's control plane, operator and istioctl",
        (),
        ("istiod",),
        (8080, 15010, 15012, 15014, 15017),
    ),
    "proxyv2": Image(
        "proxyv2",
        "Envoy and the agent that runs beside it",
        ("iptables", "nftables", "iproute2"),
        ("pilot-agent",),
        (15020, 15021, 15090),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds Meltem's container images as OCI archives.")
    parser.add_argument("images", nargs="*", choices=[*IMAGES, "samples", []], help="which (default: pilot, proxyv2)")
    parser.add_argument("--hub", default="docker.io/meltem", help="registry and repository of the names")
    parser.add_argument("--tag", default="", help="tag (default: the version in pyproject.toml)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist/images", help="directory for the archives")
    parser.add_argument("--suite", default="bookworm", help="Debian release")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="directory in which layers are kept")
    options = parser.parse_args()
    problem = what_is_missing()
    if problem:
        print(f"Error: {problem}", file=sys.stderr)
        return 1
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    kitchen = Kitchen(Path(options.cache), str(options.suite))
    try:
        with kitchen.locked():
            for name in options.images or IMAGES:
                if name == "samples":
                    write(output, name, sample_archive(kitchen))
                else:
                    tag = str(options.tag) or version()
                    image, bill = build(kitchen, IMAGES[name], f"{options.hub}/{name}:{tag}")
                    (output / f"{name}.sbom.cdx.json").write_bytes(bill)
                    write(output, name, [image])
    except BuildError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def what_is_missing() -> str:
    """Why nothing can be built here; empty when it can."""
    if os.geteuid() != 0:
        return "building a root file system needs root"
    return "" if shutil.which("mmdebstrap") else "mmdebstrap is not installed (apt-get install mmdebstrap)"


def write(output: Path, name: str, images: list[oci.Image]) -> None:
    target = output / f"{name}.oci.tar"
    digest = oci.write_archive(images, target)
    names = ", ".join(i.settings.name for i in images)
    print(f"{target}: {names}, {target.stat().st_size >> 20} MiB, sha256 {digest}")


def version() -> str:
    return str(project()["version"])


def epoch() -> int:
    """$SOURCE_DATE_EPOCH, or the time of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given or run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]).strip() or 0)


def architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def build(kitchen: Kitchen, image: Image, name: str) -> tuple[oci.Image, bytes]:
    """The image under a whole name, and its bill of materials."""
    settings = settings_of(image, name, epoch())
    debian = [kitchen.base()]
    if image.packages:
        debian.append(kitchen.debian(image.packages))
    python = [kitchen.libraries(LOCAL_ONLY), kitchen.meltem()]
    bill = [*debian[-1].bill, *python[0].bill, *python[1].bill]
    text = sbom.document(image.name, version(), oci.time_of(STAMP), bill)
    top = kitchen.text(f"{PREFIX}/sbom.cdx.json", text)
    return oci.Image(settings, tuple(layer.oci for layer in (*debian, *python, top))), text


def sample_images(kitchen: Kitchen) -> samples.Samples:
    return samples.samples(kitchen, kitchen.libraries(LOCAL_ONLY), architecture(), epoch())


def sample_archive(kitchen: Kitchen) -> list[oci.Image]:
    found = sample_images(kitchen)
    images = [found.image(name) for name in samples.named_in()]
    return [i for i in images if i is not None]


def settings_of(image: Image, name: str, stamp: int) -> oci.Settings:
    revision = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip()
    return oci.Settings(
        name=name,
        entrypoint=image.entrypoint,
        user="1337:1337",
        architecture=architecture(),
        epoch=stamp,
        environment={
            "PATH": f"/{PREFIX}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"/{PREFIX}/lib",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        },
        labels={
            "org.opencontainers.image.title": image.name,
            "org.opencontainers.image.description": image.title,
            "org.opencontainers.image.version": version(),
            "org.opencontainers.image.revision": revision,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
        ports=image.ports,
    )


if __name__ == "__main__":
    sys.exit(main())
