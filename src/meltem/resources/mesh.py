"""Reading MeshConfig, MeshNetworks and the proxy settings of one workload.

In: the YAML texts of the ConfigMap `istio` and of the annotation `proxy.istio.io/config`. Out: frozen structs with
Istio's defaults where nothing is said, and the fields that were not understood (warnings: they change nothing).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from meltem import yamlio
from meltem.errors import InvalidResource
from meltem.objects import Json, JsonObject, copy_json
from meltem.resources.base import Message
from meltem.resources.lenient import Problem
from meltem.resources.mesh_providers import DEFAULT_PROVIDERS
from meltem.resources.mesh_proxy import MeshProxyConfig
from meltem.resources.meshconfig import MeshConfig, MeshNetworks
from meltem.resources.parse import lenient, to_object

M = TypeVar("M", bound=Message)


def parse_meshconfig(text: str, *, source: str = "MeshConfig") -> MeshConfig:
    """The mesh's settings; unknown fields are ignored. Raises InvalidResource, UserError for what is no YAML."""
    return read_meshconfig(text, source=source)[0]


def read_meshconfig(text: str, *, source: str = "MeshConfig") -> tuple[MeshConfig, tuple[Problem, ...]]:
    """As `parse_meshconfig`, with the unknown fields. Default providers stay unless one of that name is given."""
    config, unknown = _read(text, MeshConfig, source)
    given = {p.name for p in config.extension_providers}
    more = tuple(p for p in DEFAULT_PROVIDERS if p.name not in given)
    return msgspec.structs.replace(config, extension_providers=(*config.extension_providers, *more)), unknown


def parse_mesh_networks(text: str, *, source: str = "MeshNetworks") -> MeshNetworks:
    """The networks by name. Raises InvalidResource, UserError for what is no YAML."""
    return _read(text, MeshNetworks, source)[0]


def merge_proxy_config(
    base: MeshProxyConfig, overlay: str, *, source: str = "proxy.istio.io/config"
) -> MeshProxyConfig:
    """`base` with what a YAML overlay says: objects and maps merge key by key, anything else replaces.

    Raises InvalidResource, UserError for what is no YAML.
    """
    value = yamlio.load(overlay, source=source)
    if value is None:
        return base
    if not isinstance(value, dict):
        raise InvalidResource("is no YAML object", where=source, remedy="Write fields such as `concurrency: 2`.")
    lenient(value, MeshProxyConfig, where=source)
    merged = _merge(to_object(base), value)
    for given, other in (("tracingServiceName", "serviceCluster"), ("serviceCluster", "tracingServiceName")):
        if given in value:
            merged.pop(other, None)
    return lenient(merged, MeshProxyConfig, where=source)[0]


def _read(text: str, struct: type[M], source: str) -> tuple[M, tuple[Problem, ...]]:
    value = yamlio.load(text, source=source)
    return lenient({} if value is None else value, struct, where=source)


def _merge(base: JsonObject, overlay: JsonObject) -> JsonObject:
    out = dict(base)
    for key, value in overlay.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else _own(value)
    return out


def _own(value: Json) -> Json:
    return copy_json(value)
