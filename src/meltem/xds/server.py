"""The gRPC side of discovery: aggregated streams, delta and state of the world, over raw bytes.

In: an engine (through `Connections`), an authenticator for the TLS port. Out: `DiscoveryServer`, whose handlers are put
on as many gRPC servers as there are ports. What a client does wrong ends its own stream: a status and one log line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import NoReturn, Protocol, cast

import grpc
import structlog
from google.protobuf import json_format
from grpc import aio  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

from meltem.ca.identity import Authenticator, CallerIdentity, Credentials, Unauthenticated
from meltem.ca.service import RpcHandler
from meltem.clock import Clock
from meltem.envoyapi import base
from meltem.errors import MeltemError, UserError
from meltem.objects import JsonObject
from meltem.view.proxy import NOWHERE, Locality, Proxy, parse_proxy
from meltem.xds.auth import NotYours, identified
from meltem.xds.batches import Batches
from meltem.xds.connection import ClientGone, Connection, ConnectionLimits, TooSlow
from meltem.xds.metrics import XdsMetrics
from meltem.xds.push import Connections
from meltem.xds.session import REPORT_TYPES, DeltaSession
from meltem.xds.state_session import StateSession
from meltem.xds.wire import DeltaReader, parse_delta, parse_state

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA = "DeltaAggregatedResources"
STATE = "StreamAggregatedResources"
DEBUG_PREFIX = "istio.io/debug"

log = structlog.stdlib.get_logger("ads")


class Context(Protocol):
    """The part of `grpc.aio.ServicerContext` that is used."""

    async def read(self) -> object: ...
    async def write(self, message: bytes) -> None: ...
    async def abort(self, code: grpc.StatusCode, details: str = ...) -> NoReturn: ...
    def peer(self) -> str: ...
    def invocation_metadata(self) -> object: ...
    def auth_context(self) -> object: ...


class GrpcServer(Protocol):
    """The part of `grpc.aio.Server` that is used."""

    def add_generic_rpc_handlers(self, handlers: Sequence[RpcHandler]) -> None: ...
    def add_insecure_port(self, address: str) -> int: ...
    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int: ...
    async def start(self) -> None: ...
    async def stop(self, grace: float | None) -> None: ...


class DebugSource(Protocol):
    """Answers to `istio.io/debug` requests over ADS."""

    def answer(self, kind: str, names: Sequence[str], caller: CallerIdentity | None, nonce: str = "") -> bytes | None:
        """A DiscoveryResponse, or None for what there is no answer to; `kind`: the type's URL."""
        ...


class Registrar(Protocol):
    """Keeps the entries of workloads outside pods (`meltem.controlplane.registration`)."""

    def visit(self, proxy: Proxy, caller: CallerIdentity | None) -> AbstractAsyncContextManager[None]:
        """The block is one connection of the proxy; raises NotRegistered."""
        ...

    def heard(self, proxy: Proxy, problem: str) -> None:
        """The workload's health, said on its proxy's stream; empty: it is well."""
        ...

    async def report(self, proxy: Proxy, caller: CallerIdentity | None, problem: str) -> None:
        """The same on a stream of its own; raises NotRegistered."""
        ...


class DiscoveryServer:
    """See the module's head."""

    def __init__(
        self,
        connections: Connections,
        clock: Clock,
        metrics: XdsMetrics,
        *,
        limits: ConnectionLimits | None = None,
        ready: Callable[[], bool] = lambda: True,
        settled: Callable[[str], Awaitable[None]] | None = None,
        registrar: Registrar | None = None,
    ) -> None:
        """`settled`: waits until what a proxy (its id) should have is known."""
        self.connections = connections
        self.batches = Batches()
        self._reader = DeltaReader()
        self._clock = clock
        self._metrics = metrics
        metrics.refusals_of(lambda: ((p, t, len(some)) for p, t, some in connections.refusals()))
        self._limits = limits or ConnectionLimits()
        self._ready = ready
        self._debug: DebugSource | None = None
        self._settled = settled
        self._registrar = registrar

    def answers_debug(self, source: DebugSource) -> None:
        self._debug = source

    def handler(self, authenticator: Authenticator | None) -> RpcHandler:
        """For one port; None where nobody has to prove who they are."""
        stream = cast("Callable[..., object]", grpc.stream_stream_rpc_method_handler)

        async def delta(_requests: object, context: Context) -> None:
            await self._serve(context, authenticator, delta=True)

        async def state(_requests: object, context: Context) -> None:
            await self._serve(context, authenticator, delta=False)

        generic = cast("Callable[..., RpcHandler]", grpc.method_handlers_generic_handler)
        return generic(SERVICE, {DELTA: stream(delta), STATE: stream(state)})

    async def _serve(self, context: Context, authenticator: Authenticator | None, *, delta: bool) -> None:
        peer = context.peer()
        try:
            await self._stream(context, peer, authenticator, delta=delta)
            return
        except MeltemError as one:
            error: BaseException = one
        except ExceptionGroup as group:
            error = first(group)
            if not isinstance(error, MeltemError):
                raise
        if isinstance(error, ClientGone):
            return
        code = _status_of(error)
        reason = str(error)
        log.warning("stream refused", peer=peer, code=code.name, reason=reason.replace("\n", " "))
        await context.abort(code, reason[:500])

    async def _stream(self, context: Context, peer: str, authenticator: Authenticator | None, *, delta: bool) -> None:
        if not self._ready():
            raise Unavailable("istiod has not read the cluster's resources yet")
        if self.connections.full:
            raise Unavailable("this istiod has as many streams as it can serve")
        caller: CallerIdentity | None = None
        if authenticator is not None:
            caller = await authenticator.authenticate(
                Credentials.of_call(context.invocation_metadata(), context.auth_context())
            )
        try:
            async with asyncio.timeout(self._limits.first_request):
                first_message = await context.read()
        except TimeoutError:
            raise UserError(f"sent no request within {self._limits.first_request:g} s") from None
        if not isinstance(first_message, bytes):
            return
        serving = (self._delta if delta else self._state)(context, peer, caller, first_message)
        del first_message  # requests may be large and streams live long: no frame keeps the first one
        await serving

    async def _delta(self, context: Context, peer: str, caller: CallerIdentity | None, message: bytes) -> None:
        request, with_node = parse_delta(message)
        if with_node is None:
            raise UserError("the first request names no node")
        proxy = identified(proxy_of(with_node.node, delta=True), caller)
        del message, with_node
        if request.type_url in REPORT_TYPES:
            await self._report(proxy, caller, request.error)
            return

        def received(data: bytes) -> None:
            self._metrics.received(len(data))
            more = self._reader.read(data)
            if more.type_url in REPORT_TYPES:
                self._heard(proxy, more.error)
            else:
                session.request(more, self._clock.monotonic())

        async with self._visit(proxy, caller):
            made: list[DeltaSession] = []
            connection = self.connections.open(
                proxy,
                peer,
                lambda c: made.append(DeltaSession(c, self.batches, self._metrics.observer(proxy))) or made[0],
            )
            session = made[0]
            session.request(request, self._clock.monotonic())
            del request
            await self._run(connection, context, received)

    async def _state(self, context: Context, peer: str, caller: CallerIdentity | None, message: bytes) -> None:
        request, with_node = parse_state(message)
        if request.type_url.startswith(DEBUG_PREFIX):
            await self._debug_stream(context, caller, message)
            return
        if with_node is None:
            raise UserError("the first request names no node")
        proxy = identified(proxy_of(with_node.node, delta=False), caller)
        del message, with_node
        if request.type_url in REPORT_TYPES:
            await self._report(proxy, caller, request.error)
            return

        def received(data: bytes) -> None:
            self._metrics.received(len(data))
            more = parse_state(data)[0]
            if more.type_url in REPORT_TYPES:
                self._heard(proxy, more.error)
            else:
                session.request(more, self._clock.monotonic())

        async with self._visit(proxy, caller):
            made: list[StateSession] = []
            connection = self.connections.open(
                proxy,
                peer,
                lambda c: made.append(StateSession(c, self.batches, self._metrics.observer(proxy))) or made[0],
            )
            session = made[0]
            session.request(request, self._clock.monotonic())
            del request
            await self._run(connection, context, received)

    def _visit(self, proxy: Proxy, caller: CallerIdentity | None) -> AbstractAsyncContextManager[None]:
        return self._registrar.visit(proxy, caller) if self._registrar is not None else nullcontext()

    def _heard(self, proxy: Proxy, problem: str | None) -> None:
        if self._registrar is not None:
            self._registrar.heard(proxy, problem_of(problem))

    async def _report(self, proxy: Proxy, caller: CallerIdentity | None, problem: str | None) -> None:
        if self._registrar is not None:
            await self._registrar.report(proxy, caller, problem_of(problem))

    async def _debug_stream(self, context: Context, caller: CallerIdentity | None, message: object) -> None:
        answered: set[str] = set()
        while isinstance(message, bytes):
            request, _ = parse_state(message)
            if request.nonce not in answered:  # Istio's istioctl writes a nonce of its own into what it asks
                nonce = f"debug-{len(answered)}"
                found = self._debug.answer(request.type_url, request.names, caller, nonce) if self._debug else None
                if found is None:
                    raise UserError(f"there is no debug information of type {request.type_url[:80]!r}")
                answered.add(nonce)
                await context.write(found)
            message = await context.read()

    async def _run(self, connection: Connection, context: Context, received: Callable[[bytes], None]) -> None:
        self._metrics.connected(connection.proxy, 1)
        log.info("connected", proxy=connection.proxy.id, connection=connection.id, peer=connection.peer)
        try:
            if self._settled is not None:
                await self._settled(connection.proxy.id)
            await connection.run(context, received)
        finally:
            self.connections.remove(connection)
            self._metrics.connected(connection.proxy, -1)
            log.info("disconnected", proxy=connection.proxy.id, connection=connection.id)


class Unavailable(MeltemError):
    """Not now; the client should try again."""


class NotRegistered(MeltemError):
    """A workload outside pods has no WorkloadEntry, and cannot be given one."""


def problem_of(error: str | None) -> str:
    """Why a workload is not healthy, from the error of its report; empty where there is none."""
    return "" if error is None else error[:500] or "unhealthy"


def first(error: BaseException) -> BaseException:
    """The first leaf of nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _status_of(error: BaseException) -> grpc.StatusCode:
    if isinstance(error, Unauthenticated):
        return grpc.StatusCode.UNAUTHENTICATED
    if isinstance(error, NotYours):
        return grpc.StatusCode.PERMISSION_DENIED
    if isinstance(error, NotRegistered):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, TooSlow):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, UserError):
        return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.UNAVAILABLE


def proxy_of(node: base.Node, *, delta: bool) -> Proxy:
    """Raises UserError for a node that is not Istio's."""
    metadata = cast(JsonObject, json_format.MessageToDict(node.metadata))
    where = node.locality
    locality = Locality(where.region, where.zone, where.sub_zone) if where.region or where.zone else NOWHERE
    return parse_proxy(node.id, metadata, locality, delta=delta)


def server_options(
    *, connection_age: float, keepalive: float, keepalive_timeout: float, request_bytes: int
) -> list[tuple[str, int]]:
    """gRPC channel arguments; times in seconds. Old connections are closed gracefully, so that proxies spread out."""
    return [
        ("grpc.max_connection_age_ms", int(connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", 10_000),
        ("grpc.keepalive_time_ms", int(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(keepalive_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.bdp_probe", 0),  # requests are small: a client may not fill memory with what is not read yet
        ("grpc.max_receive_message_length", request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", 1000),
        ("grpc.max_metadata_size", 32 << 10),
        ("grpc.so_reuseport", 0),
    ]


def new_server(options: Sequence[tuple[str, int]]) -> GrpcServer:
    """A gRPC server without ports; `start` it when it has handlers and ports."""
    return cast("GrpcServer", aio.server(options=options))  # pyright: ignore[reportUnknownMemberType]
