"""The operator as a program: follows IstioOperator resources and what they made, and has `Operator` put things right.

In: how to reach the cluster, the namespaces to follow. Out: nothing; it runs until `stop` is set. kopf watches, keeps
the finalizer and runs one task for each resource; that task sleeps until something was changed, at the resource or at
an object that carries its ownership labels, or until a minute is over.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import kopf
import prometheus_client
import structlog

from meltem.clock import Clock
from meltem.errors import MeltemError
from meltem.install.operator import ISTIO_OPERATORS, Operator
from meltem.install.render import MANAGED_LABEL, OWNER_LABEL
from meltem.kube.client import connect
from meltem.kube.config import KubeConfig

FINALIZER = "istio-finalizer.install.istio.io"
_ANNOTATIONS = "operator.meltem.io"
_RESYNC = 60.0
_SETTLE = 0.5
_SLOWEST_RETRY = 60.0
_TOKEN_LIFE = datetime.timedelta(minutes=5)
_WATCHED = (
    ("apps", "v1", "deployments"),
    ("apps", "v1", "daemonsets"),
    ("", "v1", "services"),
    ("", "v1", "configmaps"),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
)
"""Kinds whose change wakes the operator at once; drift of others is found at the next look, within a minute."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`namespaces` to follow, empty for all; `revision`: only resources with it, empty for every one. Ports 0: none."""

    namespaces: tuple[str, ...] = ()
    revision: str = ""
    timeout: float = 300.0
    health_port: int = 8080
    monitoring_port: int = 8383


@dataclass(slots=True)
class _Metrics:
    """Under Istio's operator's names."""

    registry: prometheus_client.CollectorRegistry = field(default_factory=prometheus_client.CollectorRegistry)
    requests: prometheus_client.Counter = field(init=False)
    errors: prometheus_client.Counter = field(init=False)

    def __post_init__(self) -> None:
        self.requests = prometheus_client.Counter(
            "reconcile_request_total", "Times an IstioOperator was reconciled", registry=self.registry
        )
        self.errors = prometheus_client.Counter(
            "render_error_total", "Times that an IstioOperator could not be made so", registry=self.registry
        )


class _Keeper:
    """Wakes the task of a resource, and keeps reconciling and cleaning up of one resource apart."""

    def __init__(self, operator: Operator, clock: Clock, metrics: _Metrics) -> None:
        self._operator = operator
        self._clock = clock
        self._metrics = metrics
        self._log = structlog.get_logger("operator")
        self._wakes: dict[str, asyncio.Event] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def wake(self, owner: str) -> None:
        event = self._wakes.get(owner)
        if event is not None:
            event.set()

    async def keep(self, namespace: str, name: str) -> None:
        """Reconciles now and whenever woken, until the resource is gone; failures are tried again, ever later."""
        wake = self._wakes.setdefault(name, asyncio.Event())
        failures = 0
        said: list[str] = []
        while True:
            wake.clear()
            self._metrics.requests.inc()
            try:
                async with self._lock(name):
                    lines = await self._operator.reconcile(namespace, name)
                if lines is None:
                    return
                failures = 0
                for line in lines if lines != said else ():  # a look that found nothing amiss says the same again
                    self._log.info(line.strip(), resource=f"{namespace}/{name}")
                said = lines
            except MeltemError as error:
                failures += 1
                self._metrics.errors.inc()
                self._log.error(str(error), resource=f"{namespace}/{name}")
            pause = min(2.0**failures, _SLOWEST_RETRY) if failures else _RESYNC
            try:
                async with asyncio.timeout(pause):
                    await wake.wait()
            except TimeoutError:
                continue
            await self._clock.sleep(_SETTLE)

    async def clean_up(self, namespace: str, name: str) -> None:
        async with self._lock(name):
            self._wakes.pop(name, None)
            for line in await self._operator.clean_up(namespace, name):
                self._log.info(line.strip(), resource=f"{namespace}/{name}")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


async def serve(config: KubeConfig, options: ServerOptions, *, clock: Clock, stop: asyncio.Event) -> None:
    """Runs until `stop` is set. Raises MeltemError where the cluster cannot be reached."""
    metrics = _Metrics()
    if options.monitoring_port:
        prometheus_client.start_http_server(options.monitoring_port, registry=metrics.registry)
    async with connect(config) as client:
        keeper = _Keeper(Operator(client, clock=clock, timeout=options.timeout), clock, metrics)
        settings = _settings()
        health = f"http://0.0.0.0:{options.health_port}/healthz" if options.health_port else None
        await kopf.operator(
            registry=_registry(keeper, config, options),
            settings=settings,
            standalone=True,
            clusterwide=not options.namespaces,
            namespaces=options.namespaces,
            liveness_endpoint=health,
            stop_flag=stop,
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=_ANNOTATIONS)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=_ANNOTATIONS)
    settings.process.ultimate_exiting_timeout = 10
    return settings


def _registry(keeper: _Keeper, config: KubeConfig, options: ServerOptions) -> kopf.OperatorRegistry:
    """kopf's table of who is called for what."""
    registry = kopf.OperatorRegistry()
    kind = (ISTIO_OPERATORS.group, ISTIO_OPERATORS.version, ISTIO_OPERATORS.plural)

    def ours(spec: Mapping[str, object], **_: object) -> bool:
        return not options.revision or spec.get("revision") == options.revision

    async def sign_in(**_: object) -> kopf.ConnectionInfo:
        return await asyncio.to_thread(connection, config)

    async def keep(name: str | None, namespace: str | None, **_: object) -> None:
        await keeper.keep(namespace or "", name or "")

    async def changed(name: str | None, **_: object) -> None:
        keeper.wake(name or "")

    async def drifted(labels: Mapping[str, str], **_: object) -> None:
        keeper.wake(labels.get(OWNER_LABEL, ""))

    async def deleted(name: str | None, namespace: str | None, **_: object) -> None:
        try:
            await keeper.clean_up(namespace or "", name or "")
        except MeltemError as error:
            raise kopf.TemporaryError(str(error), delay=5) from None

    kopf.on.login(registry=registry)(sign_in)
    kopf.daemon(*kind, registry=registry, when=ours, cancellation_timeout=5.0)(keep)
    kopf.on.event(*kind, registry=registry, when=ours)(changed)
    kopf.on.delete(*kind, registry=registry, when=ours)(deleted)
    for watched in _WATCHED:
        kopf.on.event(*watched, registry=registry, labels={MANAGED_LABEL: "Reconcile"}, id="/".join(watched))(drifted)
    return registry


def connection(config: KubeConfig) -> kopf.ConnectionInfo:
    """kopf's form of how to sign in. A token in a file is read anew at least every five minutes."""
    token = config.token
    if config.token_file:
        token = Path(config.token_file).read_text().strip()
    return kopf.ConnectionInfo(
        server=config.server,
        ca_data=config.ca_data or None,
        insecure=config.insecure or None,
        username=config.username or None,
        password=config.password or None,
        token=token or None,
        scheme="Bearer" if token else None,
        certificate_data=config.client_cert or None,
        private_key_data=config.client_key or None,
        default_namespace=config.namespace,
        expiration=datetime.datetime.now(datetime.UTC) + _TOKEN_LIFE if config.token_file else None,
    )
