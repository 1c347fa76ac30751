"""Keeps a sink equal to what the API server has: list once, then watch for ever.

In: a client, a `ResourceType`, selectors. Out: calls on a `Sink`: `replace` with a whole list (first, and whenever the
history was lost), then `upsert` and `delete` in the server's order. While the server is away the sink keeps the last
known state. A kind that is not served (its CRD is not there yet) reads as an empty list and is looked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import structlog

from meltem import errors
from meltem.clock import Clock, SystemClock
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, str_at

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 15.0
_MISSING_KIND_PAUSE = 3.0
_TIMES_MISSING = 3
_SHORT_WATCH = 1.0  # a watch that ends sooner than this counts as a failure, or we would spin

log = structlog.stdlib.get_logger(__name__)


class Sink(Protocol):
    """Where objects go. Called from the reflector's task, never concurrently."""

    def replace(self, items: Sequence[JsonObject]) -> None:
        """These are all the objects that exist now."""
        ...

    def upsert(self, obj: JsonObject) -> None: ...

    def delete(self, obj: JsonObject) -> None: ...


class Reflector:
    """One kind, one sink. `synced` is set after the first successful list (and for a kind that is not served)."""

    def __init__(
        self,
        client: KubeClient,
        rt: ResourceType,
        sink: Sink,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self.rt = rt
        self._sink = sink
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._clock: Clock = clock or SystemClock()
        self._version = ""  # empty: list first
        self._times_missing = 0
        self.synced = asyncio.Event()
        self.served = True
        """False while the server has no such kind."""

    async def run(self) -> None:
        """Runs until cancelled."""
        pause = _FIRST_PAUSE
        complained = False
        while True:
            started = self._clock.monotonic()
            try:
                if not self._version:
                    await self._list()
                async for _ in self._watch():
                    pause, complained = _FIRST_PAUSE, False
                if self._clock.monotonic() - started >= _SHORT_WATCH:
                    pause = _FIRST_PAUSE
                    continue
            except errors.NotFound:
                self._missing()
                await self._clock.sleep(_MISSING_KIND_PAUSE * (0.8 + 0.4 * random.random()))
                continue
            except errors.Gone:
                self._version = ""
            except (errors.ApiError, errors.Unreachable) as error:
                if isinstance(error, errors.BadRequest | errors.Invalid):
                    self._version = ""  # the server cannot use our version (its storage was replaced)
                if not complained:
                    log.warning("cannot watch for now, keeping what is known", kind=self.rt.full_name, error=str(error))
                    complained = True
            await self._clock.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> None:
        result = await self._client.list(
            self.rt, self._namespace, label_selector=self._label_selector, field_selector=self._field_selector
        )
        self.served, self._times_missing = True, 0
        self._sink.replace(result.items)
        self._version = result.resource_version
        self.synced.set()

    async def _watch(self) -> AsyncGenerator[None]:
        events = self._client.watch(
            self.rt,
            self._namespace,
            resource_version=self._version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                if event.type == "DELETED":
                    self._sink.delete(event.object)
                elif event.type != "BOOKMARK":
                    self._sink.upsert(event.object)
                # Handed over first, remembered second: nothing is lost when the sink raises.
                self._version = str_at(event.object, "metadata", "resourceVersion") or self._version
                yield None

    def _missing(self) -> None:
        self._version = ""
        self._times_missing += 1
        # A server that is just starting may not know its custom resources yet: believe it only when it insists.
        if not self.synced.is_set() or (self.served and self._times_missing >= _TIMES_MISSING):
            self.served = False
            self._sink.replace(())
            self.synced.set()
