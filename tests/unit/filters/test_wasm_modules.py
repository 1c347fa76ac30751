"""How a plugin's module comes to a proxy, and what stands in its place when it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files as files

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.graph.inputs import FAILED

SHA = "c0ffee" + "0" * 58
CODE = b"\0asm\1\0\0\0" + b"\0\5\4name"
URL = "oci://registry.example.com/plugin:v1"
NAME = "extensions.istio.io/wasmplugin/foo.plugin"  # EnvoyFilters of users match by that name
PROXY = files.sidecar("web-1", "foo", "10.0.0.1", {"app": "web"})
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
---
"""


def plugin(**spec: str) -> str:
    fields = "".join(f", {k}: {v}" for k, v in {"url": f"'{URL}'", "match": "[{mode: SERVER}]", **spec}.items())
    return (
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n"
        f"metadata: {{name: plugin, namespace: foo}}\nspec: {{{fields[2:]}}}\n"
    )


def mesh(known: str, **spec: str) -> Engine:
    """Where istiod knows so much of the plugin's module."""
    engine = Engine()
    files.load(engine, SERVICE + plugin(**spec))
    if known:
        files.known_module(engine, ("foo", "plugin"), known, CODE)
    engine.connect(PROXY)
    return engine


def inbound(engine: Engine) -> bytes:
    return files.generated(engine, PROXY)["listeners"]["virtualInbound"]


def configuration(engine: Engine) -> api.message.Message:
    """What the plugin's filter is configured with."""
    found = files.generated(engine, PROXY)["extensions"][NAME]
    return api.unpack(api.extension.TypedExtensionConfig.FromString(found).typed_config)


def test_the_code_comes_with_the_configuration() -> None:
    made = configuration(mesh(SHA))
    assert isinstance(made, api.http_wasm.Wasm)
    assert made.config.vm_config.code.local.inline_bytes == CODE
    assert NAME.encode() in inbound(mesh(SHA))


def test_a_file_is_read_by_envoy() -> None:
    made = configuration(mesh("", url="file:///opt/plugin.wasm"))
    assert isinstance(made, api.http_wasm.Wasm)
    assert made.config.vm_config.code.local.filename == "/opt/plugin.wasm"


def test_it_is_in_force_when_istiod_has_it() -> None:
    assert NAME.encode() not in inbound(mesh(""))


def test_a_network_plugin_stands_before_http_too() -> None:
    made = api.listener.Listener.FromString(inbound(mesh(SHA, type="NETWORK")))
    chains = [[f.name for f in c.filters] for c in made.filter_chains if c.name in ("0.0.0.0_80", "0.0.0.0_90")]
    assert {first for first, *_ in chains} == {NAME}
    last = {names[-1] for names in chains}
    assert last == {"envoy.filters.network.http_connection_manager", "envoy.filters.network.tcp_proxy"}


def test_a_change_of_a_plugin_leaves_listeners_alone() -> None:
    engine = mesh(SHA, pluginConfig="{a: 1}")
    before = inbound(engine), configuration(engine)
    files.load(engine, plugin(pluginConfig="{a: 2}"))
    changed = inbound(engine), configuration(engine)
    assert before[0] == changed[0] and before[1] != changed[1]
    files.known_module(engine, ("foo", "plugin"), "f" * 64, CODE + b"\0\2\1x")
    assert inbound(engine) == before[0] and configuration(engine) != changed[1]
    files.known_module(engine, ("foo", "plugin"), FAILED)
    assert inbound(engine) == before[0] and isinstance(configuration(engine), api.fault.HTTPFault)


@pytest.mark.parametrize(
    ("kind", "closed"), [("HTTP", api.fault.HTTPFault), ("NETWORK", api.network_rbac.RBAC)]
)  # fmt: skip
def test_what_cannot_be_had_is_gone_without_or_closes_the_way(kind: str, closed: type[api.message.Message]) -> None:
    refused = configuration(mesh(FAILED, type=kind))
    assert isinstance(refused, closed) and refused.ListFields()
    opened = configuration(mesh(FAILED, type=kind, failStrategy="FAIL_OPEN"))
    assert isinstance(opened, api.network_rbac.RBAC | api.http_rbac.RBAC) and not opened.HasField("rules")
