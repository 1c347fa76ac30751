"""EnvoyFilters tried on the real Envoy before any proxy has them: what is refused is left out, and only that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import mesh_files
import pytest

from meltem import envoyapi as api
from meltem.controlplane.guard import Guard
from meltem.engine import Engine
from meltem.view.proxy import Proxy

pytestmark = pytest.mark.envoy
PROXY = mesh_files.sidecar("web-1", "default", "10.0.0.1", {"app": "web"})
OTHER = mesh_files.sidecar("shop-1", "shop", "10.0.0.2", {"app": "shop"})
MESH = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
"""
LUA = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: NAME, namespace: default}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: ANY, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: NAME
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code: {inline_string: "SCRIPT"}
"""
GOOD, BAD = "function envoy_on_request(h) end", "function oops("


def lua(name: str, script: str) -> str:
    return LUA.replace("NAME", name).replace("SCRIPT", script)


def filters_of(engine: Engine, proxy: Proxy) -> str:
    """Every listener of the proxy as text."""
    attachment = engine.bundles.attach(proxy.id, lambda _notice: None)
    found = b"".join(r.body for r in attachment.all(api.LISTENER))
    attachment.close()
    return found.decode(errors="replace")


@contextlib.asynccontextmanager
async def guarded(text: str) -> AsyncIterator[tuple[Engine, Guard]]:
    engine = Engine()
    guard = Guard(engine)
    guard.start()
    mesh_files.load(engine, text)
    task = asyncio.create_task(guard.run())
    engine.connect(PROXY)
    engine.connect(OTHER)
    try:
        await settled(engine, guard)
        yield engine, guard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled(engine: Engine, guard: Guard) -> None:
    """Until everything for the proxy was tried, however busy the machine is."""
    while engine.on_trial(PROXY.id):
        await guard.settled(PROXY.id)


def said(engine: Engine) -> dict[str, str]:
    """EnvoyFilter → why it is left out."""
    return {owner[1]: one.error for (_, owner), one in engine.resources.patched.refused.items()}


async def test_a_bad_filter_is_left_out_and_the_good_one_stays() -> None:
    async with guarded(MESH + "---" + lua("good", GOOD) + "---" + lua("oops", BAD)) as (engine, _):
        found = filters_of(engine, PROXY)
        assert "envoy_on_request" in found
        assert BAD not in found
        assert set(said(engine)) == {"oops"}
        assert said(engine)["oops"].startswith("spec.configPatches[0]: script load error")
        assert not list(engine.graph.failures)


async def test_a_filter_that_is_mended_is_applied_and_one_that_breaks_is_taken_out() -> None:
    async with guarded(MESH + "---" + lua("script", BAD)) as (engine, guard):
        assert "envoy_on_request" not in filters_of(engine, PROXY)
        mesh_files.load(engine, lua("script", GOOD))
        await settled(engine, guard)
        assert "envoy_on_request" in filters_of(engine, PROXY)
        assert said(engine) == {}
        mesh_files.load(engine, lua("script", BAD))
        assert BAD not in filters_of(engine, PROXY), "nothing is sent untried"
        assert "envoy_on_request" in filters_of(engine, PROXY), "meanwhile the former stands"
        await settled(engine, guard)
        assert BAD not in filters_of(engine, PROXY)
        assert set(said(engine)) == {"script"}


async def test_other_namespaces_never_wait() -> None:
    async with guarded(MESH) as (engine, _):
        before = filters_of(engine, OTHER)
        mesh_files.load(engine, lua("script", BAD))
        assert engine.on_trial(PROXY.id)
        assert not engine.on_trial(OTHER.id)
        assert filters_of(engine, OTHER) == before


async def test_filters_that_stand_go_on_to_stand_while_another_comes_or_goes() -> None:
    async with guarded(MESH + "---" + lua("good", GOOD)) as (engine, guard):
        mesh_files.load(engine, lua("second", "function envoy_on_response(h) end"))
        found = filters_of(engine, PROXY)
        assert "envoy_on_request" in found and "envoy_on_response" not in found
        await settled(engine, guard)
        assert "envoy_on_response" in filters_of(engine, PROXY)
        with engine.graph.transaction():
            engine.inputs.envoy_filters.delete((mesh_files.CLUSTER, "default", "second"))
        found = filters_of(engine, PROXY)
        assert "envoy_on_request" in found and "envoy_on_response" not in found


CASES = {
    "a listener without an address that is one": """
  - applyTo: LISTENER
    match: {context: SIDECAR_INBOUND}
    patch:
      operation: ADD
      value: {name: extra, address: {socket_address: {address: "1.2.3.400", port_value: 99}}}
""",
    "a regular expression that is none": """
  - applyTo: VIRTUAL_HOST
    match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: "web.default.svc.cluster.local:80"}}}
    patch:
      operation: MERGE
      value:
        virtual_clusters: [{name: x, headers: [{name: ":path", string_match: {safe_regex: {regex: "(("}}}]}]
""",
    "a filter that Envoy does not have": """
  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.tcp_proxy}}}}
    patch:
      operation: INSERT_BEFORE
      value: {name: nobody.knows.it, typed_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: x}}
""",
    "a cluster with settings that exclude each other": """
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: web.default.svc.cluster.local, portNumber: 80}}
    patch:
      operation: MERGE
      value: {type: ORIGINAL_DST, lb_policy: RING_HASH}
""",
    "a limit that is too small": """
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: web.default.svc.cluster.local, portNumber: 80}}
    patch: {operation: MERGE, value: {connect_timeout: -1s}}
""",
}


@pytest.mark.parametrize("case", CASES)
async def test_each_kind_of_thing_that_envoy_refuses(case: str) -> None:
    text = lua("NAME", GOOD).partition("  configPatches:")[0].replace("NAME", "bad") + "  configPatches:" + CASES[case]
    async with guarded(MESH) as (engine, guard):
        before = mesh_files.generated(engine, PROXY)
        mesh_files.load(engine, text)
        await settled(engine, guard)
        assert set(said(engine)) == {"bad"}
        assert mesh_files.generated(engine, PROXY) == before
