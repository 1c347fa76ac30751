"""Where volumes and variables get their contents: config maps, secrets, tokens, claims.

`Sources` is what the rest of the node asks; `ClusterSources` answers from watched stores, and asks the API server where
a store does not know the object (the watch may be a moment behind the pod). Contents are bytes by key; None is "not
found".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from meltem import errors
from meltem.clock import parse_rfc3339
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, SECRETS, ResourceType
from meltem.kube.store import Store
from meltem.objects import JsonObject, name_of, object_at, str_at, string_map_at, uid_of


class Token(msgspec.Struct, frozen=True):
    """A service account's token; `expires` in seconds since the epoch."""

    token: str
    expires: float


class Sources(Protocol):
    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None: ...

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None: ...

    async def claim(self, namespace: str, name: str) -> JsonObject | None: ...

    async def volume(self, name: str) -> JsonObject | None: ...

    async def token(self, pod: JsonObject, audience: str, seconds: int) -> Token: ...

    def on_change(self, listener: Callable[[str, str, str], None]) -> None:
        """`listener(kind, namespace, name)` for every config map and secret that changed."""
        ...


class ClusterSources:
    def __init__(self, client: KubeClient, config_maps: Store, secrets: Store) -> None:
        self._client = client
        self.config_maps = config_maps
        self.secrets = secrets

    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        found = self.config_maps.get(name, namespace) or await self._ask(CONFIG_MAPS, namespace, name)
        if found is None:
            return None
        texts = {k: v.encode() for k, v in string_map_at(found, "data").items()}
        return texts | _decoded(string_map_at(found, "binaryData"))

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        found = self.secrets.get(name, namespace) or await self._ask(SECRETS, namespace, name)
        return None if found is None else _decoded(string_map_at(found, "data"))

    async def claim(self, namespace: str, name: str) -> JsonObject | None:
        return await self._ask(PERSISTENT_VOLUME_CLAIMS, namespace, name)

    async def volume(self, name: str) -> JsonObject | None:
        return await self._ask(PERSISTENT_VOLUMES, "", name)

    async def token(self, pod: JsonObject, audience: str, seconds: int) -> Token:
        bound: JsonObject = {"kind": "Pod", "apiVersion": "v1", "name": name_of(pod), "uid": uid_of(pod)}
        answer = await self._client.token_request(
            str_at(pod, "metadata", "namespace"),
            str_at(pod, "spec", "serviceAccountName", default="default"),
            audiences=[audience] if audience else [],
            expiration_seconds=seconds,
            bound_object=bound,
        )
        return Token(str_at(answer, "token"), parse_rfc3339(str_at(answer, "expirationTimestamp")))

    def on_change(self, listener: Callable[[str, str, str], None]) -> None:
        def changed(kind: str) -> Callable[[JsonObject | None, JsonObject | None], None]:
            def callback(old: JsonObject | None, new: JsonObject | None) -> None:
                obj = new or old or {}
                listener(kind, str_at(obj, "metadata", "namespace"), name_of(obj))

            return callback

        self.config_maps.on_change(changed("configMap"))
        self.secrets.on_change(changed("secret"))

    async def _ask(self, rt: ResourceType, namespace: str, name: str) -> JsonObject | None:
        try:
            return await self._client.get(rt, name, namespace)
        except errors.NotFound:
            return None


def _decoded(values: Mapping[str, str]) -> dict[str, bytes]:
    result: dict[str, bytes] = {}
    for key, text in values.items():
        try:
            result[key] = base64.b64decode(text)
        except (binascii.Error, ValueError):
            continue  # the API server does not accept such a value
    return result


def items_of(source: JsonObject) -> list[tuple[str, str, int | None]]:
    """`items` of a config map, secret or projection: (key, path, mode)."""
    found = source.get("items")
    if not isinstance(found, list):
        return []
    result: list[tuple[str, str, int | None]] = []
    for item in found:
        mode = object_at({"i": item}, "i").get("mode")
        result.append((str_at(item, "key"), str_at(item, "path"), mode if isinstance(mode, int) else None))
    return result
