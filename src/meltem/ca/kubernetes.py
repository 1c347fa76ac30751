"""The CA's view of a cluster: the few requests that it makes, on `meltem.kube.client.KubeClient`.

One class serves as `SecretClient` (store), `ConfigMapClient` (bundle) and `TokenReviewer` (identity).
"""

from __future__ import annotations

from collections.abc import Sequence

from meltem.kube.client import KubeClient
from meltem.kube.resource_types import CONFIG_MAPS, SECRETS
from meltem.objects import JsonObject


class ClusterForCa:
    """Raises what the client raises: `meltem.errors.ApiError`s, `Unreachable`."""

    def __init__(self, client: KubeClient, *, field_manager: str = "istiod") -> None:
        self._client = client
        self._manager = field_manager

    async def get_secret(self, namespace: str, name: str) -> JsonObject:
        return await self._client.get(SECRETS, name, namespace)

    async def create_secret(self, secret: JsonObject) -> JsonObject:
        return await self._client.create(SECRETS, secret, field_manager=self._manager)

    async def replace_secret(self, secret: JsonObject) -> JsonObject:
        return await self._client.replace(SECRETS, secret, field_manager=self._manager)

    async def get_config_map(self, namespace: str, name: str) -> JsonObject:
        return await self._client.get(CONFIG_MAPS, name, namespace)

    async def create_config_map(self, config_map: JsonObject) -> JsonObject:
        return await self._client.create(CONFIG_MAPS, config_map, field_manager=self._manager)

    async def replace_config_map(self, config_map: JsonObject) -> JsonObject:
        return await self._client.replace(CONFIG_MAPS, config_map, field_manager=self._manager)

    async def review_token(self, token: str, audiences: Sequence[str]) -> JsonObject:
        return await self._client.token_review(token, audiences)
