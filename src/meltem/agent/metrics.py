"""The merged metrics page of 15020: the agent's own, Envoy's and the application's, in Prometheus text form.

In: what each of the three answered. Out: one page. Stock Envoy writes `envoy_` before every metric name; the mesh's
standard metrics get their names back here (`envoy_istio_requests_total` → `istio_requests_total`), because dashboards
and alerts know them so.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from meltem.agent.http1 import HttpError, Response, fetch
from meltem.agent.log import Log
from meltem.errors import UserError
from meltem.objects import Json, objects_at, str_at

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text"
MAX_APP_BODY = 10 * 1024 * 1024
RESERVED_PORTS = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15054, 15090})
"""Ports of the data plane: scraping one of them would recurse or count twice."""
_MESH_NAME = re.compile(rb"^((?:# (?:TYPE|HELP) )?)envoy_(istio_)", re.MULTILINE)
_STATS_SCOPE = re.compile(rb"^((?:# (?:TYPE|HELP) )?)envoy_wasmcustom_(istio_)", re.MULTILINE)
_PASSED_ON = ("x-prometheus-scrape-timeout-seconds", "user-agent")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the application shows its metrics."""

    port: int
    path: str = "/metrics"


@dataclass(slots=True)
class AgentMetrics:
    """Counters of the agent itself."""

    started: float = field(default_factory=time.time)
    startup_seconds: float = 0.0
    scrapes: int = 0
    scrape_failures: dict[str, int] = field(default_factory=lambda: {"agent": 0, "envoy": 0, "application": 0})
    certificate_requests: int = 0
    certificate_failures: int = 0
    certificate_not_after: float = 0.0
    envoy_terminations: int = 0

    def page(self, now: float) -> bytes:
        lines: list[str] = []

        def metric(name: str, kind: str, value: float, labels: str = "", help_text: str = "") -> None:
            if help_text:
                lines.append(f"# HELP istio_agent_{name} {help_text}")
                lines.append(f"# TYPE istio_agent_{name} {kind}")
            lines.append(f"istio_agent_{name}{labels} {value:g}")

        metric("scrapes_total", "counter", self.scrapes, help_text="Scrapes of the merged metrics.")
        first = "Scrapes that failed, by what was scraped."
        for kind, count in self.scrape_failures.items():
            metric("scrape_failures_total", "counter", count, f'{{type="{kind}"}}', first)
            first = ""
        outgoing = "Certificate requests to the certificate authority."
        metric("num_outgoing_requests", "counter", self.certificate_requests, '{request_type="csr"}', outgoing)
        failed = "Certificate requests that failed."
        metric("num_failed_outgoing_requests", "counter", self.certificate_failures, '{request_type="csr"}', failed)
        if self.certificate_not_after:
            left = self.certificate_not_after - now
            help_text = "Seconds until the workload certificate expires; negative when it has."
            metric("cert_expiry_seconds", "gauge", left, '{resource_name="default"}', help_text)
        metric("startup_duration_seconds", "gauge", self.startup_seconds, help_text="From start to first readiness.")
        metric("process_start_time_seconds", "gauge", self.started, help_text="Start of the agent, Unix seconds.")
        help_text = "Resident memory of the agent in bytes."
        metric("process_resident_memory_bytes", "gauge", resident_bytes(), help_text=help_text)
        return ("\n".join(lines) + "\n").encode()


def resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


def read_targets(environment: Mapping[str, str], status_port: int) -> tuple[Target, ...]:
    """ISTIO_PROMETHEUS_ANNOTATIONS (`{"scrape","path","port","targets"}`); empty where nothing is to be scraped."""
    text = environment.get("ISTIO_PROMETHEUS_ANNOTATIONS", "")
    if not text:
        return ()
    where = "environment variable ISTIO_PROMETHEUS_ANNOTATIONS"
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise UserError("is not JSON", where=where) from None
    if str_at(value, "scrape").lower() == "false":
        return ()
    several = [(str_at(t, "port"), str_at(t, "path")) for t in objects_at(value, "targets")]
    found: list[Target] = []
    for port_text, path in several or [(str_at(value, "port") or "80", str_at(value, "path"))]:
        if not port_text.isdigit() or not 0 < int(port_text) < 65_536:
            raise UserError(f"{port_text[:20]!r} is no port", where=where)
        port = int(port_text)
        if port == status_port or port in RESERVED_PORTS:
            raise UserError(
                f"port {port} belongs to the proxy and cannot be scraped as the application's",
                where=where,
                remedy="Set the annotation prometheus.io/port of the pod to the application's own metrics port.",
            )
        found.append(Target(port, path if path.startswith("/") else f"/{path}" if path else "/metrics"))
    return tuple(found)


def mesh_names(envoy_page: bytes) -> bytes:
    """Envoy's page with the names of the mesh's metrics as Istio writes them."""
    return _MESH_NAME.sub(rb"\1\2", _STATS_SCOPE.sub(rb"\1\2", envoy_page))


def without_end_mark(page: bytes) -> bytes:
    """An OpenMetrics page without its last line `# EOF`, so that more can follow."""
    trimmed = page.rstrip()
    return trimmed[: -len(b"# EOF")] if trimmed.endswith(b"# EOF") else page


@dataclass(frozen=True, slots=True)
class Merger:
    """Makes the page."""

    own: AgentMetrics
    targets: tuple[Target, ...]
    localhost: str
    envoy_port: int
    merge_envoy: bool
    log: Log

    async def page(self, query: str, request_headers: Mapping[str, str], now: float) -> Response:
        """What fails is left out and counted: an application without metrics must not hide the proxy's."""
        self.own.scrapes += 1
        headers = {k: v for k, v in request_headers.items() if k in _PASSED_ON}
        parts: list[bytes] = []
        if self.merge_envoy:
            path = "/stats/prometheus" + (f"?{query}" if query else "")
            envoy = await self._scrape("envoy", self.envoy_port, path, {**headers, "accept": "text/plain"})
            parts.append(mesh_names(envoy.body) if envoy else b"")
        accept = request_headers.get("accept", "")
        app_accept = accept if OPEN_METRICS in accept and len(self.targets) == 1 else "text/plain"
        content_type = TEXT_TYPE
        for target in self.targets:
            answer = await self._scrape("application", target.port, target.path, {**headers, "accept": app_accept})
            if answer is None:
                continue
            offered = answer.headers.get("content-type", "")
            if offered.startswith(OPEN_METRICS) and len(self.targets) == 1:
                content_type = offered
                parts.append(answer.body)  # keeps its `# EOF`: it is the last part
            else:
                parts.append(without_end_mark(answer.body))
        pages = [self.own.page(now), *parts]
        body = b"".join(p if not p or p.endswith(b"\n") else p + b"\n" for p in pages)
        return Response(200, body, {"content-type": content_type})

    async def _scrape(self, kind: str, port: int, path: str, headers: Mapping[str, str]) -> Response | None:
        try:
            limit = MAX_APP_BODY if kind == "application" else 64 * 1024 * 1024
            timeout = _timeout_of(headers)
            answer = await fetch(self.localhost, port, path, headers=headers, timeout=timeout, max_body=limit)
            if answer.status == 200:
                return answer
            reason = f"status {answer.status}"
        except HttpError as error:
            reason = str(error)
        self.own.scrape_failures[kind] += 1
        self.log.error(f"failed scraping {kind} metrics at port {port}: {reason}")
        return None


def _timeout_of(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("x-prometheus-scrape-timeout-seconds", "10")), 0.5), 60.0)
    except ValueError:
        return 10.0
