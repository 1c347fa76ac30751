"""Where a proxy gets a plugin's module, and what stands in its place when it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files as files

from meltem.engine import Engine

SHA = "c0ffee" + "0" * 58
URL = "oci://registry.example.com/plugin:v1"
PROXY = files.sidecar("web-1", "foo", "10.0.0.1", {"app": "web"})
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
---
"""


def inbound(known: str, *, server: str = "", **spec: str) -> str:
    """The inbound listener, where istiod knows so much of the plugin's module."""
    engine = Engine()
    fields = "".join(f", {k}: {v}" for k, v in {"match": "[{mode: SERVER}]", **spec}.items())
    plugin = (
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n"
        f"metadata: {{name: plugin, namespace: foo}}\nspec: {{url: '{URL}'{fields}}}\n"
    )
    files.load(engine, SERVICE + plugin)
    with engine.graph.transaction():
        if known:
            engine.inputs.wasm_modules.set(("foo", "plugin"), known)
        if server:
            engine.inputs.wasm_server.set("", server)
    engine.connect(PROXY)
    return files.generated(engine, PROXY)["listeners"]["virtualInbound"].decode("latin-1")


def test_an_image_is_fetched_from_istiod_by_its_checksum() -> None:
    assert f"http://istiod.istio-system.svc:15014/wasm/{SHA}" in inbound(SHA)
    assert "extensions.istio.io/wasmplugin/foo.plugin" in inbound(SHA)  # EnvoyFilters of users match by that name
    canary = "http://istiod-canary.mesh.svc:15014"
    made = inbound(SHA, server=canary)
    assert f"{canary}/wasm/{SHA}" in made and "fetch|15014|http|istiod-canary.mesh.svc" in made


def test_it_is_in_force_when_istiod_has_it() -> None:
    assert "foo.plugin" not in inbound("")


@pytest.mark.parametrize(("kind", "closed"), [("HTTP", "http.fault"), ("NETWORK", "network.rbac")])
def test_what_cannot_be_had_is_gone_without_or_closes_the_way(kind: str, closed: str) -> None:
    refused = inbound("failed", type=kind)
    assert "foo.plugin" in refused and closed in refused and "filters.http.wasm" not in refused
    opened = inbound("failed", type=kind, failStrategy="FAIL_OPEN")
    assert "foo.plugin" not in opened and "/wasm/" not in opened
