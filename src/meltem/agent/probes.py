"""The application's own probes and lifecycle hooks, asked through the agent.

The kubelet cannot speak mutual TLS, so injection points probes at 15020 (`/app-health/<container>/readyz` …); the agent
asks the application from 127.0.0.6, which the capture rules let pass. In: ISTIO_KUBE_APP_PROBERS and a path. Out: the
application's answer, its status at least.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from meltem import grpc_health
from meltem.agent.http1 import HttpError, Response, fetch
from meltem.errors import UserError
from meltem.objects import Json, JsonObject, at, int_at, object_at, objects_at, str_at

_PATH = re.compile(r"/(app-health|app-lifecycle)/[^/]+/(livez|readyz|startupz|prestopz|poststartz)")
SOURCE_V4 = "127.0.0.6"
SOURCE_V6 = "::6"
MAX_BODY = 10 * 1024
MAX_REDIRECTS = 10
SILENT = "the application does not answer its probe"


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe. `kind`: http, tcp or grpc."""

    kind: str
    port: int
    path: str = "/"
    scheme: str = "HTTP"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""
    timeout: float = 1.0


def read_probes(environment: Mapping[str, str]) -> dict[str, Probe]:
    """ISTIO_KUBE_APP_PROBERS, keyed by path. Raises UserError for what cannot be used."""
    text = environment.get("ISTIO_KUBE_APP_PROBERS", "")
    if not text:
        return {}
    where = "environment variable ISTIO_KUBE_APP_PROBERS"
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise UserError("is not JSON", where=where) from None
    if not isinstance(value, dict):
        raise UserError("is not a JSON object", where=where)
    found: dict[str, Probe] = {}
    for path, spec in value.items():
        if not _PATH.fullmatch(path):
            raise UserError(f"{path[:120]!r} is no probe path such as /app-health/app/readyz", where=where)
        if not isinstance(spec, dict):
            raise UserError(f"{path}: is not a JSON object", where=where)
        found[path] = read_probe(spec, f"{where} {path}")
    return found


def read_probe(spec: JsonObject, where: str) -> Probe:
    """A probe in Kubernetes' words. Raises UserError for what cannot be used."""
    kinds = [k for k in ("httpGet", "tcpSocket", "grpc") if isinstance(spec.get(k), dict)]
    if len(kinds) != 1:
        raise UserError("must have exactly one of httpGet, tcpSocket and grpc", where=where)
    action = object_at(spec, kinds[0])
    port = at(action, "port")
    if not isinstance(port, int) or not 0 < port < 65_536:
        raise UserError("must have a port number", where=where)
    timeout = float(int_at(spec, "timeoutSeconds") or 1)
    if kinds[0] == "tcpSocket":
        return Probe("tcp", port, timeout=timeout)
    if kinds[0] == "grpc":
        return Probe("grpc", port, service=str_at(action, "service"), timeout=timeout)
    headers = tuple((str_at(h, "name"), str_at(h, "value")) for h in objects_at(action, "httpHeaders"))
    path = str_at(action, "path") or "/"
    return Probe(
        "http",
        port,
        path=path if path.startswith("/") else f"/{path}",
        scheme=str_at(action, "scheme").upper() or "HTTP",
        headers=headers,
        timeout=timeout,
    )


async def run(probe: Probe, address: str, request_headers: Mapping[str, str]) -> Response:
    """Asks the application at `address` (the pod's own, or localhost). 500 where it does not answer as it should."""
    source = SOURCE_V6 if ":" in address else SOURCE_V4
    try:
        if probe.kind == "tcp":
            async with asyncio.timeout(probe.timeout):
                _, writer = await asyncio.open_connection(address, probe.port, local_addr=(source, 0))
                writer.close()
            return Response(200)
        if probe.kind == "grpc":
            return await _grpc(probe, address, source)
        return await _http(probe, address, source, request_headers)
    except (HttpError, OSError, TimeoutError, ValueError) as error:
        return Response(500, f"{SILENT}: {error}".encode())


async def _http(probe: Probe, address: str, source: str, request_headers: Mapping[str, str]) -> Response:
    headers = {"user-agent": request_headers.get("user-agent", "kube-probe"), "accept": "*/*"}
    headers.update({name.lower(): value for name, value in probe.headers if name})
    tls = None
    if probe.scheme == "HTTPS":
        import ssl  # only pods with HTTPS probes pay for a TLS context

        # Without the roots of the system: reading them takes longer than asking.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False  # as the kubelet does: it does not verify the certificates of probes
        tls.verify_mode = ssl.CERT_NONE
    path = probe.path
    for _ in range(MAX_REDIRECTS):
        answer = await fetch(
            address, probe.port, path, headers=headers, timeout=probe.timeout, tls=tls, source=source, max_body=1 << 20
        )
        location = answer.headers.get("location", "")
        if not 300 <= answer.status < 400 or not location:
            break
        target = _same_host(location, address, probe.port)
        if target is None:
            return Response(200)  # a redirect to elsewhere counts as success, as with the kubelet
        path = target
    else:
        return Response(500, b"the probe was redirected too often")
    kind = answer.headers.get("content-type", "text/plain")
    return Response(answer.status, answer.body[:MAX_BODY], {"content-type": kind})


def _same_host(location: str, address: str, port: int) -> str | None:
    if location.startswith("/") and not location.startswith("//"):
        return location
    shown = f"[{address}]" if ":" in address else address
    for prefix in (f"http://{shown}:{port}", f"https://{shown}:{port}"):
        if location.startswith(prefix):
            return location.removeprefix(prefix) or "/"
    return None


async def _grpc(probe: Probe, address: str, source: str) -> Response:
    async with asyncio.timeout(probe.timeout):
        status = await grpc_health.check(address, probe.port, probe.service, agent="kube-probe/istio", source=source)
    if status == grpc_health.SERVING:
        return Response(200)
    why = f"the service is {status}" if status else "there is no grpc.health.v1.Health here, or no such service"
    return Response(500, f"{SILENT}: {why}".encode())
