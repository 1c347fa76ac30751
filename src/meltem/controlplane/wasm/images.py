"""Wasm modules from registries: the name of an image in, its module out.

In: `registry.example.com/team/plugin:v1`, credentials of a pull secret, an HTTP client that checks addresses. Out: the
digest of the image and its module's bytes. Three forms are understood, as by Istio: an image whose last layer holds
`plugin.wasm` (Docker's and OCI's media types), and an artifact whose layer is the module itself.

Sources: https://github.com/opencontainers/distribution-spec (pulling), https://github.com/opencontainers/image-spec,
https://distribution.github.io/distribution/spec/auth/token.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from meltem.controlplane.wasm.fetch import MAX_MODULE, Fetcher, FetchFailed, is_module
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, object_at, objects_at, str_at

MODULE_LAYER = "application/vnd.module.wasm.content.layer.v1+wasm"
PLUGIN_FILE = "plugin.wasm"
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
MAX_MANIFEST = 4 << 20
_DOCKER_HUB = "index.docker.io"
_REPOSITORY = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Reference(msgspec.Struct, frozen=True):
    """An image's name in its parts; `digest` wins over `tag`."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def moves(self) -> bool:
        """Whether another image may be under this name tomorrow by its very meaning (`latest`)."""
        return not self.digest and self.tag == "latest"


def parse(url: str) -> Reference:
    """From `oci://registry/repository:tag@sha256:…`; raises UserError."""
    name = url.removeprefix("oci://")
    rest, at, digest = name.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise UserError(f"{digest[:80]!r} is no digest (sha256: and 64 hexadecimal digits)", where=url[:200])
    first, slash, path = rest.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, path = _DOCKER_HUB, rest if slash else f"library/{rest}"
    repository, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = path, "" if digest else "latest"
    if not _REPOSITORY.fullmatch(repository) or (tag and not _TAG.fullmatch(tag)):
        raise UserError(f"{name[:200]!r} is no name of an image such as registry.example.com/plugin:v1")
    return Reference(first, repository, tag, digest)


def credentials_of(secret: JsonObject, registry: str) -> str:
    """The `user:password` that a Secret of type kubernetes.io/dockerconfigjson has for the registry, in base64."""
    try:
        text = base64.b64decode(str_at(secret, "data", ".dockerconfigjson"))
        config = cast(Json, msgspec.json.decode(text))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise UserError("has no usable key .dockerconfigjson", where="image pull secret") from None
    for name, given in object_at(config, "auths").items():
        host = name.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if host != registry and not (registry == _DOCKER_HUB and host.endswith("docker.io")):
            continue
        if auth := str_at(given, "auth"):
            return auth
        pair = f"{str_at(given, 'username')}:{str_at(given, 'password')}"
        return base64.b64encode(pair.encode()).decode()
    return ""


class Registry:
    """One registry, as long as one image is fetched."""

    def __init__(self, fetcher: Fetcher, reference: Reference, credentials: str) -> None:
        self._fetcher = fetcher
        self._reference = reference
        self._basic = credentials
        self._authorization = f"Basic {credentials}" if credentials else ""
        self._base = ""

    async def module(self) -> tuple[str, bytes]:
        """(digest of the manifest, module). Raises FetchFailed."""
        await self._find_base()
        digest, manifest = await self._manifest(self._reference.digest or self._reference.tag)
        layers = objects_at(manifest, "layers")
        if not layers:
            raise FetchFailed("the image has no layers")
        wasm = [layer for layer in layers if str_at(layer, "mediaType") == MODULE_LAYER]
        layer = wasm[-1] if wasm else layers[-1]
        blob = await self._blob(str_at(layer, "digest"))
        return digest, blob if wasm or is_module(blob) else from_layer(blob)

    async def _find_base(self) -> None:
        """The first scheme that answers: https, and http where the registry is of the cluster or listed as insecure."""
        problems: list[str] = []
        for scheme in self._fetcher.schemes(self._reference.registry):
            base = f"{scheme}://{self._host}/v2"
            try:
                answer = await self._fetcher.get(f"{base}/", limit=MAX_MANIFEST, accept_errors=True)
            except FetchFailed as error:
                problems.append(str(error))
                continue
            if answer.status == 401:
                await self._sign_in(answer.headers)
            self._base = base
            return
        raise FetchFailed(problems[-1])

    @property
    def _host(self) -> str:
        return "registry-1.docker.io" if self._reference.registry == _DOCKER_HUB else self._reference.registry

    async def _sign_in(self, headers: Mapping[str, str]) -> None:
        """A token from where the registry sends us (or the password itself, where it wants that)."""
        challenge = headers.get("www-authenticate", "")
        kind, _, rest = challenge.partition(" ")
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.get("realm", "")
        if kind.lower() != "bearer" or not realm:
            return
        query = {"scope": f"repository:{self._reference.repository}:pull"}
        if asked.get("service"):
            query["service"] = asked["service"]
        own = {"Authorization": f"Basic {self._basic}"} if self._basic else {}
        answer = await self._fetcher.get(realm, limit=MAX_MANIFEST, headers=own, query=query)
        given = _json(answer.body)
        token = str_at(given, "token") or str_at(given, "access_token")
        self._authorization = f"Bearer {token}" if token else ""

    async def _get(self, path: str, *, limit: int, accept: Sequence[str] = ()) -> bytes:
        headers = {"Accept": ", ".join(accept)} if accept else {}
        if self._authorization:
            headers["Authorization"] = self._authorization
        url = f"{self._base}/{self._reference.repository}/{path}"
        return (await self._fetcher.get(url, limit=limit, headers=headers)).body

    async def _manifest(self, name: str) -> tuple[str, JsonObject]:
        body = await self._get(f"manifests/{name}", limit=MAX_MANIFEST, accept=(*MANIFESTS, *INDEXES))
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        if name.startswith("sha256:") and digest != name:
            raise FetchFailed(f"the registry answered with another image than {name}")
        manifest = _json(body)
        if objects_at(manifest, "manifests"):
            inner = str_at(objects_at(manifest, "manifests")[0], "digest")
            if not _DIGEST.fullmatch(inner):
                raise FetchFailed("the image's index names no manifest")
            _, manifest = await self._manifest(inner)
        return digest, manifest

    async def _blob(self, digest: str) -> bytes:
        if not _DIGEST.fullmatch(digest):
            raise FetchFailed("a layer of the image has no digest")
        blob = await self._get(f"blobs/{digest}", limit=MAX_MODULE)
        if "sha256:" + hashlib.sha256(blob).hexdigest() != digest:
            raise FetchFailed(f"the layer {digest} did not come as it should")
        return blob


def from_layer(blob: bytes) -> bytes:
    """`plugin.wasm` out of a layer: a tar archive, mostly compressed. Raises FetchFailed."""
    try:
        if blob[:2] == b"\x1f\x8b":
            blob = _inflate(blob)
        with tarfile.open(fileobj=io.BytesIO(blob), mode="r:") as archive:
            for member in archive:
                if member.isfile() and member.name.rpartition("/")[2] == PLUGIN_FILE:
                    file = archive.extractfile(member)
                    return file.read() if file is not None else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise FetchFailed(f"the image's last layer cannot be read: {error}") from None
    raise FetchFailed(f"the image's last layer has no file {PLUGIN_FILE}")


def _inflate(blob: bytes) -> bytes:
    with gzip.open(io.BytesIO(blob)) as unpacked:
        found = unpacked.read(MAX_MODULE + 1)
    if len(found) > MAX_MODULE:
        raise FetchFailed(f"the image's last layer has more than {MAX_MODULE >> 20} MiB")
    return found


def _json(body: bytes) -> JsonObject:
    try:
        value = cast(Json, msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError):
        raise FetchFailed("the registry's answer is no JSON") from None
    return value if isinstance(value, dict) else {}
