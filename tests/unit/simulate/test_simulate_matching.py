"""Envoy's matchers, one rule a test. What they say was compared with the real Envoy: see
tests/integration/explain/test_envoy_agrees.py."""

from __future__ import annotations

import pytest
import re2

from meltem import envoyapi as api
from meltem.simulate import paths
from meltem.simulate.examples import UnknownExample, example
from meltem.simulate.matching import (
    Connection,
    Request,
    header_matches,
    pick_chain,
    pick_route,
    pick_virtual_host,
    route_matches,
)

R = api.route_components
Chain = api.listener_components.FilterChain


def listener(*matches: dict[str, object], default: bool = False) -> api.listener.Listener:
    made = api.listener.Listener(
        filter_chains=[Chain(name=str(i), filter_chain_match=m) for i, m in enumerate(matches)]  # type: ignore[arg-type]
    )
    if default:
        made.default_filter_chain.name = "default"
    return made


def chosen(found: tuple[Chain | None, bool]) -> str | None:
    return found[0].name if found[0] is not None else None


class TestFilterChains:
    def test_the_destination_port_decides_before_anything_else(self) -> None:
        some = listener({"destination_port": {"value": 80}}, {"transport_protocol": "tls"})
        assert chosen(pick_chain(some, Connection(address="10.0.0.1", port=80, transport="tls"))) == "0"

    def test_there_is_no_going_back_to_a_chain_without_a_port(self) -> None:
        some = listener({"destination_port": {"value": 80}, "transport_protocol": "tls"}, {}, default=True)
        assert pick_chain(some, Connection(address="10.0.0.1", port=80))[1], "the default chain takes it"

    def test_the_longest_prefix_wins(self) -> None:
        some = listener(
            {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": {"value": 8}}]},
            {"prefix_ranges": [{"address_prefix": "10.1.0.0", "prefix_len": {"value": 16}}]},
        )
        assert chosen(pick_chain(some, Connection(address="10.1.2.3", port=1))) == "1"
        assert chosen(pick_chain(some, Connection(address="10.2.2.3", port=1))) == "0"
        assert chosen(pick_chain(some, Connection(address="11.2.2.3", port=1))) is None

    @pytest.mark.parametrize(
        ("sni", "expected"),
        [("a.example.com", "0"), ("b.example.com", "1"), ("x.b.example.com", "1"), ("other.org", "2"), ("", "2")],
    )
    def test_exact_server_names_beat_suffixes_which_beat_none(self, sni: str, expected: str) -> None:
        some = listener({"server_names": ["a.example.com"]}, {"server_names": ["*.example.com"]}, {})
        assert chosen(pick_chain(some, Connection(address="10.0.0.1", port=1, sni=sni, transport="tls"))) == expected

    def test_the_clients_order_of_protocols_decides(self) -> None:
        some = listener({"application_protocols": ["h2"]}, {"application_protocols": ["http/1.1"]})
        call = Connection(address="10.0.0.1", port=1, transport="tls", protocols=("http/1.1", "h2"))
        assert chosen(pick_chain(some, call)) == "1"


class TestVirtualHosts:
    CONFIG = api.route.RouteConfiguration(
        ignore_port_in_host_matching=True,
        virtual_hosts=[
            {"name": n, "domains": d}
            for n, d in (
                ("exact", ["shop.example.com"]),
                ("long suffix", ["*.api.example.com"]),
                ("suffix", ["*.example.com"]),
                ("prefix", ["shop.*"]),
                ("rest", ["*"]),
            )
        ],
    )

    @pytest.mark.parametrize(
        ("authority", "name"),
        [
            ("shop.example.com", "exact"),
            ("SHOP.example.com:8080", "exact"),
            ("v1.api.example.com", "long suffix"),
            ("x.example.com", "suffix"),
            ("shop.org", "prefix"),
            ("example.com", "rest"),
            ("[::1]:80", "rest"),
        ],
    )
    def test_exact_then_suffix_then_prefix_then_any(self, authority: str, name: str) -> None:
        host, _ = pick_virtual_host(self.CONFIG, authority)
        assert host is not None
        assert host.name == name

    def test_nothing_is_found_where_nothing_fits(self) -> None:
        assert pick_virtual_host(api.route.RouteConfiguration(), "a") == (None, "")


@pytest.mark.parametrize(
    ("match", "path", "expected"),
    [
        ({"prefix": "/a"}, "/ab?x=1", True),
        ({"prefix": "/a"}, "/A", False),
        ({"prefix": "/a", "case_sensitive": {"value": False}}, "/AB", True),
        ({"path": "/a"}, "/a?q", True),
        ({"path": "/a"}, "/a/", False),
        ({"path_separated_prefix": "/a"}, "/a/b", True),
        ({"path_separated_prefix": "/a"}, "/ab", False),
        ({"safe_regex": {"regex": "/v[0-9]+"}}, "/v12?x", True),
        ({"safe_regex": {"regex": "/v[0-9]+"}}, "/v12/x", False),
        (
            {"prefix": "/", "query_parameters": [{"name": "v", "string_match": {"exact": "a%20b"}}]},
            "/?v=a%20b&v=c",
            True,
        ),
        ({"prefix": "/", "query_parameters": [{"name": "v", "present_match": True}]}, "/?w=1", False),
    ],
)
def test_paths_and_queries(match: dict[str, object], path: str, expected: bool) -> None:
    assert route_matches(R.RouteMatch(**match), Request(path=path)) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("matcher", "headers", "expected"),
    [
        ({"string_match": {"exact": "1"}}, {"x": "1"}, True),
        ({"string_match": {"exact": "1"}}, {}, False),
        ({"string_match": {"exact": "1"}, "invert_match": True}, {"x": "2"}, True),
        ({"string_match": {"exact": "1"}, "invert_match": True}, {}, False),
        ({"string_match": {"exact": "1"}, "invert_match": True, "treat_missing_header_as_empty": True}, {}, True),
        ({"present_match": True}, {"x": ""}, True),
        ({"present_match": True}, {}, False),
        ({"present_match": True, "invert_match": True}, {}, True),
        ({"present_match": False}, {}, True),
        ({"string_match": {"safe_regex": {"regex": "a.*"}}}, {"x": "abc"}, True),
        ({"string_match": {"safe_regex": {"regex": "b"}}}, {"x": "abc"}, False),
        ({"string_match": {"exact": "A", "ignore_case": True}}, {"x": "a"}, True),
        ({"range_match": {"start": 1, "end": 5}}, {"x": "5"}, False),
    ],
)
def test_headers(matcher: dict[str, object], headers: dict[str, str], expected: bool) -> None:
    request = Request(headers=tuple(headers.items()))
    assert header_matches(R.HeaderMatcher(name="x", **matcher), request) is expected  # type: ignore[arg-type]


def test_each_value_of_a_header_is_matched_by_itself() -> None:
    request = Request(headers=(("x", "a"), ("x", "b")))
    assert header_matches(R.HeaderMatcher(name="x", string_match={"exact": "b"}), request)  # type: ignore[arg-type]
    assert not header_matches(R.HeaderMatcher(name="x", string_match={"exact": "a,b"}), request)  # type: ignore[arg-type]


def test_the_first_route_that_matches_wins() -> None:
    host = R.VirtualHost(routes=[{"match": {"prefix": "/a"}}, {"match": {"prefix": "/"}}])  # type: ignore[list-item]
    found = pick_route(host, Request(path="/a"))
    assert found is not None
    assert found[0] == 0
    assert pick_route(R.VirtualHost(), Request()) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/../b", "/b"),
        ("/a/./b/..", "/a/"),
        ("/%61", "/a"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a\\b?x=\\", "/a/b?x=\\"),
        ("//a", "//a"),
    ],
)
def test_paths_are_normalized_before_routes_see_them(path: str, expected: str) -> None:
    manager = api.hcm.HttpConnectionManager(normalize_path={"value": True})  # type: ignore[arg-type]
    assert paths.normalized(path, manager) == expected


def test_escaped_slashes_can_be_refused() -> None:
    manager = api.hcm.HttpConnectionManager(
        path_with_escaped_slashes_action=api.hcm.HttpConnectionManager.REJECT_REQUEST
    )
    assert paths.normalized("/a%2fb", manager) is None


@pytest.mark.parametrize(
    "expression",
    [
        "/v[0-9]+/.*",
        "^(a|b)c?$",
        "[^/]+/x{2,3}",
        r"\d{3}-\w+",
        "(?i)abc",
        r"a\.b",
        ".*",
        r"[\w-]+@x\.y",
        "j(?:a|o)n",
        "(?P<user>[[:alpha:]_]+?)/(?<id>[^\\D])",
        r"\Q.*\E\x2d[]a-c]",
        "(|a){0}b{2}",
        r"[^\W-]\S\x{e9}",
    ],
)
def test_an_example_of_an_expression_is_taken_by_it(expression: str) -> None:
    assert re2.fullmatch(expression, example(expression)) is not None


@pytest.mark.parametrize("expression", ["(", ")", "[a", "a\\", r"\pN", "[a-z&&[b]]x(?=y)", "a{1001}", "(" * 5000])
def test_of_some_expressions_no_example_is_known(expression: str) -> None:
    with pytest.raises(UnknownExample):
        example(expression)
