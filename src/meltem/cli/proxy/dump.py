"""Envoy's config dump, opened.

In: the JSON of `/config_dump?include_eds`. Out: its resources by type, as JSON with Envoy's snake case names; `camel`
turns them into the names that Istio's users script against.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.objects import Json, JsonObject, object_at, objects_at, str_at

_ADMIN = "type.googleapis.com/envoy.admin.v3."
_VERBATIM = frozenset({"filter_metadata", "typed_filter_metadata", "fields"})
"""Below these, keys are data and not fields."""


def section(dump: JsonObject, name: str) -> JsonObject:
    """`ClustersConfigDump` and so on; empty when the dump has none."""
    found = [c for c in objects_at(dump, "configs") if str_at(c, "@type") == _ADMIN + name]
    return found[0] if found else {}


def clusters(dump: JsonObject) -> list[JsonObject]:
    found = section(dump, "ClustersConfigDump")
    parts = ("static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters")
    return [object_at(e, "cluster") for key in parts for e in objects_at(found, key)]


def listeners(dump: JsonObject) -> list[JsonObject]:
    found = section(dump, "ListenersConfigDump")
    made = [object_at(e, "listener") for e in objects_at(found, "static_listeners")]
    for entry in objects_at(found, "dynamic_listeners"):
        state = object_at(entry, "active_state") or object_at(entry, "warming_state")
        if state:
            made.append(object_at(state, "listener"))
    return made


def routes(dump: JsonObject) -> list[JsonObject]:
    found = section(dump, "RoutesConfigDump")
    parts = ("static_route_configs", "dynamic_route_configs")
    return [object_at(e, "route_config") for key in parts for e in objects_at(found, key)]


def endpoints(dump: JsonObject) -> list[JsonObject]:
    found = section(dump, "EndpointsConfigDump")
    parts = ("static_endpoint_configs", "dynamic_endpoint_configs")
    return [object_at(e, "endpoint_config") for key in parts for e in objects_at(found, key)]


def secrets(dump: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """(ACTIVE or WARMING, entry)"""
    found = section(dump, "SecretsConfigDump")
    for key, state in (
        ("static_secrets", "ACTIVE"),
        ("dynamic_active_secrets", "ACTIVE"),
        ("dynamic_warming_secrets", "WARMING"),
    ):
        for entry in objects_at(found, key):
            yield state, entry


def extensions(dump: JsonObject) -> list[JsonObject]:
    found = section(dump, "EcdsConfigDump")
    return [object_at(e, "ecds_filter") for e in objects_at(found, "ecds_filters")]


def bootstrap(dump: JsonObject) -> JsonObject:
    return object_at(section(dump, "BootstrapConfigDump"), "bootstrap")


def camel(value: Json) -> Json:
    """Field names in protobuf's JSON form (`loadAssignment`); keys of free-form maps stay."""
    if isinstance(value, list):
        return [camel(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {_camel(k): v if _is_data(k, v) else camel(v) for k, v in value.items()}


def _is_data(key: str, value: Json) -> bool:
    """Whether the keys below are people's own. A node's metadata is; a resource's holds Envoy's two fields."""
    if key == "metadata" and isinstance(value, dict):
        return not value.keys() <= _VERBATIM
    return key in _VERBATIM


def _camel(name: str) -> str:
    if name.startswith("@") or not name.replace("_", "").isalnum():
        return name
    first, *rest = name.split("_")
    return first + "".join(p[:1].upper() + p[1:] for p in rest)


def istio_config(resource: JsonObject) -> tuple[str, str]:
    """(namespace, name) of the Istio resource that the metadata says a cluster or route came from, or empty."""
    path = str_at(resource, "metadata", "filter_metadata", "istio", "config")
    parts = path.strip("/").split("/")
    return (parts[4], parts[6]) if len(parts) >= 7 and parts[3] == "namespaces" else ("", "")


def split_cluster(name: str) -> tuple[str, str, str, str]:
    """(direction, port, subset, host) of a cluster's name in Istio's grammar; empty where it is not one."""
    parts = name.split("|")
    if len(parts) != 4:
        parts = name.replace("_.", "|").split("|") if name.startswith("outbound_.") else []
    return (parts[0], parts[1], parts[2], parts[3]) if len(parts) == 4 else ("", "", "", "")
