"""What kubectl get shows."""

from __future__ import annotations

import pytest

from meltem.clock import parse_rfc3339
from meltem.errors import InvalidResource
from meltem.local.apiserver.schema import jsonpath, quantity
from meltem.local.apiserver.schema.kinds import KindInfo, builtin_kinds
from meltem.local.apiserver.schema.printers import human_duration
from meltem.local.apiserver.schema.table import table_columns, table_row
from meltem.objects import Json, JsonObject

MADE = "2026-01-01T00:00:00Z"
NOW = parse_rfc3339(MADE) + 300
KINDS = {k.kind: k for k in builtin_kinds() if k.group != "events.k8s.io"}
FOO = KindInfo("ex.io", "v1", "Foo", "foos", "foo", True)


def row(kind: str, **parts: Json) -> list[Json]:
    metadata: JsonObject = {"name": "x", "creationTimestamp": MADE}
    return table_row(KINDS[kind], {"metadata": metadata, **parts}, None, NOW)


def test_every_kind_has_as_many_cells_as_columns() -> None:
    for kind in builtin_kinds():
        obj: JsonObject = {"metadata": {"name": "x", "creationTimestamp": MADE}}
        assert len(table_row(kind, obj, None, NOW)) == len(table_columns(kind, None)), kind


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (5, "5s"),
        (119, "119s"),
        (200, "3m20s"),
        (3600, "60m"),
        (5 * 3600 + 60, "5h1m"),
        (40 * 3600, "40h"),
        (9 * 86400, "9d"),
    ],
)
def test_durations(seconds: int, shown: str) -> None:
    assert human_duration(seconds) == shown


def test_a_running_pod_with_a_sidecar() -> None:
    spec: JsonObject = {
        "initContainers": [{"name": "i"}, {"name": "proxy", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}],
        "nodeName": "n",
    }
    status: JsonObject = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 0}}},
            {"name": "proxy", "started": True, "ready": True, "state": {"running": {}}},
        ],
        "containerStatuses": [
            {
                "name": "a",
                "ready": True,
                "restartCount": 2,
                "state": {"running": {}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:04:00Z"}},
            }
        ],
    }
    assert row("Pod", spec=spec, status=status)[:7] == ["x", "2/2", "Running", "2 (60s ago)", "5m", "10.0.0.1", "n"]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}, "Init:0/1"),
        (
            {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 3}}}]},
            "Init:ExitCode:3",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
            },
            "ImagePullBackOff",
        ),
        (
            {
                "phase": "Failed",
                "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}],
            },
            "Error",
        ),
    ],
)
def test_pod_status(status: JsonObject, shown: str) -> None:
    spec: JsonObject = {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}
    assert row("Pod", spec=spec, status=status)[2] == shown


def test_services_and_deployments() -> None:
    ports: JsonObject = {
        "type": "LoadBalancer",
        "clusterIP": "10.0.0.1",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
    }
    assert row("Service", spec=ports)[1:5] == ["LoadBalancer", "10.0.0.1", "<pending>", "80:30080/TCP"]
    status: JsonObject = {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}
    assert row("Deployment", spec={"replicas": 3}, status=status)[:5] == ["x", "1/3", 2, 1, "5m"]


def test_custom_columns() -> None:
    columns: list[JsonObject] = [
        {"name": "Hosts", "type": "string", "jsonPath": ".spec.hosts"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    obj: JsonObject = {
        "metadata": {"name": "f", "creationTimestamp": MADE},
        "spec": {"hosts": ["a", "b"]},
        "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]},
    }
    assert [c["name"] for c in table_columns(FOO, columns)] == ["Name", "Hosts", "Ready", "Size", "Age"]
    assert table_row(FOO, obj, columns, NOW) == ["f", '["a","b"]', "True", None, "5m"]
    assert table_row(FOO, obj, [], NOW) == ["f", "5m"]


def test_json_paths() -> None:
    obj: JsonObject = {"a": {"b.c": [1, 2, 3]}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}
    assert jsonpath.find(r".a.b\.c[1]", obj) == [2]
    assert jsonpath.find(".a['b.c'][*]", obj) == [1, 2, 3]
    assert jsonpath.find(".l[?(@.n=='y')].v", obj) == [2]
    assert jsonpath.find(".none.at.all", obj) == []
    with pytest.raises(InvalidResource):
        jsonpath.parse("a.b")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("2e3", "2e3"),
        ("1000", "1k"),
        ("0", "0"),
    ],
)
def test_canonical_quantities(text: str, shown: str) -> None:
    assert quantity.canonical(text) == shown
    assert quantity.parse(shown) == quantity.parse(text)
