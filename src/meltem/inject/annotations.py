"""Checks the annotations of a pod that injection reads, so that a slip is refused at admission with the place named."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import cast

from meltem.errors import InvalidResource, MeltemError
from meltem.objects import Json
from meltem.resources.mesh import merge_proxy_config
from meltem.resources.mesh_proxy import MeshProxyConfig
from meltem.validate.mesh import validate_proxy_settings

_INTERFACE = re.compile(r"[A-Za-z0-9_.:@+-]{1,15}")
_QUANTITY = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+|[EPTGMk]i?|m|u|n)?")


def check(annotations: Mapping[str, str]) -> None:
    """Raises InvalidResource for the first annotation that cannot be used."""
    for name, verify in _CHECKS.items():
        if name not in annotations:
            continue
        reason = verify(annotations[name])
        if reason:
            raise InvalidResource(reason, where=f"metadata.annotations[{name}]")


def problem_of(name: str, value: str) -> str:
    """What is wrong with one annotation's value; empty: nothing, or nobody says what it may be."""
    verify = _CHECKS.get(name)
    return verify(value) if verify is not None else ""


def _one_of(*allowed: str) -> Callable[[str], str]:
    return lambda text: "" if text in allowed else f"must be one of {', '.join(allowed)}, not {text[:60]!r}"


def _boolean(text: str) -> str:
    known = ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")
    return "" if text in known else f"must be true or false, not {text[:60]!r}"


def _ports(text: str) -> str:
    for part in (p.strip() for p in text.split(",")):
        if part and not (part.isascii() and part.isdigit() and 0 < int(part) < 65_536):
            return f"{part[:40]!r} is no port"
    return ""


def _ports_or_all(text: str) -> str:
    return "" if text.strip() == "*" else _ports(text)


def _ranges(text: str) -> str:
    for part in (p.strip() for p in text.split(",")):
        if not part:
            continue
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            return f"{part[:60]!r} is no address range such as 10.0.0.0/8"
    return ""


def _ranges_or_all(text: str) -> str:
    return "" if text.strip() == "*" else _ranges(text)


def _number(low: int, high: int) -> Callable[[str], str]:
    def verify(text: str) -> str:
        good = text.isascii() and text.isdigit() and low <= int(text) <= high
        return "" if good else f"must be a number from {low} to {high}, not {text[:40]!r}"

    return verify


def _quantity(text: str) -> str:
    return "" if _QUANTITY.fullmatch(text) else f"{text[:40]!r} is no quantity such as 100m or 128Mi"


def _interfaces(text: str) -> str:
    """A trailing comma is let pass, as with ports."""
    for part in (p.strip() for p in text.split(",")):
        if part and not _INTERFACE.fullmatch(part):
            return f"{part[:40]!r} is no name of a network interface"
    return ""


def _proxy_config(text: str) -> str:
    if not text.strip():
        return ""
    try:
        found = validate_proxy_settings(merge_proxy_config(MeshProxyConfig(), text, source="ProxyConfig")).errors
    except MeltemError as error:
        return str(error).replace("\n", " ")
    return "; ".join(str(f) for f in found[:3])


def _json_map(text: str) -> str:
    """As the templates read it: an object of objects, by name."""
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        return 'must be a JSON object such as {"NAME": {...}}'
    return ""


def _json(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return "is not JSON"
    return ""


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "sidecar.istio.io/interceptionMode": _one_of("REDIRECT", "TPROXY", "NONE"),
    "sidecar.istio.io/rewriteAppHTTPProbers": _boolean,
    "sidecar.istio.io/nativeSidecar": _boolean,
    "prometheus.istio.io/merge-metrics": _boolean,
    "status.sidecar.istio.io/port": _number(0, 65_535),
    "readiness.status.sidecar.istio.io/initialDelaySeconds": _number(0, 2**31 - 1),
    "readiness.status.sidecar.istio.io/periodSeconds": _number(0, 2**31 - 1),
    "readiness.status.sidecar.istio.io/failureThreshold": _number(0, 2**31 - 1),
    "traffic.sidecar.istio.io/includeOutboundIPRanges": _ranges_or_all,
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": _ranges,
    "traffic.sidecar.istio.io/includeInboundPorts": _ports_or_all,
    "traffic.sidecar.istio.io/excludeInboundPorts": _ports,
    "traffic.sidecar.istio.io/includeOutboundPorts": _ports,
    "traffic.sidecar.istio.io/excludeOutboundPorts": _ports,
    "sidecar.istio.io/proxyCPU": _quantity,
    "sidecar.istio.io/proxyCPULimit": _quantity,
    "sidecar.istio.io/proxyMemory": _quantity,
    "sidecar.istio.io/proxyMemoryLimit": _quantity,
    "traffic.sidecar.istio.io/excludeInterfaces": _interfaces,
    "traffic.sidecar.istio.io/kubevirtInterfaces": _interfaces,
    "istio.io/reroute-virtual-interfaces": _interfaces,
    "sidecar.istio.io/userVolume": _json_map,
    "sidecar.istio.io/userVolumeMount": _json_map,
    "proxy.istio.io/config": _proxy_config,
    "proxy.istio.io/overrides": _json,
}
