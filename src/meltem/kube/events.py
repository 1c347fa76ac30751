"""Events: what controllers tell people through `kubectl describe` and `kubectl events`.

In: `recorder.event(obj, "Warning", "FailedCreate", "…")`, which never waits. Out: core/v1 Event objects, written by
`run()`: the same event again raises `count`, many similar ones become one, and an object that floods is cut off.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from typing import TypeVar

import structlog

from meltem import errors
from meltem.clock import Clock, SystemClock, rfc3339
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import EVENTS
from meltem.objects import Json, JsonObject, name_of, namespace_of, str_at, uid_of

_SIMILAR = 10  # different messages of one reason on one object before they become one event
_SIMILAR_SECONDS = 600.0
_BURST = 25.0
_REFILL_SECONDS = 300.0
_REMEMBERED = 4096
_QUEUE = 1000

log = structlog.stdlib.get_logger(__name__)

_Key = tuple[str, str, str, str]  # uid (or kind/namespace/name), type, reason, message


class EventRecorder:
    """Records events under one component's name. `run` must be running for them to be written."""

    def __init__(self, client: KubeClient, component: str, *, host: str = "", clock: Clock | None = None) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock: Clock = clock or SystemClock()
        self._queue: asyncio.Queue[tuple[JsonObject, str, str, str]] = asyncio.Queue(_QUEUE)
        self._written: OrderedDict[_Key, JsonObject] = OrderedDict()
        self._messages: OrderedDict[_Key, tuple[float, set[str]]] = OrderedDict()
        self._budget: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def event(self, about: JsonObject, kind: str, reason: str, message: str) -> None:
        """`about` is the object (with apiVersion and kind); `kind` is Normal or Warning; `reason` is CamelCase."""
        try:
            self._queue.put_nowait((about, kind, reason, message[:1024]))
        except asyncio.QueueFull:
            log.warning("too many events, one is dropped", reason=reason, about=name_of(about))

    async def run(self) -> None:
        """Writes events until cancelled; an event that cannot be written is logged and left."""
        while True:
            about, kind, reason, message = await self._queue.get()
            try:
                await self._write(about, kind, reason, message)
            except errors.MeltemError as error:
                log.debug("an event could not be written", reason=reason, about=name_of(about), error=str(error))

    async def _write(self, about: JsonObject, kind: str, reason: str, message: str) -> None:
        now = self._clock.now()
        who = uid_of(about) or f"{str_at(about, 'kind')}/{namespace_of(about)}/{name_of(about)}"
        if not self._allowed(who, now):
            return
        message = self._aggregate((who, kind, reason, ""), message, now)
        key = (who, kind, reason, message)
        known = self._written.get(key)
        if known is not None:
            count = known.get("count")
            patch: JsonObject = {"count": (count if isinstance(count, int) else 1) + 1, "lastTimestamp": rfc3339(now)}
            try:
                self._remember(key, await self._client.patch(EVENTS, name_of(known), namespace_of(known), patch))
                return
            except errors.NotFound:
                pass  # expired meanwhile: write it anew
        self._remember(key, await self._client.create(EVENTS, self._new(about, kind, reason, message, now)))

    def _new(self, about: JsonObject, kind: str, reason: str, message: str, now: float) -> JsonObject:
        namespace = namespace_of(about) or "default"
        involved: dict[str, Json] = {
            "apiVersion": str_at(about, "apiVersion"),
            "kind": str_at(about, "kind"),
            "name": name_of(about),
            "namespace": namespace_of(about),
            "uid": uid_of(about),
            "resourceVersion": str_at(about, "metadata", "resourceVersion"),
        }
        field = str_at(about, "fieldPath")
        if field:
            involved["fieldPath"] = field
        source: JsonObject = {"component": self._component}
        if self._host:
            source["host"] = self._host
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name_of(about)}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "involvedObject": {k: v for k, v in involved.items() if v},
            "reason": reason,
            "message": message,
            "type": kind,
            "source": source,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
            "count": 1,
            "firstTimestamp": rfc3339(now),
            "lastTimestamp": rfc3339(now),
        }

    def _aggregate(self, key: _Key, message: str, now: float) -> str:
        known = self._messages.get(key)
        fresh: tuple[float, set[str]] = (now, set())
        since, seen = known if known is not None and now - known[0] <= _SIMILAR_SECONDS else fresh
        if message not in seen and len(seen) >= _SIMILAR:
            return f"(combined from similar events): {message.split(':', 1)[0]}"
        seen.add(message)
        _put(self._messages, key, (since, seen))
        return message

    def _allowed(self, who: str, now: float) -> bool:
        left, at = self._budget.get(who, (_BURST, now))
        left = min(_BURST, left + (now - at) / _REFILL_SECONDS)
        allowed = left >= 1
        _put(self._budget, who, (left - 1 if allowed else left, now))
        return allowed

    def _remember(self, key: _Key, event: JsonObject) -> None:
        _put(self._written, key, event)


_K = TypeVar("_K")
_V = TypeVar("_V")


def _put(memory: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
