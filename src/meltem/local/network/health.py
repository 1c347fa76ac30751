"""Health-check node ports: what an outer load balancer asks about a Service with `externalTrafficPolicy: Local`.

In: port to number of local endpoints. Out: an HTTP server on each port; 200 while there is an endpoint, else 503.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import structlog
from aiohttp import web

log = structlog.stdlib.get_logger(__name__)


class HealthPorts:
    """Use as an async context manager; `update` opens, changes and closes ports."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(addresses)
        self._counts: dict[int, int] = {}
        self._runners: dict[int, web.AppRunner] = {}

    async def __aenter__(self) -> HealthPorts:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.update({})

    async def update(self, counts: Mapping[int, int]) -> None:
        self._counts = dict(counts)
        for port in [p for p in self._runners if p not in counts]:
            await self._runners.pop(port).cleanup()
        for port in counts:
            if port not in self._runners:
                await self._open(port)

    async def _open(self, port: int) -> None:
        async def answer(_request: web.Request) -> web.Response:
            count = self._counts.get(port, 0)
            return web.json_response({"localEndpoints": count}, status=200 if count else 503)

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            for address in self._addresses:
                await web.TCPSite(runner, address, port).start()
        except OSError as error:
            log.warning("a health-check node port cannot be opened", port=port, error=str(error))
            await runner.cleanup()
            return
        self._runners[port] = runner
