"""Builds meltem/pilot and meltem/proxyv2 as OCI archives, without a Docker daemon:

    python images/build.py                       # both, into dist/images/
    python images/build.py pilot --hub example.com/mesh --tag 1.0

What it takes: root, mmdebstrap, uv (in the environment this runs in) and access to a Debian mirror and a package index.
The base is Debian's smallest root file system with Python; Meltem and its dependencies, at the versions of
constraints.txt, go into /opt/meltem. The same sources and mirror state give the same bytes: times are
$SOURCE_DATE_EPOCH, or the last commit's. Beside each archive lies its bill of materials, which is in the image too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import oci
import sbom

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "opt/meltem"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
SUITE = "bookworm"
NOT_NEEDED = (
    "var/cache", "var/lib/apt", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "usr/share/lintian", "dev", "proc", "sys", "run", "tmp", "boot", "media", "mnt", "srv",
)  # fmt: skip
"""Directories that are kept empty: what is in them is cache, log or manual, or belongs to the node."""
NEVER = ("var/cache/ldconfig", "etc/machine-id", "etc/resolv.conf", "etc/hostname")


@dataclass(frozen=True, slots=True)
class Image:
    """`packages` are Debian's; `without` are Python packages that this image does not need."""

    name: str
    title: str
    packages: tuple[str, ...]
    entrypoint: tuple[str, ...]
    ports: tuple[int, ...]
    without: tuple[str, ...] = ()


IMAGES = {
    "pilot": Image(
        "pilot",
        "Meltem's control plane, operator and istioctl",
        ("ca-certificates",),
        ("istiod",),
        (8080, 15010, 15012, 15014, 15017),
        # With Envoy: istiod tries EnvoyFilters on it before a proxy is sent what they change.
    ),
    "proxyv2": Image(
        "proxyv2",
        "Envoy and the agent that runs beside it",
        ("ca-certificates", "iptables", "nftables", "iproute2"),
        ("pilot-agent",),
        (15020, 15021, 15090),
        without=("kopf", "kubernetes-validate", "dnspython"),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds Meltem's container images as OCI archives.")
    parser.add_argument("images", nargs="*", choices=[*IMAGES, []], help="which; both when none is named")
    parser.add_argument("--hub", default="docker.io/meltem", help="registry and repository of the names")
    parser.add_argument("--tag", default="", help="tag (default: the version in pyproject.toml)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist/images", help="directory for the archives")
    parser.add_argument("--suite", default=SUITE, help="Debian release")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("Error: building a root file system needs root", file=sys.stderr)
        return 1
    missing = [p for p in ("mmdebstrap",) if shutil.which(p) is None]
    if missing:
        print(f"Error: {', '.join(missing)} is not installed", file=sys.stderr)
        return 1
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="meltem-images-") as scratch:
        wheel = build_wheel(Path(scratch))
        for name in options.images or IMAGES:
            tag = str(options.tag) or version()
            build(IMAGES[name], wheel, f"{options.hub}/{name}:{tag}", str(options.suite), output, Path(scratch))
    return 0


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def epoch() -> int:
    """$SOURCE_DATE_EPOCH, or the time of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(given or run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]).strip() or 0)


def run(command: Sequence[str], **environment: str) -> str:
    done = subprocess.run(
        list(command), check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        raise SystemExit(f"Error: {' '.join(command[:4])}… ended with {done.returncode}")
    return done.stdout


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def build_wheel(scratch: Path) -> Path:
    run([uv(), "build", "--wheel", "--out-dir", str(scratch), str(ROOT)], SOURCE_DATE_EPOCH=str(epoch()))
    return next(scratch.glob("meltem-*.whl"))


def build(image: Image, wheel: Path, name: str, suite: str, output: Path, scratch: Path) -> None:
    root = scratch / image.name
    stamp = epoch()
    packages = ",".join(("python3-minimal", "python3", *image.packages))
    run(
        [
            "mmdebstrap", "--variant=minbase", f"--include={packages}", "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*", suite, str(root),
        ],
        SOURCE_DATE_EPOCH=str(stamp),
    )  # fmt: skip
    install_python(image, wheel, root)
    add_user(root)
    settings = settings_of(image, name, stamp)
    components = [*sbom.debian(root), *sbom.python(site_packages(root))]
    bill = sbom.document(image.name, name.rpartition(":")[2], settings.created, components)
    (root / PREFIX / "sbom.cdx.json").write_bytes(bill)
    source = scratch / f"{image.name}.tar"
    run(["tar", "--numeric-owner", "-C", str(root), "-cf", str(source), "."])
    layer = oci.normalized(source.read_bytes(), stamp, keep=keep)
    target = output / f"{image.name}.oci.tar"
    data = oci.archive([layer], settings)
    target.write_bytes(data)
    (output / f"{image.name}.sbom.cdx.json").write_bytes(bill)
    print(f"{target}: {name}, {len(data) >> 20} MiB, sha256 {hashlib.sha256(data).hexdigest()}")
    shutil.rmtree(root)


def keep(path: str) -> bool:
    """Whether a path of the root belongs into the image."""
    if path in NEVER or path.endswith((".pyc", "/__pycache__")):
        return False
    return not any(path.startswith(directory + "/") for directory in NOT_NEEDED)


def site_packages(root: Path) -> Path:
    return root / PREFIX / "lib"


def install_python(image: Image, wheel: Path, root: Path) -> None:
    """The wheel and its dependencies into /opt/meltem/lib, launchers into /opt/meltem/bin."""
    target = site_packages(root)
    python = next((root / "usr/lib").glob("python3.[0-9]*")).name.removeprefix("python")
    excluded = root / "tmp/excluded.txt"
    excluded.write_text("".join(f"{p}\n" for p in image.without))
    run(
        [
            uv(), "pip", "install", "--target", str(target), "--python-version", python, "--only-binary", ":all:",
            "--no-compile-bytecode", "--link-mode", "copy", "--constraint", str(ROOT / "constraints.txt"),
            "--excludes", str(excluded), str(wheel),
        ]
    )  # fmt: skip
    shutil.rmtree(target / "bin", ignore_errors=True)
    for pattern in ("*.lock", ".lock", *(f"*.dist-info/{n}" for n in ("RECORD", "direct_url.json", "uv_cache.json"))):
        for leftover in target.glob(pattern):
            leftover.unlink()
    envoy = target / "envoy/_bin/envoy"
    if envoy.exists():
        envoy.chmod(0o755)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    directory = root / PREFIX / "bin"
    directory.mkdir(parents=True)
    if envoy.exists():
        (directory / "envoy").symlink_to("../lib/envoy/_bin/envoy")
    for script, entry in scripts.items():
        module, _, function = str(entry).partition(":")
        launcher = directory / script
        launcher.write_text(
            "#!/usr/bin/python3\n"
            f"import sys\n\nsys.path.insert(0, '/{PREFIX}/lib')\n\n"
            f"from {module} import {function}\n\nsys.exit({function}())\n"
        )
        launcher.chmod(0o755)


def add_user(root: Path) -> None:
    """istio-proxy, 1337: the user whose traffic is not captured."""
    for file, line in (
        ("passwd", "istio-proxy:x:1337:1337:istio-proxy:/home/istio-proxy:/usr/sbin/nologin\n"),
        ("group", "istio-proxy:x:1337:\n"),
    ):
        path = root / "etc" / file
        path.write_text(path.read_text() + line)
    home = root / "home/istio-proxy"
    home.mkdir(parents=True)
    os.chown(home, 1337, 1337)


def settings_of(image: Image, name: str, stamp: int) -> oci.Settings:
    revision = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip()
    return oci.Settings(
        name=name,
        entrypoint=image.entrypoint,
        user="1337:1337",
        architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
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
