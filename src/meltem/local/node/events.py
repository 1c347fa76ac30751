"""Events about pods and the node, counted instead of repeated, as the kubelet records them.

In: the object, type, reason, message. Out: Event objects at the API server, written by `run` in the background; an
event that was seen before gets its `count` and `lastTimestamp` moved. Losing events while the API server is away is
accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import Protocol

import msgspec

from meltem import errors
from meltem.clock import Clock, rfc3339
from meltem.kube.client import KubeClient
from meltem.kube.resource_types import EVENTS
from meltem.local.config import NODE_NAME
from meltem.objects import JsonObject, name_of, namespace_of, str_at, uid_of

_REMEMBERED = 2000
_QUEUE = 1000
_BURST = 25.0
_REFILL = 1 / 300
"""Events a second that one object may have after its burst (the kubelet's spam filter)."""


class Recorder(Protocol):
    def event(self, obj: JsonObject, kind: str, reason: str, message: str, *, container: str = "") -> None:
        """`kind` is Normal or Warning; `container` is a field path such as `spec.containers{app}`."""
        ...


class _Known(msgspec.Struct):
    name: str
    namespace: str
    count: int


class EventRecorder:
    def __init__(self, client: KubeClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._queue: asyncio.Queue[tuple[tuple[str, ...], JsonObject]] = asyncio.Queue(_QUEUE)
        self._known: OrderedDict[tuple[str, ...], _Known] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def event(self, obj: JsonObject, kind: str, reason: str, message: str, *, container: str = "") -> None:
        if not self._allowed(uid_of(obj)):
            return
        now = rfc3339(self._clock.now())
        namespace = namespace_of(obj) or "default"
        involved: JsonObject = {
            "kind": str_at(obj, "kind", default="Pod"),
            "apiVersion": str_at(obj, "apiVersion", default="v1"),
            "name": name_of(obj),
            "uid": uid_of(obj),
            "resourceVersion": str_at(obj, "metadata", "resourceVersion"),
        }
        if namespace_of(obj):
            involved["namespace"] = namespace_of(obj)
        if container:
            involved["fieldPath"] = container
        event: JsonObject = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name_of(obj)}.{time.time_ns():x}", "namespace": namespace},
            "involvedObject": involved,
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "source": {"component": "kubelet", "host": NODE_NAME},
            "reportingComponent": "kubelet",
            "reportingInstance": NODE_NAME,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(((uid_of(obj), container, kind, reason, message), event))

    async def run(self) -> None:
        while True:
            key, event = await self._queue.get()
            with contextlib.suppress(errors.MeltemError):
                await self._write(key, event)

    async def _write(self, key: tuple[str, ...], event: JsonObject) -> None:
        known = self._known.get(key)
        if known is not None:
            known.count += 1
            patch: JsonObject = {"count": known.count, "lastTimestamp": event["lastTimestamp"]}
            try:
                await self._client.patch(EVENTS, known.name, known.namespace, patch)
                return
            except errors.NotFound:
                del self._known[key]
        with contextlib.suppress(errors.AlreadyExists):
            await self._client.create(EVENTS, event)
        self._known[key] = _Known(name_of(event), namespace_of(event), 1)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _allowed(self, uid: str) -> bool:
        now = self._clock.monotonic()
        tokens, at = self._tokens.pop(uid, (_BURST, now))
        tokens = min(_BURST, tokens + (now - at) * _REFILL)
        self._tokens[uid] = (max(0.0, tokens - 1), now)
        while len(self._tokens) > _REMEMBERED:
            self._tokens.popitem(last=False)
        return tokens >= 1
