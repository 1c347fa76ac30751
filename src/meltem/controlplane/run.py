"""istiod, assembled: one task group with everything that it does.

In: flags and settings. Out: `run`, which returns when istiod was told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Protocol, TypeVar, cast

import grpc
import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, PlatformCollector, ProcessCollector

from meltem import __version__
from meltem.ca import bundle
from meltem.ca.assertion import AssertionAuthenticator
from meltem.ca.authority import Authority, CertificateLimits, usable_roots
from meltem.ca.identity import TokenAuthenticator
from meltem.ca.keys import KeyPair
from meltem.ca.kubernetes import ClusterForCa
from meltem.ca.service import CertificateService, RpcHandler
from meltem.ca.serving import ServingCertificate, serving_names
from meltem.ca.store import PLUGGED_IN, SELF_SIGNED, AuthorityStore, StoreSettings
from meltem.clock import Clock, SystemClock
from meltem.collections import Failure
from meltem.controlplane import http, logs
from meltem.controlplane.certificate import FileCertificate
from meltem.controlplane.debug import Debug
from meltem.controlplane.feed import Feed, ignored_kinds
from meltem.controlplane.flags import Flags, address
from meltem.controlplane.guard import Guard
from meltem.controlplane.mesh import MeshFiles, MeshSettings
from meltem.controlplane.names import GatewayNames
from meltem.controlplane.pods import Pods
from meltem.controlplane.readers import SecretReaders
from meltem.controlplane.readers import ask as ask_for_reader
from meltem.controlplane.registration import Registration, RegistrationSettings
from meltem.controlplane.wasm.fetch import Fetcher
from meltem.controlplane.wasm.keeper import WasmKeeper
from meltem.controlplane.webhooks import WebhookPatcher
from meltem.engine import Engine
from meltem.errors import EnvironmentError_, MeltemError
from meltem.kube import config as kube_config
from meltem.kube.client import KubeClient, connect
from meltem.kube.lease import LeaderElection
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS
from meltem.objects import JsonObject, object_at
from meltem.settings import Settings
from meltem.status.addresses import AddressWriter
from meltem.status.distribution import Standing
from meltem.status.ingress import IngressStatusWriter
from meltem.status.judge import Judge, Refusal
from meltem.status.reports import Reporter, Reports, Who
from meltem.status.writer import StatusWriter
from meltem.xds.answers import DebugAnswers
from meltem.xds.connection import ConnectionLimits
from meltem.xds.metrics import XdsMetrics
from meltem.xds.push import Connections, settle_memory
from meltem.xds.server import DiscoveryServer, GrpcServer, new_server, server_options
from meltem.xds.subscription import in_short

log = structlog.stdlib.get_logger("istiod")
T = TypeVar("T")
_MODULES_SECONDS = 20.0


class Serving(Protocol):
    """istiod's own certificate."""

    def current(self) -> KeyPair: ...
    async def run(self, renewed: Callable[[KeyPair], None]) -> None: ...


async def run(flags: Flags, settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises MeltemError for what keeps it from starting."""
    config = await asyncio.to_thread(kube_config.load, flags.kubeconfig or None)
    async with connect(config) as client:
        await ControlPlane(client, flags, settings, SystemClock()).run()


def _log_failure(failure: Failure) -> None:
    """A part of the configuration that could not be made: it costs only itself, and must not go unseen."""
    log.error("configuration not made", collection=failure.collection, key=str(failure.key), exc_info=failure.error)


class ControlPlane:
    """One istiod."""

    def __init__(self, client: KubeClient, flags: Flags, settings: Settings, clock: Clock) -> None:
        self._client = client
        self._flags = flags
        self._settings = settings
        self._clock = clock
        self._namespace = flags.namespace or settings.pod_namespace
        self.engine = Engine(flags.domain, scope_gateways=settings.pilot_scope_gateway_to_namespace)
        self.engine.graph.on_failure(_log_failure)
        self._registry = CollectorRegistry()
        self._limits = ConnectionLimits(send_timeout=settings.pilot_xds_send_timeout or 30.0)
        self._metrics = XdsMetrics(self._registry, __version__)
        self.feed = Feed(
            self.engine.graph,
            self.engine.inputs,
            client,
            cluster=settings.cluster_id,
            namespace=flags.app_namespace,
            selected=lambda namespace: self.mesh.selected(namespace),
            ignored=ignored_kinds(settings.pilot_ignore_resources, settings.pilot_include_resources),
        )
        files = MeshFiles(flags.mesh_config_file, flags.networks_file)
        self.mesh = MeshSettings(self.engine.graph, self.engine.inputs, settings, self._namespace, files)
        self.mesh.reselected = self._reselected
        self.connections = Connections(self.engine, clock, self._limits)
        self.guard = Guard(self.engine, self.connections.refusals)
        self.readers = SecretReaders(self.engine, clock, lambda account: ask_for_reader(client, account))
        self._ca = ClusterForCa(client)
        self._authenticator = TokenAuthenticator(self._ca, clock, audiences=tuple(settings.token_audiences.split(",")))
        self._names = GatewayNames(self.engine, self._clock)
        self.registration = Registration(
            client,
            clock,
            RegistrationSettings(
                instance=settings.pod_name,
                grace=settings.pilot_workload_entry_grace_period,
                longest_connection=1.5 * flags.max_connection_age,
                registers=settings.pilot_enable_workload_entry_autoregistration,
                health_checks=settings.pilot_enable_workload_entry_healthchecks,
                checks_identity=settings.pilot_validate_workload_entry_identity,
            ),
            self._registry,
        )
        insecure = frozenset(r.strip() for r in settings.wasm_insecure_registries.split(",") if r.strip())
        self.wasm = WasmKeeper(
            self.engine.graph,
            self.engine.inputs,
            client,
            clock,
            self.feed.problems,
            selected=lambda namespace: self.mesh.selected(namespace),
            fetcher=lambda: Fetcher(insecure=insecure),
        )
        self.server = DiscoveryServer(
            self.connections,
            clock,
            self._metrics,
            limits=self._limits,
            ready=lambda: self.ready,
            settled=self._settled,
            registrar=self.registration,
        )
        self._who = Who(settings.cluster_id, self._namespace, settings.pod_name, settings.revision)
        self.reports = Reports(self._who, self.engine.inputs.pods)
        self.judge = Judge(
            self.engine, self.feed.problems, self._refusals, settings.cluster_id, self._standings, self.reports.of
        )
        self.debug = Debug(
            self.engine,
            self.server,
            self.mesh,
            self.feed,
            self.judge,
            system_namespace=self._namespace,
            admin=settings.unsafe_enable_admin_endpoints,
        )
        self.server.answers_debug(
            DebugAnswers(
                self.connections,
                self._namespace,
                control_plane_identifier(settings.pod_name),
                self.debug.text,
                guarded=settings.enable_debug_endpoint_auth,
            )
        )
        self._writes_status = False
        self.ready = False
        self._stopping = asyncio.Event()
        self._touched: asyncio.Queue[str] = asyncio.Queue()
        self._ca_touched = asyncio.Event()
        self._namespaces: set[str] = set()

    async def run(self) -> None:
        """Everything, until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._series()
        self._watch()
        self.mesh.load_files()
        if self._settings.pilot_try_envoy_filters:
            self.guard.start()
        self.readers.start()
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.feed.run(), name="feed")]
            authority = await self._stoppable(self._first_things())
            if authority is None:
                for task in tasks:
                    task.cancel()
                return
            serving = self._serving(authority)
            tls = http.ServerTls(serving.current())
            async with contextlib.AsyncExitStack() as stack:
                await self._listen(stack, tls)
                grpc_servers = await self._grpc(authority, serving)
                for name, work in self._work(authority, serving, tls):
                    tasks.append(group.create_task(work, name=name))
                await self._stoppable(self.feed.wait())
                await self._stoppable(self.wasm.settled(_MODULES_SECONDS))
                self.ready = not self._stopping.is_set()
                if self.ready:
                    settle_memory()
                    log.info(
                        "ready", seconds=round(time.monotonic() - started, 2), services=len(self.engine.mesh.services)
                    )
                await self._stopping.wait()
                await self._drain(grpc_servers)
            for task in tasks:
                task.cancel()

    async def _first_things(self) -> Authority:
        """The mesh's configuration first: identities stand under its trust domain."""
        await self.feed.listed("ConfigMap")
        return await self._authority()

    async def _stoppable(self, waiting: Coroutine[None, None, T]) -> T | None:
        """What it gives; None when istiod is told to stop meanwhile."""
        stop = asyncio.ensure_future(self._stopping.wait())
        work = asyncio.ensure_future(waiting)
        complained = asyncio.get_running_loop().call_later(
            20, lambda: log.warning("still reading resources", kinds=", ".join(self.feed.waiting_for()))
        )
        try:
            await asyncio.wait((stop, work), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            complained.cancel()
            stop.cancel()
            work.cancel()

    async def _drain(self, servers: list[GrpcServer]) -> None:
        """Not ready any more; streams end, so that proxies connect to another istiod, or to the next one here."""
        log.info("stopping")
        self.ready = False
        self.connections.close_all()
        await asyncio.gather(*(s.stop(min(self._flags.shutdown_seconds, 1.0)) for s in servers))

    async def _settled(self, proxy_id: str) -> None:
        """Until what a proxy that connects should have is known."""
        await asyncio.gather(self.guard.settled(proxy_id), self.readers.settled(proxy_id))

    # Parts

    def _watch(self) -> None:
        kinds = self.feed.kinds
        kinds["ConfigMap"].watch(self.mesh.watch_config_map)
        kinds["ConfigMap"].watch(self._config_map_seen)
        kinds["ConfigMap"].watch(self.reports.changed)
        kinds["Namespace"].watch(self.mesh.watch_namespace)
        kinds["Namespace"].watch(self._namespace_seen)
        kinds["Node"].watch(self.mesh.watch_node)
        if "Secret" in kinds:
            kinds["Secret"].watch(self._secret_seen)
        events = Counter("pilot_k8s_cfg_events", "Events from Kubernetes.", ["type", "event"], registry=self._registry)
        if "WasmPlugin" in kinds:
            kinds["WasmPlugin"].watch(self.wasm.plugin_changed)
            kinds["TrafficExtension"].watch(self.wasm.extension_changed)
            kinds["Secret"].watch(self.wasm.secret_changed)
        if "WorkloadEntry" in kinds and "WorkloadGroup" in kinds:
            kinds["WorkloadEntry"].watch(self.registration.changed)
            kinds["WorkloadGroup"].watch(self.registration.group_changed)
        for feed in kinds.values():
            feed.events = lambda kind, event: events.labels(kind, event).inc()

    def _reselected(self) -> None:
        self.feed.reselect()
        for namespace in self._namespaces:
            self._touched.put_nowait(namespace)

    def _refusals(self) -> Iterator[Refusal]:
        for connection in self.connections.refusing():
            for type_url, some in connection.session.refusals().items():
                for name, refusal in some.items():
                    resource = connection.attachment.get(type_url, name)
                    yield Refusal(connection.proxy, resource, name, in_short(refusal.error))

    def _standings(self) -> Iterator[Standing]:
        """The newest connection of each proxy counts."""
        newest = {c.proxy.id: c for c in self.connections}
        for proxy_id, connection in newest.items():
            yield Standing(connection.proxy, connection.session.current and not self.engine.on_trial(proxy_id))

    def _config_map_seen(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        if name == self._settings.pilot_ca_cert_configmap:
            data = object_at(obj, "data")
            if obj is None or data.get(bundle.KEY) != self._roots:
                self._touched.put_nowait(namespace)

    def _secret_seen(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        """A `cacerts` that is taken away is often about to be made anew: the CA waits for its next look."""
        if obj is not None and namespace == self._namespace and name in (PLUGGED_IN, SELF_SIGNED):
            self._ca_touched.set()

    def _namespace_seen(self, _namespace: str, name: str, obj: JsonObject | None) -> None:
        if obj is None:
            self._namespaces.discard(name)
        elif name not in self._namespaces:
            self._namespaces.add(name)
            self._touched.put_nowait(name)

    _roots = ""

    async def _authority(self) -> Authority:
        settings = self._settings
        self._store = AuthorityStore(
            self._ca,
            self._clock,
            StoreSettings(
                namespace=self._namespace,
                organization=self.mesh.mesh.trust_domain,
                root_ttl=settings.citadel_self_signed_ca_cert_ttl,
                check_interval=max(settings.citadel_self_signed_root_cert_check_interval, 1.0),
                grace=settings.citadel_self_signed_root_cert_grace_period_percentile / 100,
            ),
        )
        pause = 0.2
        while True:
            try:
                material = await self._store.load()
                break
            except MeltemError as error:
                log.warning("the certificate authority cannot be read yet", reason=str(error).replace("\n", " "))
                await self._clock.sleep(pause)
                pause = min(pause * 2, 5.0)
        limits = CertificateLimits(settings.default_workload_cert_ttl, settings.max_workload_cert_ttl)
        authority = Authority(material, self._clock, limits)
        self._roots = authority.roots_pem.decode()
        return authority

    def _serving(self, authority: Authority) -> Serving:
        settings, flags = self._settings, self._flags
        if flags.tls_cert_file:
            return FileCertificate(flags.tls_cert_file, flags.tls_key_file, flags.ca_cert_file, self._clock)
        return ServingCertificate(
            authority,
            self._clock,
            serving_names(self._namespace, settings.revision, settings.istiod_custom_host),
            trust_domain=self.mesh.mesh.trust_domain,
            namespace=self._namespace,
            service_account=settings.service_account,
        )

    async def _listen(self, stack: contextlib.AsyncExitStack, tls: http.ServerTls) -> None:
        flags, settings = self._flags, self._settings
        pods = Pods(self.engine.inputs, settings.cluster_id)
        webhooks = http.Webhooks(
            self.mesh, http.WebhookMetrics.make(self._registry), pods.context_of, lambda: self.ready,
            injects=settings.inject_enabled,
        )  # fmt: skip
        await stack.enter_async_context(
            http.serve(webhooks.application(), address(flags.https), "webhooks", tls.context)
        )
        admin = web.Application()
        admin.add_routes([web.get("/ready", http.ready_handler(lambda: self.ready))])
        shown = self.debug.routes(self._authenticator if settings.enable_debug_endpoint_auth else None)
        if settings.enable_debug_on_http:
            admin.add_routes(shown)
        await stack.enter_async_context(http.serve(admin, address(flags.http), "debugging"))
        controlz = web.Application()
        controlz.add_routes(logs.routes())
        try:
            await stack.enter_async_context(http.serve(controlz, address(flags.controlz), "ControlZ"))
        except EnvironmentError_ as error:
            log.warning("log levels cannot be changed while istiod runs", reason=error.what)
        monitoring = http.monitoring_application(self._registry, __version__)
        monitoring.add_routes(shown)
        await stack.enter_async_context(http.serve(monitoring, address(flags.monitoring), "metrics"))

    async def _grpc(self, authority: Authority, serving: Serving) -> list[GrpcServer]:
        flags = self._flags
        options = server_options(
            connection_age=flags.max_connection_age,
            keepalive=flags.keepalive,
            keepalive_timeout=flags.keepalive_timeout,
            request_bytes=self._limits.request_bytes,
        )
        authenticator = AssertionAuthenticator(
            self._authenticator,
            self._clock,
            roots=lambda: authority.roots_pem,
            trust_domains=lambda: (self.mesh.mesh.trust_domain, *self.mesh.mesh.trust_domain_aliases),
            audiences=tuple(self._settings.token_audiences.split(",")),
        )
        servers: list[GrpcServer] = []
        plain, secure = address(flags.grpc), address(flags.secure_grpc)
        certificates = CertificateService(
            authority,
            authenticator,
            self._clock,
            trust_domain=lambda: self.mesh.mesh.trust_domain,
            more_roots=self._more_roots,
        )
        for at, is_secure in ((plain, False), (secure, True)):
            if at is None:
                continue
            server = new_server(options)
            needs_identity = (is_secure and self._settings.xds_auth) or self._settings.xds_auth_plaintext
            handlers = [
                self.server.handler(authenticator if needs_identity else None),
                health_handler(lambda: self.ready),
            ]
            if self._settings.enable_ca_server:
                handlers.append(certificates.handler())
            server.add_generic_rpc_handlers(tuple(handlers))
            where = f"{at[0] or '[::]'}:{at[1]}"
            try:
                if is_secure:
                    server.add_secure_port(where, tls_credentials(serving))
                else:
                    server.add_insecure_port(where)
            except RuntimeError:
                raise EnvironmentError_(
                    f"cannot listen for discovery on {where}: the port is taken",
                    remedy=f"Stop what listens there (`ss -ltnp sport = :{at[1]}` shows it), or choose another.",
                ) from None
            await server.start()
            servers.append(server)
        return servers

    def _more_roots(self) -> bytes:
        """MeshConfig's caCertificates, in a mesh of several roots. What is no certificate is left out: validation of
        the mesh's settings has said it."""
        if not self._settings.istio_multiroot_mesh:
            return b""
        return usable_roots(c.pem for c in self.mesh.mesh.ca_certificates if c.pem and not c.cert_signers)

    def _work(
        self, authority: Authority, serving: Serving, tls: http.ServerTls
    ) -> list[tuple[str, Coroutine[None, None, None]]]:
        settings, client = self._settings, self._client

        def webhook_roots() -> bytes:  # what the API server verifies istiod by
            return tls.roots(
                serving.current().root_pem if isinstance(serving, FileCertificate) else authority.roots_pem
            )

        patcher = WebhookPatcher(client, settings, self._namespace, webhook_roots, self._clock)
        writer = StatusWriter(client, self.judge, self._clock, enabled=settings.pilot_enable_status)
        ingress = IngressStatusWriter(
            client, self.engine, self._clock, cluster=settings.cluster_id, namespace=settings.k8s_ingress_ns
        )
        addresses = AddressWriter(client, self.engine, self._clock, cluster=settings.cluster_id)

        async def written() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ingress.run())
                if settings.pilot_enable_ip_autoallocate:
                    tasks.create_task(addresses.run())

        def renewed(_pair: KeyPair) -> None:
            roots = authority.roots_pem.decode()
            if roots != self._roots:
                self._roots = roots
                for namespace in self._namespaces:
                    self._touched.put_nowait(namespace)

        reporter = Reporter(
            client, self.judge, self._who, self.engine.inputs.pods, self._clock,
            leading=lambda: self._writes_status or not settings.enable_leader_election,
        )  # fmt: skip
        return [
            ("certificate authority", self._store.run(authority, self._ca_touched)),
            ("serving certificate", serving.run(renewed)),
            ("webhook certificate", tls.follow(serving.current, self._clock)),
            ("mutating webhooks", Reflector(client, MUTATING_WEBHOOKS, patcher.mutating).run()),
            ("validating webhooks", Reflector(client, VALIDATING_WEBHOOKS, patcher.validating).run()),
            ("webhook bundles", self._after_ready(patcher.run)),
            (
                "root certificate",
                self._leading("istio-namespace-controller-election", lambda: self._roots_everywhere(authority)),
            ),
            ("EnvoyFilter trials", self.guard.run()),
            ("readers of secrets", self.readers.run()),
            ("mesh files", self.mesh.follow_files(self._clock)),
            ("judge", self._after_ready(self._judge)),
            ("workloads", self._after_ready(self.registration.run)),
            ("wasm modules", self.wasm.run()),
            ("status", self._leading("istio-status-leader", lambda: self._after_ready(lambda: self._write(writer)))),
            ("distribution report", self._after_ready(reporter.run)),
            ("ingress status", self._leading("istio-leader", lambda: self._after_ready(written))),
            *([("names of gateways", self._names.run())] if settings.resolve_hostname_gateways else []),
        ]

    async def _after_ready(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.ready:
            await self._clock.sleep(0.05)
        await work()

    async def _write(self, writer: StatusWriter) -> None:
        self._writes_status = True
        try:
            await writer.run()
        finally:
            self._writes_status = False

    async def _judge(self) -> None:
        while True:
            self.judge.look()
            await self._clock.sleep(1.0)

    async def _leading(self, lease: str, work: Callable[[], Awaitable[None]]) -> None:
        if not self._settings.enable_leader_election:
            await work()
            return
        election = LeaderElection(self._client, self._namespace, lease + self._settings.suffix, self._settings.pod_name)
        await election.run(work)

    async def _roots_everywhere(self, authority: Authority) -> None:
        for namespace in self._namespaces:
            self._touched.put_nowait(namespace)

        async def touched() -> AsyncIterator[str]:
            while True:
                namespace = await self._touched.get()
                if self.mesh.selected(namespace):
                    yield namespace

        await bundle.keep_everywhere(
            self._ca,
            touched(),
            lambda: authority.roots_pem,
            self._clock,
            name=self._settings.pilot_ca_cert_configmap,
        )

    def _series(self) -> None:
        registry = self._registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        started = self._clock.monotonic()
        Info("pilot", "Version of istiod.", registry=registry).info({"version": __version__})
        Gauge("istiod_uptime_seconds", "Seconds since istiod started.", registry=registry).set_function(
            lambda: self._clock.monotonic() - started
        )
        inputs = self.engine.inputs
        Gauge("pilot_services", "Total services known to pilot.", registry=registry).set_function(
            lambda: len(self.engine.mesh.services)
        )
        Gauge("pilot_virt_services", "Total virtual services known to pilot.", registry=registry).set_function(
            lambda: len(inputs.virtual_services)
        )
        Gauge(
            "istiod_managed_clusters", "Number of clusters managed by istiod.", ["cluster_type"], registry=registry
        ).labels("local").set(1)
        Gauge("pilot_total_rejected_configs", "Resources that cannot be used.", registry=registry).set_function(
            lambda: len(self.feed.problems)
        )


def control_plane_identifier(pod: str) -> str:
    """Who answers, as Istio's control planes say it in discovery responses: istioctl reads it."""
    who: JsonObject = {"Component": "istiod", "ID": pod, "Info": {"version": __version__, "status": "Clean"}}
    return msgspec.json.encode(who).decode()


def tls_credentials(serving: Serving) -> grpc.ServerCredentials:
    """Credentials that ask for the present certificate at every handshake."""
    make = cast("Callable[..., object]", grpc.ssl_server_certificate_configuration)
    dynamic = cast("Callable[..., grpc.ServerCredentials]", grpc.dynamic_ssl_server_credentials)
    last: list[KeyPair] = [serving.current()]

    def configuration(pair: KeyPair) -> object:
        return make([(pair.key_pem, pair.chain_pem)])

    def fetch() -> object | None:
        pair = serving.current()
        if pair is last[0]:
            return None
        last[0] = pair
        return configuration(pair)

    return dynamic(configuration(last[0]), fetch, False)


def health_handler(ready: Callable[[], bool]) -> RpcHandler:
    """grpc.health.v1.Health/Check: SERVING (1) once ready, else NOT_SERVING (2)."""

    async def check(_request: bytes, _context: object) -> bytes:
        return b"\x08\x01" if ready() else b"\x08\x02"

    unary = cast("Callable[..., object]", grpc.unary_unary_rpc_method_handler)
    generic = cast("Callable[..., RpcHandler]", grpc.method_handlers_generic_handler)
    return generic("grpc.health.v1.Health", {"Check": unary(check)})
