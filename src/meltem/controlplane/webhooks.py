"""Keeps the certificate bundle of our webhook configurations right, and makes validation strict once we answer.

In: the CA's roots. Out: `caBundle` in every MutatingWebhookConfiguration and ValidatingWebhookConfiguration that belongs
to this revision; nothing is written where it is right already.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import structlog

from meltem.clock import Clock
from meltem.errors import ApiError, MeltemError, NotFound, Unreachable
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, ResourceType
from meltem.kube.store import Store
from meltem.objects import Json, JsonObject, labels_of, name_of, object_at, objects_at, str_at
from meltem.settings import Settings

log = structlog.stdlib.get_logger("webhooks")
_DEFAULT_VALIDATOR = "istiod-default-validator"
_REVISION = "istio.io/rev"


class WebhookPatcher:
    """`stores`: caches of both kinds, filled by reflectors; every change and every new root leads to a look."""

    def __init__(
        self, client: KubeClient, settings: Settings, namespace: str, roots_pem: Callable[[], bytes], clock: Clock
    ) -> None:
        self._client = client
        self._settings = settings
        self._namespace = namespace
        self._roots = roots_pem
        self._clock = clock
        self.mutating = Store()
        self.validating = Store()

    async def run(self) -> None:
        """Looks again and again; a look without difference costs no request."""
        while True:
            for rt, store in ((MUTATING_WEBHOOKS, self.mutating), (VALIDATING_WEBHOOKS, self.validating)):
                for configuration in store:
                    if self._ours(rt, configuration):
                        await self._fix(rt, store, configuration)
            await self._clock.sleep(0.25)

    def _ours(self, rt: ResourceType, configuration: JsonObject) -> bool:
        labels, name = labels_of(configuration), name_of(configuration)
        revision = self._settings.revision or "default"
        if rt is MUTATING_WEBHOOKS:
            if name == self._settings.injection_webhook_config_name:
                return True
            return labels.get(_REVISION) == revision and labels.get("app") == "sidecar-injector"
        if name == self._settings.validation_webhook_config_name:
            return True
        if name == _DEFAULT_VALIDATOR:
            return labels.get(_REVISION, revision) == revision
        return name.startswith("istio-validator") and labels.get(_REVISION) == revision

    async def _fix(self, rt: ResourceType, store: Store, configuration: JsonObject) -> None:
        operations = patch_operations(configuration, self._roots(), strict=rt is VALIDATING_WEBHOOKS)
        if not operations:
            return
        name = name_of(configuration)
        try:
            written = await self._client.patch(rt, name, "", operations, kind=PatchKind.JSON, field_manager="istiod")
        except NotFound:
            return
        except (ApiError, Unreachable) as error:
            log.warning("a webhook configuration could not be patched", name=name, reason=_line(error))
            await self._clock.sleep(2.0)
            return
        store.observe(written)
        log.info("webhook configuration patched", name=name)


def patch_operations(configuration: JsonObject, roots_pem: bytes, *, strict: bool) -> list[Json]:
    """The JSON patch that puts the bundle (and, with `strict`, `failurePolicy: Fail`) where they are missing."""
    bundle = base64.b64encode(roots_pem).decode()
    operations: list[Json] = []
    for index, webhook in enumerate(objects_at(configuration, "webhooks")):
        path = f"/webhooks/{index}"
        client = object_at(webhook, "clientConfig")
        before = len(operations)
        if client.get("caBundle") != bundle:
            operations.append({"op": "add", "path": f"{path}/clientConfig/caBundle", "value": bundle})
        if strict and str_at(webhook, "failurePolicy") == "Ignore":
            operations.append({"op": "add", "path": f"{path}/failurePolicy", "value": "Fail"})
        if len(operations) > before:  # somebody may have put another webhook in this place meanwhile
            operations.insert(before, {"op": "test", "path": f"{path}/name", "value": str_at(webhook, "name")})
    return operations


def _line(error: MeltemError) -> str:
    return str(error).split("\n", 1)[0]
