"""get, list, paging, selectors, tables, discovery: what every client relies on."""

from __future__ import annotations

from typing import Any

import pytest

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


def maps(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/configmaps"


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer.json["items"]]


@pytest.fixture
def five(api: Any, ns: str) -> str:
    for index in range(5):
        labels = {"n": str(index), "even": str(index % 2 == 0).lower()}
        assert api.post(maps(ns), config_map(f"cm-{index}", labels, x="y")).status == 201
    return ns


def test_what_is_missing_is_404_with_the_name(api: Any, ns: str) -> None:
    answer = api.get(f"{maps(ns)}/none")
    assert answer.status == 404
    status = answer.json
    assert (status["kind"], status["status"], status["reason"]) == ("Status", "Failure", "NotFound")
    assert status["message"] == 'configmaps "none" not found'
    assert status["details"] == {"name": "none", "kind": "configmaps"}


def test_unknown_resource_is_404(api: Any) -> None:
    answer = api.get("/apis/apps/v1/nothings")
    assert answer.status == 404


def test_list_has_kind_and_resource_version(api: Any, five: str) -> None:
    listed = api.get(maps(five)).json
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMapList", "v1")
    assert int(listed["metadata"]["resourceVersion"]) > 0
    assert [i["metadata"]["name"] for i in listed["items"]] == [f"cm-{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("n=1", ["cm-1"]),
        ("n==1", ["cm-1"]),
        ("n!=1", ["cm-0", "cm-2", "cm-3", "cm-4"]),
        ("n in (1,2)", ["cm-1", "cm-2"]),
        ("n notin (1,2,3)", ["cm-0", "cm-4"]),
        ("even=true,n!=0", ["cm-2", "cm-4"]),
        ("nosuch", []),
        ("!nosuch,n=3", ["cm-3"]),
        ("n>2", ["cm-3", "cm-4"]),
        ("n<1", ["cm-0"]),
    ],
)
def test_label_selectors(api: Any, five: str, selector: str, expected: list[str]) -> None:
    from urllib.parse import quote

    assert names(api.get(f"{maps(five)}?labelSelector={quote(selector)}")) == expected


def test_bad_selectors_are_400(api: Any, ns: str) -> None:
    assert api.get(f"{maps(ns)}?labelSelector=a%20in%20b").status == 400
    assert api.get(f"{maps(ns)}?fieldSelector=data.x%3Dy").status == 400


def test_field_selector_by_name(api: Any, five: str) -> None:
    assert names(api.get(f"{maps(five)}?fieldSelector=metadata.name%3Dcm-3")) == ["cm-3"]
    assert names(api.get(f"{maps(five)}?fieldSelector=metadata.name%21%3Dcm-3")) == ["cm-0", "cm-1", "cm-2", "cm-4"]


def test_secrets_by_type(api: Any, ns: str) -> None:
    path = f"/api/v1/namespaces/{ns}/secrets"
    for name, kind in (("a", "Opaque"), ("b", "example.com/own")):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind}
        assert api.post(path, secret).status == 201
    assert names(api.get(f"{path}?fieldSelector=type%3Dexample.com/own")) == ["b"]


def test_paging_goes_through_one_snapshot(api: Any, five: str) -> None:
    first = api.get(f"{maps(five)}?limit=2").json
    assert first["metadata"]["remainingItemCount"] == 3
    assert api.delete(f"{maps(five)}/cm-4").status == 200
    seen = [i["metadata"]["name"] for i in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        page = api.get(f"{maps(five)}?limit=2&continue={token}").json
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        seen += [i["metadata"]["name"] for i in page["items"]]
        token = page["metadata"].get("continue", "")
    assert seen == [f"cm-{i}" for i in range(5)]


def test_garbage_continue_is_400(api: Any, ns: str) -> None:
    assert api.get(f"{maps(ns)}?continue=garbage").status == 400


def test_exact_resource_version_reads_the_past(api: Any, five: str) -> None:
    rv = api.get(maps(five)).json["metadata"]["resourceVersion"]
    assert api.delete(f"{maps(five)}/cm-0").status == 200
    past = api.get(f"{maps(five)}?resourceVersion={rv}&resourceVersionMatch=Exact").json
    assert len(past["items"]) == 5 and past["metadata"]["resourceVersion"] == rv
    assert len(api.get(f"{maps(five)}?resourceVersion={rv}&resourceVersionMatch=NotOlderThan").json["items"]) == 4


def test_resource_version_match_needs_a_version(api: Any, ns: str) -> None:
    assert api.get(f"{maps(ns)}?resourceVersionMatch=Exact").status == 422
    assert api.get(f"{maps(ns)}?resourceVersionMatch=Exact&resourceVersion=0").status == 422


def test_tables_have_columns_and_rows(api: Any, five: str) -> None:
    table = api.get(maps(five), accept=TABLE).json
    assert table["kind"] == "Table" and table["apiVersion"] == "meta.k8s.io/v1"
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    row = table["rows"][0]
    assert row["cells"][:2] == ["cm-0", 1]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    full = api.get(f"{maps(five)}?includeObject=Object", accept=TABLE).json
    assert full["rows"][0]["object"]["data"] == {"x": "y"}


def test_partial_object_metadata(api: Any, five: str) -> None:
    listed = api.get(maps(five), accept=PARTIAL).json
    assert listed["kind"] == "PartialObjectMetadataList"
    assert "data" not in listed["items"][0] and listed["items"][0]["metadata"]["labels"]["n"] == "0"


def test_unacceptable_media_type_is_406(api: Any, ns: str) -> None:
    assert api.get(maps(ns), accept="text/plain").status == 406


def test_yaml_is_served_and_read(api: Any, ns: str) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yam\ndata:\n  a: b\n"
    assert api.call("POST", maps(ns), body, kind="application/yaml").status == 201
    assert b"a: b" in api.get(f"{maps(ns)}/yam", accept="application/yaml").body


def test_discovery_documents(api: Any) -> None:
    assert api.get("/api").json["versions"] == ["v1"]
    groups = {g["name"]: g for g in api.get("/apis").json["groups"]}
    assert groups["apps"]["preferredVersion"]["groupVersion"] == "apps/v1"
    resources = {r["name"]: r for r in api.get("/apis/apps/v1").json["resources"]}
    assert resources["deployments"]["shortNames"] == ["deploy"]
    assert resources["deployments"]["singularName"] == "deployment"
    assert resources["deployments/scale"]["kind"] == "Scale"
    assert {"create", "delete", "get", "list", "patch", "update", "watch"} <= set(resources["deployments"]["verbs"])


def test_aggregated_discovery(api: Any) -> None:
    answer = api.get("/apis", accept=AGGREGATED)
    assert "as=APIGroupDiscoveryList" in answer.headers["Content-Type"]
    apps = next(i for i in answer.json["items"] if i["metadata"]["name"] == "apps")
    deployment = next(r for r in apps["versions"][0]["resources"] if r["resource"] == "deployments")
    assert deployment["scope"] == "Namespaced"
    assert {s["subresource"] for s in deployment["subresources"]} == {"scale", "status"}


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health(api: Any, path: str) -> None:
    assert api.get(path, accept="*/*").body == b"ok"


def test_version(api: Any) -> None:
    assert api.get("/version").json["gitVersion"].startswith("v1.")


def test_openapi_v3_has_every_group(api: Any) -> None:
    paths = api.get("/openapi/v3").json["paths"]
    url = paths["apis/apps/v1"]["serverRelativeURL"]
    document = api.get(url).json
    assert "io.k8s.api.apps.v1.Deployment" in document["components"]["schemas"]
