"""Tables of `istioctl proxy-config` and `proxy-status`, from small dumps."""

from __future__ import annotations

import pytest

from meltem.cli.proxy import dump, log, status, tables
from meltem.cli.proxy.access import parse_target
from meltem.errors import UserError
from meltem.objects import JsonObject

CLUSTERS: list[JsonObject] = [
    {
        "name": "outbound|9080|v1|reviews.default.svc.cluster.local",
        "type": "EDS",
        "metadata": {
            "filter_metadata": {
                "istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews"}
            }
        },
    },
    {"name": "BlackHoleCluster", "type": "STATIC"},
]
LISTENER: JsonObject = {
    "name": "virtualInbound",
    "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
    "filter_chains": [
        {
            "filter_chain_match": {
                "destination_port": 9080,
                "transport_protocol": "tls",
                "application_protocols": ["istio-h2"],
            },
            "filters": [
                {
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {"rds": {"route_config_name": "9080"}},
                }
            ],
        }
    ],
    "default_filter_chain": {
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {"cluster": "PassthroughCluster"}}]
    },
}
ROUTE: JsonObject = {
    "name": "80",
    "virtual_hosts": [
        {
            "name": "shop",
            "domains": ["shop.example.com", "shop", "shop.default"],
            "routes": [{"match": {"prefix": "/api", "headers": [{"name": "x"}]}}],
        }
    ],
}


def test_clusters_show_the_parts_of_their_names_and_their_rule() -> None:
    assert tables.cluster_rows(CLUSTERS) == [
        ("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"),
        ("BlackHoleCluster", "-", "-", "-", "STATIC", ""),
        ("reviews.default.svc.cluster.local", "9080", "v1", "outbound", "EDS", "reviews.default"),
    ]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (tables.Wanted(), 2),
        (tables.Wanted(fqdn="reviews"), 1),
        (tables.Wanted(port=9080, direction="OUTBOUND", subset="v1"), 1),
        (tables.Wanted(port=80), 0),
    ],
)
def test_clusters_are_filtered(wanted: tables.Wanted, count: int) -> None:
    assert len(tables.pick_clusters(CLUSTERS, wanted)) == count


def test_listeners_show_a_line_for_each_chain() -> None:
    assert tables.listener_rows([LISTENER], verbose=True)[1:] == [
        ("0.0.0.0", "15006", "Trans: tls; App: istio-h2; Addr: *:9080", "Route: 9080"),
        ("0.0.0.0", "15006", "ALL", "PassthroughCluster"),
    ]
    assert tables.listener_rows([LISTENER], verbose=False)[1:] == [("0.0.0.0", "15006", "HTTP+TCP")]


def test_routes_show_short_domains_and_the_match() -> None:
    assert tables.route_rows([ROUTE], verbose=True)[1] == (
        "80",
        "shop",
        "shop, shop.default + 1 more...",
        "/api* [x]",
        "",
    )


def test_endpoints_show_health_and_ejection() -> None:
    host: JsonObject = {
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "health_status": {"failed_outlier_check": True, "eds_health_status": "HEALTHY"},
    }
    rows = tables.endpoint_rows([{"name": "c", "host_statuses": [host]}], tables.Wanted())
    assert rows[1] == ("10.0.0.1:80", "HEALTHY", "FAILED", "c")
    assert len(tables.endpoint_rows([{"name": "c", "host_statuses": [host]}], tables.Wanted(port=81))) == 1


def test_names_are_put_into_protobufs_json_form_but_not_what_people_wrote() -> None:
    assert dump.camel({"lb_policy": 1, "metadata": {"filter_metadata": {"my_key": 1}}}) == {
        "lbPolicy": 1,
        "metadata": {"filterMetadata": {"my_key": 1}},
    }
    assert dump.camel({"node": {"metadata": {"ISTIO_VERSION": "1"}}}) == {"node": {"metadata": {"ISTIO_VERSION": "1"}}}


def dumped(cluster: JsonObject, *, fixed: bool = False) -> JsonObject:
    key = "static_clusters" if fixed else "dynamic_active_clusters"
    return {
        "configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", key: [{"cluster": cluster}]}]
    }


def test_what_istiod_sends_is_compared_with_what_envoy_has() -> None:
    lines, same = status.compare(dumped({"name": "a"}), dumped({"name": "a"}))
    assert same
    assert lines[0] == "Clusters Match"
    lines, same = status.compare(dumped({"name": "a"}), dumped({"name": "a", "type": "EDS"}))
    assert not same
    assert lines[:3] == ["Clusters Don't Match", "--- Istiod Clusters", "+++ Envoy Clusters"]


def test_what_envoy_was_started_with_is_not_istiods() -> None:
    assert status.compare({"configs": []}, dumped({"name": "agent"}, fixed=True))[1]


def test_the_worse_of_routes_and_virtual_hosts_is_shown() -> None:
    one: JsonObject = {"proxy": "a.b", "status": {"cds": "SYNCED", "rds": "SYNCED", "vhds": "STALE"}}
    assert status.status_rows([one])[1][2:7] == ("SYNCED", "IGNORED", "IGNORED", "STALE", "IGNORED")


def test_refusals_are_told_with_their_reason() -> None:
    one: JsonObject = {"proxy": "a.b", "errors": {"lds": {"0.0.0.0_80": "no such filter"}}}
    assert status.refusals([one]) == ["", "a.b: LDS 0.0.0.0_80 was refused: no such filter"]


@pytest.mark.parametrize(
    ("level", "queries"),
    [
        ("", [""]),
        ("debug", ["?level=debug"]),
        ("http:debug,warn", ["?level=warning", "?http=debug"]),
        ("all:off,rbac:trace", ["?level=off", "?rbac=trace"]),
    ],
)
def test_log_levels_become_requests(level: str, queries: list[str]) -> None:
    assert log.requests(level) == queries


def test_a_wrong_log_level_is_told() -> None:
    with pytest.raises(UserError, match='"loud" is no log level'):
        log.requests("loud")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ("", "web", "default")),
        ("web.shop", ("", "web", "shop")),
        ("deploy/web.shop", ("deploy", "web", "shop")),
    ],
)
def test_pods_are_named_by_type_name_and_namespace(text: str, expected: tuple[str, str, str]) -> None:
    found = parse_target(text, "default")
    assert (found.kind, found.name, found.namespace) == expected


def test_a_kind_without_pods_is_told() -> None:
    with pytest.raises(UserError, match='"secret" is not a kind that has pods'):
        parse_target("secret/x", "default")
