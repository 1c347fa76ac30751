"""The layers that images are made of: Debian, Debian's further packages, Python packages, Meltem, sample programs.

In: a `Kitchen` (Debian release, where layers are kept). Out: `Layer`s with their bills of materials, each kept in the
cache under a key of everything it is made of, so that a change of our sources makes only the smallest layer anew.
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
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import oci
import sbom

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "opt/meltem"
STAMP = 1_735_689_600
"""Every file's time: 2025-01-01. A commit's would change each layer with each commit."""
KEPT = 30 * 86400.0
RECIPE = 7
"""To be raised when this file makes other bytes of the same input."""
NOT_NEEDED = (
    "var/cache", "var/lib/apt", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
    "usr/share/lintian", "dev", "proc", "sys", "run", "tmp", "boot", "media", "mnt", "srv",
)  # fmt: skip
"""Directories that are kept empty: what is in them is cache, log or manual, or belongs to the node."""
NEVER = ("var/cache/ldconfig", "etc/machine-id", "etc/resolv.conf", "etc/hostname", PREFIX + "/lib/.lock")
PACKAGES = ("python3-minimal", "python3", "ca-certificates", "gpgv")
"""gpgv is what apt trusts a mirror by, when further packages come."""


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


Bill = list[dict[str, object]]
"""Components, as `sbom` lists them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer, and what it brings."""

    oci: oci.Layer
    bill: Bill


@dataclass(frozen=True, slots=True)
class Made:
    tar: bytes
    bill: Bill = field(default_factory=list[dict[str, object]])


@dataclass(frozen=True)
class Kitchen:
    """Makes layers, and keeps them in `cache`. `week` is the calendar week of Debian's packages."""

    cache: Path = field(default_factory=default_cache)
    suite: str = "bookworm"
    week: str = field(default_factory=lambda: "{}-{}".format(*datetime.datetime.now(datetime.UTC).isocalendar()))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time works in the cache. What nobody has used for a month is taken away."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
            for path in self.cache.iterdir():
                if path.stat().st_mtime < time.time() - KEPT:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def base(self) -> Layer:
        """Debian's smallest root file system with Python, and the user istio-proxy."""

        def made() -> Made:
            with self._scratch() as scratch:
                run(
                    [
                        "mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
                        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
                        "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=force-unsafe-io",
                        self.suite, str(scratch / "root"),
                    ],
                    SOURCE_DATE_EPOCH=str(STAMP),
                )  # fmt: skip
                _add_user(scratch / "root")
                _compile(scratch / "root", "/usr/lib/python3", f"/usr/lib/python{_python(scratch / 'root')}")
                return Made(_tar(scratch / "root"), sbom.debian(scratch / "root"))

        return self._keep("debian", [self._debian_key()], made)

    def debian(self, packages: tuple[str, ...]) -> Layer:
        """What further packages of Debian add to the base. The bill is of both."""

        def made() -> Made:
            with self._root() as root, self._over(root) as (whole, upper):
                shutil.copy("/etc/resolv.conf", whole / "etc/resolv.conf")
                quiet = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
                    run(["chroot", str(whole), "apt-get", "-qq", *command], **quiet)
                return Made(_tar(upper), sbom.debian(whole))

        return self._keep("-".join(["debian", *packages]), [self._debian_key(), packages], made)

    def libraries(self, without: tuple[str, ...]) -> Layer:
        """Meltem's dependencies at the versions of constraints.txt, in /opt/meltem/lib, with Envoy in its bin."""
        needed = [str(d) for d in _strings(project()["dependencies"])]
        constraints = (ROOT / "constraints.txt").read_text()

        def made() -> Made:
            with self._root() as root:
                target = self._install(root, without, needed)
                (target / "envoy/_bin/envoy").chmod(0o755)
                (root / PREFIX / "bin").mkdir()
                (root / PREFIX / "bin/envoy").symlink_to("../lib/envoy/_bin/envoy")
                return self._compiled(root, target)

        return self._keep("libraries", [self._debian_key(), needed, constraints, without], made)

    def meltem(self) -> Layer:
        """Meltem itself: package and launchers."""
        wheel = self._wheel()

        def made() -> Made:
            with self._root() as root:
                target = self._install(root, (), [str(wheel)], "--no-deps")
                for leftover in target.glob("*.dist-info/*"):
                    if leftover.name in ("direct_url.json", "INSTALLER"):
                        leftover.unlink()
                _launchers(root / PREFIX / "bin")
                return self._compiled(root, target)

        return self._keep("meltem", [self._debian_key(), _file_digest(wheel)], made)

    def text(self, path: str, content: bytes) -> Layer:
        """One small file."""

        def made() -> Made:
            with self._scratch() as scratch:
                (scratch / path).parent.mkdir(parents=True)
                (scratch / path).write_bytes(content)
                return Made(_tar(scratch))

        return self._keep("text", [path, hashlib.sha256(content).hexdigest()], made)

    def directory(
        self, source: Path, target: str, wanted: Callable[[str], bool], links: Mapping[str, str] | None = None
    ) -> Layer:
        """The files of a source directory whose relative paths are wanted, at `target` of the image. `links`: further
        paths of the image, and where each points to."""
        files = sorted(p for p in source.rglob("*") if p.is_file() and wanted(p.relative_to(source).as_posix()))
        contents = [[p.relative_to(source).as_posix(), p.stat().st_mode, _file_digest(p)] for p in files]
        key = [target, contents, sorted((links or {}).items())]

        def made() -> Made:
            with self._scratch() as scratch:
                for file in files:
                    copy = scratch / target / file.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy)
                for path, where in (links or {}).items():
                    link = scratch / path.lstrip("/")
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(where)
                return Made(_tar(scratch))

        return self._keep("files", key, made)

    # --- how ---

    def _debian_key(self) -> list[object]:
        return [self.suite, self.week, PACKAGES, platform.machine(), STAMP]

    def _digest(self, key: object) -> str:
        return hashlib.sha256(json.dumps([RECIPE, key]).encode()).hexdigest()[:16]

    def _keep(self, name: str, key: object, made: Callable[[], Made]) -> Layer:
        path = self.cache / f"{name}-{self._digest(key)}.tar.gz"
        bill = path.with_suffix(".bill.json")
        found = oci.kept(path)
        if found is not None:
            for used in (path, path.with_suffix(".json"), bill):
                os.utime(used)
        else:
            new = made()
            bill.write_text(json.dumps(new.bill))
            found = oci.packed(new.tar, path)
        return Layer(found, json.loads(bill.read_text()))

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            yield Path(scratch)

    @contextlib.contextmanager
    def _root(self) -> Iterator[Path]:
        """The base, unpacked, to work in /opt/meltem of it. It is kept unpacked, too."""
        base = self.base().oci
        root = self.cache / f"root-{base.diff_id.removeprefix('sha256:')[:16]}"
        if root.exists():
            os.utime(root)
        else:
            with self._scratch() as scratch:
                run(["tar", "--numeric-owner", "-C", str(scratch), "-xzf", str(base.path)])
                scratch.chmod(0o755)
                scratch.rename(root)
                scratch.mkdir()
        shutil.rmtree(root / PREFIX, ignore_errors=True)
        try:
            yield root
        finally:
            shutil.rmtree(root / PREFIX, ignore_errors=True)

    @contextlib.contextmanager
    def _over(self, root: Path) -> Iterator[tuple[Path, Path]]:
        """The root to write to, and the directory in which only what was written is."""
        with self._scratch() as scratch:
            whole, upper, work = scratch / "whole", scratch / "upper", scratch / "work"
            for directory in (whole, upper, work):
                directory.mkdir()
            layers = f"lowerdir={root},upperdir={upper},workdir={work}"
            run(["mount", "-t", "overlay", "-o", layers, "overlay", str(whole)])
            run(["mount", "--bind", "/dev", str(whole / "dev")])
            try:
                yield whole, upper
            finally:
                run(["umount", str(whole / "dev"), str(whole)])

    def _install(self, root: Path, without: tuple[str, ...], what: Sequence[str], *options: str) -> Path:
        target = root / PREFIX / "lib"
        target.mkdir(parents=True)
        excluded = self.cache / "excluded.txt"
        excluded.write_text("".join(f"{p}\n" for p in without))
        run(
            [
                uv(), "pip", "install", "--target", str(target), "--python-version", _python(root), "--only-binary",
                ":all:", "--no-compile-bytecode", "--link-mode", "copy", "--constraint", str(ROOT / "constraints.txt"),
                "--excludes", str(excluded), *options, *what,
            ]
        )  # fmt: skip
        shutil.rmtree(target / "bin", ignore_errors=True)
        for shared in _shared(target):
            # uv installs side by side: whoever writes last would decide. Nothing of ours reads what they share.
            if shared != "envoy/__init__.py":
                raise BuildError(f"two packages bring {shared}: say in images/layers.py whose it is")
            (target / shared).write_bytes(b"")
        for pattern in ("*.dist-info/RECORD", "*.dist-info/REQUESTED", "*.dist-info/uv_cache.json"):
            for leftover in target.glob(pattern):
                leftover.unlink()
        return target

    def _compiled(self, root: Path, target: Path) -> Made:
        """/opt/meltem alone, its Python compiled."""
        bill = sbom.python(target)
        _compile(root, f"/{PREFIX}/lib")
        with self._scratch() as scratch:
            (scratch / PREFIX).parent.mkdir(parents=True)
            shutil.move(root / PREFIX, scratch / PREFIX)
            return Made(_tar(scratch), bill)

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


def _python(root: Path) -> str:
    """The version of a root's Python, `3.11`."""
    return next((root / "usr/lib").glob("python3.[0-9]*")).name.removeprefix("python")


def _shared(target: Path) -> list[str]:
    """The files that more than one installed package brings, by their records, outside `bin`."""
    records = [record.read_text().splitlines() for record in sorted(target.glob("*.dist-info/RECORD"))]
    count = Counter(line.partition(",")[0] for record in records for line in record)
    return [path for path, times in count.items() if times > 1 and not path.startswith("../")]


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
