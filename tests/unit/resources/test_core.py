"""Kubernetes' kinds read as the mesh needs them."""

from __future__ import annotations

import base64

import pytest

from meltem.objects import JsonObject
from meltem.resources import core, pod
from meltem.resources.parse import parse


def test_services_know_their_addresses() -> None:
    def service(spec: JsonObject) -> core.Service:
        found = parse({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec})
        assert isinstance(found, core.Service)
        return found

    assert service({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}).addresses == (
        "10.0.0.1",
        "fd00::1",
    )
    assert service({"clusterIP": "10.0.0.1"}).addresses == ("10.0.0.1",)
    assert service({"clusterIP": "None", "clusterIPs": ["None"]}).addresses == ()
    assert service({"type": "ExternalName", "externalName": "a.com"}).addresses == ()


def test_slices_know_their_service_and_who_is_ready() -> None:
    found = parse(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "a-x", "labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.0.1"], "conditions": {"ready": True}, "zone": "z1", "nodeName": "n"},
                {"addresses": ["10.1.0.2"], "conditions": {"ready": False, "terminating": True}},
                {"addresses": ["10.1.0.3"], "conditions": {}, "targetRef": {"kind": "Pod", "name": "p"}},
            ],
            "ports": [{"name": "http", "port": 9080, "appProtocol": "kubernetes.io/h2c"}],
        }
    )
    assert isinstance(found, core.EndpointSlice)
    assert found.service_name == "a"
    assert [e.ready for e in found.endpoints] == [True, False, True]
    assert found.endpoints[2].target_ref is not None and found.endpoints[2].target_ref.name == "p"


def test_pods() -> None:
    found = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "p",
                "ownerReferences": [
                    {"kind": "Node", "name": "n"},
                    {"kind": "ReplicaSet", "name": "rs", "controller": True},
                ],
            },
            "spec": {
                "containers": [{"name": "c", "readinessProbe": {"httpGet": {"port": "http", "path": "/ready"}}}],
                "serviceAccountName": "sa",
            },
            "status": {
                "podIP": "10.1.0.1",
                "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::2"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "phase": "Running",
            },
        }
    )
    assert isinstance(found, pod.Pod)
    assert found.addresses == ("10.1.0.1", "fd00::2") and found.ready and not found.finished
    assert found.metadata.controller is not None and found.metadata.controller.name == "rs"
    probe = found.spec.containers[0].readiness_probe
    assert (
        probe is not None
        and probe.http_get is not None
        and probe.http_get.port == "http"
        and probe.period_seconds == 10
    )


def test_nodes_know_where_they_are() -> None:
    labels = {
        "topology.kubernetes.io/region": "r",
        "topology.kubernetes.io/zone": "z",
        "topology.istio.io/subzone": "s",
    }
    assert core.Node(metadata=core.Meta(name="n", labels=labels)).locality == ("r", "z", "s")
    assert core.Node().locality == ("", "", "")


def test_secrets_are_decoded_when_asked_and_never_raise() -> None:
    secret = core.Secret(data={"a": base64.b64encode(b"x").decode(), "b": "%%%"}, string_data={"c": "y"})
    assert [secret.value(k) for k in "abcd"] == [b"x", None, b"y", None]


@pytest.mark.parametrize(
    ("operator", "values", "matches"),
    [
        ("In", ("x", "y"), True),
        ("In", ("z",), False),
        ("NotIn", ("z",), True),
        ("NotIn", ("x",), False),
        ("Exists", (), True),
        ("DoesNotExist", (), False),
        ("Sounds", (), False),
    ],
)
def test_label_selectors(operator: str, values: tuple[str, ...], matches: bool) -> None:
    expression = core.LabelSelectorRequirement(key="app", operator=operator, values=values)
    selector = core.LabelSelector(match_labels={"v": "1"}, match_expressions=(expression,))
    assert selector.matches({"app": "x", "v": "1"}) is matches
    assert not selector.matches({"app": "x", "v": "2"})
    assert core.LabelSelector().matches({})
