"""The functions that injection templates may call beyond sprig's: Istio's, by name and behaviour.

In: template values. Out: template values. Some share a name with a function of sprig and differ (`indent` leaves the
first line alone, `toYaml` ends in a newline); templates that Istio's users wrote rely on that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import cast

from meltem import yamlio
from meltem.gotemplate.values import MISSING, GoStruct, Value, is_list, is_map
from meltem.objects import Json, JsonObject

MULTUS_DEFAULT_NAMESPACE = ""


def text_of(value: Value) -> str:
    """What `fmt.Sprint` would write."""
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, GoStruct):
        return value.text or ""
    return str(value)


def annotation(meta: Value, name: Value, default: Value) -> Value:
    annotations = meta.get("Annotations") if is_map(meta) else None
    found = annotations.get(str(name)) if is_map(annotations) else None
    if isinstance(found, str):
        return found
    return "" if default is None or default is MISSING else text_of(default)


def isset(mapping: Value, key: Value) -> Value:
    return is_map(mapping) and str(key) in mapping


def value_or_default(value: Value, default: Value) -> Value:
    return default if value is None or value is MISSING or value == "" else value


def exclude_inbound_port(port: Value, excluded: Value) -> Value:
    """The list of ports with `port` in it, once; port 0 adds nothing."""
    listed = "" if excluded is None or excluded is MISSING else str(excluded)
    number = text_of(port).strip()
    if number in ("", "0", "<nil>"):
        return listed
    ports = [p.strip() for p in listed.split(",") if p.strip()]
    return listed if number in ports else ",".join([*ports, number])


def include_inbound_ports(containers: Value) -> Value:
    return ",".join(_tcp_ports(containers, skip=""))


def application_ports(containers: Value) -> Value:
    return ",".join(_tcp_ports(containers, skip="istio-proxy"))


def _tcp_ports(containers: Value, *, skip: str) -> list[str]:
    found: list[str] = []
    for container in containers if is_list(containers) else ():
        if not is_map(container) or (skip and container.get("Name") == skip):
            continue
        ports = container.get("Ports")
        for port in ports if is_list(ports) else ():
            if is_map(port) and port.get("Protocol") not in ("UDP", "SCTP"):
                found.append(text_of(port.get("ContainerPort")))
    return found


def same(value: Value) -> Value:
    return value


def from_json(text: Value) -> Value:
    try:
        return cast(Json, json.loads(str(text)))
    except (ValueError, RecursionError):
        return "{}"


def to_json(value: Value) -> Value:
    return json.dumps(value, separators=(",", ":"), sort_keys=True) if is_map(value) else "{}"


def to_yaml(value: Value) -> Value:
    plain = _plain(value)
    if plain == {}:
        return "{}\n"
    return yamlio.dump(plain)


def indent(spaces: Value, source: Value) -> Value:
    pad = " " * (spaces if isinstance(spaces, int) else 0)
    lines = str(source).split("\n")
    return "\n".join([lines[0], *(pad + line for line in lines[1:])])


def directory(path: Value) -> Value:
    head, separator, _ = str(path).rpartition("/")
    return head + separator


def contains(needle: Value, haystack: Value) -> Value:
    return str(needle) in text_of(haystack)


def to_lower(text: Value) -> Value:
    return str(text).lower()


def omit_nil(value: Value) -> Value:
    """A map without the entries that are null, at every depth."""
    if is_map(value):
        return {k: omit_nil(v) for k, v in value.items() if v is not None}
    return value


def omit(*arguments: Value) -> Value:
    mapping, *keys = arguments
    dropped = {str(k) for k in keys}
    return {k: v for k, v in mapping.items() if k not in dropped} if is_map(mapping) else {}


def string_dict(*arguments: Value) -> Value:
    texts = [str(a) for a in arguments]
    return {texts[i]: texts[i + 1] if i + 1 < len(texts) else "" for i in range(0, len(texts), 2)}


def merge_maps(*maps: Value) -> Value:
    merged: dict[str, object] = {}
    for mapping in maps:
        if is_map(mapping):
            merged.update(mapping)
    return merged


def to_json_map(*maps: Value) -> Value:
    return to_json(merge_maps(*maps))


def append_multus_network(existing: Value, network: Value) -> Value:
    """The annotation's network list with ours in it: a comma-separated list, or JSON."""
    present = "" if existing is None or existing is MISSING else str(existing)
    wanted = str(network)
    if not present:
        return wanted
    end = present.rfind("]")
    if end < 0:
        listed = [n.strip() for n in present.split(",")]
        return present if wanted in listed else f"{present}, {wanted}"
    namespace, _, name = wanted.rpartition("/")
    try:
        networks = cast(Json, json.loads(present))
    except (ValueError, RecursionError):
        return present
    for item in networks if isinstance(networks, list) else ():
        if isinstance(item, dict) and item.get("name") == name and (item.get("namespace") or "") == namespace:
            return present
    ours = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return f"{present[:end]}, {json.dumps(ours)}{present[end:]}"


def environment_function(environment: Mapping[str, str]) -> Callable[..., Value]:
    """`env`: only what the operator lets templates see, not istiod's whole environment."""

    def env(name: Value, default: Value) -> Value:
        return environment.get(str(name)) or default

    return env


def placeholder(*_: Value) -> Value:
    """Stands for functions that need a pod, while a template is only parsed."""
    return ""


FIXED: Mapping[str, Callable[..., Value]] = {
    "annotation": annotation,
    "isset": isset,
    "valueOrDefault": value_or_default,
    "excludeInboundPort": exclude_inbound_port,
    "includeInboundPorts": include_inbound_ports,
    "applicationPorts": application_ports,
    "kubevirtInterfaces": same,
    "excludeInterfaces": same,
    "fromJSON": from_json,
    "toJSON": to_json,
    "toYaml": to_yaml,
    "indent": indent,
    "directory": directory,
    "contains": contains,
    "toLower": to_lower,
    "omitNil": omit_nil,
    "omit": omit,
    "strdict": string_dict,
    "mergeMaps": merge_maps,
    "toJsonMap": to_json_map,
    "appendMultusNetwork": append_multus_network,
    "formatDuration": same,
}
PER_POD = ("env", "structToJSON", "protoToJSON", "otelResourceAttributes")
FUNCTION_NAMES = (*FIXED, *PER_POD)


def _plain(value: Value) -> Json:
    if is_map(value):
        return {k: _plain(v) for k, v in value.items()}
    if is_list(value):
        return [_plain(v) for v in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return text_of(value)


def as_object(value: Value) -> JsonObject:
    plain = _plain(value)
    return plain if isinstance(plain, dict) else {}
