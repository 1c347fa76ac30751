"""What every handler works with: the server's parts as one value, and one authenticated request as another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from meltem.clock import Clock
from meltem.local.apiserver.conversion import WebhookConverter
from meltem.local.apiserver.registry import Registry, Resource
from meltem.local.apiserver.request import RequestInfo
from meltem.local.apiserver.storage import Key, Store
from meltem.local.apiserver.watch import Hub
from meltem.objects import JsonObject


class User(msgspec.Struct, frozen=True):
    """Who asks. `extra` as in UserInfo."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = {}


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """One write on its way through admission, as AdmissionReview describes it.

    `operation`: CREATE, UPDATE, DELETE, CONNECT. `object` is None for DELETE, `old` for CREATE.
    """

    operation: str
    resource: Resource
    subresource: str
    namespace: str
    name: str
    user: User
    object: JsonObject | None
    old: JsonObject | None
    options: JsonObject
    dry_run: bool
    kind: tuple[str, str, str] = ("", "", "")
    """group, version, kind of `object` where it is not the resource's own (Scale, Eviction, PodExecOptions)."""


class Admission(Protocol):
    """Admission as the write path sees it; both raise ApiError to refuse, and add to `warnings`."""

    async def mutate(self, attributes: Attributes, warnings: list[str]) -> JsonObject | None:
        """The object to go on with (the given one, or a changed copy)."""
        ...

    async def validate(self, attributes: Attributes, warnings: list[str]) -> None: ...


class Allocator(Protocol):
    """Cluster IPs and node ports."""

    def prepare(self, obj: JsonObject, old: JsonObject | None) -> None:
        """Fills the Service's addresses and ports in place; raises Invalid."""
        ...


class Core(msgspec.Struct, frozen=True, kw_only=True):
    store: Store
    hub: Hub
    registry: Registry
    clock: Clock
    admission: Admission
    allocator: Allocator
    converter: WebhookConverter


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a resource. `warnings` become Warning headers."""

    request: web.BaseRequest
    info: RequestInfo
    resource: Resource
    user: User
    query: Mapping[str, str]
    body: bytes
    warnings: list[str]

    @property
    def key(self) -> Key:
        namespace = self.info.namespace if self.resource.info.namespaced else ""
        return Key(self.resource.storage, namespace, self.info.name)

    @property
    def accept(self) -> str:
        return self.request.headers.get("Accept", "")

    @property
    def content_type(self) -> str:
        return self.request.headers.get("Content-Type", "")


def warning_headers(warnings: list[str]) -> list[tuple[str, str]]:
    """RFC 7234 warnings with code 299, as client-go reads them; control characters become spaces."""
    headers: list[tuple[str, str]] = []
    for text in dict.fromkeys(warnings):
        clean = "".join(c if c.isprintable() else " " for c in text)[:4096]
        quoted = clean.replace("\\", "\\\\").replace('"', '\\"')
        headers.append(("Warning", f'299 - "{quoted}"'))
    return headers
