"""Kinds, schemas and the documents made from them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from meltem.errors import Invalid, NotFound
from meltem.local.apiserver.schema.kinds import builtin_kinds
from meltem.local.apiserver.schema.openapi import openapi_v2, openapi_v3, openapi_v3_index
from meltem.local.apiserver.schema.types import builtin_schema, crd_schema
from meltem.objects import JsonObject

CRD: JsonObject = {
    "spec": {
        "group": "ex.io",
        "scope": "Namespaced",
        "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}},
            }
        ],
    }
}


def test_every_kind_has_a_schema_and_a_unique_resource() -> None:
    kinds = builtin_kinds()
    for kind in kinds:
        assert builtin_schema(kind.group, kind.version, kind.kind).properties["kind"]
    assert len({(k.group, k.version, k.plural) for k in kinds}) == len(kinds)


def test_short_names_and_scope() -> None:
    found = {k.kind: k for k in builtin_kinds()}
    assert found["Deployment"].short_names == ("deploy",)
    assert found["Deployment"].subresources == {"scale", "status"}
    assert not found["Namespace"].namespaced and "deletecollection" not in found["Namespace"].verbs
    assert found["TokenReview"].verbs == ("create",)


def test_unknown_kind() -> None:
    with pytest.raises(NotFound, match='no kind "Foo"'):
        builtin_schema("apps", "v1", "Foo")


def test_schemas_load_cheaply_and_on_demand() -> None:
    code = (
        "import meltem.local.apiserver.schema.kinds as k, meltem.local.apiserver.schema.types;"
        "k.builtin_kinds();import sys;"
        "from meltem.local.apiserver.schema import definitions as d;"
        "sys.exit(d.definitions.cache_info().currsize)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_v3_document_describes_resources_for_explain_and_validation() -> None:
    document = json.loads(openapi_v3("apps", "v1", builtin_kinds(), []))
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert {"dryRun", "fieldValidation", "fieldManager", "force"} <= {p["name"] for p in patch["parameters"]}
    schemas = document["components"]["schemas"]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name" and containers["type"] == "array"
    refs = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert refs <= schemas.keys()


def test_v2_document_has_no_dangling_references() -> None:
    document = json.loads(openapi_v2(builtin_kinds(), [CRD]))
    refs = {part.split('"')[0] for part in json.dumps(document).split("#/definitions/")[1:]}
    assert refs <= document["definitions"].keys()


def test_custom_resource_document_and_index() -> None:
    schemas = json.loads(openapi_v3("ex.io", "v1", builtin_kinds(), [CRD]))["components"]["schemas"]
    assert schemas["io.ex.v1.Foo"]["x-kubernetes-group-version-kind"] == [
        {"group": "ex.io", "kind": "Foo", "version": "v1"}
    ]
    assert "metadata" in schemas["io.ex.v1.Foo"]["properties"]
    before = openapi_v3_index(builtin_kinds(), [])["paths"]
    after = openapi_v3_index(builtin_kinds(), [CRD])["paths"]
    assert isinstance(before, dict) and isinstance(after, dict)
    assert "apis/ex.io/v1" in after and after["apis/apps/v1"] == before["apis/apps/v1"]
    with pytest.raises(NotFound):
        openapi_v3("nope", "v1", builtin_kinds(), [CRD])


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({}, "openAPIV3Schema.type"),
        ({"type": "string"}, "openAPIV3Schema.type"),
        ({"type": "object", "properties": {"a": {}}}, "openAPIV3Schema.properties[a].type"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "openAPIV3Schema.properties[a].items"),
        (
            {"type": "object", "properties": {"a": {"type": "object", "oneOf": [{"type": "object"}]}}},
            "openAPIV3Schema.properties[a].oneOf[0].type",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
            "openAPIV3Schema.properties[a].pattern",
        ),
    ],
)
def test_schemas_that_are_not_structural(schema: JsonObject, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        crd_schema(schema)
    causes = caught.value.details["causes"]
    assert isinstance(causes, list) and path in [c["field"] for c in causes]
