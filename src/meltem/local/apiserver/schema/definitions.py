"""The definitions of Kubernetes' own types, from the package `kubernetes-validate` (JSON Schema, 1.36).

Parsed once a process, on first use (about 25 ms, 10 MiB). The package's form is undone on the way in: nullable unions
become plain types, and references lose their prefix.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import cast

import msgspec

from meltem.errors import EnvironmentError_
from meltem.objects import Json, JsonObject, object_at, objects_at, str_at

REF_PREFIX = "#/$defs/"
_VERSION = "v1.36.0-local"

# The package leaves out what the types' Go markers say about defaults; these decide the identity of list items.
KEY_DEFAULTS: dict[tuple[str, str], Json] = {
    ("io.k8s.api.core.v1.ContainerPort", "protocol"): "TCP",
    ("io.k8s.api.core.v1.ServicePort", "protocol"): "TCP",
}


def _directory() -> Path:
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentError_("the Python package kubernetes-validate is missing", remedy="install it beside meltem")
    root = Path(next(iter(spec.submodule_search_locations))) / "kubernetes-json-schema"
    wanted = root / _VERSION
    if wanted.is_dir():
        return wanted
    found = sorted(p for p in root.glob("v1.*-local") if p.is_dir())
    if not found:
        raise EnvironmentError_(
            f"kubernetes-validate has no schemas below {root}", remedy="install version 1.36 or later"
        )
    return found[-1]


@cache
def definitions() -> dict[str, JsonObject]:
    """Definition name (`io.k8s.api.core.v1.Pod`) → its schema. Shared: do not change it."""
    document = msgspec.json.decode((_directory() / "_definitions.json").read_bytes())
    return cast(dict[str, JsonObject], document["$defs"])


@cache
def by_kind() -> dict[tuple[str, str, str], str]:
    """(group, version, kind) → definition name."""
    found: dict[tuple[str, str, str], str] = {}
    for name, schema in definitions().items():
        gvks = objects_at(schema, "x-kubernetes-group-version-kind")
        if len(gvks) > 1 and not name.endswith("DeleteOptions"):
            gvks = gvks[:1]
        for gvk in gvks:
            found.setdefault((str_at(gvk, "group"), str_at(gvk, "version"), str_at(gvk, "kind")), name)
    return found


def plain_type(raw: JsonObject) -> str:
    """The JSON type that a schema names, without `null`; empty where it names none."""
    kind = raw.get("type")
    if isinstance(kind, str):
        return kind
    if isinstance(kind, list):
        return next((k for k in kind if isinstance(k, str) and k != "null"), "")
    return ""


def reference(raw: JsonObject) -> str:
    """The definition that a schema refers to, or empty."""
    return str_at(raw, "$ref").removeprefix(REF_PREFIX)


def definition(name: str) -> JsonObject:
    return object_at(cast(JsonObject, definitions()), name)
