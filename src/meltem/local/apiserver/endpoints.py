"""Everything that is no resource: health, version, discovery, OpenAPI, OpenID, metrics."""

from __future__ import annotations

import hashlib

from aiohttp import web

from meltem.errors import NotAcceptable
from meltem.local.apiserver.answers import respond, respond_object
from meltem.local.apiserver.core import User
from meltem.local.apiserver.discovery import Discovery, version_info
from meltem.local.apiserver.openapi_docs import OpenApi
from meltem.local.apiserver.registry import Registry
from meltem.local.apiserver.request import RequestInfo
from meltem.local.apiserver.status import verb_not_allowed
from meltem.local.apiserver.storage import Store, encode
from meltem.local.apiserver.tokens import TokenAuthority, openid_configuration
from meltem.local.config import ClusterConfig
from meltem.objects import Json

_HEALTH = ("/healthz", "/livez", "/readyz")
_PATHS: list[Json] = ["/api", "/api/v1", "/apis", *_HEALTH, "/openapi/v2", "/openapi/v3", "/version"]


class PlainEndpoints:
    """Called for every path that names no resource; None where there is nothing."""

    def __init__(self, config: ClusterConfig, registry: Registry, tokens: TokenAuthority, store: Store) -> None:
        self._config = config
        self._discovery = Discovery(registry)
        self._openapi = OpenApi(registry)
        self._tokens = tokens
        self._store = store

    async def __call__(self, request: web.BaseRequest, info: RequestInfo, user: User) -> web.StreamResponse | None:
        path = info.path.rstrip("/") or "/"
        if request.method not in ("GET", "HEAD"):
            raise verb_not_allowed()
        if path.startswith(_HEALTH):
            return self._health(path, request)
        if path.startswith("/openapi/"):
            return self._openapi.serve(path, request)
        found = self._discovery.serve(path, request.headers.get("Accept", ""))
        if found is not None:
            return _discovered(request, *found)
        match path:
            case "/":
                return respond_object({"paths": _PATHS})
            case "/version":
                return respond_object(version_info())
            case "/.well-known/openid-configuration":
                uri = f"{self._config.inner_api_url}/openid/v1/jwks"
                return respond_object(openid_configuration(uri))
            case "/openid/v1/jwks":
                return respond(encode(self._tokens.public_keys()), media="application/jwk-set+json")
            case "/metrics":
                return self._metrics()
            case _:
                return None

    def _health(self, path: str, request: web.BaseRequest) -> web.StreamResponse | None:
        if path not in _HEALTH:
            known = path.removeprefix("/healthz").removeprefix("/livez").removeprefix("/readyz")
            return web.Response(text="ok") if known in ("/ping", "/log", "/etcd") else None
        if "verbose" in request.query:
            return web.Response(text=f"[+]ping ok\n[+]log ok\n[+]storage ok\n{path[1:]} check passed\n")
        return web.Response(text="ok")

    def _metrics(self) -> web.StreamResponse:
        lines = ["# TYPE apiserver_storage_objects gauge"]
        lines.extend(
            f'apiserver_storage_objects{{resource="{r}"}} {self._store.count(r)}' for r in self._store.resources()
        )
        lines.extend(
            ("# TYPE apiserver_storage_resource_version gauge", f"apiserver_storage_resource_version {self._store.rv}")
        )
        return web.Response(text="\n".join(lines) + "\n")


def _discovered(request: web.BaseRequest, body: bytes, media: str) -> web.StreamResponse:
    """With an ETag, as clients cache discovery; the parameters of the media type are kept."""
    if not _accepts_json(request):
        raise NotAcceptable("only the following media types are accepted: application/json, application/yaml")
    etag = f'"{hashlib.sha256(body).hexdigest()[:40].upper()}"'
    headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "public", "Content-Type": media}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag, "Vary": "Accept"})
    return web.Response(body=body, headers=headers)


def _accepts_json(request: web.BaseRequest) -> bool:
    accept = request.headers.get("Accept", "")
    return not accept or any(word in accept for word in ("json", "*/*", "application/*", "yaml"))
