"""EnvoyFilters of files are tried on the real Envoy before anything has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meltem.cli import main
from meltem.simulate.envoy_filters import refused
from meltem.simulate.origin import read_text

pytestmark = pytest.mark.envoy
FILTER = """apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: script}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_OUTBOUND}
    patch:
      operation: INSERT_FIRST
      value:
        name: envoy.filters.http.lua
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code: {inline_string: "SCRIPT"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
"""


@pytest.mark.parametrize(("script", "said"), [("function envoy_on_request(h) end", ""), ("function oops(", "oops")])
async def test_what_envoy_refuses_is_told_in_its_words(script: str, said: str) -> None:
    placed = read_text(FILTER.replace("SCRIPT", script), "filter.yaml", "default")
    found = await refused(placed[0], placed)
    assert said in found
    assert bool(found) == bool(said)


@pytest.mark.parametrize(("script", "code"), [("function envoy_on_request(h) end", 0), ("function oops(", 79)])
def test_analyze_tries_envoy_filters_of_files(
    script: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "filter.yaml"
    file.write_text(FILTER.replace("SCRIPT", script))
    assert main.run(["analyze", "--use-kube=false", str(file)]) == code
    said = capsys.readouterr().out
    assert ("Error [IST0106] (EnvoyFilter default/script" in said and "oops" in said) == bool(code)


async def test_files_that_only_a_proxy_has_are_no_fault() -> None:
    value = '{inline_string: "SCRIPT"}'
    placed = read_text(FILTER.replace(value, "{filename: /etc/only/on/the/proxy.lua}"), "filter.yaml", "default")
    assert await refused(placed[0], placed) == ""
