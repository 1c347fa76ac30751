"""Policies in the incremental engine: whom they are for, and that others are left alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files as files
import pytest

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.generate.bundle import Notice
from meltem.graph.inputs import Trial
from meltem.view.proxy import Proxy

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: foo}
spec: {clusterIP: 10.96.0.8, selector: {app: db}, ports: [{name: tcp, port: 90, targetPort: 9090}]}
"""
WEB = files.sidecar("web-1", "foo", "10.0.0.1", {"app": "web"})
DB = files.sidecar("db-1", "foo", "10.0.0.2", {"app": "db"})
FAR = files.sidecar("far-1", "bar", "10.0.0.3", {"app": "web"})


def policy(kind: str, group: str, name: str, namespace: str, spec: str) -> str:
    return f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def authorization(name: str, namespace: str, spec: str) -> str:
    return policy("AuthorizationPolicy", "security.istio.io/v1", name, namespace, spec)


def envoy_filter(name: str, namespace: str, spec: str) -> str:
    return policy("EnvoyFilter", "networking.istio.io/v1alpha3", name, namespace, spec)


def started(*proxies: Proxy) -> tuple[Engine, dict[str, list[Notice]]]:
    engine = Engine()
    files.load(engine, SERVICES)
    told: dict[str, list[Notice]] = {}
    for proxy in proxies:
        engine.connect(proxy)
        told[proxy.name] = []
        engine.bundles.attach(proxy.id, told[proxy.name].append)
    return engine, told


def listener(engine: Engine, proxy: Proxy, name: str) -> bytes:
    return files.generated(engine, proxy)["listeners"][name]


def test_a_policy_with_a_selector_reaches_only_whom_it_selects() -> None:
    engine, told = started(WEB, DB, FAR)
    files.load(engine, authorization("deny", "foo", "{selector: {matchLabels: {app: web}}}"))
    assert told["db-1"] == []
    assert told["far-1"] == []
    assert len(told["web-1"]) == 1
    assert b"envoy.filters.http.rbac" in listener(engine, WEB, "virtualInbound")


def test_a_policy_of_the_root_namespace_reaches_all() -> None:
    engine, told = started(WEB, DB, FAR)
    files.load(engine, authorization("deny", "istio-system", "{}"))
    assert all(len(notices) == 1 for notices in told.values())
    assert b"envoy.filters.network.rbac" in listener(engine, DB, "virtualInbound")


def test_authorization_of_a_workload_leaves_what_it_calls_alone() -> None:
    engine, _ = started(WEB)
    before = files.generated(engine, WEB)
    files.load(engine, authorization("deny", "foo", "{}"))
    after = files.generated(engine, WEB)
    changed = [(k, n) for k in after for n in after[k] if after[k][n] != before[k].get(n)]
    assert changed == [("listeners", "virtualInbound")]


def test_proxies_selected_alike_share_a_scope_whatever_their_labels() -> None:
    more = [files.sidecar(f"x-{i}", "foo", f"10.0.1.{i}", {"app": f"x-{i}"}) for i in range(5)]
    engine, _ = started(WEB, *more)
    telemetry = policy(
        "Telemetry",
        "telemetry.istio.io/v1",
        "quiet",
        "foo",
        "{selector: {matchLabels: {app: web}}, metrics: [{overrides: [{disabled: true}]}]}",
    )
    files.load(engine, telemetry)
    scopes = {p.name: engine.views.scope_of.get(p.id) for p in (WEB, *more)}
    assert len(set(scopes.values())) == 2
    assert b"envoy.access_loggers.stats" not in listener(engine, WEB, "virtualInbound")
    assert b"envoy.access_loggers.stats" in listener(engine, more[0], "virtualOutbound")


PATCH = """{configPatches: [{applyTo: CLUSTER,
  match: {context: SIDECAR_OUTBOUND, cluster: {service: db.foo.svc.cluster.local}},
  patch: {operation: MERGE, value: {connect_timeout: %s}}}]}"""


def test_an_envoy_filter_changes_only_what_it_matches() -> None:
    engine, told = started(WEB, FAR)
    before = files.generated(engine, WEB)
    files.load(engine, envoy_filter("slow", "foo", PATCH % "9s"))
    after = files.generated(engine, WEB)
    assert told["far-1"] == []
    (changed,) = [n for n in after["clusters"] if after["clusters"][n] != before["clusters"][n]]
    assert changed == "outbound|90||db.foo.svc.cluster.local"
    assert api.cluster.Cluster.FromString(after["clusters"][changed]).connect_timeout.seconds == 9
    assert after["listeners"] == before["listeners"]


def test_an_edit_of_an_envoy_filter_pushes_what_it_matches_and_its_end_restores_all() -> None:
    engine, told = started(WEB)
    before = files.generated(engine, WEB)
    files.load(engine, envoy_filter("slow", "foo", PATCH % "9s"))
    told["web-1"].clear()
    files.load(engine, envoy_filter("slow", "foo", PATCH % "8s"))
    assert told["web-1"] == [{api.CLUSTER: frozenset({"outbound|90||db.foo.svc.cluster.local"})}]
    with engine.graph.transaction():
        engine.inputs.envoy_filters.delete((files.CLUSTER, "foo", "slow"))
    assert files.generated(engine, WEB) == before


@pytest.mark.parametrize("guarded", [False, True])
def test_a_filter_that_is_turned_to_the_other_direction_leaves_nothing_behind(guarded: bool) -> None:
    engine, _ = started(WEB)
    if guarded:
        with engine.graph.transaction():
            engine.inputs.guarded.set("", True)
    before = files.generated(engine, WEB)
    value = "patch: {operation: MERGE, value: {lb_policy: RANDOM}}"
    spec = f"{{configPatches: [{{applyTo: CLUSTER, match: {{context: %s}}, {value}}}]}}"
    for context in ("SIDECAR_OUTBOUND", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND"):
        files.load(engine, envoy_filter("turned", "foo", spec % context))
        now = files.generated(engine, WEB)
        assert {k: v.keys() for k, v in now.items()} == {k: v.keys() for k, v in before.items()}
    files.load(engine, envoy_filter("turned", "foo", "{configPatches: []}"))
    assert files.generated(engine, WEB) == before


@pytest.mark.parametrize("context", ["SIDECAR_INBOUND", "SIDECAR_OUTBOUND"])
def test_while_an_edit_of_an_envoy_filter_is_tried_the_former_holds(context: str) -> None:
    """Half a second without a filter that keeps people out would be half a second too long."""
    engine, _ = started(WEB)
    with engine.graph.transaction():
        engine.inputs.guarded.set("", True)
    lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    code = f'{{"@type": {lua}, default_source_code: {{inline_string: "-- %s"}}}}'
    patch = f"{{operation: INSERT_FIRST, value: {{name: keeper, typed_config: {code}}}}}"
    spec = f"{{configPatches: [{{applyTo: HTTP_FILTER, match: {{context: {context}}}, patch: {patch}}}]}}"

    def tried() -> dict[str, bytes]:
        while wanted := [d for d in engine.resources.patched.wanted if engine.inputs.trials.get(d) is None]:
            with engine.graph.transaction():
                for digest in wanted:
                    engine.inputs.trials.set(digest, Trial(()))
        return files.generated(engine, WEB)["listeners"]

    files.load(engine, envoy_filter("kept", "foo", spec % "first"))
    first = tried()
    assert any(b"-- first" in body for body in first.values())
    files.load(engine, envoy_filter("kept", "foo", spec % "second"))
    assert files.generated(engine, WEB)["listeners"] == first
    second = tried()
    assert any(b"-- second" in body for body in second.values())
    assert not any(b"-- first" in body for body in second.values())


def test_a_patch_that_envoy_could_not_read_is_left_out_and_told() -> None:
    engine, _ = started(WEB)
    before = files.generated(engine, WEB)
    spec = """{configPatches: [
      {applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: [not, a, duration]}}},
      {applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST,
        value: {name: x, typed_config: {"@type": type.googleapis.com/no.such.Type}}}}]}"""
    files.load(engine, envoy_filter("broken", "foo", spec))
    assert files.generated(engine, WEB) == before
    (problems,) = engine.resources.patch_problems.values()
    assert [str(p).partition(": ")[0] for p in problems] == [
        f"EnvoyFilter foo/broken spec.configPatches[{i}]" for i in range(2)
    ]
    assert "'no.such.Type'" in problems[1].what
    assert not list(engine.graph.failures)


def test_a_patch_asks_for_metadata_and_version() -> None:
    engine = Engine()
    files.load(engine, SERVICES)
    spec = """{configPatches: [{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND,
      proxy: {proxyVersion: "^1\\\\.27", metadata: {ROLE: edge}}},
      patch: {operation: ADD, value: {name: added, type: STATIC, connect_timeout: 1s}}}]}"""
    files.load(engine, envoy_filter("some", "foo", spec))
    fits = files.sidecar("a", "foo", "10.0.0.1", {}, version="1.27.3", metadata=(("ROLE", "edge"),))
    older = files.sidecar("b", "foo", "10.0.0.2", {}, version="1.26.0", metadata=(("ROLE", "edge"),))
    other = files.sidecar("c", "foo", "10.0.0.3", {}, version="1.27.3")
    assert ["added" in files.generated(engine, p)["clusters"] for p in (fits, older, other)] == [True, False, False]
