"""`/openapi/v2` and `/openapi/v3`: documents of the schema package, kept until the served kinds change."""

from __future__ import annotations

import hashlib

from aiohttp import web

from meltem.local.apiserver.answers import respond
from meltem.local.apiserver.negotiate import media_ranges, not_acceptable
from meltem.local.apiserver.registry import Registry
from meltem.local.apiserver.storage import encode
from meltem.objects import Json, JsonObject

_V2_TYPES = ("application/json", "application/vnd.oai.openapi+json", "*/*", "application/*")


class OpenApi:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._generation = -1
        self._kept: dict[str, bytes] = {}

    def serve(self, path: str, request: web.BaseRequest) -> web.StreamResponse | None:
        return None
