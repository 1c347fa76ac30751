"""`/openapi/v2` and `/openapi/v3`: documents of the schema package, kept until the served kinds change."""

from __future__ import annotations

import hashlib

from aiohttp import web

from meltem.local.apiserver.answers import respond
from meltem.local.apiserver.negotiate import JSON, media_ranges, not_acceptable
from meltem.local.apiserver.registry import Registry
from meltem.local.apiserver.schema import openapi_protobuf
from meltem.local.apiserver.schema.kinds import KindInfo
from meltem.local.apiserver.schema.openapi import openapi_v2, openapi_v3, openapi_v3_index
from meltem.local.apiserver.storage import decode, encode
from meltem.objects import JsonObject, str_at

_PROTOBUF = (openapi_protobuf.MEDIA_TYPE, openapi_protobuf.OLD_MEDIA_TYPE)
_V2_TYPES = ("application/json", "application/vnd.oai.openapi+json", "*/*", "application/*")


class OpenApi:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._generation = -1
        self._kept: dict[str, bytes] = {}

    def serve(self, path: str, request: web.BaseRequest) -> web.StreamResponse | None:
        """The document at a path; None where there is none. Raises NotFound, NotAcceptable."""
        if self._generation != self._registry.generation:
            self._kept, self._generation = {}, self._registry.generation
        form = JSON
        if path == "/openapi/v2":
            accept = request.headers.get("Accept", "")
            ranges = [r.media for r in media_ranges(accept)] if accept else ["*/*"]
            media = next((m for m in ranges if m in (*_V2_TYPES, *_PROTOBUF)), "")
            if not media:
                raise not_acceptable((*_V2_TYPES[:2], _PROTOBUF[0]))
            if media in _PROTOBUF:
                path, form = f"{path}.pb", _PROTOBUF[0]
        body = self._document(path)
        if body is None:
            return None
        etag = f'"{hashlib.sha256(body).hexdigest()[:40].upper()}"'
        headers = {"ETag": etag, "Vary": "Accept"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return respond(body, media=form, headers=headers)

    def _document(self, path: str) -> bytes | None:
        body = self._kept.get(path)
        if body is None:
            body = self._make(path)
            if body is not None:
                self._kept[path] = body
        return body

    def _make(self, path: str) -> bytes | None:
        kinds, crds = self._inputs()
        match path.strip("/").split("/"):
            case ["openapi", "v2"]:
                return openapi_v2(kinds, crds)
            case ["openapi", "v2.pb"]:
                return openapi_protobuf.encode(decode(openapi_v2(kinds, crds)))
            case ["openapi", "v3"]:
                return encode(openapi_v3_index(kinds, crds))
            case ["openapi", "v3", "api", version]:
                return openapi_v3("", version, kinds, crds)
            case ["openapi", "v3", "apis", group, version]:
                return openapi_v3(group, version, kinds, crds)
            case _:
                return None

    def _inputs(self) -> tuple[list[KindInfo], list[JsonObject]]:
        kinds = [r.info for r in self._registry if r.crd is None]
        crds = {str_at(r.crd, "metadata", "name"): r.crd for r in self._registry.custom() if r.crd is not None}
        return kinds, list(crds.values())
