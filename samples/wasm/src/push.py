"""Pushes a Wasm module as an image, as `oras push` or `docker push` would.

    python3 push.py MODULE http://HOST:PORT REPOSITORY:TAG [--form artifact|oci|docker] [--user USER:PASSWORD]

Prints the image's digest. Forms: an artifact whose layer is the module (the default), or an image whose only layer is a
compressed tar archive with `plugin.wasm`.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
MODULE = "application/vnd.module.wasm.content.layer.v1+wasm"
FORMS = {
    # media types of manifest, configuration and layer
    "artifact": (f"{OCI}.manifest.v1+json", "application/vnd.module.wasm.config.v1+json", MODULE),
    "oci": (f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip"),
    "docker": (
        f"{DOCKER}.distribution.manifest.v2+json",
        f"{DOCKER}.container.image.v1+json",
        f"{DOCKER}.image.rootfs.diff.tar.gzip",
    ),
}


def digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def layer_of(module: bytes, form: str) -> bytes:
    if form == "artifact":
        return module
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("plugin.wasm")
        member.size = len(module)
        archive.addfile(member, io.BytesIO(module))
    return gzip.compress(out.getvalue(), mtime=0)


class Registry:
    def __init__(self, url: str, user: str = "") -> None:
        self.url = url.rstrip("/")
        self._user = user
        self._headers: dict[str, str] = {}

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> str:
        """The answer's Location, if it has one."""
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        url = urljoin(self.url + "/", path)
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers, method=method), timeout=20
            ) as answer:
                return answer.headers.get("Location", "")
        except urllib.error.HTTPError as error:
            if error.code != 401 or self._headers or not self._user:
                raise
            self._sign_in(error.headers.get("WWW-Authenticate", ""))
        return self.call(method, path, body, kind)

    def _sign_in(self, challenge: str) -> None:
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        basic = base64.b64encode(self._user.encode()).decode()
        request = urllib.request.Request(asked["realm"], headers={"Authorization": f"Basic {basic}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            self._headers = {"Authorization": f"Bearer {json.load(answer)['token']}"}

    def push(self, module: bytes, name: str, form: str) -> str:
        repository, _, tag = name.rpartition(":")
        kinds = FORMS[form]
        layer, config = layer_of(module, form), b"{}"
        for blob in (config, layer):
            location = self.call("POST", f"/v2/{repository}/blobs/uploads/", b"")
            self.call("PUT", f"{location}?digest={digest(blob)}", blob, "application/octet-stream")
        described = [
            {"mediaType": kind, "digest": digest(blob), "size": len(blob)}
            for kind, blob in ((kinds[1], config), (kinds[2], layer))
        ]
        manifest = {"schemaVersion": 2, "mediaType": kinds[0], "config": described[0], "layers": described[1:]}
        body = json.dumps(manifest).encode()
        self.call("PUT", f"/v2/{repository}/manifests/{tag}", body, kinds[0])
        return digest(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("registry")
    parser.add_argument("name")
    parser.add_argument("--form", choices=sorted(FORMS), default="artifact")
    parser.add_argument("--user", default="")
    given = parser.parse_args()
    try:
        print(Registry(given.registry, given.user).push(Path(given.module).read_bytes(), given.name, given.form))
    except OSError as error:
        sys.exit(f"{given.registry}: {error}")


if __name__ == "__main__":
    main()
