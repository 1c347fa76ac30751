"""istiod's HTTP ports: webhooks over TLS (15017), readiness and debugging (8080), metrics and debugging (15014).

In: what answers. Out: `serve`, a context that listens on all of them while it is open. Bounded: body sizes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from meltem.ca.keys import KeyPair
from meltem.clock import Clock
from meltem.controlplane.debug import json_response
from meltem.controlplane.mesh import MeshSettings
from meltem.errors import EnvironmentError_, MeltemError
from meltem.inject import webhook as inject
from meltem.inject.injector import PodContext
from meltem.objects import Json, JsonObject
from meltem.validate import webhook as validate

_MAX_BODY = 16 << 20
log = structlog.stdlib.get_logger("http")
ContextOf = Callable[[JsonObject, str], PodContext]


@dataclass(frozen=True, slots=True)
class WebhookMetrics:
    """Counts of the webhooks, under Istio's names."""

    registry: CollectorRegistry
    injected: dict[str, Counter] = field(default_factory=dict[str, Counter])

    @classmethod
    def make(cls, registry: CollectorRegistry) -> WebhookMetrics:
        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, registry=registry)

        found = {
            "requests": counter("sidecar_injection_requests", "Sidecar injection requests."),
            "success": counter("sidecar_injection_success", "Successful sidecar injection requests."),
            "failure": counter("sidecar_injection_failure", "Failed sidecar injection requests."),
            "skip": counter("sidecar_injection_skip", "Skipped sidecar injection requests."),
            "passed": counter("galley_validation_passed", "Resources that are valid."),
            "failed": counter("galley_validation_failed", "Resources that are not valid."),
            "http_error": counter("galley_validation_http_error", "Validation requests that are no review."),
        }
        return cls(registry, found)


class Webhooks:
    """`/inject…` and `/validate…`."""

    def __init__(
        self,
        mesh: MeshSettings,
        metrics: WebhookMetrics,
        context_of: ContextOf | None,
        ready: Callable[[], bool],
        *,
        injects: bool = True,
    ) -> None:
        self._injects = injects
        self._mesh = mesh
        self._count = metrics.injected
        self._seconds = Histogram(
            "sidecar_injection_time_seconds", "Time taken for injection.", registry=metrics.registry
        )
        self._context_of = context_of
        self._ready = ready

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY)
        application.add_routes(
            [
                web.post("/inject", self._inject),
                web.post("/inject/{rest:.*}", self._inject),
                web.post("/validate", self._validate),
                web.post("/validate/{rest:.*}", self._validate),
                web.post("/validateconfig", self._validate),
                web.get("/ready", ready_handler(self._ready)),
                web.get("/httpsReady", ready_handler(self._ready)),
            ]
        )
        return application

    async def _inject(self, request: web.Request) -> web.StreamResponse:
        self._count["requests"].inc()
        if not self._injects:
            return web.Response(status=404, text="injection is switched off here (INJECT_ENABLED=false)\n")
        config = self._mesh.injector
        if config is None:
            self._count["failure"].inc()
            return web.Response(status=503, text=f"istiod cannot inject: {self._mesh.injector_error}\n")
        body = await request.read()
        try:
            asked: Json = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            self._count["failure"].inc()
            return web.Response(status=400, text="the body is no JSON\n")
        if not isinstance(asked, dict):
            self._count["failure"].inc()
            return web.Response(status=400, text="the body is no AdmissionReview\n")
        try:
            with self._seconds.time():
                answer = inject.review(asked, request.path, config, self._context_of)
        except MeltemError as error:
            self._count["failure"].inc()
            return web.Response(status=400, text=f"{error}\n")
        response = answer.get("response")
        if isinstance(response, dict):
            allowed = response.get("allowed") is True
            self._count["failure" if not allowed else "success" if "patch" in response else "skip"].inc()
            if not allowed:
                log.warning("a pod was refused", reason=str(response.get("status")))
        return json_response(answer)

    async def _validate(self, request: web.Request) -> web.StreamResponse:
        code, body = validate.answer(await request.read())
        if code != 200:
            self._count["http_error"].inc()
        elif b'"allowed":true' in body:
            self._count["passed"].inc()
        else:
            self._count["failed"].inc()
        return web.Response(status=code, body=body, content_type="application/json" if code == 200 else "text/plain")


def ready_handler(ready: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response() if ready() else web.Response(status=503, text="not ready: resources are being read\n")

    return handle


def monitoring_application(registry: CollectorRegistry, version: str) -> web.Application:
    """`/metrics` and `/version`; istiod adds the debug endpoints."""

    async def metrics(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def version_text(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=version)

    # Istio's istioctl asks for `//version`.
    application = web.Application(middlewares=[web.normalize_path_middleware(append_slash=False, merge_slashes=True)])
    application.add_routes([web.get("/metrics", metrics), web.get("/version", version_text)])
    return application


class ServerTls:
    """A TLS context whose certificate is replaced while the server runs.

    The API server verifies it by the roots in our webhook configurations. So where the roots change, both old and new
    ones are to be written there (`roots`) before the server shows a certificate of the new ones: no admission is lost.
    """

    OVERLAP_SECONDS = 5.0
    _LOOK_SECONDS = 1.0

    def __init__(self, pair: KeyPair) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._pair = pair
        self._use(pair)

    def roots(self, present: bytes) -> bytes:
        """`present`, the roots in force, with those of the certificate that is still shown."""
        own = self._pair.root_pem
        return present if own in present else present.rstrip(b"\n") + b"\n" + own

    async def follow(self, current: Callable[[], KeyPair], clock: Clock) -> None:
        """Shows what `current` gives, for ever."""
        while True:
            pair = current()
            if pair is not self._pair:
                if pair.root_pem != self._pair.root_pem:
                    await clock.sleep(self.OVERLAP_SECONDS)
                self._use(current())
            await clock.sleep(self._LOOK_SECONDS)

    def _use(self, pair: KeyPair) -> None:
        self._pair = pair
        with tempfile.NamedTemporaryFile() as file:  # mode 0600; the ssl module reads files only
            file.write(pair.key_pem.rstrip() + b"\n" + pair.chain_pem)
            file.flush()
            self.context.load_cert_chain(file.name)


@contextlib.asynccontextmanager
async def serve(
    application: web.Application, at: tuple[str, int] | None, what: str, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[int]:
    """Listens while open; gives the port. None: does not listen (port 0). Raises EnvironmentError_ for a taken port."""
    if at is None:
        yield 0
        return
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, at[0] or None, at[1], ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise EnvironmentError_(
                f"cannot listen for {what} on {at[0]}:{at[1]}: {error.strerror}",
                remedy=f"Stop what listens there (`ss -ltnp sport = :{at[1]}` shows it), or choose another address.",
            ) from None
        addresses: list[tuple[str, int]] = list(runner.addresses)
        yield addresses[0][1] if addresses else at[1]
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()
