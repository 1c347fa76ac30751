"""Wasm plugins from a registry on real proxies: what they add, and what becomes of traffic when they fail."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mesh_rig import SAMPLES, Mesh, eventually, namespace

SOURCE = SAMPLES / "wasm" / "src"
SERVER = {"selector": "{matchLabels: {app: httpbin}}", "match": "[{mode: SERVER}]"}
SAY = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as talk:
    talk.sendall(b"ahoy\\n")
    print(talk.recv(100).decode().strip())
"""
"""What a TCP server sends back; nothing where the connection was closed."""
HTTP = "http://httpbin:8000/status/200"


class Rig:
    """A namespace with callers, servers and a registry that holds a good plugin and a broken one."""

    def __init__(self, mesh: Mesh, where: str, place: Path) -> None:
        self.mesh, self.where, self.place = mesh, where, place
        self.registry = f"registry.{where}.svc.cluster.local:5000"

    def module(self, name: str, *flags: str) -> Path:
        path = self.place / f"{name}.wasm"
        subprocess.run([sys.executable, str(SOURCE / "plugin.py"), str(path), *flags], check=True)
        return path

    def push(
        self, module: Path, name: str, form: str = "artifact", *, registry: str = "registry", user: str = ""
    ) -> str:
        address = self.mesh.kubectl("get", "svc", registry, "-n", self.where, "-o", "jsonpath={.spec.clusterIP}")
        line = [sys.executable, str(SOURCE / "push.py"), str(module), f"http://{address}:5000", name, "--form", form]
        return self.mesh.script(*line, *(["--user", user] if user else [])).strip()

    def plugin(self, name: str, url: str, **more: str) -> None:
        fields = "".join(f"  {k}: {v}\n" for k, v in more.items())
        self.mesh.create(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n"
            f"metadata: {{name: {name}}}\nspec:\n  url: {url}\n{fields}",
            self.where,
        )

    def remove(self, name: str) -> None:
        self.mesh.kubectl("delete", "wasmplugin", name, "-n", self.where)

    def call(self) -> tuple[int, str]:
        """Status and headers of an answer of httpbin, called from a pod."""
        text = self.mesh.execute(
            "deploy/curl", "curl", "-si", "-m", "10", HTTP, namespace=self.where, container="curl"
        )  # fmt: skip
        return int(text.split()[1]), text

    def answers(self, code: int, header: str = "") -> None:
        status, text = self.call()
        assert status == code, text
        assert (header in text) if header else ("x-wasm" not in text), text

    def headers(self) -> list[str]:
        """The values of the header that plugins add, in order."""
        return [line.partition(": ")[2] for line in self.call()[1].splitlines() if line.startswith("x-wasm: ")]

    def says(self, name: str, reason: str) -> None:
        """The plugin's status says why it is not in force."""
        condition = self.status(name)
        assert condition.get("status") == "False" and reason in condition.get("message", ""), condition

    def line(self, port: int) -> str:
        """What tcp-echo sends back; empty where the connection was closed."""
        return self.mesh.python(
            "deploy/curl", SAY, "tcp-echo", str(port), namespace=self.where, container="curl"
        ).strip()

    def counted(self, name: str) -> int:
        """A counter of the proxy of httpbin."""
        path = f"stats?filter=^{name}$"
        said = self.mesh.execute(
            "deploy/httpbin", "pilot-agent", "request", "GET", path, namespace=self.where, container="istio-proxy"
        )
        return int(said.rpartition(": ")[2])

    def status(self, name: str) -> Any:
        found = self.mesh.json("get", "wasmplugin", name, "-n", self.where)
        return found.get("status", {}).get("conditions", [{}])[0]


@pytest.fixture
def rig(deployed: Rig) -> Iterator[Rig]:
    """What a test that failed has left behind fails no other."""
    yield deployed
    deployed.mesh.kubectl("delete", "wasmplugins", "--all", "-n", deployed.where)


@pytest.fixture(scope="module")
def deployed(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with namespace(mesh, "t-wasm", "istio-injection=enabled") as where:
        made = Rig(mesh, where, tmp_path_factory.mktemp("wasm"))
        modules = {"good.wasm": base64.b64encode(made.module("good").read_bytes()).decode()}
        mesh.create(
            json.dumps(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "modules"}, "binaryData": modules}
            ),
            where,
        )
        mesh.apply("wasm/registry.yaml", "curl/curl.yaml", "tcp-echo/tcp-echo.yaml", namespace=where)
        mesh.create(with_modules((SAMPLES / "httpbin/httpbin.yaml").read_text()), where)
        mesh.create(with_password((SAMPLES / "wasm/registry.yaml").read_text()), where)
        mesh.rolled_out("registry", "guarded", "httpbin", "curl", "tcp-echo", namespace=where)
        yield made


def with_modules(text: str) -> str:
    """httpbin, in whose proxy the config map `modules` is mounted, as Istio's users do it."""
    volume = json.dumps({"modules": {"configMap": {"name": "modules"}}})
    mount = json.dumps({"modules": {"mountPath": "/var/local/modules"}})
    documents = list(yaml.safe_load_all(text))
    template = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["metadata"]
    template["annotations"] = {"sidecar.istio.io/userVolume": volume, "sidecar.istio.io/userVolumeMount": mount}
    return yaml.safe_dump_all(documents)


def with_password(text: str) -> str:
    """The registry, under the name `guarded`, for those who know a password."""
    documents = list(yaml.safe_load_all(text.replace("registry\n", "guarded\n")))
    container = documents[1]["spec"]["template"]["spec"]["containers"][0]
    container |= {"args": ["me:secret"], "readinessProbe": {"tcpSocket": {"port": 5000}, "periodSeconds": 1}}
    return yaml.safe_dump_all(documents)


@pytest.mark.both_homes
@pytest.mark.parametrize("form", ["artifact", "oci", "docker"])
def test_a_plugin_of_an_image_changes_real_answers(rig: Rig, form: str) -> None:
    digest = rig.push(rig.module("good"), f"header:{form}", form)
    rig.plugin(
        "header", f"oci://{rig.registry}/header:{form}", selector="{matchLabels: {app: httpbin}}",
        match="[{mode: SERVER}]", pluginConfig=f"{{form: {form}}}", sha256=digest.removeprefix("sha256:"),
    )  # fmt: skip
    eventually(lambda: rig.answers(200, f'x-wasm: {{"form":"{form}"}}'))
    rig.remove("header")
    eventually(lambda: rig.answers(200))


def test_a_module_that_cannot_be_had(rig: Rig) -> None:
    eventually(lambda: rig.answers(200))
    url = f"oci://{rig.registry}/missing:v1"
    common = {"selector": "{matchLabels: {app: httpbin}}"}
    rig.plugin("missing", url, **common)
    eventually(lambda: rig.answers(503))
    eventually(lambda: rig.says("missing", "answered 404"))
    rig.plugin("missing", url, failStrategy="FAIL_OPEN", **common)
    eventually(lambda: rig.answers(200))
    rig.push(rig.module("good"), "missing:v1", "artifact")  # it is tried again by itself
    eventually(lambda: rig.answers(200, "x-wasm"))
    rig.remove("missing")


def test_a_module_that_breaks_at_every_request(rig: Rig) -> None:
    eventually(lambda: rig.answers(200))
    rig.push(rig.module("broken", "--broken"), "broken:v1", "artifact")
    url = f"oci://{rig.registry}/broken:v1"
    common = {"selector": "{matchLabels: {app: httpbin}}", "match": "[{mode: SERVER}]"}
    rig.plugin("broken", url, **common)

    def fails() -> None:
        assert rig.call()[0] >= 500

    eventually(fails)
    rig.plugin("broken", url, failStrategy="FAIL_OPEN", **common)
    eventually(lambda: rig.answers(200))
    rig.remove("broken")


def test_a_change_of_configuration_is_hot(rig: Rig) -> None:
    """Listeners stay as they are, and so do the connections to them."""
    rig.push(rig.module("good"), "hot:v1")
    url = f"oci://{rig.registry}/hot:v1"
    rig.plugin("hot", url, pluginConfig="{team: a}", **SERVER)
    eventually(lambda: rig.answers(200, 'x-wasm: {"team":"a"}'))
    names = [f"listener_manager.listener_{what}" for what in ("modified", "in_place_updated", "added", "removed")]
    before = [rig.counted(name) for name in names]
    rig.plugin("hot", url, pluginConfig="{team: b}", **SERVER)
    eventually(lambda: rig.answers(200, 'x-wasm: {"team":"b"}'))
    rig.push(rig.module("env", "--env"), "hot:v2")
    rig.plugin("hot", f"oci://{rig.registry}/hot:v2", vmConfig="{env: [{name: TEAM, value: blue}]}", **SERVER)
    eventually(lambda: rig.answers(200, "x-wasm: TEAM=blue"))
    assert [rig.counted(name) for name in names] == before
    rig.plugin(
        "hot", f"oci://{rig.registry}/hot:v2", vmConfig="{env: [{name: POD_NAMESPACE, valueFrom: HOST}]}", **SERVER
    )
    eventually(lambda: rig.answers(200, f"x-wasm: POD_NAMESPACE={rig.where}"))
    rig.remove("hot")
    eventually(lambda: rig.answers(200))


def test_plugins_stand_in_the_order_of_phase_and_priority(rig: Rig) -> None:
    """On the way back the last one comes first. (Other environments are other virtual machines, so that each keeps
    its own word.)"""
    rig.push(rig.module("env", "--env"), "order:v1")
    places = {
        "none": {},
        "low": {"phase": "AUTHZ", "priority": "1"},
        "high": {"phase": "AUTHZ", "priority": "9"},
        "first": {"phase": "AUTHN"},
    }
    for name, place in places.items():
        env = f"{{env: [{{name: WHO, value: {name}}}]}}"
        rig.plugin(name, f"oci://{rig.registry}/order:v1", vmConfig=env, **SERVER, **place)
    wanted = [f"WHO={name}" for name in places]

    def ordered() -> None:
        assert rig.headers() == wanted

    eventually(ordered)
    for name in places:
        rig.remove(name)
    eventually(lambda: rig.answers(200))


def test_a_plugin_of_clients_and_of_some_ports(rig: Rig) -> None:
    rig.push(rig.module("good"), "client:v1")
    url = f"oci://{rig.registry}/client:v1"
    for selected, match, there in (
        ("curl", "[{mode: CLIENT, ports: [{number: 8000}]}]", True),
        ("curl", "[{mode: CLIENT, ports: [{number: 8001}]}]", False),
        ("curl", "[{mode: SERVER}]", False),
        ("httpbin", "[{mode: SERVER, ports: [{number: 8080}]}]", True),
        ("httpbin", "[{mode: CLIENT}]", False),
    ):
        rig.plugin("some", url, selector=f"{{matchLabels: {{app: {selected}}}}}", match=match)
        eventually(lambda there=there: rig.answers(200, "x-wasm" if there else ""))
    rig.remove("some")


def test_a_plugin_of_connections(rig: Rig) -> None:
    rig.push(rig.module("broken", "--broken"), "network:v1")
    url = f"oci://{rig.registry}/network:v1"
    common = {
        "type": "NETWORK",
        "selector": "{matchLabels: {app: tcp-echo}}",
        "match": "[{mode: SERVER, ports: [{number: 9000}]}]",
    }

    def lines(*wanted: str) -> None:
        assert [rig.line(port) for port in (9000, 9001)] == list(wanted)

    eventually(lambda: lines("hello ahoy", "hello ahoy"))
    rig.plugin("connections", url, **common)
    eventually(lambda: lines("", "hello ahoy"))
    rig.plugin("connections", url, failStrategy="FAIL_OPEN", **common)
    eventually(lambda: lines("hello ahoy", "hello ahoy"))
    rig.plugin("connections", f"oci://{rig.registry}/nowhere:v1", **common)
    eventually(lambda: lines("", "hello ahoy"))
    rig.remove("connections")
    eventually(lambda: lines("hello ahoy", "hello ahoy"))


def test_a_file_of_the_proxy_s_own(rig: Rig) -> None:
    rig.plugin("file", "file:///var/local/modules/good.wasm", pluginConfig="{from: file}", **SERVER)
    eventually(lambda: rig.answers(200, 'x-wasm: {"from":"file"}'))
    rig.remove("file")
    eventually(lambda: rig.answers(200))
    missing = "file:///var/local/modules/missing.wasm"
    rig.plugin("missing-file", missing, **SERVER)
    eventually(lambda: rig.answers(500))
    eventually(lambda: rig.says("missing-file", "refuses extensions.istio.io/wasmplugin"))
    rig.remove("missing-file")
    eventually(lambda: rig.answers(200))
    rig.plugin("missing-open", missing, failStrategy="FAIL_OPEN", **SERVER)
    eventually(lambda: rig.says("missing-open", "refuses extensions.istio.io/wasmplugin"))
    eventually(lambda: rig.answers(200))
    rig.remove("missing-open")


def test_a_module_of_a_web_server(rig: Rig) -> None:
    """Plain HTTP is taken, as by Istio; a checksum that is not the module's is refused and told."""
    module = rig.module("good")
    digest = subprocess.run(["sha256sum", str(module)], check=True, capture_output=True, text=True).stdout.split()[0]
    rig.push(module, "web:v1")
    url = f"http://{rig.registry}/v2/web/blobs/sha256:{digest}"
    rig.plugin("web", url, sha256=f"'{'0' * 64}'", **SERVER)
    eventually(lambda: rig.says("web", f"has the checksum {digest}, not 0000"))
    eventually(lambda: rig.answers(503))
    rig.plugin("web", url, sha256=f"'{digest}'", **SERVER)
    eventually(lambda: rig.answers(200, "x-wasm"))
    rig.remove("web")
    eventually(lambda: rig.answers(200))


def test_a_registry_that_wants_a_password(rig: Rig) -> None:
    rig.push(rig.module("good"), "guarded:v1", registry="guarded", user="me:secret")
    host = rig.registry.replace("registry.", "guarded.", 1)
    rig.plugin("guarded", f"oci://{host}/guarded:v1", imagePullSecret="pull", **SERVER)
    eventually(lambda: rig.says("guarded", f"there is no Secret {rig.where}/pull"))
    rig.mesh.kubectl(
        "create", "secret", "docker-registry", "pull", "-n", rig.where,
        f"--docker-server={host}", "--docker-username=me", "--docker-password=secret",
    )  # fmt: skip
    eventually(lambda: rig.answers(200, "x-wasm"))
    rig.remove("guarded")
