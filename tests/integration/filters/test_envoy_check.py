"""Whether Envoy would take what a proxy is sent: asked of the real program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files

from meltem.engine import Engine
from meltem.validate import envoy_check

pytestmark = pytest.mark.envoy

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: lua, namespace: foo}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND}
    patch:
      operation: INSERT_FIRST
      value:
        name: lua
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code: {inline_string: "%s"}
"""


async def checked(*texts: str) -> str:
    engine = Engine()
    for text in texts:
        mesh_files.load(engine, text)
    proxy = mesh_files.sidecar("web-1", "foo", "10.0.0.1", {"app": "web"})
    engine.connect(proxy)
    attachment = engine.bundles.attach(proxy.id, lambda _notice: None)
    resources = [r for url in mesh_files.TYPES.values() for r in attachment.all(url)]
    return await envoy_check.check(resources)


async def test_what_is_generated_is_taken() -> None:
    assert await checked(SERVICE) == ""


async def test_a_patch_that_can_be_read_and_yet_breaks_envoy_is_found_before_it_is_pushed() -> None:
    assert await checked(SERVICE, FILTER % "function envoy_on_request(h) end") == ""
    said = await checked(SERVICE, FILTER % "function envoy_on_request(h")
    assert "script load error" in said
    assert "\n" not in said
    assert "/tmp" not in said
