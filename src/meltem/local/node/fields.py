"""The downward API: pod fields and container resources as text, for environment variables and volumes.

In: the pod, addresses, a `fieldRef` or `resourceFieldRef`. Out: the value as Kubernetes prints it; InvalidResource for
a path that it does not serve. `quantity` reads resource quantities.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

import msgspec

from meltem.errors import InvalidResource
from meltem.local.config import NODE_NAME
from meltem.objects import JsonObject, annotations_of, labels_of, name_of, namespace_of, objects_at, str_at, uid_of

_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")
_QUANTITY = re.compile(r"^([+-]?[0-9]*\.?[0-9]+)(m|u|n|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?$")
_UNITS = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001"), "k": Decimal(10**3),
    "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip


class Addresses(msgspec.Struct, frozen=True):
    """The primary ones first."""

    pod_ips: tuple[str, ...]
    host_ips: tuple[str, ...]


class Capacity(msgspec.Struct, frozen=True):
    """What a container without limits may use: the node's allocatable."""

    cpus: int
    memory: int
    ephemeral_storage: int = 0


def quantity(text: object) -> Decimal:
    """`250m` → 0.25, `1Gi` → 1073741824; raises InvalidResource."""
    found = _QUANTITY.match(str(text).strip())
    if found is None:
        raise InvalidResource(f"{text!r} is no resource quantity")
    number, unit = found.group(1), found.group(2) or ""
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit not in _UNITS:
        return Decimal(number) * Decimal(10) ** int(unit[1:])
    return Decimal(number) * _UNITS[unit]


def field(pod: JsonObject, path: str, addresses: Addresses) -> str:
    """The value of a `fieldRef.fieldPath`."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        values = labels_of(pod) if subscript.group(1) == "labels" else annotations_of(pod)
        return values.get(subscript.group(2), "")
    match path:
        case "metadata.name":
            return name_of(pod)
        case "metadata.namespace":
            return namespace_of(pod)
        case "metadata.uid":
            return uid_of(pod)
        case "metadata.labels":
            return _lines(labels_of(pod))
        case "metadata.annotations":
            return _lines(annotations_of(pod))
        case "spec.nodeName":
            return str_at(pod, "spec", "nodeName") or NODE_NAME
        case "spec.serviceAccountName":
            return str_at(pod, "spec", "serviceAccountName", default="default")
        case "status.podIP" | "status.hostIP":
            return next(iter(addresses.pod_ips if path == "status.podIP" else addresses.host_ips), "")
        case "status.podIPs" | "status.hostIPs":
            return ",".join(addresses.pod_ips if path == "status.podIPs" else addresses.host_ips)
        case _:
            raise InvalidResource(f"fieldPath {path!r} is not supported")


def resource(pod: JsonObject, container: JsonObject, reference: JsonObject, capacity: Capacity) -> str:
    """The value of a `resourceFieldRef`, rounded up to its divisor."""
    name = str_at(reference, "resource")
    owner = str_at(reference, "containerName")
    if owner:
        everyone = objects_at(pod, "spec", "containers") + objects_at(pod, "spec", "initContainers")
        container = next((c for c in everyone if str_at(c, "name") == owner), container)
    kind, _, what = name.partition(".")
    if kind not in ("limits", "requests") or what not in ("cpu", "memory", "ephemeral-storage"):
        raise InvalidResource(f"resource {name!r} is not supported")
    resources = container.get("resources")
    found: object = None
    if isinstance(resources, dict):
        for part in (kind, "limits") if kind == "requests" else (kind,):
            values = resources.get(part)
            if isinstance(values, dict) and what in values:
                found = values[what]
                break
    if found is None and kind == "limits":
        found = {"cpu": capacity.cpus, "memory": capacity.memory}.get(what, capacity.ephemeral_storage)
    divisor = quantity(reference.get("divisor") or "1")
    if divisor == 0:
        divisor = Decimal(1)
    return str(math.ceil(quantity(found if found is not None else 0) / divisor))


def _lines(values: dict[str, str]) -> str:
    """`key="value"` lines, sorted, quoted as Go does."""
    return "\n".join(f"{k}={_quote(v)}" for k, v in sorted(values.items()))


def _quote(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'
