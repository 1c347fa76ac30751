"""The API server as a process: wires the parts together, listens with TLS, and ends cleanly.

In: `ClusterConfig` and the addresses to listen on. Out: `ApiServer`, an async context manager. The host's end of the
cluster's veth may appear later than the server: it is tried until it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec
from aiohttp import web

from meltem.clock import Clock, SystemClock
from meltem.errors import EnvironmentError_
from meltem.local.apiserver.admission.chain import AdmissionChain
from meltem.local.apiserver.authorization import Authorizer
from meltem.local.apiserver.bootstrap import bootstrap
from meltem.local.apiserver.connection import KubeServer
from meltem.local.apiserver.core import Core
from meltem.local.apiserver.crds import CrdManager
from meltem.local.apiserver.dispatch import Dispatcher
from meltem.local.apiserver.endpoints import PlainEndpoints
from meltem.local.apiserver.pki import ensure_pki, write_kubeconfig
from meltem.local.apiserver.registry import Registry
from meltem.local.apiserver.services import ServiceAllocator
from meltem.local.apiserver.storage import HISTORY_LIMIT, Store
from meltem.local.apiserver.subresources import Subresources
from meltem.local.apiserver.tokens import TokenAuthority
from meltem.local.apiserver.upstream import Upstream
from meltem.local.apiserver.watch import Hub
from meltem.local.config import ClusterConfig

_log = logging.getLogger("meltem.apiserver")
_RETRY_SECONDS = 0.5


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to run. `bind` empty: 127.0.0.1 and the cluster's host_ip; port 0 in tests means any free one."""

    config: ClusterConfig
    bind: tuple[str, ...] = ()
    history_limit: int = HISTORY_LIMIT


class ApiServer:
    """`async with ApiServer(settings) as server:` serves until the block ends; `server.port` is the real port."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []
        self._runner: web.ServerRunner | None = None
        self._stack = contextlib.AsyncExitStack()
        self.port = settings.config.api_port
        self.store: Store | None = None

    async def __aenter__(self) -> ApiServer:
        config = self._settings.config
        ensure_pki(config)
        store = Store.open(config.database, history_limit=self._settings.history_limit)
        self.store = store
        self._stack.callback(store.close)
        try:
            dispatcher, manager = await self._wire(store)
            self._runner = web.ServerRunner(KubeServer(dispatcher), shutdown_timeout=2.0)
            await self._runner.setup()
            await self._listen()
            write_kubeconfig(msgspec.structs.replace(config, api_port=self.port), config.kubeconfig, "admin")
            self._spawn(manager.run())
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _wire(self, store: Store) -> tuple[Dispatcher, CrdManager]:
        config, clock = self._settings.config, self._clock
        registry, hub = Registry(), Hub(store)
        self._spawn(store.commit_loop())
        upstream = await self._stack.enter_async_context(Upstream(config, store))
        tokens = TokenAuthority.load(config.pki, store, clock)
        authorizer = Authorizer(store)
        manager = CrdManager(store, hub, registry, clock, upstream)
        core = Core(
            store=store,
            hub=hub,
            registry=registry,
            clock=clock,
            admission=AdmissionChain(store, registry, upstream, authorizer, manager.convert),
            allocator=ServiceAllocator(store, config),
            converter=manager.convert,
        )
        await bootstrap(core, config)
        manager.load()
        plain = PlainEndpoints(config, registry, tokens, store)
        subresources = Subresources(core, tokens, authorizer, upstream)
        return Dispatcher(core, tokens, authorizer, plain, subresources.find), manager

    def _spawn(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        self._tasks.append(asyncio.create_task(work))

    async def _listen(self) -> None:
        config = self._settings.config
        if self._settings.bind:
            for address in self._settings.bind:
                await self._bind(address)
            return
        await self._bind("127.0.0.1")
        try:
            await self._bind(config.host_ip)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            self._spawn(self._bind_later(config.host_ip))

    async def _bind(self, address: str) -> None:
        assert self._runner is not None
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind((address, self.port))
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise EnvironmentError_(
                    f"port {self.port} on {address} is taken by another program",
                    remedy="Stop that program, or give the cluster another port with --api-port.",
                ) from None
            raise
        listener.listen(512)
        self.port = listener.getsockname()[1]
        site = web.SockSite(self._runner, listener, ssl_context=server_tls(self._settings.config.pki), backlog=512)
        await site.start()
        _log.info("listening on %s, port %d", address, self.port)

    async def _bind_later(self, address: str) -> None:
        while True:
            await self._clock.sleep(_RETRY_SECONDS)
            try:
                await self._bind(address)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    _log.error("cannot listen on %s: %s", address, error)
                    return
            except EnvironmentError_ as error:
                _log.error("cannot listen on %s: %s", address, error)
                return
            else:
                return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def wait(self) -> None:
        """Raises what one of the server's own tasks died of; then the process had better end."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()


def server_tls(pki: Path) -> ssl.SSLContext:
    """TLS 1.2 and up; client certificates of the cluster's CA are asked for, not required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    context.load_verify_locations(pki / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


def addresses(text: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_address(a)) for a in text)
