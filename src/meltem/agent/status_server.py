"""The agent's port 15020: readiness, merged metrics, the application's probes, drain and quit.

In: HTTP requests. Out: answers made by the parts that know (`Admin`, `Merger`, `probes`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from meltem.agent import probes
from meltem.agent.admin import Admin
from meltem.agent.http1 import Request, Response
from meltem.agent.log import Log
from meltem.agent.metrics import Merger
from meltem.agent.probes import Probe
from meltem.clock import Clock

LOCAL = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})


@dataclass(slots=True)
class StatusServer:
    """`quit` and `drain` tell the supervisor. `probe_address`: where the application is asked."""

    admin: Admin | None
    merger: Merger
    application_probes: Mapping[str, Probe]
    probe_address: str
    localhost_metrics_only: bool
    quit: Callable[[], None]
    drain: Callable[[], Awaitable[None]]
    clock: Clock
    log: Log
    starting: str = "the proxy has not started yet"
    """Why there is no Envoy to ask; empty from the moment that it runs."""
    was_ready: bool = field(default=False)

    async def handle(self, request: Request) -> Response:
        path = request.path
        if path == "/healthz/ready":
            return await self._ready()
        if path in ("/stats/prometheus", "/metrics"):
            if self.localhost_metrics_only and request.peer not in LOCAL:
                return _text(403, "only requests from localhost are allowed")
            return await self.merger.page(request.query, request.headers, self.clock.now())
        if path in ("/quitquitquit", "/drain"):
            return await self._control(request)
        if path.startswith(("/app-health/", "/app-lifecycle/")):
            probe = self.application_probes.get(path)
            if probe is None:
                return _text(404, f"no probe is known under {path[:200]}")
            return await probes.run(probe, self.probe_address, request.headers)
        return _text(404, "404 page not found")

    async def _ready(self) -> Response:
        reason = ""  # without Envoy there is nothing to wait for
        if self.admin is not None:
            reason = self.starting or await self.admin.not_ready_because()
        if reason:
            self.log.warn(f"Envoy proxy is NOT ready: {reason}")
            self.was_ready = False
            return _text(503, reason)
        if not self.was_ready:
            self.log.info("Envoy proxy is ready")
            own = self.merger.own
            own.startup_seconds = own.startup_seconds or self.clock.now() - own.started
        self.was_ready = True
        return Response(200)

    async def _control(self, request: Request) -> Response:
        if request.peer not in LOCAL:
            return _text(403, "only requests from localhost are allowed")
        if request.method != "POST":
            return _text(405, "only POST is allowed")
        if request.path == "/drain":
            await self.drain()
        else:
            self.log.info("the pod asked the agent to quit")
            self.quit()
        return _text(200, "OK")


def _text(status: int, message: str) -> Response:
    return Response(status, message.encode(), {"content-type": "text/plain; charset=utf-8"})
