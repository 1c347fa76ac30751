"""The Wasm modules that istiod fetches for its proxies: those of images, and those whose checksum nobody gave.

In: WasmPlugins as they change, pull secrets. Out: `inputs.wasm_modules` (what each plugin's module is, or that it
cannot be had), and the modules themselves by checksum, which `/wasm/<sha256>` serves. A plugin is in force when its
module is here; one whose new image is on its way keeps the former. Where none can be had its failStrategy decides, the
reason stands in its status, and it is tried again after 5 s, 10 s … 5 minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from aiohttp import web

from meltem.clock import Clock
from meltem.collections import Graph
from meltem.controlplane.wasm import images
from meltem.controlplane.wasm.fetch import MAX_MODULE, Fetcher, FetchFailed, is_module
from meltem.errors import MeltemError, NotFound, UserError
from meltem.graph.inputs import FAILED, Inputs
from meltem.kube.resource_types import SECRETS, ResourceType
from meltem.objects import JsonObject, int_at, object_at, str_at
from meltem.view.selection import is_image, of_extension

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
SERVE_SECONDS = 20.0
log = structlog.stdlib.get_logger("wasm")
Key = tuple[str, str]
"""namespace, name of a WasmPlugin"""
Problems = MutableMapping[tuple[str, str, str], str]


class Wanted(msgspec.Struct, frozen=True):
    """What decides which bytes a plugin's module has. `generation` only where each change of the plugin asks anew."""

    url: str
    sha256: str = ""
    secret: str = ""
    generation: int = 0

    @property
    def of_istiod(self) -> bool:
        """Whether istiod fetches it; the other ones Envoy fetches or reads itself."""
        return is_image(self.url) or (self.url.startswith("http") and not self.sha256)


class SecretReader(Protocol):
    """The part of `KubeClient` that is used."""

    async def get(self, rt: ResourceType, name: str, namespace: str = "") -> JsonObject: ...


def wanted_of(plugin: JsonObject) -> Wanted:
    spec = object_at(plugin, "spec")
    url = str_at(spec, "url")
    always = str_at(spec, "imagePullPolicy") == "Always"
    if is_image(url) and str_at(spec, "imagePullPolicy") in ("", "UNSPECIFIED_POLICY"):
        with contextlib.suppress(UserError):
            always = images.parse(url).moves
    generation = int_at(plugin, "metadata", "generation") if always else 0
    return Wanted(url, str_at(spec, "sha256"), str_at(spec, "imagePullSecret"), generation)


class Modules:
    """The bytes, by checksum, in a directory that goes with this process."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def put(self, module: bytes) -> str:
        """Its checksum."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="meltem-wasm-"))
        checksum = hashlib.sha256(module).hexdigest()
        path = self._directory / checksum
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(module)
            partial.replace(path)
        return checksum

    def path(self, checksum: str) -> Path | None:
        if self._directory is None or not checksum.isalnum():
            return None
        path = self._directory / checksum
        return path if path.is_file() else None

    def keep_only(self, checksums: set[str]) -> None:
        """Forget the others."""
        for path in self._directory.iterdir() if self._directory is not None else ():
            if path.name not in checksums:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


class WasmKeeper:
    """See the module's head. `plugin_changed` and `secret_changed` are watchers, `run` runs beside them."""

    def __init__(
        self,
        graph: Graph,
        inputs: Inputs,
        secrets: SecretReader,
        clock: Clock,
        problems: Problems,
        *,
        selected: Callable[[str], bool] = lambda _namespace: True,
        fetcher: Callable[[], Fetcher] = Fetcher,
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._secrets = secrets
        self._clock = clock
        self._problems = problems
        self._selected = selected
        self._fetcher = fetcher
        self.modules = Modules()
        self._wanted: dict[Key, Wanted] = {}
        self._have: dict[Key, tuple[Wanted, str]] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._reasons: dict[Key, str] = {}
        self._changed: asyncio.Queue[Key] = asyncio.Queue()
        self._arrived = asyncio.Condition()

    def plugin_changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        key = (namespace, name)
        wanted = wanted_of(obj) if obj is not None and self._selected(namespace) else None
        if wanted is not None and not wanted.of_istiod:
            wanted = None
        if self._wanted.get(key) == wanted:
            if reason := self._reasons.get(key):  # whoever read the plugin anew has forgotten it
                self._problems["WasmPlugin", *key] = reason
            return
        if wanted is None:
            self._wanted.pop(key, None)
        else:
            self._wanted[key] = wanted
        self._changed.put_nowait(key)

    def extension_changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        """A TrafficExtension says of its module what a WasmPlugin says in its spec."""
        module = object_at(obj, "spec", "wasm") if obj is not None else {}
        self.plugin_changed(
            namespace, of_extension(name), {**obj, "spec": module} if obj is not None and module else None
        )

    def secret_changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        """A pull secret that was missing, or was wrong."""
        for key, wanted in self._wanted.items():
            if obj is not None and key[0] == namespace and wanted.secret == name and key in self._reasons:
                self._changed.put_nowait(key)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    key = await self._changed.get()
                    running = self._tasks.pop(key, None)
                    if running is not None:
                        running.cancel()
                        await asyncio.gather(running, return_exceptions=True)
                    wanted = self._wanted.get(key)
                    if wanted is None:
                        self._forget(key)
                    else:
                        self._tasks[key] = group.create_task(self._keep(key, wanted), name=f"wasm {key}")
        finally:
            self.modules.close()

    async def settled(self, seconds: float) -> None:
        """Until every plugin's module was fetched, or could not be, or the time is over: an istiod that starts must not
        send proxies a configuration without the plugins that they have."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(lambda: all(k in self._inputs.wasm_modules for k in self._wanted))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """`/wasm/<sha256>`. Another istiod may have told the proxy of a module that is still on its way here."""
        checksum = request.match_info["checksum"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SERVE_SECONDS), self._arrived:
                await self._arrived.wait_for(lambda: self.modules.path(checksum) is not None or not self._tasks)
        path = self.modules.path(checksum)
        if path is None:
            return web.Response(status=404, text="no module with that checksum is known here\n")
        return web.FileResponse(path, headers={"Content-Type": "application/wasm"})

    async def _keep(self, key: Key, wanted: Wanted) -> None:
        """Until it is there; a success ends it."""
        pause = FIRST_PAUSE
        while True:
            try:
                checksum = await self._fetch(key[0], wanted)
            except MeltemError as error:
                await self._failed(key, wanted, str(error).replace("\n", " "))
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            self._settled(key)
            self._have[key] = (wanted, checksum)
            await self._tell(key, checksum)
            log.info("module fetched", plugin="/".join(key), url=wanted.url, sha256=checksum)
            self._tasks.pop(key, None)
            self._sweep()
            return

    async def _failed(self, key: Key, wanted: Wanted, reason: str) -> None:
        before = self._have.get(key)
        kept = before[1] if before is not None and before[0].url == wanted.url else FAILED
        log.warning("module not fetched", plugin="/".join(key), url=wanted.url, reason=reason, kept=kept != FAILED)
        self._reasons[key] = self._problems["WasmPlugin", *key] = f"the module cannot be fetched: {reason}"
        await self._tell(key, kept)

    async def _tell(self, key: Key, value: str) -> None:
        with self._graph.transaction():
            self._inputs.wasm_modules.set(key, value)
            if value == FAILED:
                self._have.pop(key, None)
        async with self._arrived:
            self._arrived.notify_all()

    def _forget(self, key: Key) -> None:
        self._have.pop(key, None)
        self._settled(key)
        with self._graph.transaction():
            self._inputs.wasm_modules.delete(key)
        self._sweep()

    def _settled(self, key: Key) -> None:
        if self._reasons.pop(key, None) is not None:
            self._problems.pop(("WasmPlugin", *key), None)

    def _sweep(self) -> None:
        self.modules.keep_only({checksum for _, checksum in self._have.values()})

    async def _fetch(self, namespace: str, wanted: Wanted) -> str:
        async with self._fetcher() as fetcher:
            if is_image(wanted.url):
                digest, module = await self._image(fetcher, namespace, wanted)
                if wanted.sha256 and digest != f"sha256:{wanted.sha256}":
                    raise FetchFailed(f"the image has the digest {digest}, not sha256:{wanted.sha256}")
            else:
                module = (await fetcher.get(wanted.url, limit=MAX_MODULE)).body
        if not is_module(module):
            raise FetchFailed("what is there is no WebAssembly module")
        return await asyncio.to_thread(self.modules.put, module)

    async def _image(self, fetcher: Fetcher, namespace: str, wanted: Wanted) -> tuple[str, bytes]:
        reference = images.parse(wanted.url)
        credentials = ""
        if wanted.secret:
            try:
                secret = await self._secrets.get(SECRETS, wanted.secret, namespace)
            except NotFound:
                raise FetchFailed(f"there is no Secret {namespace}/{wanted.secret} to pull it with") from None
            credentials = images.credentials_of(secret, reference.registry)
        return await images.Registry(fetcher, reference, credentials).module()
