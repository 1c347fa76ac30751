"""`istioctl x authz check` and what stands before a verb of `proxy-config`, on a config dump in a file."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from meltem.cli.main import run
from meltem.cli.metrics import latency, value_of
from meltem.cli.proxy.roots import compare
from meltem.cli.proxy.stats import question
from meltem.errors import MeltemError
from meltem.objects import Json, JsonObject

_TYPE = "type.googleapis.com/"
_ADMIN = f"{_TYPE}envoy.admin.v3."


def _rbac(kind: str, **parts: Json) -> JsonObject:
    name = f"envoy.filters.{kind}.rbac"
    return {"name": name, "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.{kind}.rbac.v3.RBAC", **parts}}


def _rules(action: str, *names: str) -> JsonObject:
    found: JsonObject = {"policies": dict.fromkeys(names)}
    return found if action == "ALLOW" else {"action": action, **found}  # ALLOW is what protobuf leaves out


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    http: list[Json] = [
        _rbac("http", rules=_rules("DENY", "ns[shop]-policy[no]-rule[0]", "ns[shop]-policy[no]-rule[1]")),
        _rbac("http", rules=_rules("ALLOW"), shadow_rules=_rules("DENY", "ns[shop]-policy[tried]-rule[0]")),
        _rbac("http", shadow_rules=_rules("DENY", "istio-ext-authz-ns[shop]-policy[asks]-rule[0]")),
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}x.Router"}},
    ]
    manager: JsonObject = {"name": "hcm", "typed_config": {"@type": f"{_TYPE}x.HttpConnectionManager"}}
    manager["typed_config"] = {"@type": f"{_TYPE}x.HttpConnectionManager", "http_filters": http}
    tcp = _rbac("network", rules=_rules("ALLOW", "ns[istio-system]-policy[yes]-rule[0]"))
    chains: list[Json] = [{"filters": [tcp, manager]}, {"filters": [manager]}]
    listener: JsonObject = {"name": "virtualInbound", "filter_chains": chains}
    cluster: JsonObject = {"name": "outbound|80||a.shop.svc.cluster.local", "type": "EDS"}
    configs: list[Json] = [
        {
            "@type": f"{_ADMIN}ListenersConfigDump",
            "dynamic_listeners": [{"name": "virtualInbound", "active_state": {"listener": listener}}],
        },
        {"@type": f"{_ADMIN}ClustersConfigDump", "dynamic_active_clusters": [{"cluster": cluster}]},
    ]
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"configs": configs}))
    return file


def test_the_policies_that_a_proxy_enforces(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["x", "authz", "check", "-f", str(dump)]) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [[w.strip() for w in r if w.strip()] for r in rows] == [
        ["ACTION", "AuthorizationPolicy", "RULES"],
        ["CUSTOM", "asks.shop", "1"],
        ["DENY", "no.shop", "2"],
        ["DENY (dry run)", "tried.shop", "1"],
        ["ALLOW", "_anonymous_match_nothing_", "1"],
        ["ALLOW", "yes.istio-system", "1"],
    ]
    assert run(["x", "authz", "check"]) == 64


@pytest.mark.parametrize(
    ("words", "as_json"),
    [
        (["proxy-config", "-o", "json", "clusters"], True),
        (["pc", "-o", "json", "c", "-o", "short"], False),
        (["pc", "--proxy-admin-port", "15001", "c", "-o", "json"], True),
        (["pc", "c"], False),
    ],
)
def test_flags_before_a_verb_of_proxy_config_stand_for_its_own(
    words: list[str], as_json: bool, dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "-f", str(dump)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("[") if as_json else out.startswith("SERVICE FQDN")


def test_titles_above_the_tables_where_they_are_asked_for(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pc", "all", "-f", str(dump), "--with-headers"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("------ CLUSTER INFO ------\n\nSERVICE FQDN") and "------ LISTENER INFO ------" in out
    assert run(["pc", "all", "-f", str(dump)]) == 0
    assert "------" not in capsys.readouterr().out


def test_two_proxies_verify_each_other_where_they_have_a_root_in_common() -> None:
    old, new, other = {b"1": "aa"}, {b"1": "aa", b"2": "bb"}, {b"3": "cc"}
    assert compare(("a", old), ("b", old)) == (["a and b trust the same roots: they can verify each other."], True)
    lines, verified = compare(("a", old), ("b", new))
    assert verified and lines[0] == "only b trusts the root with serial number bb"
    lines, verified = compare(("a", new), ("b", other))
    assert not verified and len(lines) == 4
    assert not compare(("a", {}), ("b", {}))[1]


def test_merged_metrics_are_the_agents_and_the_rest_envoys() -> None:
    assert question("server", "short", 15000) == ("stats", 15000)
    assert question("server", "prom-merged", 15000) == ("stats/prometheus", 15020)
    assert question("clusters", "yaml", 15001) == ("clusters?format=json", 15001)
    with pytest.raises(click.UsageError):
        question("clusters", "prom", 15000)


def test_a_figure_that_prometheus_does_not_have_is_a_dash() -> None:
    nothing: JsonObject = {"status": "success", "data": {"resultType": "vector", "result": []}}
    no_number: JsonObject = {"status": "success", "data": {"result": [{"metric": {}, "value": [1.5, "NaN"]}]}}
    some: JsonObject = {"status": "success", "data": {"result": [{"metric": {}, "value": [1.5, "23.75"]}]}}
    assert [latency(value_of(a)) for a in (nothing, no_number, some)] == ["-", "-", "24ms"]
    with pytest.raises(MeltemError, match="parse error"):
        value_of({"status": "error", "error": "parse error"})
