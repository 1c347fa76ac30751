"""`pilot-agent proxy`: certificate, bootstrap, Envoy, port 15020, drain, end.

In: `AgentSettings`. Out: an exit status: Envoy's own where Envoy ended by itself, 0 after a drain that was asked for.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from meltem.agent import dns, envoy, health, http1, metrics, probes
from meltem.agent.admin import Admin
from meltem.agent.bootstrap import prepared
from meltem.agent.environment import AgentSettings
from meltem.agent.http1 import HttpError
from meltem.agent.log import Log
from meltem.agent.metrics import AgentMetrics, Merger
from meltem.agent.renewal import CertificateKeeper
from meltem.agent.resolv import name_servers
from meltem.agent.status_server import StatusServer
from meltem.clock import Clock
from meltem.errors import EnvironmentError_

CONNECTION_POLL_SECONDS = 1.0
MAX_POLL_FAILURES = 5


class ProxySupervisor:
    """One run of the agent. `run()` is awaited once."""

    def __init__(self, settings: AgentSettings, clock: Clock, log: Log) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log
        self._metrics = AgentMetrics(started=clock.now())
        self._admin = Admin(settings.localhost, settings.admin_port)
        self._stopping = asyncio.Event()
        self._drained = False

    async def run(self) -> int:
        status = self._status_server()
        server = await self._listen(status)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            async with server or nullcontext():
                return await self._serve(status)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _listen(self, status: StatusServer) -> asyncio.Server | None:
        """On the status port; None where the pod wants none (port 0)."""
        port = self._settings.status_port
        if not port:
            return None
        try:
            return await http1.serve(None, port, status.handle)
        except OSError as error:
            raise EnvironmentError_(
                f"port {port} cannot be opened: {error.strerror}",
                remedy="Another process of this pod uses it; set statusPort in the ProxyConfig.",
            ) from None

    def _status_server(self) -> StatusServer:
        settings = self._settings
        merge = settings.environment.get("PILOT_AGENT_MERGE_ENVOY_STATS", "true").lower() != "false"
        merger = Merger(
            own=self._metrics,
            targets=metrics.read_targets(settings.environment, settings.status_port),
            localhost=settings.localhost,
            envoy_port=settings.envoy_prometheus_port,
            merge_envoy=merge and not settings.disable_envoy,
            log=self._log,
        )
        legacy = settings.flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION")
        return StatusServer(
            admin=None if settings.disable_envoy else self._admin,
            merger=merger,
            application_probes=probes.read_probes(settings.environment),
            probe_address=settings.localhost if legacy else settings.instance_ips[0],
            localhost_metrics_only=settings.flag("METRICS_LOCALHOST_ACCESS_ONLY"),
            quit=self._quit,
            drain=self._drain_now,
            clock=self._clock,
            log=self._log,
        )

    async def _serve(self, status: StatusServer) -> int:
        settings = self._settings
        probe = health.read_probe(settings)
        keeper = CertificateKeeper(settings, self._metrics, self._clock, self._log)
        status.starting = "waiting for a certificate from istiod"
        if await self._or_stop(keeper.first):
            return 0
        tasks = [asyncio.create_task(keeper.keep())]
        try:
            if settings.disable_envoy:
                await self._stopping.wait()
                return 0
            process = await envoy.start(settings, prepared(settings))
            status.starting = ""
            tasks.append(asyncio.create_task(envoy.pass_on(process)))
            listening = await self._serve_dns() if settings.dns_capture else []
            if probe is not None:
                asking = health.HealthKeeper(settings, probe, self._admin, self._clock, self._log)
                tasks.append(asyncio.create_task(asking.run()))
            try:
                return await self._watch(process)
            finally:
                await envoy.stop(process)
                for transport in listening:
                    transport.close()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve_dns(self) -> list[asyncio.DatagramTransport]:
        """The pod's queries, where the capture rules lead them."""
        settings = self._settings
        servers = [(server, 53) for server in name_servers(settings.root)]
        own = ["127.0.0.1", *(["::1"] if any(":" in a for a in settings.instance_ips) else [])]
        proxy = dns.DnsProxy((settings.localhost, dns.ENVOY_PORT), servers)
        try:
            return await dns.serve(proxy, [(address, dns.CAPTURE_PORT) for address in own])
        except OSError as error:
            raise EnvironmentError_(
                f"UDP port {dns.CAPTURE_PORT} cannot be opened for DNS capture: {error.strerror}",
                remedy="Another process of this pod uses it; switch ISTIO_META_DNS_CAPTURE off.",
            ) from None

    async def _watch(self, process: asyncio.subprocess.Process) -> int:
        """Until Envoy ends by itself, or until we are told to stop and have drained it."""
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._drain_for_end(ended)
                await envoy.stop(process)
                self._log.info("Agent has successfully terminated")
                return 0
            code = envoy.exit_status(ended.result())
            self._metrics.envoy_terminations += 1
            if ended.result() == -signal.SIGKILL:
                self._log.warn("Envoy was killed; it may have run out of memory: look at the container's memory limit")
            self._log.error(f"Envoy exited with status {code}")
            return code
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _drain_for_end(self, ended: asyncio.Task[int]) -> None:
        """Lets connections finish: a fixed while, or until none is open (EXIT_ON_ZERO_ACTIVE_CONNECTIONS)."""
        settings = self._settings
        if self._drained:
            self._log.info("already drained, exiting immediately")
            return
        await self._drain(skip_exit=False)
        if not settings.exit_on_zero:
            self._log.info(f"Graceful termination period is {settings.termination_drain:g}s, starting...")
            await asyncio.wait({ended}, timeout=settings.termination_drain)
            return
        await asyncio.wait({ended}, timeout=settings.minimum_drain)
        own = frozenset({settings.admin_port, settings.envoy_status_port, settings.envoy_prometheus_port})
        failures = 0
        while not ended.done() and failures < MAX_POLL_FAILURES:
            try:
                count = await self._admin.open_connections(own)
                failures = 0
            except HttpError as error:
                failures += 1
                self._log.warn(f"cannot see how many connections are open: {error}")
                count = 1
            if count == 0:
                self._log.info("there are no more active connections, terminating proxy")
                return
            self._log.info(f"there are still {count} active connections")
            await asyncio.wait({ended}, timeout=CONNECTION_POLL_SECONDS)

    async def _drain(self, *, skip_exit: bool) -> None:
        inbound_only = self._settings.flags.role == "sidecar"
        self._log.info("Agent draining proxy")
        try:
            await self._admin.drain(inbound_only=inbound_only, skip_exit=skip_exit)
        except HttpError as error:
            self._log.warn(f"Envoy could not be drained: {error}")

    async def _drain_now(self) -> None:
        """`POST /drain`, the preStop hook of a native sidecar: SIGTERM comes when the application has ended."""
        self._drained = True
        await self._drain(skip_exit=True)

    def _quit(self) -> None:
        self._drained = True
        self._stopping.set()

    async def _or_stop(self, start: Callable[[], Awaitable[None]]) -> bool:
        """Runs `start()`; True where we were told to stop before it was done."""
        work = asyncio.ensure_future(start())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return True
            work.result()
            return False
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
