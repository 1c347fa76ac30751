"""`check`: what admission says about a spec written in YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from meltem import yamlio
from meltem.objects import JsonObject
from meltem.resources.kinds import ISTIO_KINDS
from meltem.validate import Result
from meltem.validate.webhook import check_object

API = {k.kind: k.api_version for k in ISTIO_KINDS}


def check_spec(
    kind: str, spec: str | JsonObject, *, annotations: dict[str, str] | None = None, name: str = "a"
) -> Result:
    metadata: JsonObject = {"name": name, "namespace": "prod", "annotations": {**(annotations or {})}}
    body = cast(JsonObject, yamlio.load(spec)) if isinstance(spec, str) else spec
    return check_object({"apiVersion": API[kind], "kind": kind, "metadata": metadata, "spec": body})


@pytest.fixture
def check() -> Callable[..., Result]:
    """`check(kind, spec)`: `spec` is YAML or an object; the resource lives in namespace `prod`."""
    return check_spec
