"""The trust bundle: what every pod must know to trust istiod and its peers.

In: the CA's roots and the namespaces. Out: the ConfigMap `istio-ca-root-cert` (key `root-cert.pem`) in each of them,
written only where it differs, put back when somebody deletes or edits it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from meltem.clock import Clock
from meltem.errors import ApiError, MeltemError, NotFound
from meltem.objects import JsonObject, object_at

CONFIG_MAP = "istio-ca-root-cert"
KEY = "root-cert.pem"
IGNORED_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


class ConfigMapClient(Protocol):
    """The requests that are made. Errors are `meltem.errors.ApiError`s."""

    async def get_config_map(self, namespace: str, name: str) -> JsonObject: ...
    async def create_config_map(self, config_map: JsonObject) -> JsonObject: ...
    async def replace_config_map(self, config_map: JsonObject) -> JsonObject: ...


def config_map(namespace: str, roots_pem: bytes, *, name: str = CONFIG_MAP) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {KEY: roots_pem.decode()},
    }


async def ensure(client: ConfigMapClient, namespace: str, roots_pem: bytes, *, name: str = CONFIG_MAP) -> bool:
    """Makes the ConfigMap of one namespace right; True where something was written.

    A namespace that is being deleted, or is gone already, is no error.
    """
    wanted = config_map(namespace, roots_pem, name=name)
    try:
        found = await client.get_config_map(namespace, name)
    except NotFound:
        try:
            await client.create_config_map(wanted)
        except ApiError as error:
            if error.status_code in (
                403,
                404,
                409,
            ):  # 403: "because it is being terminated"; 409: another istiod did it
                return False
            raise
        return True
    if object_at(found, "data").get(KEY) == roots_pem.decode():
        return False
    try:
        await client.replace_config_map({**found, "data": {**object_at(found, "data"), KEY: roots_pem.decode()}})
    except ApiError as error:
        if error.status_code in (404, 409):
            return False
        raise
    return True


async def keep_everywhere(
    client: ConfigMapClient,
    touched: AsyncIterator[str],
    roots_pem: Callable[[], bytes],
    clock: Clock,
    *,
    name: str = CONFIG_MAP,
    retry_seconds: float = 5.0,
) -> None:
    """Runs until `touched` ends. It yields a namespace when it appears, when its ConfigMap changed, and every namespace
    anew when the roots changed; a namespace that could not be written is tried again."""
    log = structlog.get_logger("ca")
    async with asyncio.TaskGroup() as group:

        async def write(namespace: str) -> None:
            while dirty.pop(namespace, False):  # touched again while it was being written: once more
                try:
                    await ensure(client, namespace, roots_pem(), name=name)
                except MeltemError as error:
                    log.warning("could not write the trust bundle", namespace=namespace, reason=str(error))
                    dirty[namespace] = True
                    await clock.sleep(retry_seconds)
            running.discard(namespace)

        dirty: dict[str, bool] = {}
        running: set[str] = set()
        async for namespace in touched:
            if namespace in IGNORED_NAMESPACES:
                continue
            dirty[namespace] = True
            if namespace not in running:
                running.add(namespace)
                group.create_task(write(namespace))
