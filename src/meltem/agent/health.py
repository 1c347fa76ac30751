"""The application's health on a machine outside Kubernetes, where no kubelet asks: probed here, told to istiod.

In: `readinessProbe` of the ProxyConfig (from the WorkloadGroup's `probe`), Envoy's readiness. Out: reports, each by a
short-lived helper (`meltem.agent.health_report`): when health changes, and again after Envoy's stream to istiod was
opened anew, as another istiod may not know. Healthy is who answers the probe and has an Envoy that is ready.

Defaults are Istio's: a probe every 10 s that has 1 s, one success or failure in a row decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meltem.agent import helper, probes
from meltem.agent.bootstrap import bootstrap
from meltem.agent.environment import AgentSettings
from meltem.agent.http1 import HttpError
from meltem.agent.log import Log
from meltem.agent.probes import Probe
from meltem.clock import Clock
from meltem.errors import EnvironmentError_, UserError
from meltem.objects import JsonObject, int_at, object_at, str_at, strings_at

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
MAX_MESSAGE = 500
STREAMS = "grpc.xds-grpc.streams_total"
_WHERE = "ProxyConfig readinessProbe"


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """What is asked, and when. `command`: run it in place of asking over the network. Times in seconds."""

    asked: Probe | None
    host: str
    command: tuple[str, ...] = ()
    delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    successes: int = 1
    failures: int = 1


@dataclass(frozen=True, slots=True)
class Health:
    """`message`: why it is not healthy."""

    healthy: bool
    message: str = ""


class Envoy(Protocol):
    """The part of `meltem.agent.admin.Admin` that is used."""

    async def stats(self, regex: str, *, timeout: float = 2.0) -> dict[str, int]: ...
    async def not_ready_because(self) -> str: ...


def read_probe(settings: AgentSettings) -> HealthProbe | None:
    """The probe of the ProxyConfig; None where there is none. Raises UserError for one that cannot be used."""
    spec = object_at(settings.proxy_config, "readinessProbe")
    if not spec:
        return None
    timeout = float(int_at(spec, "timeoutSeconds") or 1)
    command = tuple(strings_at(spec, "exec", "command"))
    if "exec" in spec and not command:
        raise UserError("exec.command must name a program", where=_WHERE)
    legacy = settings.flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION")
    host = str_at(spec, "httpGet", "host") or str_at(spec, "tcpSocket", "host")
    return HealthProbe(
        asked=None if command else probes.read_probe(spec, _WHERE),
        host=host or (settings.localhost if legacy else settings.instance_ips[0]),
        command=command,
        delay=float(int_at(spec, "initialDelaySeconds")),
        period=float(int_at(spec, "periodSeconds") or 10),
        timeout=timeout,
        successes=int_at(spec, "successThreshold") or 1,
        failures=int_at(spec, "failureThreshold") or 1,
    )


class Judgement:
    """From single answers to a verdict: so many in a row that say the same. Of a workload that is ill for another
    reason than before the new one is told."""

    def __init__(self, probe: HealthProbe) -> None:
        self._probe = probe
        self._run: tuple[bool, int] = (True, 0)
        self.health: Health | None = None

    def add(self, problem: str) -> None:
        """One more answer; empty where it was good."""
        good = not problem
        count = self._run[1] + 1 if self._run[0] == good else 1
        self._run = (good, count)
        if count < (self._probe.successes if good else self._probe.failures):
            return
        self.health = Health(good, problem[:MAX_MESSAGE])


class HealthKeeper:
    """`run()` probes and reports until it is cancelled."""

    def __init__(
        self,
        settings: AgentSettings,
        probe: HealthProbe,
        envoy: Envoy | None,
        clock: Clock,
        log: Log,
        *,
        report: Callable[[JsonObject], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._probe = probe
        self._envoy = envoy
        self._clock = clock
        self._log = log
        self._report = report or run_helper
        self._judgement = Judgement(probe)
        self._wanted: tuple[Health, int] | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell())
            await self._clock.sleep(self._probe.delay)
            while True:
                await self._look()
                await self._clock.sleep(self._probe.period)

    async def _look(self) -> None:
        self._judgement.add(await self.problem())
        health = self._judgement.health
        if health is None:
            return
        before = self._wanted
        self._wanted = (health, await self._streams(before[1] if before else 0))
        if self._wanted == before:
            return
        if before is None or before[0] != health:
            self._log.info("the application is healthy" if health.healthy else f"NOT healthy: {health.message}")
        self._changed.set()

    async def problem(self) -> str:
        """Why it is not healthy now; empty when it is."""
        if self._envoy is not None and (reason := await self._envoy.not_ready_because()):
            return f"the proxy is not ready: {reason}"
        if self._probe.asked is None:
            return await _run_command(self._probe)
        answer = await probes.run(self._probe.asked, self._probe.host, {"user-agent": "istio-probe/1.0"})
        if 200 <= answer.status < 400:
            return ""
        text = answer.body.decode("utf-8", "replace").strip()
        if answer.status == 500 and text.startswith(probes.SILENT):
            return text
        return f"port {self._probe.asked.port} answered its probe {self._probe.asked.path} with {answer.status}"

    async def _streams(self, known: int) -> int:
        """How often Envoy has opened its stream to istiod."""
        if self._envoy is None:
            return 0
        try:
            return (await self._envoy.stats(f"^{STREAMS}$".replace(".", "\\."))).get(STREAMS, known)
        except HttpError:
            return known

    async def _tell(self) -> None:
        pause = FIRST_PAUSE
        told: tuple[Health, int] | None = None
        while True:
            if self._wanted is None or self._wanted == told:
                self._changed.clear()
                await self._changed.wait()
            wanted = self._wanted
            if wanted is None:
                continue
            try:
                await self._report(order(self._settings, wanted[0]))
                told, pause = wanted, FIRST_PAUSE
            except EnvironmentError_ as error:
                self._log.warn(f"istiod could not be told the application's health: {error}")
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)


def order(settings: AgentSettings, health: Health) -> JsonObject:
    """What the helper is told."""
    return {
        "address": settings.discovery_address,
        "root": "" if settings.xds_root == "SYSTEM" else str(settings.xds_root_path),
        "target_name": settings.istiod_san,
        "plaintext": settings.plaintext_discovery,
        "token_path": str(settings.identity_token_path),
        "node": object_at(bootstrap(settings), "node"),
        "healthy": health.healthy,
        "message": health.message,
    }


async def run_helper(wanted: JsonObject) -> None:
    """Runs the helper once. Raises EnvironmentError_ with its reason."""
    await helper.run("meltem.agent.health_report", wanted, where="health report")


async def _run_command(probe: HealthProbe) -> str:
    """Why the command says that it is not healthy."""
    try:
        process = await asyncio.create_subprocess_exec(
            *probe.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=Path("/"),
        )
    except (OSError, ValueError) as error:
        return f"{probe.command[0]} cannot be run: {error}"
    try:
        async with asyncio.timeout(probe.timeout):
            out, _ = await process.communicate()
    except TimeoutError:
        return f"{probe.command[0]} did not end within {probe.timeout:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return ""
    said = out.decode("utf-8", "replace").strip()[-MAX_MESSAGE:]
    return f"{probe.command[0]} ended with status {process.returncode}" + (f": {said}" if said else "")
