"""The webhook answers every AdmissionReview: mistakes in the object are an answer that names field and remedy."""

from __future__ import annotations

import json
from functools import cache
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meltem.errors import InvalidResource
from meltem.objects import Json, JsonObject, object_at, str_at, strings_at
from meltem.resources.base import Message
from meltem.resources.kinds import ISTIO_KINDS
from meltem.resources.lenient import EnumNode, ListNode, MapNode, Node, ScalarNode, StructNode, node_of, plan_of
from meltem.validate.webhook import answer, check_object, review


def virtual_service(spec: Json) -> JsonObject:
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a"}, "spec": spec}


def ask(obj: Json, operation: str = "CREATE", version: str = "admission.k8s.io/v1") -> JsonObject:
    request: JsonObject = {"uid": "u1", "operation": operation, "namespace": "prod", "object": obj}
    answered = review({"apiVersion": version, "kind": "AdmissionReview", "request": request})
    assert answered["apiVersion"] == version and answered["kind"] == "AdmissionReview"
    response = object_at(answered, "response")
    assert response["uid"] == "u1"
    return response


ROUTE: JsonObject = {"route": [{"destination": {"host": "reviews"}}]}


def test_a_good_object_is_allowed() -> None:
    assert ask(virtual_service({"hosts": ["reviews"], "http": [ROUTE]})) == {"uid": "u1", "allowed": True}


def test_warnings_come_with_the_permission() -> None:
    response = ask(virtual_service({"hosts": ["reviews"], "http": [ROUTE, ROUTE]}))
    assert response["allowed"] is True
    assert strings_at(response, "warnings")[0].startswith("spec.http[1]: rule 1 is never used")


def test_an_unknown_field_is_refused_with_the_name_that_was_meant() -> None:
    response = ask(virtual_service({"hosts": ["reviews"], "http": [{**ROUTE, "timeuot": "5s"}]}))
    assert response["allowed"] is False
    message = str_at(response, "status", "message")
    assert message == (
        "configuration is invalid: spec.http[0].timeuot: unknown field 'timeuot'. Did you mean 'timeout'?"
    )
    assert object_at(response, "status")["code"] == 422


def test_every_mistake_is_listed() -> None:
    response = ask(virtual_service({"hosts": 1, "http": [{"timeout": "5"}]}))
    assert str_at(response, "status", "message").splitlines()[0] == "configuration is invalid: 2 errors:"


def test_the_requests_namespace_counts_when_the_object_names_none() -> None:
    response = ask(virtual_service({"hosts": ["a"], "exportTo": [".", "prod"], "http": [ROUTE]}))
    assert "spec.exportTo[1]: 'prod' is listed twice" in str_at(response, "status", "message")


def test_deleting_is_never_refused() -> None:
    assert ask(None, "DELETE")["allowed"] is True


@pytest.mark.parametrize("obj", [{"apiVersion": "v1", "kind": "Pod"}, {"kind": "VirtualService"}, {}, None, 5])
def test_what_is_no_istio_resource_is_refused(obj: Json) -> None:
    assert ask(obj)["allowed"] is False


def test_the_probe_that_asks_to_be_refused_is_refused() -> None:
    obj = virtual_service({"hosts": ["a"], "http": [ROUTE]})
    obj["metadata"] = {"name": "a", "annotations": {"internal.istio.io/webhook-always-reject": "true"}}
    assert ask(obj)["allowed"] is False


def test_v1beta1_reviews_are_answered_in_kind() -> None:
    assert ask(virtual_service({"hosts": ["a"], "http": [ROUTE]}), version="admission.k8s.io/v1beta1")["allowed"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"kind":"Pod"}', b'{"kind":"AdmissionReview"}', b"[" * 100_000])
def test_a_body_that_is_no_review_is_a_bad_request(body: bytes) -> None:
    status, text = answer(body)
    assert status == 400 and text
    with pytest.raises(InvalidResource):
        review(body)


def test_answers_are_json() -> None:
    body = json.dumps(
        {"kind": "AdmissionReview", "request": {"uid": "x", "operation": "CREATE", "object": virtual_service({})}}
    )
    status, text = answer(body.encode())
    assert status == 200 and json.loads(text)["response"]["allowed"] is False


def test_messages_stay_small() -> None:
    routes: Json = [{"timeout": "5" * 2000} for _ in range(500)]
    response = ask(virtual_service({"hosts": ["a"], "http": routes}))
    assert len(str_at(response, "status", "message")) <= 4096


words = st.sampled_from(
    ["a", "*", "", "a.b", "*.a", "ns/a", "/", "10.0.0.1", "unix:///a", "a b", "(", "5xx", "{*}", "\x00"]
)
numbers = st.sampled_from([-1, 0, 1, 80, 101, 70000])


@cache
def shaped(node: Node, depth: int) -> st.SearchStrategy[Json]:
    """Values of the right shape with odd contents."""
    match node:
        case StructNode():
            return struct(node.struct, depth)
        case ListNode():
            return st.lists(shaped(node.item, depth), max_size=2).map(lambda v: cast(Json, v))
        case MapNode():
            return st.dictionaries(words, shaped(node.value, depth), max_size=2).map(lambda v: cast(Json, v))
        case EnumNode():
            return st.sampled_from(node.words)
        case ScalarNode(name="bool"):
            return st.booleans()
        case ScalarNode(name="int" | "float"):
            return numbers
        case ScalarNode(name="duration"):
            return st.sampled_from(["0s", "1s", "0.5ms", "1h"])
        case ScalarNode(name="any"):
            return st.just(cast(Json, {"name": "x"}))
        case _:
            return words


@cache
def struct(kind: type[Message], depth: int) -> st.SearchStrategy[Json]:
    plan = plan_of(kind)
    fields = {plan.fields[n].name: plan.fields[n] for n in plan.names}
    if depth <= 0:
        fields = {n: f for n, f in fields.items() if f.required}
    required = {n: st.deferred(lambda f=f: shaped(f.node, depth - 1)) for n, f in fields.items() if f.required}
    optional = {n: st.deferred(lambda f=f: shaped(f.node, depth - 1)) for n, f in fields.items() if not f.required}
    names = st.sets(st.sampled_from(sorted(optional)), max_size=4) if optional else st.just(set[str]())
    return names.flatmap(
        lambda chosen: st.fixed_dictionaries({**required, **{n: optional[n] for n in sorted(chosen)}})
    ).map(lambda v: cast(Json, v))


@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data(), st.sampled_from(ISTIO_KINDS))
def test_no_shape_of_a_resource_makes_the_rules_raise(data: st.DataObject, info: object) -> None:
    kind = next(k for k in ISTIO_KINDS if k is info)
    spec_type = kind.struct.__annotations__["spec"]
    struct_type = vars(__import__(kind.struct.__module__, fromlist=["x"]))[spec_type]
    assert isinstance(node_of(struct_type), StructNode)
    spec = data.draw(struct(struct_type, 4))
    result = check_object(
        {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "a", "namespace": "b"}, "spec": spec}
    )
    assert all(f.path for f in (*result.errors, *result.warnings))
