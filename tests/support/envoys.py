"""Real Envoys on loopback, configured with what the engine generates, and tiny backends that count.

    async with Rig(tmp_path) as rig:
        backend = await rig.backend("10.8.0.1", 8080)        # stands for that endpoint
        engine = rig.engine(YAML)
        envoy = await rig.envoy(engine, proxy)               # listeners at free ports of 127.0.0.1
        status, headers, body = await rig.get(envoy, 80, "reviews", "/x")

Addresses of endpoints are replaced by those of the backends, ports of listeners by free ones. Proxies must not capture
(`interception="NONE"`, or routers): there is no original destination on loopback. Everything that was started ends with
the block.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

import aiohttp
import mesh_files
from aiohttp import web

from meltem.engine import Engine
from meltem.objects import Json, JsonObject
from meltem.view.proxy import Proxy

ENVOY = Path(sys.executable).with_name("envoy")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str


class Seen(NamedTuple):
    """A request as a backend saw it."""

    method: str
    path: str
    headers: Mapping[str, str]


class Backend:
    """An HTTP server that remembers its requests; `handler` decides what it answers (its name by default)."""

    def __init__(self, name: str, handler: Handler | None, loopback: str = "127.0.0.1") -> None:
        self.name = name
        self._loopback = loopback
        self.port = 0
        self.seen: list[Seen] = []
        self._handler = handler
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._loopback, port)
        await site.start()
        self.port = cast("tuple[str, int]", self._runner.addresses[0])[1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.seen.append(Seen(request.method, request.path_qs, headers))
        if self._handler is not None:
            return await self._handler(request)
        return web.Response(text=self.name)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that happens soon."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing to wait on: it is what a server saw
            await asyncio.sleep(0.01)


class Running:
    """An Envoy that runs: `ports` maps the ports of its listeners to those that they really have."""

    def __init__(self, process: asyncio.subprocess.Process, admin: int, ports: Mapping[int, int], log: Path) -> None:
        self.process = process
        self.admin = admin
        self.ports = ports
        self.log = log


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


class Rig:
    """Owner of everything that a test starts."""

    def __init__(self, directory: Path, loopback: str = "127.0.0.1") -> None:
        """`loopback`: where listeners and backends are, `::1` for IPv6."""
        self.directory = directory
        self.loopback = loopback
        self.backends: dict[tuple[str, int], tuple[str, int]] = {}
        self._backends: list[Backend] = []
        self._envoys: list[Running] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Rig:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for envoy in self._envoys:
            if envoy.process.returncode is None:
                envoy.process.kill()
            await envoy.process.wait()
        for backend in self._backends:
            await backend.stop()
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def backend(self, address: str, port: int, handler: Handler | None = None) -> Backend:
        """A server in place of the endpoint with that address and port."""
        made = Backend(f"{address}:{port}", handler, self.loopback)
        await made.start()
        self._backends.append(made)
        self.backends[(address, port)] = (self.loopback, made.port)
        return made

    def stands_for(self, address: str, port: int, real_port: int) -> None:
        """Connections to that address and port go to a port of 127.0.0.1 (another Envoy, a raw server)."""
        self.backends[(address, port)] = ("127.0.0.1", real_port)

    @staticmethod
    def engine(*texts: str) -> Engine:
        made = Engine()
        for text in texts:
            mesh_files.load(made, text)
        return made

    async def envoy(
        self,
        engine: Engine,
        proxy: Proxy,
        *,
        secrets: Mapping[str, JsonObject] | None = None,
        change: Callable[[JsonObject], None] | None = None,
    ) -> Running:
        """`secrets`: name → `tls.Secret` as JSON, for names that are asked of the control plane or the agent.
        `change` may alter the bootstrap before it is written."""
        number = len(self._envoys)
        home = self.directory / f"envoy-{number}"
        home.mkdir()
        everything = mesh_files.generated(engine, proxy)
        admin = free_port()
        document = cast(JsonObject, json.loads(mesh_files.bootstrap(everything, home, admin)))
        for name, text in _secret_files(secrets or {}).items():
            (home / name).write_text(text)
        nothing = home / "sds-nothing.json"
        nothing.write_text('{"resources": []}')
        document = cast(JsonObject, _secrets_in_place(document, secrets or {}, nothing))
        ports = self._remap(document)
        if change is not None:
            change(document)
        config, log = home / "envoy.json", home / "envoy.log"
        config.write_text(json.dumps(document))
        command = [str(ENVOY), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
        running = Running(process, admin, ports, log)
        self._envoys.append(running)
        await self._ready(running)
        return running

    async def _ready(self, envoy: Running) -> None:
        async with asyncio.timeout(15):
            while True:
                assert envoy.process.returncode is None, envoy.log.read_text()[-3000:]
                try:
                    async with self.session.get(f"http://127.0.0.1:{envoy.admin}/ready") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)

    def _remap(self, document: JsonObject) -> dict[int, int]:
        """Endpoints to backends, listeners to free ports."""
        ports: dict[int, int] = {}
        static = cast(JsonObject, document["static_resources"])
        for listener in cast("list[JsonObject]", static["listeners"]):
            listener.pop("additional_addresses", None)
            listener.pop("bind_to_port", None)
            address = cast(JsonObject, cast(JsonObject, listener["address"])["socket_address"])
            number = cast(int, address["port_value"])
            udp = address.get("protocol") == "UDP"
            ports[number] = ports.get(number) or free_port(socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
            address["address"], address["port_value"] = self.loopback, ports[number]
        _replace_addresses(static["clusters"], self.backends)
        return ports

    # --- calls ---

    async def get(
        self,
        envoy: Running,
        port: int,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        where = f"[{self.loopback}]" if ":" in self.loopback else self.loopback
        url = f"http://{where}:{envoy.ports[port]}{path}"
        sent = {"host": host, **(headers or {})}
        async with self.session.request(method, url, headers=sent, allow_redirects=False) as answer:
            body = await answer.text()
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, body)

    async def stats(self, envoy: Running, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match."""
        async with self.session.get(f"http://127.0.0.1:{envoy.admin}/stats") as answer:
            text = await answer.text()
        found = (line.rpartition(": ") for line in text.splitlines())
        return {n: int(v) for n, _, v in found if re.search(pattern, n) and v.isdigit()}


def _replace_addresses(node: Json, backends: Mapping[tuple[str, int], tuple[str, int]]) -> None:
    if isinstance(node, list):
        for item in node:
            _replace_addresses(item, backends)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "socket_address" and isinstance(value, dict):
                where = (cast(str, value.get("address")), cast(int, value.get("port_value", 0)))
                if where in backends:
                    value["address"], value["port_value"] = backends[where]
            else:
                _replace_addresses(value, backends)


def _secret_files(secrets: Mapping[str, JsonObject]) -> dict[str, str]:
    """The files that the agent keeps: `default` and `ROOTCA`."""
    names = {"default": "sds-default.json", "ROOTCA": "sds-rootca.json"}
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    return {
        names[n]: json.dumps({"resources": [{"@type": kind, "name": n, **body}]})
        for n, body in secrets.items()
        if n in names
    }


def _secrets_in_place(node: Json, secrets: Mapping[str, JsonObject], nothing: Path) -> Json:
    """Secrets that are asked of the control plane and given here, as static resources have them; those that are not
    given are asked of a source that has none."""
    if isinstance(node, list):
        return [_secrets_in_place(n, secrets, nothing) for n in node]
    if not isinstance(node, dict):
        return node
    out: JsonObject = {k: _secrets_in_place(v, secrets, nothing) for k, v in node.items()}
    if "static_resources" in out:
        kept = [{"name": n, **b} for n, b in secrets.items() if n not in ("default", "ROOTCA")]
        cast(JsonObject, out["static_resources"])["secrets"] = cast(Json, kept)
    if "sds_config" in out and out.get("name") in secrets and out.get("name") not in ("default", "ROOTCA"):
        out.pop("sds_config")
    elif "ads" in (asked := cast(JsonObject, out.get("sds_config", {}))):
        del asked["ads"]
        asked["path_config_source"] = {"path": str(nothing)}
    return out
