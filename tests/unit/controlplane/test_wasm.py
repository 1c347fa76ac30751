"""Wasm modules that istiod fetches: from registries in every form, from web servers, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from meltem.ca.authority import Authority, self_signed_material
from meltem.clock import ManualClock, SystemClock
from meltem.controlplane.http import ServerTls
from meltem.controlplane.wasm import images
from meltem.controlplane.wasm.fetch import Fetcher, FetchFailed, may_call
from meltem.controlplane.wasm.keeper import WasmKeeper
from meltem.engine import Engine
from meltem.errors import NotFound, UserError
from meltem.graph.inputs import Unusable
from meltem.kube.resource_types import ResourceType
from meltem.objects import Json, JsonObject

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "samples" / "wasm" / "src"))

import plugin
import push
import registry

MODULE = plugin.module()
SHA = hashlib.sha256(MODULE).hexdigest()
KEY = ("shop", "plugin")


class Server:
    """The sample registry on a port of its own; it also answers `/plain.wasm`, `/evil` and `/text`."""

    def __init__(self, password: str = "") -> None:
        class Handler(registry.Handler):
            store = registry.Store()

            def do_GET(self) -> None:
                if self.path == "/plain.wasm":
                    self.answer(200, MODULE)
                elif self.path == "/evil":
                    self.answer(302, Location="http://169.254.169.254/latest/meta-data")
                elif self.path == "/text":
                    self.answer(200, b"hello")
                else:
                    super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                pass

        Handler.password = password
        self.password = password
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=functools.partial(self.server.serve_forever, 0.01))
        self._thread.start()

    def push(self, name: str, form: str = "artifact", module: bytes = MODULE) -> str:
        return push.Registry(f"http://{self.address}", self.password).push(module, name, form)

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.end()


@pytest.fixture
def guarded_server() -> Iterator[Server]:
    made = Server("me:secret")
    yield made
    made.end()


def anywhere(address: str) -> bool:
    return address == "127.0.0.1" or may_call(address)


def fetcher() -> Fetcher:
    return Fetcher(allowed=anywhere)


async def pulled(url: str, credentials: str = "") -> tuple[str, bytes]:
    async with fetcher() as one:
        return await images.Registry(one, images.parse(url), credentials).module()


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("oci://registry.example.com/team/plugin:v1", ("registry.example.com", "team/plugin", "v1", "")),
        ("registry.example.com:5000/plugin", ("registry.example.com:5000", "plugin", "latest", "")),
        ("oci://plugin:v2", ("index.docker.io", "library/plugin", "v2", "")),
        ("oci://team/plugin", ("index.docker.io", "team/plugin", "latest", "")),
        (f"oci://r.example/p@sha256:{SHA}", ("r.example", "p", "", f"sha256:{SHA}")),
        (f"oci://r.example/p:v1@sha256:{SHA}", ("r.example", "p", "v1", f"sha256:{SHA}")),
    ],
)
def test_names_of_images(url: str, parts: tuple[str, str, str, str]) -> None:
    found = images.parse(url)
    assert (found.registry, found.repository, found.tag, found.digest) == parts


@pytest.mark.parametrize("url", ["oci://r.example/UPPER:v1", "oci://r.example/p@sha256:12", "oci://", "r.example/../p"])
def test_names_that_are_none(url: str) -> None:
    with pytest.raises(UserError):
        images.parse(url)


@pytest.mark.parametrize("form", ["artifact", "oci", "docker"])
async def test_every_form_of_image(server: Server, form: str) -> None:
    digest = server.push("team/plugin:v1", form)
    assert await pulled(f"oci://{server.address}/team/plugin:v1") == (digest, MODULE)
    assert await pulled(f"oci://{server.address}/team/plugin@{digest}") == (digest, MODULE)


async def test_a_registry_that_wants_a_password(guarded_server: Server) -> None:
    guarded_server.push("plugin:v1")
    url = f"oci://{guarded_server.address}/plugin:v1"
    assert (await pulled(url, base64.b64encode(b"me:secret").decode()))[1] == MODULE
    for wrong in ("", base64.b64encode(b"me:wrong").decode()):
        with pytest.raises(FetchFailed, match="answered 401"):
            await pulled(url, wrong)


def test_credentials_of_a_pull_secret() -> None:
    def secret(auths: Json) -> JsonObject:
        text = json.dumps({"auths": auths}).encode()
        return {"data": {".dockerconfigjson": base64.b64encode(text).decode()}}

    pair = base64.b64encode(b"u:p").decode()
    assert images.credentials_of(secret({"r.example": {"auth": pair}}), "r.example") == pair
    assert (
        images.credentials_of(secret({"https://r.example/v1/": {"username": "u", "password": "p"}}), "r.example")
        == pair
    )
    assert images.credentials_of(secret({"https://index.docker.io/v1/": {"auth": pair}}), "index.docker.io") == pair
    assert images.credentials_of(secret({"other.example": {"auth": pair}}), "r.example") == ""
    with pytest.raises(UserError, match="dockerconfigjson"):
        images.credentials_of({"data": {".dockerconfigjson": "!"}}, "r.example")


def tarred(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_layers_that_hold_no_plugin() -> None:
    assert images.from_layer(tarred("./plugin.wasm", b"x")) == b"x"
    for blob in (tarred("other", b"x"), b"no archive at all", gzip.compress(b"x")[:-4]):
        with pytest.raises(FetchFailed, match="last layer"):
            images.from_layer(blob)


def test_a_layer_that_swells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_MODULE", 1 << 20)
    with pytest.raises(FetchFailed, match="more than 1 MiB"):
        images.from_layer(gzip.compress(b"\0" * (2 << 20)))


async def test_too_much_is_not_read(server: Server) -> None:
    async with fetcher() as one:
        with pytest.raises(FetchFailed, match="has more than"):
            await one.get(f"http://{server.address}/plain.wasm", limit=10)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1", "240.0.0.1", "name"],
)
def test_addresses_that_are_not_called(address: str) -> None:
    assert not may_call(address)
    assert may_call("10.0.0.1") and may_call("203.0.113.9") and may_call("fd00::1")


async def test_neither_by_name_nor_by_redirect(server: Server) -> None:
    port = server.address.rpartition(":")[2]
    async with Fetcher() as strict:
        for host in (server.address, f"localhost:{port}"):
            with pytest.raises(FetchFailed, match="must not be called"):
                await strict.get(f"http://{host}/plain.wasm", limit=1 << 20)
    async with fetcher() as one:
        with pytest.raises(FetchFailed, match=r"169\.254\.169\.254 is an address that must not be called"):
            await one.get(f"http://{server.address}/evil", limit=1 << 20)
        with pytest.raises(FetchFailed, match="no http or https URL"):
            await one.get("file:///etc/passwd", limit=1 << 20)


async def test_certificates_are_verified_but_for_listed_servers(tmp_path: Path) -> None:
    """A server with an authority of its own: refused, unless WASM_INSECURE_REGISTRIES has it, or SSL_CERT_FILE its
    authority."""
    clock = SystemClock()
    pair = Authority(self_signed_material(clock, organization="own"), clock).serving_pair(("localhost",))
    (tmp_path / "roots.pem").write_bytes(pair.root_pem)
    server = Server()
    try:
        server.server.socket = ServerTls(pair).context.wrap_socket(server.server.socket, server_side=True)
        port = server.address.rpartition(":")[2]
        url = f"https://localhost:{port}/plain.wasm"
        async with fetcher() as one:
            with pytest.raises(FetchFailed, match="CERTIFICATE_VERIFY_FAILED"):
                await one.get(url, limit=1 << 20)
        for listed in (f"localhost:{port}", "localhost", "*"):
            async with Fetcher(insecure=frozenset({listed}), allowed=anywhere) as one:
                assert (await one.get(url, limit=1 << 20)).body == MODULE
        trusting = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GET, url, env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "roots.pem")},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert (await trusting.communicate())[0] == MODULE
    finally:
        server.end()


GET = """
import asyncio, sys
from meltem.controlplane.wasm.fetch import Fetcher
async def main():
    async with Fetcher(allowed=lambda address: True) as one:
        sys.stdout.buffer.write((await one.get(sys.argv[1], limit=1 << 20)).body)
asyncio.run(main())
"""


class Secrets:
    def __init__(self) -> None:
        self.found: dict[str, JsonObject] = {}

    async def get(self, rt: ResourceType, name: str, namespace: str = "") -> JsonObject:
        if name not in self.found:
            raise NotFound("no such secret", code=404)
        return self.found[name]


class Rig:
    """A keeper, its engine and its problems."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.secrets = Secrets()
        self.clock = ManualClock()
        self.problems: dict[tuple[str, str, str], Unusable] = {}
        self.keeper = WasmKeeper(
            self.engine.graph, self.engine.inputs, self.secrets, self.clock, self.problems, fetcher=fetcher
        )
        self.task = asyncio.create_task(self.keeper.run())

    def apply(self, url: str, generation: int = 1, **spec: Json) -> None:
        obj: JsonObject = {"metadata": {"generation": generation}, "spec": {"url": url, **spec}}
        self.keeper.plugin_changed(*KEY, obj)

    @property
    def known(self) -> str | None:
        return self.engine.inputs.wasm_modules.get(KEY)

    def problem(self) -> str:
        return str(self.problems.get(("WasmPlugin", *KEY), ""))

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not check():  # noqa: ASYNC110 (threads and sockets are waited for)
                await asyncio.sleep(0.005)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_modules_are_known_by_their_checksums(rig: Rig, server: Server) -> None:
    server.push("plugin:v1")
    for url in (f"oci://{server.address}/plugin:v1", f"http://{server.address}/plain.wasm"):
        rig.apply(url)
        await rig.until(lambda: rig.known == SHA)
        assert rig.engine.inputs.wasm_code.get(SHA) == MODULE
    rig.keeper.plugin_changed(*KEY, None)
    await rig.until(lambda: not rig.engine.inputs.wasm_modules and not rig.engine.inputs.wasm_code)


async def test_files_of_proxies_are_left_to_them(rig: Rig, server: Server) -> None:
    rig.keeper.plugin_changed("shop", "file", {"metadata": {}, "spec": {"url": "file:///a.wasm"}})
    rig.apply(f"http://{server.address}/plain.wasm")
    await rig.until(lambda: rig.known == SHA)
    assert set(rig.engine.inputs.wasm_modules) == {KEY}


async def test_a_module_that_cannot_be_had_says_why_and_is_tried_again(rig: Rig, server: Server) -> None:
    url = f"oci://{server.address}/plugin:v1"
    rig.apply(url)
    await rig.until(lambda: rig.known == "failed")
    assert "answered 404" in rig.problem()
    rig.problems.clear()  # the plugin was read anew
    rig.apply(url)
    assert "answered 404" in rig.problem()
    server.push("plugin:v1")
    await rig.clock.advance(5)
    await rig.until(lambda: rig.known == SHA)
    assert not rig.problems


async def test_another_digest_than_the_plugin_says_is_refused(rig: Rig, server: Server) -> None:
    digest = server.push("plugin:v1")
    url = f"oci://{server.address}/plugin:v1"
    rig.apply(url, sha256="0" * 64)
    await rig.until(lambda: rig.known == "failed")
    assert f"the image has the digest {digest}, not sha256:000" in rig.problem()
    rig.apply(url, sha256=digest.removeprefix("sha256:"))
    await rig.until(lambda: rig.known == SHA)


async def test_another_checksum_than_the_plugin_says_is_refused(rig: Rig, server: Server) -> None:
    url = f"http://{server.address}/plain.wasm"
    rig.apply(url, sha256="0" * 64)
    await rig.until(lambda: rig.known == "failed")
    assert f"what is there has the checksum {SHA}, not 000" in rig.problem()
    rig.apply(url, sha256=SHA)
    await rig.until(lambda: rig.known == SHA)


async def test_what_is_no_module_is_refused(rig: Rig, server: Server) -> None:
    url = f"http://{server.address}/text"
    rig.apply(url)
    await rig.until(lambda: rig.known == "failed")
    assert "no WebAssembly module" in rig.problem()


async def test_a_pull_secret_that_comes_later(rig: Rig, guarded_server: Server) -> None:
    guarded_server.push("plugin:v1")
    url = f"oci://{guarded_server.address}/plugin:v1"
    rig.apply(url, imagePullSecret="mine")
    await rig.until(lambda: rig.known == "failed")
    assert "there is no Secret shop/mine" in rig.problem()
    config = json.dumps({"auths": {guarded_server.address: {"username": "me", "password": "secret"}}}).encode()
    rig.secrets.found["mine"] = {"data": {".dockerconfigjson": base64.b64encode(config).decode()}}
    rig.keeper.secret_changed("shop", "mine", {})
    await rig.until(lambda: rig.known == SHA)


async def test_a_tag_is_asked_again_only_where_it_may_move(rig: Rig, server: Server) -> None:
    other = plugin.module(broken=True)
    for name, policy, moved in (("a:v1", "IfNotPresent", False), ("b:v1", "Always", True), ("c:latest", "", True)):
        server.push(name)
        url = f"oci://{server.address}/{name}"
        rig.apply(url, 1, imagePullPolicy=policy)
        await rig.until(lambda: rig.known == SHA)
        server.push(name, module=other)
        wanted = hashlib.sha256(other).hexdigest() if moved else SHA
        rig.apply(url, 2, imagePullPolicy=policy)
        await rig.until(lambda wanted=wanted: rig.known == wanted)


async def test_the_former_module_stays_when_its_registry_goes(rig: Rig, server: Server) -> None:
    server.push("plugin:v1")
    url = f"oci://{server.address}/plugin:v1"
    rig.apply(url, 1, imagePullPolicy="Always")
    await rig.until(lambda: rig.known == SHA)
    registry_of(server).store.manifests.clear()
    rig.apply(url, 2, imagePullPolicy="Always")
    await rig.until(rig.problem)
    assert rig.known == SHA and SHA in rig.engine.inputs.wasm_code


def registry_of(server: Server) -> type[registry.Handler]:
    found = server.server.RequestHandlerClass
    assert issubclass(found, registry.Handler) and issubclass(found, BaseHTTPRequestHandler)
    return found


async def test_a_traffic_extensions_problem_is_its_own(rig: Rig, server: Server) -> None:
    spec: JsonObject = {"wasm": {"url": f"oci://{server.address}/nothing:v1"}}
    rig.keeper.extension_changed("default", "extension", {"metadata": {"uid": "u", "generation": 2}, "spec": spec})
    await rig.until(lambda: rig.problems)
    ((key, why),) = rig.problems.items()
    assert key == ("TrafficExtension", "default", "extension")
    assert (why.uid, why.generation) == ("u", 2) and "answered 404" in why.reason
