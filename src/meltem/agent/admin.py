"""What the agent asks of Envoy's admin port: is it ready, how many connections are open, drain.

In: host and port. Out: plain values; `HttpError` where Envoy does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meltem.agent.http1 import HttpError, fetch

READY_FILTER = (
    "^(server\\.state|listener_manager\\.workers_started"
    "|(cluster_manager\\.cds|listener_manager\\.lds)\\.(update_success|update_rejected))$"
)
_DISCOVERY = ("cluster_manager.cds", "listener_manager.lds")
LIVE = 0
_QUOTE = str.maketrans({"^": "%5E", "(": "%28", ")": "%29", "|": "%7C", "$": "%24", "\\": "%5C", "+": "%2B"})


@dataclass(frozen=True, slots=True)
class Admin:
    """Envoy's admin endpoint."""

    host: str
    port: int

    async def stats(self, regex: str, *, timeout: float = 2.0) -> dict[str, int]:
        """Counters and gauges whose names match, those never used left out."""
        path = f"/stats?usedonly&filter={regex.translate(_QUOTE)}"
        response = await fetch(self.host, self.port, path, timeout=timeout)
        if response.status != 200:
            raise HttpError(f"Envoy's admin answered {response.status}")
        return parse_stats(response.body.decode("utf-8", "replace"))

    async def not_ready_because(self) -> str:
        """Why Envoy is not ready to take traffic; empty when it is."""
        try:
            return readiness(await self.stats(READY_FILTER))
        except HttpError as error:
            return f"Envoy does not answer: {error}"

    async def drain(self, *, inbound_only: bool, skip_exit: bool) -> None:
        """Listeners stop taking connections, those open are told to close."""
        options = ["graceful"]
        if skip_exit:
            options.append("skip_exit")
        if inbound_only:
            options.append("inboundonly")
        response = await fetch(self.host, self.port, f"/drain_listeners?{'&'.join(options)}", method="POST")
        if response.status != 200:
            raise HttpError(f"Envoy's admin answered {response.status}")

    async def open_connections(self, own_ports: frozenset[int]) -> int:
        """Connections to listeners other than our own (admin, health, metrics)."""
        found = await self.stats("downstream_cx_active$")
        total = 0
        for name, value in found.items():
            if not name.startswith("listener.") or ".worker_" in name or name.startswith("listener.envoy_internal_"):
                continue
            port = name.removeprefix("listener.").split(".downstream_cx_active")[0].rpartition("_")[2]
            if name.startswith("listener.admin.") or (port.isdigit() and int(port) in own_ports):
                continue
            total += value
        return total


def parse_stats(text: str) -> dict[str, int]:
    """`name: value` lines; histograms and texts are left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(": ")
        if name and value.strip().isdigit():
            found[name] = int(value)
    return found


def readiness(stats: Mapping[str, int]) -> str:
    """Ready means: configuration for clusters and for listeners was taken, workers run, state LIVE."""
    taken = [stats.get(f"{name}.update_success", 0) for name in _DISCOVERY]
    refused = [stats.get(f"{name}.update_rejected", 0) for name in _DISCOVERY]
    if not all(taken):
        counts = "; ".join(
            f"{name} updates: {good} successful, {bad} rejected"
            for name, good, bad in zip(("cds", "lds"), taken, refused, strict=True)
        )
        if any(refused):
            return f"config received from XDS server, but was rejected: {counts}"
        return f"config not received from XDS server (is Istiod running?): {counts}"
    if stats.get("server.state", LIVE) != LIVE:
        return f"Envoy's state is {stats['server.state']}, not LIVE"
    if not stats.get("listener_manager.workers_started", 0):
        return "Envoy's workers have not started"
    return ""
