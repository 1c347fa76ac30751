"""What a pod's annotations ask of traffic capture. In: the pod's JSON. Out: arguments of `istio-iptables`; where the
pod is to be left alone, the reason. Pure; the same decisions as Istio's plugin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

_PREFIX = "traffic.sidecar.istio.io/"
_ALWAYS_SPARED = "15090,15021,15020"


@dataclass(frozen=True, slots=True)
class Decision:
    """`arguments` of istio-iptables when the pod is captured; else `reason` says why it is not."""

    arguments: tuple[str, ...] = ()
    reason: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def captured(self) -> bool:
        return not self.reason


def _map(value: object, key: str) -> dict[str, object]:
    inner = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None
    return cast("dict[str, object]", inner) if isinstance(inner, dict) else {}


def _containers(spec: Mapping[str, object]) -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    for field in ("initContainers", "containers"):
        given = spec.get(field)
        items = cast("list[object]", given) if isinstance(given, list) else []
        out += [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
    return out


def _environment(container: Mapping[str, object]) -> dict[str, str]:
    given = container.get("env")
    items = cast("list[object]", given) if isinstance(given, list) else []
    pairs = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
    return {str(p.get("name")): str(p["value"]) for p in pairs if "value" in p}


def decide(pod: Mapping[str, object], namespace: str, excluded: Collection[str], *, nftables: bool) -> Decision:
    """Whether and how the pod's traffic is captured."""
    metadata, spec = _map(pod, "metadata"), _map(pod, "spec")
    notes = {k: str(v) for k, v in _map(metadata, "annotations").items()}
    labels = {k: str(v) for k, v in _map(metadata, "labels").items()}
    if namespace in excluded:
        return Decision(reason=f"namespace {namespace} is excluded")
    if spec.get("hostNetwork") is True:
        return Decision(reason="the pod uses the node's network")
    containers = {str(c.get("name")): c for c in _containers(spec)}
    proxy = containers.get("istio-proxy")
    if proxy is None or "sidecar.istio.io/status" not in notes:
        return Decision(reason="the pod has no proxy")
    if "istio-init" in containers:
        return Decision(reason="the pod's own istio-init sets up the capture")
    if (labels.get("sidecar.istio.io/inject") or notes.get("sidecar.istio.io/inject", "")).lower() == "false":
        return Decision(reason="the pod asks for no proxy")
    env = _environment(proxy)
    if env.get("DISABLE_ENVOY", "").lower() == "true" or "router" in _arguments(proxy):
        return Decision(reason="the proxy is a gateway or has no Envoy")
    mode = notes.get("sidecar.istio.io/interceptionMode") or env.get("ISTIO_META_INTERCEPTION_MODE") or "REDIRECT"
    if mode == "NONE":
        return Decision(reason="the pod's interception mode is NONE")
    arguments = _capture(notes, proxy, mode)
    if nftables:
        arguments.append("--native-nftables")
    passed = tuple(
        (k, v) for k, v in env.items() if k in ("ISTIO_META_DNS_CAPTURE", "ISTIO_DUAL_STACK", "INVALID_DROP")
    )
    return Decision(tuple(arguments), environment=passed)


def _arguments(container: Mapping[str, object]) -> list[str]:
    given = container.get("args")
    return [str(a) for a in cast("list[object]", given)] if isinstance(given, list) else []


def _capture(notes: Mapping[str, str], proxy: Mapping[str, object], mode: str) -> list[str]:
    def note(name: str, default: str = "") -> str:
        return notes.get(_PREFIX + name, default)

    security = _map(proxy, "securityContext")
    user, owner_group = security.get("runAsUser"), security.get("runAsGroup")
    tproxy = mode == "TPROXY"
    # In TPROXY mode the proxy runs as root: its group tells it from the application.
    uid = "1337" if tproxy or not isinstance(user, int) or user == 0 else str(user)
    gid = "1337" if not isinstance(owner_group, int) or owner_group == 0 else str(owner_group)
    spared = ",".join(p for p in (_ALWAYS_SPARED, note("excludeInboundPorts")) if p)
    out = ["-p", "15001", "-z", "15006", "-u", uid, "-g", gid, "-m", mode]
    out += ["-i", note("includeOutboundIPRanges", "*"), "-x", note("excludeOutboundIPRanges")]
    out += ["-b", note("includeInboundPorts", "*"), "-d", spared]
    out += ["-q", note("includeOutboundPorts"), "-o", note("excludeOutboundPorts")]
    machines = notes.get("istio.io/reroute-virtual-interfaces") or note("kubevirtInterfaces")
    out += ["-k", machines, "-c", note("excludeInterfaces")]
    return out
