"""EnvoyFilters of files are tried on the real Envoy before anything has them."""

from __future__ import annotations

import pytest

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
