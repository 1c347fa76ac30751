"""A registry on loopback that has our images under every name that they could be asked for, and nothing else.

    python -m kubecluster.registry HOME

In: `<home>/images.json`, written by `write`. Out: the pulling half of the OCI distribution specification 1.1.
containerd tells in `?ns=` which registry it believes to talk to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import shutil
import sys
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import oci
import samples

from kubecluster.programs import REGISTRY_PORT


def write(home: Path, images: list[oci.Image], others: samples.Samples) -> None:
    """Says what there is. `images` fit by the last part of their name, whatever hub and tag somebody asks for."""
    document = {
        "images": [{"settings": dataclasses.asdict(i.settings), "layers": _layers(i.layers)} for i in images],
        "samples": {"layers": _layers(others.layers), "architecture": others.architecture, "epoch": others.epoch},
    }
    (home / "images.json").write_text(json.dumps(document))


def _layers(layers: tuple[oci.Layer, ...]) -> list[dict[str, object]]:
    return [{**dataclasses.asdict(layer), "path": str(layer.path)} for layer in layers]


def _read_layers(found: list[dict[str, Any]]) -> tuple[oci.Layer, ...]:
    return tuple(oci.Layer(**{**layer, "path": Path(layer["path"])}) for layer in found)


class Catalogue:
    """Names to images, digests to bytes or files."""

    def __init__(self, home: Path) -> None:
        document = json.loads((home / "images.json").read_text())
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes | Path] = {}
        self._images: dict[str, oci.Image] = {}
        for found in document["images"]:
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in found["settings"].items()}
            image = oci.Image(oci.Settings(**fields), _read_layers(found["layers"]))
            self._images[image.settings.name.rpartition("/")[2].partition(":")[0]] = image
        known = document["samples"]
        layers = _read_layers(known["layers"])
        self._samples = samples.Samples(samples.table(), layers, known["architecture"], known["epoch"])

    def manifest(self, registry: str, repository: str, reference: str) -> bytes | None:
        """By tag or digest."""
        if reference.startswith("sha256:"):
            found = self._blobs.get(reference)
            return found if isinstance(found, bytes) else None
        image = self._images.get(repository.rpartition("/")[2])
        if image is None:
            image = self._samples.image(f"{registry}/{repository}:{reference}")
        if image is None:
            return None
        with self._lock:
            for blob in (image.manifest, image.config):
                self._blobs["sha256:" + hashlib.sha256(blob).hexdigest()] = blob
            self._blobs |= {layer.digest: layer.path for layer in image.layers}
        return image.manifest

    def blob(self, digest: str) -> bytes | Path | None:
        return self._blobs.get(digest)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    catalogue: Catalogue

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/v2/":
            return self._answer(b"{}", "application/json")
        registry = urllib.parse.parse_qs(url.query).get("ns", ["docker.io"])[0]
        repository, _, reference = url.path.removeprefix("/v2/").rpartition("/")
        if repository.endswith("/manifests"):
            found = self.catalogue.manifest(registry, repository.removesuffix("/manifests"), reference)
            return self._answer(found, oci.MANIFEST)
        if repository.endswith("/blobs"):
            return self._answer(self.catalogue.blob(reference), "application/octet-stream")
        return self._answer(None, "")

    do_HEAD = do_GET

    def _answer(self, body: bytes | Path | None, kind: str) -> None:
        self.send_response(200 if body is not None else 404)
        if body is None:
            body, kind = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such image"}]}', "application/json"
        self.send_header("Content-Type", kind)
        if isinstance(body, bytes):
            self.send_header("Docker-Content-Digest", "sha256:" + hashlib.sha256(body).hexdigest())
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Content-Length", str(body.stat().st_size))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, bytes):
            self.wfile.write(body)
        else:
            with body.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, 1 << 20)


def main() -> int:
    Handler.catalogue = Catalogue(Path(sys.argv[1]))
    http.server.ThreadingHTTPServer(("127.0.0.1", REGISTRY_PORT), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
