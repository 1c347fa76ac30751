"""Keeps the certificate bundle of our webhook configurations right, and makes validation strict once we answer.

In: the CA's roots. Out: `caBundle` in every mutating and validating webhook configuration that belongs to this
revision; nothing is written where it is right already.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import structlog

from meltem.clock import Clock
from meltem.errors import ApiError, MeltemError, NotFound, Unreachable
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import GATEWAYS, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS, ResourceType
from meltem.kube.store import Store
from meltem.objects import Json, JsonObject, labels_of, name_of, object_at, objects_at, str_at
from meltem.settings import Settings
from meltem.validate.webhook import ALWAYS_REJECT

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
        revision = self._revision
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
        strict = rt is VALIDATING_WEBHOOKS and any(
            str_at(w, "failurePolicy") == "Ignore" for w in objects_at(configuration, "webhooks")
        )
        strict = strict and bool(configuration_bundle(configuration)) and await self._answers(configuration)
        operations = patch_operations(configuration, self._roots(), strict=strict)
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

    async def _answers(self, configuration: JsonObject) -> bool:
        """Does the API server reach us? A trial write that we always refuse shows it; it is never stored."""
        labels: JsonObject = {} if name_of(configuration) == _DEFAULT_VALIDATOR else {_REVISION: self._revision}
        trial: JsonObject = {
            "apiVersion": GATEWAYS.api_version,
            "kind": GATEWAYS.kind,
            "metadata": {
                "name": "istiod-trial",
                "namespace": self._namespace,
                "labels": labels,
                "annotations": {ALWAYS_REJECT: "true"},
            },
            "spec": {},
        }
        try:
            await self._client.create(GATEWAYS, trial, dry_run=True)
        except ApiError as error:
            if ALWAYS_REJECT in error.message:
                return True
        except Unreachable:
            pass
        await self._clock.sleep(1.0)
        return False

    @property
    def _revision(self) -> str:
        return self._settings.revision or "default"


def configuration_bundle(configuration: JsonObject) -> str:
    """The certificate bundle of its first webhook."""
    return next((str_at(w, "clientConfig", "caBundle") for w in objects_at(configuration, "webhooks")), "")


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
