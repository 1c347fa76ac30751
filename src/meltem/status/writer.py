"""Conditions in the status of Istio resources: what could not be used, where its author looks first.

In: the problems of the feed. Out: `status.conditions` (type `Reconciled`), by server-side apply on the subresource:
False with the reason where a resource cannot be used, True once it can again. Only the leader writes; a condition that
says the same is left alone; at most `PER_SECOND` writes; resources with no trouble that never had any are left alone as
well (a mesh of ten thousand resources gets no write at its start).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from meltem.clock import Clock, rfc3339
from meltem.errors import MeltemError, NotFound
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, int_at, objects_at, str_at
from meltem.resources.kinds import ISTIO_KINDS, KindInfo

PER_SECOND = 20.0
MANAGER = "istiod-status"
CONDITION = "Reconciled"
log = structlog.stdlib.get_logger("status")

Key = tuple[str, str, str]
"""kind, namespace, name"""


class Problems(Protocol):
    """Where what is wrong stands (`meltem.controlplane.feed.Feed`)."""

    @property
    def problems(self) -> Mapping[Key, str]: ...


class StatusWriter:
    """See the module's head."""

    def __init__(self, client: KubeClient, source: Problems, clock: Clock, *, enabled: bool = True) -> None:
        self._client = client
        self._source = source
        self._clock = clock
        self._enabled = enabled
        self._written: dict[Key, str] = {}
        self._kinds: dict[str, KindInfo] = {k.kind: k for k in ISTIO_KINDS}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._enabled:
                for key, reason in self.due():
                    await self._write(key, reason)
                    await self._clock.sleep(1 / PER_SECOND)
            await self._clock.sleep(1.0)

    def due(self) -> Sequence[tuple[Key, str]]:
        """What has to be written now; an empty reason says that all is well again."""
        problems = {k: r for k, r in self._source.problems.items() if k[0] in self._kinds}
        changed: Iterable[tuple[Key, str]] = [(k, r) for k, r in problems.items() if self._written.get(k) != r]
        mended: Iterable[tuple[Key, str]] = [(k, "") for k, r in self._written.items() if r and k not in problems]
        return [*changed, *mended]

    async def _write(self, key: Key, reason: str) -> None:
        info = self._kinds[key[0]]
        rt = ResourceType(info.group, info.versions[0], info.plural, info.kind, info.namespaced)
        self._written[key] = reason
        try:
            live = await self._client.get(rt, key[2], key[1])
            if self._says_already(live, reason):
                return
            await self._client.patch(
                rt, key[2], key[1], self._body(info, key, live, reason), kind=PatchKind.APPLY, subresource="status",
                field_manager=MANAGER, force=True,
            )  # fmt: skip
        except NotFound:
            self._written.pop(key, None)
        except MeltemError as error:
            log.debug("a status could not be written", kind=key[0], name=key[2], reason=str(error))

    @staticmethod
    def _says_already(live: JsonObject, reason: str) -> bool:
        wanted = "False" if reason else "True"
        for condition in objects_at(live, "status", "conditions"):
            if str_at(condition, "type") == CONDITION:
                return str_at(condition, "status") == wanted and str_at(condition, "message") == reason
        return not reason

    def _body(self, info: KindInfo, key: Key, live: JsonObject, reason: str) -> JsonObject:
        generation = int_at(live, "metadata", "generation")
        condition: JsonObject = {
            "type": CONDITION,
            "status": "False" if reason else "True",
            "reason": "Invalid" if reason else "Accepted",
            "message": reason,
            "lastTransitionTime": rfc3339(self._clock.now()),
        }
        return {
            "apiVersion": info.api_version,
            "kind": info.kind,
            "metadata": {"name": key[2], "namespace": key[1]},
            "status": {"observedGeneration": str(generation), "conditions": [condition]},
        }
