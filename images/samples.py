"""Images of the sample applications, and of curl and other small tools, under the names that manifests use.

In: the image table of the local cluster, which says which command an image's name stands for; the manifests of
`samples/`. Out: `Samples.image(name)`, for any name that the table knows: one stack of layers for all of them, with the
command, environment and stop signal of the name. So the same table serves both homes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import oci
from layers import PREFIX, ROOT, Kitchen, Layer

from meltem.local.images import Image, ImageTable, load_table

PACKAGES = ("curl", "netcat-openbsd", "iproute2", "procps")
PROGRAMS = ("curl",)
"""What the table may require: the image has it."""
HOME = f"{PREFIX}/samples"
_PYTHON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_IMAGE = re.compile(r"^\s*(?:- )?(?:\{.*\b)?image: *[\"']?([\w./:@-]+)", re.MULTILINE)
PLACES = {"{python}": "/usr/bin/python3", "{bin}": f"/{PREFIX}/bin", "{samples}": f"/{HOME}"}


@dataclass(frozen=True)
class Samples:
    table: ImageTable
    layers: tuple[oci.Layer, ...]
    architecture: str
    epoch: int

    def image(self, name: str) -> oci.Image | None:
        """The image of a whole name (`docker.io/curlimages/curl:8.16.0`); None for one that no sample has."""
        entry = self.table.find(name, PROGRAMS.__contains__)
        if not isinstance(entry, Image):
            return None
        user = entry.user or "0"
        environment = {"PATH": _PYTHON_PATH, "PYTHONPATH": f"/{PREFIX}/lib", "PYTHONUNBUFFERED": "1", **entry.env}
        settings = oci.Settings(
            name=name,
            entrypoint=entry.command,
            command=entry.args,
            user=user,
            architecture=self.architecture,
            epoch=self.epoch,
            environment=environment,
            working_directory=entry.workdir or "/",
            stop_signal=entry.stop_signal,
        )
        return oci.Image(settings, self.layers)


def samples(kitchen: Kitchen, libraries: Layer, architecture: str, epoch: int) -> Samples:
    """`libraries` are Meltem's own Python packages: samples speak gRPC and HTTP with them."""
    known = table()
    links = {path: file for entry in known.entries for path, file in entry.files.items()}
    sources = kitchen.directory(ROOT / "samples", HOME, lambda path: not path.endswith((".yaml", ".md", ".pyc")), links)
    stack = (kitchen.base(), kitchen.debian(PACKAGES), libraries, sources)
    return Samples(known, tuple(layer.oci for layer in stack), architecture, epoch)


def table() -> ImageTable:
    """The local cluster's own, with the places of the image in it."""
    return load_table(places=PLACES)


def named_in(directory: Path = ROOT / "samples") -> list[str]:
    """Every image that the manifests of a directory name, in full."""
    found = {whole(n) for f in sorted(directory.rglob("*.yaml")) for n in _IMAGE.findall(f.read_text())}
    return sorted(found)


def whole(name: str) -> str:
    """With registry and tag, as container runtimes complete a name."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
