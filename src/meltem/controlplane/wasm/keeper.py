"""The Wasm modules that istiod fetches for its proxies: all but those of files that proxies have themselves.

In: WasmPlugins as they change, pull secrets. Out: `inputs.wasm_modules` (what each plugin's module is, or that it
cannot be had) and `inputs.wasm_code` (the modules by checksum). A plugin is in force when its module is here; one whose
new image is on its way keeps the former. Where none can be had its failStrategy decides, the reason stands in its
status, and it is tried again after 5 s, 10 s … 5 minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, MutableMapping
from typing import Protocol

import msgspec
import structlog

from meltem.clock import Clock
from meltem.collections import Graph
from meltem.controlplane.wasm import images
from meltem.controlplane.wasm.fetch import MAX_MODULE, Fetcher, FetchFailed, is_module
from meltem.errors import MeltemError, NotFound, UserError
from meltem.graph.inputs import FAILED, Inputs, Unusable
from meltem.kube.resource_types import SECRETS, ResourceType
from meltem.objects import JsonObject, int_at, object_at, str_at
from meltem.view.selection import is_image, of_extension, of_istiod

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
log = structlog.stdlib.get_logger("wasm")
Key = tuple[str, str]
"""namespace, name of a WasmPlugin, or `trafficextension/` and the name of a TrafficExtension"""
Problems = MutableMapping[tuple[str, str, str], Unusable]


class Wanted(msgspec.Struct, frozen=True):
    """What decides which bytes a plugin's module has. `generation` only where each change of the plugin asks anew."""

    url: str
    sha256: str = ""
    secret: str = ""
    generation: int = 0


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


def whose(key: Key) -> tuple[str, str, str]:
    """Kind, namespace and name of the object that wants the module."""
    namespace, name = key
    own = name.removeprefix(of_extension(""))
    return ("WasmPlugin" if own == name else "TrafficExtension"), namespace, own


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
        self._wanted: dict[Key, Wanted] = {}
        self._have: dict[Key, tuple[Wanted, str]] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._reasons: dict[Key, Unusable] = {}
        self._versions: dict[Key, tuple[str, int]] = {}  # uid and generation of the plugins
        self._changed: asyncio.Queue[Key] = asyncio.Queue()
        self._arrived = asyncio.Condition()

    def plugin_changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        key = (namespace, name)
        wanted = wanted_of(obj) if obj is not None and self._selected(namespace) else None
        if wanted is not None and not of_istiod(wanted.url):
            wanted = None
        if wanted is None:
            self._versions.pop(key, None)
        else:
            self._versions[key] = str_at(obj, "metadata", "uid"), int_at(obj, "metadata", "generation")
        if self._wanted.get(key) == wanted:
            if reason := self._reasons.get(key):  # whoever read the plugin anew has forgotten it
                uid, generation = self._versions.get(key, ("", 0))
                self._problems[whose(key)] = msgspec.structs.replace(reason, uid=uid, generation=generation)
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

    async def settled(self, seconds: float) -> None:
        """Until every plugin's module was fetched, or could not be, or the time is over: an istiod that starts must not
        send proxies a configuration without the plugins that they have."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(lambda: all(k in self._inputs.wasm_modules for k in self._wanted))

    async def _keep(self, key: Key, wanted: Wanted) -> None:
        """Until it is there; a success ends it."""
        pause = FIRST_PAUSE
        while True:
            try:
                module = await self._fetch(key[0], wanted)
            except MeltemError as error:
                await self._failed(key, wanted, str(error).replace("\n", " "))
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            self._settled(key)
            checksum = await asyncio.to_thread(_checksum, module)
            self._have[key] = (wanted, checksum)
            await self._tell(key, checksum, module)
            log.info("module fetched", plugin="/".join(key), url=wanted.url, sha256=checksum)
            self._tasks.pop(key, None)
            return

    async def _failed(self, key: Key, wanted: Wanted, reason: str) -> None:
        before = self._have.get(key)
        kept = before[1] if before is not None and before[0].url == wanted.url else FAILED
        log.warning("module not fetched", plugin="/".join(key), url=wanted.url, reason=reason, kept=kept != FAILED)
        why = Unusable(f"the module cannot be fetched: {reason}", *self._versions.get(key, ("", 0)))
        self._reasons[key] = self._problems[whose(key)] = why
        await self._tell(key, kept)

    async def _tell(self, key: Key, value: str, module: bytes = b"") -> None:
        with self._graph.transaction():
            self._inputs.wasm_modules.set(key, value)
            if module:
                self._inputs.wasm_code.set(value, module)
            if value == FAILED:
                self._have.pop(key, None)
            self._sweep()
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
            self._problems.pop(whose(key), None)

    def _sweep(self) -> None:
        """Forget modules of which no plugin is left."""
        kept = {checksum for _, checksum in self._have.values()}
        for checksum in [c for c in self._inputs.wasm_code if c not in kept]:
            self._inputs.wasm_code.delete(checksum)

    async def _fetch(self, namespace: str, wanted: Wanted) -> bytes:
        async with self._fetcher() as fetcher:
            if is_image(wanted.url):
                digest, module = await self._image(fetcher, namespace, wanted)
                if wanted.sha256 and digest != f"sha256:{wanted.sha256}":
                    raise FetchFailed(f"the image has the digest {digest}, not sha256:{wanted.sha256}")
            else:
                module = (await fetcher.get(wanted.url, limit=MAX_MODULE)).body
                checksum = await asyncio.to_thread(_checksum, module)
                if wanted.sha256 and checksum != wanted.sha256:
                    raise FetchFailed(f"what is there has the checksum {checksum}, not {wanted.sha256}")
        if not is_module(module):
            raise FetchFailed("what is there is no WebAssembly module")
        return module

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


def _checksum(module: bytes) -> str:
    return hashlib.sha256(module).hexdigest()
