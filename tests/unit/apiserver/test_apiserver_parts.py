"""Selectors, negotiation, paths, protobuf, authorization: the parts that need no server."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltem.errors import ApiError, BadRequest, NotAcceptable
from meltem.local.apiserver import protobuf
from meltem.local.apiserver.admission.quantity import compare
from meltem.local.apiserver.authorization import Question, rule_allows
from meltem.local.apiserver.connection import _show_spdy_as_websocket  # pyright: ignore[reportPrivateUsage]
from meltem.local.apiserver.discovery import version_priority
from meltem.local.apiserver.negotiate import form_of, parse_body
from meltem.local.apiserver.request import parse
from meltem.local.apiserver.selectors import matches_labels, parse_fields, parse_labels
from meltem.objects import JsonObject


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/pods", ("list", "", "pods", "", "")),
        ("/api/v1/namespaces/a/pods/b", ("get", "a", "pods", "b", "")),
        ("/api/v1/namespaces/a", ("get", "a", "namespaces", "a", "")),
        ("/api/v1/namespaces/a/status", ("get", "a", "namespaces", "a", "status")),
        ("/apis/apps/v1/namespaces/a/deployments/b/scale", ("get", "a", "deployments", "b", "scale")),
        ("/api/v1/watch/namespaces/a/pods", ("watch", "a", "pods", "", "")),
        ("/apis/apps/v1", None),
        ("/version", None),
    ],
)
def test_paths_say_what_is_asked_for(path: str, expected: tuple[str, ...] | None) -> None:
    info = parse("GET", path, {})
    if expected is None:
        assert not info.resource_request
    else:
        assert (info.verb, info.namespace, info.resource, info.name, info.subresource) == expected


def test_what_follows_proxy_is_kept_as_sent() -> None:
    assert parse("GET", "/api/v1/namespaces/a/services/b:80/proxy/x/y%20z", {}).rest == "/x/y%20z"
    assert parse("GET", "/api/v1/namespaces/a/services/b/proxy/", {}).rest == "/"
    assert parse("GET", "/api/v1/namespaces/a/services/b/proxy", {}).rest == ""


@given(st.text(max_size=60))
def test_any_selector_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        matches_labels(parse_labels(text), {"a": "b"})


def test_field_selectors_know_their_resource() -> None:
    assert parse_fields("spec.nodeName=a,metadata.name!=b", "pods")
    with pytest.raises(BadRequest):
        parse_fields("spec.nodeName=a", "secrets")


def test_accept_headers() -> None:
    assert form_of("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").kind == "Table"
    assert form_of("application/vnd.kubernetes.protobuf,application/json").kind == ""
    assert form_of("").media == "application/json"
    with pytest.raises(NotAcceptable):
        form_of("text/html")


@given(st.binary(max_size=200))
def test_any_protobuf_body_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        parse_body(protobuf.MAGIC + body, protobuf.MEDIA)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def test_protobuf_zeros_are_left_out_unless_they_mean_something() -> None:
    spec = b"\x08\x00" + b"\x28\x00"  # replicas: 0 (a pointer), minReadySeconds: 0 (left out)
    raw = _field(1, _field(1, b"web") + _field(2, b"")) + _field(2, spec)
    envelope = _field(1, _field(1, b"apps/v1") + _field(2, b"Deployment")) + _field(2, raw)
    assert protobuf.decode(protobuf.MAGIC + envelope) == {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "web"},
        "spec": {"replicas": 0},
    }


@pytest.mark.parametrize("body", [b"[" * 5000, b"{", b"\xff\xfe", b'{"a":' * 400])
def test_broken_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_body(body, "application/json")


def test_spdy_upgrades_are_shown_and_nobody_else_can_say_so() -> None:
    head = b"POST /x HTTP/1.1\r\nUpgrade: SPDY/3.1\r\nx-meltem-upgrade: evil\r\nA: b\r\n\r\nrest"
    shown = _show_spdy_as_websocket(head)
    assert shown == b"POST /x HTTP/1.1\r\nUpgrade: websocket\r\nX-Meltem-Upgrade: SPDY/3.1\r\nA: b\r\n\r\nrest"
    plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert _show_spdy_as_websocket(plain) == plain


def test_versions_are_ranked_as_kubernetes_does() -> None:
    versions = ["v1alpha1", "foo", "v1", "v2beta1", "v2", "v10", "v1beta2"]
    assert sorted(versions, key=version_priority) == ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]


def test_quantities_compare_exactly() -> None:
    assert compare("1Gi", "1024Mi") == 0
    assert compare("100m", "0.2") < 0
    assert compare(2, "1k") < 0


RULE: JsonObject = {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get"]}


@pytest.mark.parametrize(
    ("question", "allowed"),
    [
        (Question(verb="get", resource="pods"), True),
        (Question(verb="get", resource="pods", subresource="log"), True),
        (Question(verb="get", resource="pods", subresource="exec"), False),
        (Question(verb="list", resource="pods"), False),
        (Question(verb="get", group="apps", resource="pods"), False),
    ],
)
def test_rules_name_subresources_apart(question: Question, allowed: bool) -> None:
    assert rule_allows(RULE, question) is allowed


def test_non_resource_rules_match_prefixes() -> None:
    rule: JsonObject = {"nonResourceURLs": ["/healthz/*"], "verbs": ["get"]}
    assert rule_allows(rule, Question(verb="get", path="/healthz/ping"))
    assert not rule_allows(rule, Question(verb="get", path="/metrics"))
