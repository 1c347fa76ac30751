"""A work queue of keys: each key is worked on by one worker at a time, added twice it is done once, and failing keys
wait longer and longer.

In: `add(key)`, `add_after(key, seconds)`. Out: `run(handler, workers)`, which calls `await handler(key)`; a handler
that raises gets its key again after a pause of 5 ms, 10 ms, 20 ms… up to `longest_pause`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from meltem import errors

K = TypeVar("K", bound=Hashable)
_FIRST_PAUSE = 0.005

log = structlog.stdlib.get_logger(__name__)


class WorkQueue(Generic[K]):
    """Keys to work on, in the order in which they were first added."""

    def __init__(self, name: str, *, longest_pause: float = 30.0) -> None:
        self.name = name
        self._longest_pause = longest_pause
        self._waiting: dict[K, None] = {}
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._active)

    def add(self, key: K) -> None:
        """Work on it soon; when it is being worked on now, once more afterwards."""
        if key in self._active:
            self._again.add(key)
            return
        self._waiting[key] = None
        self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Work on it in `seconds`; of several such wishes for one key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        known = self._timers.get(key)
        if known is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        self._timers[key] = (due, loop.call_at(due, self._due, key))

    async def run(self, handler: Callable[[K], Awaitable[None]], workers: int = 4) -> None:
        """Runs until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(handler), name=f"queue {self.name}")
        finally:
            for _, timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _work(self, handler: Callable[[K], Awaitable[None]]) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._active.add(key)
            try:
                await handler(key)
                self._failures.pop(key, None)
            except Exception as error:
                self._failed(key, error)
            finally:
                self._active.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _failed(self, key: K, error: Exception) -> None:
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause = min(_FIRST_PAUSE * 2 ** min(count, 30), self._longest_pause)
        expected = isinstance(error, errors.Conflict | errors.AlreadyExists | errors.NotFound) and count < 5
        if expected:
            pass  # someone else was faster; the caches will say so in a moment
        elif isinstance(error, errors.MeltemError):
            log.warning("will try again", queue=self.name, key=str(key), error=str(error), pause=pause)
        else:
            log.error("internal error; will try again", queue=self.name, key=str(key), pause=pause, exc_info=error)
        self.add_after(key, pause)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)
