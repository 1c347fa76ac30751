"""The CRDs have the fields, types and constraints of Istio's: a user's YAML is accepted and pruned alike."""

from __future__ import annotations

import hashlib
import json
from typing import cast

import pytest

from meltem.objects import Json, JsonObject, object_at, objects_at, str_at, strings_at
from meltem.resources.crds import CHART_FILE, all_crds, crd, kind_schema, render
from meltem.resources.kinds import ISTIO_KINDS, KindInfo

# Number of schema nodes and digest of all of them (path, type, enum, format, limits, CEL), per kind; computed once from
# Istio's own CRDs. A digest that changes means that our API is no longer Istio's.
STRUCTURE: dict[str, tuple[int, str]] = {
    "TrafficExtension": (55, "4061ca8fee38cdc4"),
    "WasmPlugin": (57, "a2f4cdddb677f7b0"),
    "DestinationRule": (453, "544e142120169832"),
    "EnvoyFilter": (83, "e1acda257ed82dee"),
    "Gateway": (63, "02e2a76fdf08fd0c"),
    "ProxyConfig": (28, "7318d5907354b962"),
    "ServiceEntry": (50, "4a1223924f827a5a"),
    "Sidecar": (124, "9ca603ad630e1f90"),
    "VirtualService": (230, "834b7b6d751eb099"),
    "WorkloadEntry": (29, "c301d8a0b82337e5"),
    "WorkloadGroup": (59, "d615e0e440e08efc"),
    "AuthorizationPolicy": (96, "442096d1213f5f27"),
    "PeerAuthentication": (28, "688ceb0d5916c436"),
    "RequestAuthentication": (60, "1a4c3aa2172ecef1"),
    "Telemetry": (85, "f8c6ac8e1396fa65"),
}


def structure(schema: Json, path: str = "") -> list[str]:
    """One line a node: its path and all that the schema says about it, descriptions left out."""
    if not isinstance(schema, dict):
        return []
    below = ("description", "properties", "items", "additionalProperties")
    marks: JsonObject = {k: v for k, v in schema.items() if k not in below}
    required = strings_at(marks, "required")
    if required:
        marks["required"] = cast(Json, sorted(required))
    lines = [f"{path} {json.dumps(marks, sort_keys=True)}"]
    for name, field in sorted(object_at(schema, "properties").items()):
        lines += structure(field, f"{path}.{name}")
    return (
        lines + structure(schema.get("items"), path + "[]") + structure(schema.get("additionalProperties"), path + "{}")
    )


@pytest.mark.parametrize("info", ISTIO_KINDS, ids=lambda k: k.kind)
def test_the_schema_is_istios(info: KindInfo) -> None:
    lines = structure(kind_schema(info))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), digest) == STRUCTURE[info.kind]


@pytest.mark.parametrize("info", ISTIO_KINDS, ids=lambda k: k.kind)
def test_every_object_and_field_is_described(info: KindInfo) -> None:
    def undescribed(schema: Json, path: str) -> list[str]:
        found: list[str] = []
        for name, field in object_at(schema, "properties").items():
            here = f"{path}.{name}"
            if not str_at(field, "description"):
                found.append(here)
            while isinstance(field, dict) and ("items" in field or "additionalProperties" in field):
                field = field.get("items") or field.get("additionalProperties")
            found += undescribed(field, here)
        return found

    assert undescribed(kind_schema(info), info.kind) == []


def test_the_charts_file_is_what_the_models_say() -> None:
    assert CHART_FILE.read_text() == render(), "run `python -m meltem.resources.crds`"


def test_names_versions_and_columns() -> None:
    made = {str_at(c, "metadata", "name"): c for c in all_crds()}
    vs = made["virtualservices.networking.istio.io"]
    assert strings_at(vs, "spec", "names", "shortNames") == ["vs"]
    assert strings_at(vs, "spec", "names", "categories") == ["istio-io", "networking-istio-io"]
    versions = objects_at(vs, "spec", "versions")
    assert [(v["name"], v["storage"], v["served"]) for v in versions] == [
        ("v1", True, True),
        ("v1alpha3", False, True),
        ("v1beta1", False, True),
    ]
    columns = objects_at(versions[0], "additionalPrinterColumns")
    assert [c["name"] for c in columns] == ["Gateways", "Hosts", "Age"]
    assert "istiooperators.install.istio.io" in made
    assert len(made) == 16


def test_each_crd_has_one_stored_version_and_a_status_subresource() -> None:
    for info in ISTIO_KINDS:
        versions = objects_at(crd(info), "spec", "versions")
        assert sum(v["storage"] is True for v in versions) == 1
        assert all(v["subresources"] == {"status": {}} for v in versions)
