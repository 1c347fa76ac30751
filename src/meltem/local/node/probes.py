"""The three probes of a running container, with the kubelet's timing.

In: the container's spec and `Actions`. Out: calls on a `ProbeListener`: started, ready, unhealthy. `run` lives as long
as the container runs and is then cancelled. The startup probe goes first; the others begin once it has passed.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from meltem.clock import Clock
from meltem.local.node.actions import Actions, Executor, Target
from meltem.objects import JsonObject, int_at, object_at

STARTUP, READINESS, LIVENESS = "Startup", "Readiness", "Liveness"


class ProbeListener(Protocol):
    def started(self) -> None:
        """The startup probe passed (or there is none)."""
        ...

    def ready(self, value: bool) -> None: ...

    def failed(self, kind: str, message: str) -> None:
        """One attempt failed; for the event."""
        ...

    def must_restart(self, kind: str, probe: JsonObject) -> None:
        """The liveness or startup probe failed as often as it may."""
        ...


class Timing(msgspec.Struct, frozen=True):
    delay: int
    period: int
    timeout: int
    successes: int
    failures: int


def timing(probe: JsonObject) -> Timing:
    """The probe's numbers, Kubernetes' defaults where it has none (seconds and counts)."""
    return Timing(
        delay=int_at(probe, "initialDelaySeconds"),
        period=max(1, int_at(probe, "periodSeconds", default=10)),
        timeout=max(1, int_at(probe, "timeoutSeconds", default=1)),
        successes=max(1, int_at(probe, "successThreshold", default=1)),
        failures=max(1, int_at(probe, "failureThreshold", default=3)),
    )


class Prober:
    def __init__(
        self, target: Target, executor: Executor, actions: Actions, listener: ProbeListener, clock: Clock
    ) -> None:
        self._target = target
        self._executor = executor
        self._actions = actions
        self._listener = listener
        self._clock = clock

    async def run(self, *, since: float, started: bool = False) -> None:
        """`since`: seconds since the epoch when the container started; `started`: the startup probe passed earlier."""
        container = self._target.container
        startup, readiness, liveness = (object_at(container, f"{k}Probe") for k in ("startup", "readiness", "liveness"))
        if startup and not started:
            await self._startup(startup, since)
        self._listener.started()
        if not readiness:
            self._listener.ready(True)
        async with asyncio.TaskGroup() as group:
            if readiness:
                group.create_task(self._readiness(readiness, since))
            if liveness:
                group.create_task(self._liveness(liveness, since))

    async def _startup(self, probe: JsonObject, since: float) -> None:
        numbers = timing(probe)
        await self._initial_delay(numbers, since)
        failures = 0
        while True:
            if await self._once(STARTUP, probe, numbers):
                return
            failures += 1
            if failures >= numbers.failures:
                self._listener.must_restart(STARTUP, probe)
                failures = 0
            await self._clock.sleep(numbers.period)

    async def _readiness(self, probe: JsonObject, since: float) -> None:
        numbers = timing(probe)
        await self._initial_delay(numbers, since)
        successes = failures = 0
        while True:
            if await self._once(READINESS, probe, numbers):
                successes, failures = successes + 1, 0
                if successes >= numbers.successes:
                    self._listener.ready(True)
            else:
                successes, failures = 0, failures + 1
                if failures >= numbers.failures:
                    self._listener.ready(False)
            await self._clock.sleep(numbers.period)

    async def _liveness(self, probe: JsonObject, since: float) -> None:
        numbers = timing(probe)
        await self._initial_delay(numbers, since)
        failures = 0
        while True:
            failures = 0 if await self._once(LIVENESS, probe, numbers) else failures + 1
            if failures >= numbers.failures:
                self._listener.must_restart(LIVENESS, probe)
                failures = 0
            await self._clock.sleep(numbers.period)

    async def _initial_delay(self, numbers: Timing, since: float) -> None:
        rest = since + numbers.delay - self._clock.now()
        if rest > 0:
            await self._clock.sleep(rest)

    async def _once(self, kind: str, probe: JsonObject, numbers: Timing) -> bool:
        outcome = await self._actions.run(probe, self._target, self._executor, numbers.timeout)
        if not outcome.ok:
            self._listener.failed(kind, outcome.message)
        return outcome.ok
