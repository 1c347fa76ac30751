"""Wasm plugins from a registry on real proxies: what they add, and what becomes of traffic when they fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import SAMPLES, Mesh, eventually, namespace

SOURCE = SAMPLES / "wasm" / "src"
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

    def push(self, module: Path, name: str, form: str) -> str:
        address = self.mesh.kubectl("get", "svc", "registry", "-n", self.where, "-o", "jsonpath={.spec.clusterIP}")
        line = [sys.executable, str(SOURCE / "push.py"), str(module), f"http://{address}:5000", name, "--form", form]
        return self.mesh.script(*line).strip()

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

    def status(self, name: str) -> Any:
        found = self.mesh.json("get", "wasmplugin", name, "-n", self.where)
        return found.get("status", {}).get("conditions", [{}])[0]


@pytest.fixture(scope="module")
def rig(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with namespace(mesh, "t-wasm", "istio-injection=enabled") as where:
        mesh.apply("wasm/registry.yaml", "httpbin/httpbin.yaml", "curl/curl.yaml", namespace=where)
        mesh.rolled_out("registry", "httpbin", "curl", namespace=where)
        yield Rig(mesh, where, tmp_path_factory.mktemp("wasm"))


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

    def says_why() -> None:
        condition = rig.status("missing")
        assert condition.get("status") == "False" and "answered 404" in condition.get("message", ""), condition

    eventually(says_why)
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
