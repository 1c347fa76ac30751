"""Pods that started before the plugin was on their node: their `istio-validation` container found no capture and ended
with 126. In: a node's pods. Out: those to mend (pure); `mend` labels or deletes them, so that their controller makes
new ones, which the plugin sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from meltem.agent.capture.validation import BROKEN_STATUS
from meltem.agent.cni.kube import ApiServer


@dataclass(frozen=True, slots=True)
class Broken:
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class RepairOptions:
    enabled: bool = True
    label: bool = False
    delete: bool = True
    label_key: str = "cni.istio.io/uninitialized"
    label_value: str = "true"
    container: str = "istio-validation"


def _at(value: object, *path: str) -> object:
    for key in path:
        value = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None
    return value


def broken(pods: Iterable[Mapping[str, object]], container: str) -> list[Broken]:
    """Pods whose validation failed, now or in its last try."""
    out: list[Broken] = []
    for pod in pods:
        statuses = _at(pod, "status", "initContainerStatuses")
        for status in cast("list[object]", statuses) if isinstance(statuses, list) else []:
            codes = [_at(status, state, "terminated", "exitCode") for state in ("state", "lastState")]
            if _at(status, "name") == container and BROKEN_STATUS in codes:
                names = (str(_at(pod, "metadata", field)) for field in ("namespace", "name", "uid"))
                out.append(Broken(*names))
    return out


def mend(server: ApiServer, pods: Iterable[Broken], options: RepairOptions) -> list[str]:
    """What was done, a line for each pod. Raises EnvironmentError_ where the API server refuses."""
    lines: list[str] = []
    for pod in pods:
        if options.delete:
            server.delete_pod(pod.namespace, pod.name, pod.uid)
            lines.append(f"pod {pod.namespace}/{pod.name} started without capture: deleted, to be made anew")
        elif options.label:
            server.label_pod(pod.namespace, pod.name, options.label_key, options.label_value)
            lines.append(f"pod {pod.namespace}/{pod.name} started without capture: labelled {options.label_key}")
    return lines
