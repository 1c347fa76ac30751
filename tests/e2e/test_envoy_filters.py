"""EnvoyFilters reach no proxy that they would break: tried on Envoy before, left out, told; mended, applied.

Tests under load come before those that change listeners: Envoy ends the connections of a listener that was replaced 45
seconds later, and a request that begins at that moment is lost, with or without us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from mesh_rig import Mesh, eventually

pytestmark = pytest.mark.both_homes
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: tried, namespace: default}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
"""
GOOD = """
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: tried
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: 'function envoy_on_response(h) h:headers():add("x-tried", "WORD") end'
"""
BAD = {
    "a script that cannot be read": (GOOD.replace("function envoy_on_response(h)", "function (("), "script load error"),
    "a regular expression that is none": (
        """
  - applyTo: VIRTUAL_HOST
    match: {context: SIDECAR_INBOUND}
    patch:
      operation: MERGE
      value:
        virtual_clusters: [{name: x, headers: [{name: ":path", string_match: {safe_regex: {regex: "(("}}}]}]
""",
        "missing ):",
    ),
    "a filter with the configuration of another": (
        """
  - applyTo: NETWORK_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value: {name: x, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
""",
        "Didn't find a registered implementation",
    ),
    "a listener at no address": (
        """
  - applyTo: LISTENER
    match: {context: SIDECAR_OUTBOUND}
    patch:
      operation: ADD
      value:
        name: nowhere
        address: {socket_address: {address: 1.2.3.400, port_value: 9999}}
""",
        "malformed IP address",
    ),
}  # fmt: skip


def _condition(mesh: Mesh, generation: int) -> dict[str, str]:
    def found() -> dict[str, str]:
        one = mesh.json("get", "envoyfilter", "tried")
        conditions = {c["type"]: c for c in one.get("status", {}).get("conditions", [])}
        assert "Reconciled" in conditions, one
        assert conditions["Reconciled"]["observedGeneration"] == generation, one
        assert conditions["Reconciled"]["reason"] != "Distributing", one
        return conditions["Reconciled"]

    return eventually(found)


def _generation(mesh: Mesh) -> int:
    return int(mesh.json("get", "envoyfilter", "tried")["metadata"]["generation"])


@contextmanager
def _deleted(mesh: Mesh) -> Iterator[None]:
    try:
        yield
    finally:
        mesh.kubectl("delete", "envoyfilter", "tried", "--ignore-not-found")


def _answers_with(mesh: Mesh, word: str) -> None:
    answer = mesh.execute(
        "deploy/ratings-v1", "curl", "-si", "http://productpage:9080/health", container="ratings"
    )  # fmt: skip
    assert ("x-tried: " + word if word else "200 OK") in answer
    assert word or "x-tried" not in answer


def test_what_a_proxy_refuses_though_it_was_tried_is_left_out_too(mesh: Mesh) -> None:
    """A second listener at the address of one that is there: alone it is well."""
    taken = """
  - applyTo: LISTENER
    match: {context: SIDECAR_OUTBOUND}
    patch:
      operation: ADD
      value:
        name: taken
        address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
        filter_chains:
        - filters:
          - name: envoy.filters.network.echo
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
"""
    with _deleted(mesh), mesh.load() as load:
        mesh.create(FILTER + taken)

        def told() -> None:
            condition = _condition(mesh, _generation(mesh))
            assert condition["reason"] == "RefusedByEnvoy", condition
            assert "refuses it" in condition["message"] and "duplicate address" in condition["message"]

        eventually(told)
        load.wait_for(30)
        status = mesh.istioctl("proxy-status")
        assert "ERROR" not in status, status
    assert not load.failures, load.failures[:5]


def _left_out(mesh: Mesh, *words: str) -> None:
    """The status of the filter as it is now says that it is not in force, in these words."""
    condition = _condition(mesh, _generation(mesh))
    assert condition["reason"] in ("RefusedByEnvoy", "Invalid") and condition["status"] == "False", condition
    assert all(word in condition["message"] for word in words), condition


def _up_to_date(mesh: Mesh) -> None:
    assert re.fullmatch(r"(\d)/\1 proxies up to date\.", _condition(mesh, _generation(mesh))["message"])


def test_what_envoy_refuses_is_left_out_and_told_and_no_request_is_lost(mesh: Mesh) -> None:
    with _deleted(mesh), mesh.load() as load:
        for patches, words in BAD.values():
            mesh.create(FILTER + patches)
            eventually(partial(_left_out, mesh, "spec.configPatches[0]", words))
            load.wait_for(20)
        # Pods that start while a bad one is there become ready.
        mesh.kubectl("rollout", "restart", "deploy/productpage-v1")
        mesh.rolled_out("productpage-v1")
        status = mesh.istioctl("proxy-status")
        assert "EnvoyFilter default/tried is left out for" in status
        analysis = mesh.run(["istioctl", "analyze"]).stdout
        assert "IST0171" in analysis and "malformed IP address" in analysis
        load.wait_for(50)
        mesh.create(FILTER + GOOD.replace("WORD", "one"))
        mesh.istioctl("x", "wait", "--for=distribution", "envoyfilter", "tried.default")
        mesh.kubectl("wait", "--for=condition=Reconciled", "envoyfilter/tried", "--timeout=120s")
        # The pod before the restart may still be there, and counts as long.
        eventually(lambda: _up_to_date(mesh))
        eventually(lambda: _answers_with(mesh, "one"))
        load.wait_for(50)
    assert not load.failures, load.failures[:5]
    eventually(lambda: _answers_with(mesh, ""))


def test_a_value_that_is_no_message_of_envoys_is_refused_by_its_field(mesh: Mesh) -> None:
    value = "{applyTo: CLUSTER, patch: {operation: MERGE, value: {circuit_breakers: {thresholds: [{priority: BEST}]}}}}"
    done = mesh.run(["kubectl", "apply", "-f", "-"], stdin=f"{FILTER}  - {value}")
    assert done.returncode != 0
    assert "spec.configPatches[0].patch.value: circuit_breakers.thresholds[0].priority: 'BEST' is none" in done.stderr
    value = "{applyTo: CLUSTER, patch: {operation: MERGE, value: {of_a_newer_envoy: 1}}}"
    with _deleted(mesh):
        done = mesh.run(["kubectl", "apply", "-f", "-"], stdin=f"{FILTER}  - {value}")
        assert done.returncode == 0
        assert "of_a_newer_envoy is no field that Envoy is known to have" in done.stderr


def test_one_bad_filter_costs_no_other_filter(mesh: Mesh) -> None:
    other = FILTER.replace("name: tried", "name: other") + BAD["a script that cannot be read"][0]
    with _deleted(mesh):
        mesh.create(FILTER + GOOD.replace("WORD", "two"))
        mesh.create(other)
        try:
            eventually(lambda: _answers_with(mesh, "two"))
            mesh.kubectl("wait", "--for=condition=Reconciled", "envoyfilter/tried", "--timeout=120s")
            refused = mesh.run(
                ["kubectl", "wait", "--for=condition=Reconciled=false", "envoyfilter/other", "--timeout=120s"]
            )
            assert refused.returncode == 0, refused.stderr
        finally:
            mesh.kubectl("delete", "envoyfilter", "other")


EXTENSION = """
  - applyTo: EXTENSION_CONFIG
    match: {context: SIDECAR_INBOUND}
    patch:
      operation: ADD
      value:
        name: tried-extension
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: 'function envoy_on_response(h) h:headers():add("x-tried", "WORD") end'
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: tried-extension
        config_discovery:
          config_source: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
          type_urls: [type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua]
"""


def test_a_filter_s_configuration_by_itself_changes_no_listener(mesh: Mesh) -> None:
    """`applyTo: EXTENSION_CONFIG`, and a filter that asks for it."""

    def changed() -> list[int]:
        names = ("listener_modified", "listener_in_place_updated", "listener_added")
        path = f"stats?filter=^listener_manager.({'|'.join(names)})$"
        said = mesh.execute("deploy/productpage-v1", "pilot-agent", "request", "GET", path, container="istio-proxy")
        return [int(line.rpartition(": ")[2]) for line in said.splitlines() if ": " in line]

    with _deleted(mesh):
        mesh.create(FILTER + EXTENSION.replace("WORD", "three"))
        eventually(lambda: _answers_with(mesh, "three"))
        before = changed()
        assert len(before) == 3
        mesh.create(FILTER + EXTENSION.replace("WORD", "four"))
        eventually(lambda: _answers_with(mesh, "four"))
        assert changed() == before
        refused = EXTENSION.replace("function envoy_on_response(h)", "function ((")
        mesh.create(FILTER + refused)
        eventually(lambda: _left_out(mesh, "script load error", "stays in force"))
        eventually(lambda: _answers_with(mesh, "four"))  # but for connections from before this test, which end later
    eventually(lambda: _answers_with(mesh, ""))
