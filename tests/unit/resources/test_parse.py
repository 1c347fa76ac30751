"""From what people and the API server write to typed resources; one bad resource costs only itself."""

from __future__ import annotations

import contextlib
import json
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meltem.errors import InvalidResource
from meltem.objects import Json, JsonObject
from meltem.resources import core, networking
from meltem.resources.base import Duration
from meltem.resources.kinds import ISTIO_KINDS, KINDS, find_kind, kind_of
from meltem.resources.parse import Decoder, parse, parse_all, problems_of, read_as, read_each, to_json, to_object


def virtual_service(spec: JsonObject, version: str = "v1") -> JsonObject:
    return {
        "apiVersion": f"networking.istio.io/{version}",
        "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "prod"},
        "spec": spec,
    }


def parsed(spec: JsonObject) -> networking.VirtualService:
    resource = parse(virtual_service(spec))
    assert isinstance(resource, networking.VirtualService)
    return resource


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_every_version_gives_the_same_model(version: str) -> None:
    resource = parse(virtual_service({"hosts": ["reviews"]}, version))
    assert isinstance(resource, networking.VirtualService)
    assert resource.spec.hosts == ("reviews",)
    assert resource.where == "VirtualService prod/reviews"


def test_equal_objects_give_equal_values() -> None:
    spec: JsonObject = {"hosts": ["a"], "http": [{"timeout": "5s", "route": [{"destination": {"host": "a"}}]}]}
    assert parsed(spec) == parsed(json.loads(json.dumps(spec)))
    assert parsed(spec) != parsed({**spec, "hosts": ["b"]})


def test_protobuf_leniency() -> None:
    """Numbers as strings, enumerations by number, snake_case names and null are what Istio's own reader accepts."""
    route = parsed(
        {
            "hosts": ["a"],
            "gateways": None,
            "http": [
                {
                    "cors_policy": {"unmatched_preflights": 2},
                    "fault": {"delay": {"fixed_delay": "2s", "percentage": {"value": "50"}}},
                    "route": [{"destination": {"host": "a", "port": {"number": "9080"}}, "weight": 100.0}],
                }
            ],
        }
    ).spec.http[0]
    assert route.cors_policy is not None and route.cors_policy.unmatched_preflights == "IGNORE"
    assert route.fault is not None and route.fault.delay is not None
    assert route.fault.delay.fixed_delay == Duration(2)
    assert route.fault.delay.percentage == networking.Percent(value=50)
    assert route.route[0].destination.port == networking.PortSelector(number=9080)
    assert route.route[0].weight == 100


@pytest.mark.parametrize(
    ("spec", "path", "what"),
    [
        ({"hosts": "a"}, "spec.hosts", "expected a list, got the string 'a'"),
        ({"http": [{"match": [{"uri": {"prefix": 1}}]}]}, "spec.http[0].match[0].uri.prefix", "expected a string"),
        (
            {"http": [{"match": [{"headers": {"x-a": 1}}]}]},
            "spec.http[0].match[0].headers['x-a']",
            "expected an object",
        ),
        ({"http": [{"timeout": "5"}]}, "spec.http[0].timeout", "write a number with a unit"),
        ({"http": [{"timeout": 5}]}, "spec.http[0].timeout", "expected a duration such as 5s, got the number 5"),
        ({"http": [{"route": [{}]}]}, "spec.http[0].route[0].destination", "is required but missing"),
        ({"http": [{"retries": {"attempts": "many"}}]}, "spec.http[0].retries.attempts", "expected an integer"),
        ({"http": [{"retries": {"attempts": True}}]}, "spec.http[0].retries.attempts", "got the boolean true"),
        ({"http": [None]}, "spec.http[0]", "got null"),
        ({"http": [{"match": [{"uri": {"exact": "/", "prefix": "/"}}]}]}, "uri", "exclude each other"),
        ({"http": [{"redirect": {"derivePort": "from_request_port"}}]}, "derivePort", "FROM_REQUEST_PORT"),
    ],
)
def test_errors_say_where_and_what(spec: JsonObject, path: str, what: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        parse(virtual_service(spec), source="vs.yaml")
    assert caught.value.where.startswith("vs.yaml: VirtualService prod/reviews spec.")
    assert path in caught.value.where
    assert what in str(caught.value)


def test_unknown_fields_are_reported_with_the_nearest_name_but_do_not_stop_reading() -> None:
    obj = virtual_service({"hosts": ["a"], "http": [{"retry": {}, "timeuot": "5s"}]})
    assert parse(obj).name == "reviews"
    found = {p.path: p.remedy for p in problems_of(obj)}
    assert found == {"spec.http[0].retry": "Did you mean 'retries'?", "spec.http[0].timeuot": "Did you mean 'timeout'?"}


def test_fields_that_we_do_not_model_are_no_mistake_in_kubernetes_kinds() -> None:
    pod: JsonObject = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"tolerations": []}}
    assert problems_of(pod) == ()


@pytest.mark.parametrize(
    ("obj", "what"),
    [
        ([], "no Kubernetes object"),
        ({}, "apiVersion is missing"),
        ({"apiVersion": "v1"}, "kind is missing"),
        ({"apiVersion": "v9", "kind": "Pod"}, "apiVersion: v1"),
        ({"apiVersion": "networking.istio.io/v2", "kind": "VirtualService"}, "v1, v1alpha3, v1beta1"),
        ({"apiVersion": "a/v1", "kind": "B"}, "reads no kind 'B'"),
    ],
)
def test_what_is_no_resource_is_refused(obj: Json, what: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        parse(obj)
    assert what in str(caught.value)


def test_two_gateways_are_two_kinds() -> None:
    istio = find_kind("networking.istio.io/v1", "Gateway")
    standard = find_kind("gateway.networking.k8s.io/v1", "Gateway")
    assert istio is not None and standard is not None and istio.struct is not standard.struct


def test_a_yaml_stream_gives_the_good_ones_and_the_errors() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad}
spec: {hosts: 5}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: prod}}
- {apiVersion: v1, kind: Unknown, metadata: {name: x}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{port: 80, targetPort: http}], clusterIP: None}
"""
    good, bad = parse_all(text, source="a.yaml")
    assert [r.where for r in good] == ["Namespace prod", "Service reviews"]
    assert [e.where for e in bad] == ["a.yaml: VirtualService bad spec.hosts"]
    service = good[1]
    assert isinstance(service, core.Service) and service.headless and service.spec.ports[0].target_port == "http"


def test_one_bad_object_of_a_list_costs_only_itself() -> None:
    info = kind_of("networking.istio.io/v1", "VirtualService")
    objects = [virtual_service({"hosts": ["a"]}), virtual_service({"hosts": 1}), virtual_service({"hosts": ["c"]})]
    good, bad = read_each(objects, info)
    assert [cast(networking.VirtualService, g).spec.hosts for g in good] == [("a",), ("c",)]
    assert [(obj, error.where) for obj, error in bad] == [(objects[1], "VirtualService prod/reviews spec.hosts")]


def test_list_items_get_the_kind_that_the_list_says() -> None:
    info = kind_of("v1", "Pod")
    pod = read_as({"metadata": {"name": "a", "namespace": "b", "creationTimestamp": None}}, info)
    assert (pod.api_version, pod.kind, pod.key) == ("v1", "Pod", ("b", "a"))


def test_bytes_are_decoded_directly_and_leniently_when_they_must() -> None:
    decoder = Decoder(kind_of("networking.istio.io/v1", "VirtualService"))
    strict = json.dumps(virtual_service({"hosts": ["a"]})).encode()
    lenient = json.dumps(virtual_service({"hosts": ["a"], "http": None})).encode()
    assert decoder.decode(strict) == decoder.decode(lenient)
    with pytest.raises(InvalidResource):
        decoder.decode(b'{"apiVersion": "networking.istio.io/v1"')
    with pytest.raises(InvalidResource):
        decoder.decode(b"[" * 100_000)


def test_writing_leaves_defaults_out_and_reads_back_equal() -> None:
    obj = virtual_service(
        {"hosts": ["a"], "http": [{"timeout": "1.5s", "match": [{"uri": {"exact": ""}}], "route": []}]}
    )
    resource = parse(obj)
    written = to_object(resource)
    assert cast(JsonObject, written["spec"])["http"] == [{"match": [{"uri": {"exact": ""}}], "timeout": "1.5s"}]
    assert parse(to_json(resource)) == resource


def test_old_spellings_mean_the_same() -> None:
    def share(**fields: Json) -> float:
        return parsed({"hosts": ["a"], "http": [{"mirror": {"host": "b"}, **fields}]}).spec.http[0].mirror_share

    assert share() == 100
    assert share(mirrorPercent=10) == share(mirror_percent=10) == share(mirrorPercentage={"value": 10}) == 10


def test_service_entries_of_the_api_need_their_spec() -> None:
    with pytest.raises(InvalidResource, match="required"):
        parse({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "a"}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
field_names = st.sampled_from(
    [
        "hosts",
        "http",
        "match",
        "uri",
        "route",
        "destination",
        "tls",
        "mode",
        "port",
        "ports",
        "number",
        "servers",
        "host",
    ]
)
specs = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field_names, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(KINDS), json_values, specs)
def test_any_json_is_read_or_is_an_invalid_resource(info: object, metadata: Json, spec: Json) -> None:
    kind = next(k for k in KINDS if k is info)
    obj: JsonObject = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}
    try:
        problems_of(obj)
        resource = parse(obj)
    except InvalidResource:
        return
    assert parse(to_object(resource)) == resource


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_are_an_invalid_resource(data: bytes) -> None:
    with contextlib.suppress(InvalidResource):
        parse(data)


def test_every_kind_is_registered_once() -> None:
    assert len({(k.group, k.kind) for k in KINDS}) == len(KINDS)
    assert len(ISTIO_KINDS) == 15
