"""Conditions in the status of Istio resources: whether they are in force and with whom, where their author looks first.

In: verdicts (`meltem.status.judge`). Out: `status.conditions` (type `Reconciled`) and `observedGeneration`, by
server-side apply on the subresource: True with reason Accepted and how many proxies have it, False with the reason and
what to do. Only the leader writes; at most `PER_SECOND` writes, what is wrong first; a condition that says the same is
left alone, and what others write over ours is not written again before there is something new to say. That some proxies
do not have a resource yet is worth a write only when it lasts, and that only their number changed once in a while: pods
come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from meltem.clock import Clock, rfc3339
from meltem.errors import Conflict, MeltemError, NotFound
from meltem.kube.client import KubeClient, PatchKind
from meltem.kube.resource_types import ResourceType
from meltem.objects import Json, JsonObject, at, int_at, objects_at, str_at
from meltem.resources.kinds import ISTIO_KINDS, KindInfo
from meltem.status.judge import DISTRIBUTING, Key, Verdict

PER_SECOND = 20.0
MANAGER = "istiod-status"
CONDITION = "Reconciled"
LASTING = 2.0
"""Seconds after which it is said that some proxies do not have a resource."""
COUNTS_EVERY = 60.0
"""Seconds between two writes of one resource that only differ in the number of proxies."""
log = structlog.stdlib.get_logger("status")


class Verdicts(Protocol):
    """Where they stand (`meltem.status.judge.Judge`)."""

    @property
    def verdicts(self) -> Mapping[Key, Verdict]: ...


class StatusWriter:
    """See the module's head."""

    def __init__(self, client: KubeClient, source: Verdicts, clock: Clock, *, enabled: bool = True) -> None:
        self._client = client
        self._source = source
        self._clock = clock
        self._enabled = enabled
        self._written: dict[Key, tuple[Verdict, float]] = {}  # and when
        self._unfinished: dict[Key, float] = {}  # since when some proxies do not have it
        self._complained: set[str] = set()
        self._kinds: dict[str, KindInfo] = {k.kind: k for k in ISTIO_KINDS}

    async def run(self) -> None:
        """Until cancelled."""
        while self._enabled:
            for key, verdict in self.due():
                await self._write(key, verdict)
                await self._clock.sleep(1 / PER_SECOND)
            await self._clock.sleep(1.0)

    def due(self) -> Sequence[tuple[Key, Verdict]]:
        """What has to be written now, what is wrong first."""
        now, clock = self._source.verdicts, self._clock.monotonic()
        for key in [k for k in self._written if k not in now]:
            del self._written[key]
        unfinished = {k for k, v in now.items() if v.reason == DISTRIBUTING}
        self._unfinished = {k: self._unfinished.get(k, clock) for k in unfinished}
        changed = [(k, v) for k, v in now.items() if k[0] in self._kinds and self._is_news(k, v, clock)]
        return sorted(changed, key=lambda item: (not item[1].bad, item[1].well))

    def _is_news(self, key: Key, verdict: Verdict, now: float) -> bool:
        if now - self._unfinished.get(key, -LASTING) < LASTING:
            return False
        written = self._written.get(key)
        if written is None:
            return True
        before, at_ = written
        if before.uid != verdict.uid:  # another object of the name
            return True
        if (before.reason, before.generation) != (verdict.reason, verdict.generation) or verdict.bad:
            return before != verdict
        return before != verdict and now - at_ >= COUNTS_EVERY

    async def _write(self, key: Key, verdict: Verdict) -> None:
        info = self._kinds[key[0]]
        rt = ResourceType(info.group, info.versions[0], info.plural, info.kind, info.namespaced)
        self._written[key] = verdict, self._clock.monotonic()
        try:
            live = await self._client.get(rt, key[2], key[1])
            if says_already(live, verdict):
                return
            await self._client.patch(
                rt, key[2], key[1], self._body(info, key, live, verdict), kind=PatchKind.APPLY, subresource="status",
                field_manager=MANAGER, force=True,
            )  # fmt: skip
        except (NotFound, Conflict):
            self._written.pop(key, None)
        except MeltemError as error:
            if key[0] not in self._complained:  # once a kind: it will mostly be a missing permission
                self._complained.add(key[0])
                log.warning("a status could not be written", kind=key[0], name=key[2], reason=str(error))

    def _body(self, info: KindInfo, key: Key, live: JsonObject, verdict: Verdict) -> JsonObject:
        state = "True" if verdict.well else "False"
        before = _condition(live)
        since = str_at(before, "lastTransitionTime") if str_at(before, "status") == state else ""
        generation = verdict.generation or int_at(live, "metadata", "generation")
        condition: JsonObject = {
            "type": CONDITION,
            "status": state,
            "reason": verdict.reason,
            "message": verdict.message,
            "lastTransitionTime": since or rfc3339(self._clock.now()),
            "observedGeneration": generation,  # a number: `kubectl wait` compares it
        }
        # A list of conditions belongs to whoever applies it, whole: what others say there is said again.
        others: list[Json] = [c for c in objects_at(live, "status", "conditions") if str_at(c, "type") != CONDITION]
        metadata: JsonObject = {"name": key[2], "namespace": key[1]}
        if others:  # and must not have changed since
            metadata["resourceVersion"] = str_at(live, "metadata", "resourceVersion")
        return {
            "apiVersion": info.api_version,
            "kind": info.kind,
            "metadata": metadata,
            "status": {"observedGeneration": generation, "conditions": [condition, *others]},
        }


def _condition(live: JsonObject) -> JsonObject:
    for condition in objects_at(live, "status", "conditions"):
        if str_at(condition, "type") == CONDITION:
            return condition
    return {}


def says_already(live: JsonObject, verdict: Verdict) -> bool:
    """Whether the object's status needs no write."""
    condition = _condition(live)
    observed = str(at(live, "status", "observedGeneration") or "")
    return (
        str_at(condition, "status") == ("True" if verdict.well else "False")
        and str_at(condition, "reason") == verdict.reason
        and str_at(condition, "message") == verdict.message
        and (not verdict.generation or observed == str(verdict.generation))
        and int_at(condition, "observedGeneration") == int_at(live, "status", "observedGeneration")
    )
