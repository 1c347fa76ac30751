"""The `k8s` settings of a component, applied to the objects that its chart rendered.

In: the objects and the settings (`resources`, `env`, `replicaCount`, `service`, …, `overlays`). Out: new objects. So
every setting works for every component, whatever its chart's values are called.
"""

from __future__ import annotations

from meltem.errors import UserError
from meltem.install.paths import remove_at, set_at
from meltem.objects import (
    Json,
    JsonObject,
    copy_json,
    copy_object,
    ensure_object,
    name_of,
    object_at,
    objects_at,
    str_at,
    string_map_at,
)

_WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")
_POD_FIELDS = ("affinity", "nodeSelector", "priorityClassName", "tolerations", "topologySpreadConstraints", "volumes")
_CONTAINER_FIELDS = ("imagePullPolicy", "readinessProbe", "livenessProbe", "startupProbe", "lifecycle", "resources")
_KNOWN = frozenset(
    (
        *_POD_FIELDS, *_CONTAINER_FIELDS, "env", "envFrom", "hpaSpec", "podDisruptionBudget",
        "podAnnotations",
        "podLabels", "replicaCount", "service", "serviceAnnotations", "strategy", "securityContext", "volumeMounts",
        "overlays",
        "containerSecurityContext",
    )
)  # fmt: skip


def apply_settings(objects: list[JsonObject], settings: JsonObject, where: str) -> list[JsonObject]:
    """The objects with `settings` in force; raises UserError naming a setting that does not exist or does not fit."""
    for name in settings:
        if name not in _KNOWN:
            raise UserError(
                "is not a setting", where=f"{where}.k8s.{name}", remedy=f"Known: {', '.join(sorted(_KNOWN))}."
            )
    out = [copy_object(obj) for obj in objects]
    for obj in out:
        kind = str_at(obj, "kind")
        if kind in _WORKLOADS:
            _workload(obj, settings)
        elif kind == "Service":
            _merge(ensure_object(obj, "spec"), object_at(settings, "service"))
            _annotate(obj, string_map_at(settings, "serviceAnnotations"))
        elif kind == "HorizontalPodAutoscaler":
            _merge(ensure_object(obj, "spec"), object_at(settings, "hpaSpec"))
        elif kind == "PodDisruptionBudget":
            _merge(ensure_object(obj, "spec"), object_at(settings, "podDisruptionBudget"))
    for index, patch in enumerate(objects_at(settings, "overlays")):
        _overlay(out, patch, f"{where}.k8s.overlays[{index}]")
    return out


def _annotate(obj: JsonObject, annotations: dict[str, str]) -> None:
    if annotations:
        target = ensure_object(ensure_object(obj, "metadata"), "annotations")
        target.update(annotations)


def _merge(target: JsonObject, over: JsonObject) -> None:
    for key, value in over.items():
        have = target.get(key)
        if isinstance(have, dict) and isinstance(value, dict):
            _merge(have, value)
        elif isinstance(have, list) and isinstance(value, list) and key == "ports":
            target[key] = _ports(have, value)
        else:
            target[key] = copy_json(value)


def _ports(have: list[Json], over: list[Json]) -> list[Json]:
    """Ports merge by number, as Kubernetes merges them; a list that names every field anew replaces."""
    out = list(have)
    for port in over:
        place = next((i for i, p in enumerate(out) if object_at(p).get("port") == object_at(port).get("port")), None)
        if place is None:
            out.append(copy_json(port))
        else:
            merged = copy_object(object_at(out[place]))
            merged.update(object_at(port))
            out[place] = merged
    return out


def _workload(obj: JsonObject, settings: JsonObject) -> None:
    spec = ensure_object(obj, "spec")
    template = ensure_object(spec, "template")
    pod = ensure_object(template, "spec")
    if "replicaCount" in settings and str_at(obj, "kind") != "DaemonSet":
        spec["replicas"] = settings["replicaCount"]
    if "strategy" in settings:
        _merge(ensure_object(spec, "strategy"), object_at(settings, "strategy"))
    for source, field in (("podAnnotations", "annotations"), ("podLabels", "labels")):
        added = string_map_at(settings, source)
        if added:
            ensure_object(ensure_object(template, "metadata"), field).update(added)
    for field in _POD_FIELDS:
        _put(pod, field, settings)
    if "securityContext" in settings:
        _merge(ensure_object(pod, "securityContext"), object_at(settings, "securityContext"))
    containers = objects_at(pod, "containers")
    if not containers:
        return
    container = containers[0]
    for field in _CONTAINER_FIELDS:
        _put(container, field, settings)
    if "containerSecurityContext" in settings:
        _merge(ensure_object(container, "securityContext"), object_at(settings, "containerSecurityContext"))
    _named(container, "env", objects_at(settings, "env"), "name")
    _named(container, "volumeMounts", objects_at(settings, "volumeMounts"), "mountPath")
    if "envFrom" in settings:
        container["envFrom"] = copy_json(settings["envFrom"])


def _put(target: JsonObject, field: str, settings: JsonObject) -> None:
    if field not in settings:
        return
    value, have = settings[field], target.get(field)
    if isinstance(value, dict) and isinstance(have, dict) and field != "resources":
        _merge(have, value)
    elif field == "volumes":
        _named(target, field, objects_at(settings, field), "name")
    else:
        target[field] = copy_json(value)


def _named(target: JsonObject, field: str, items: list[JsonObject], key: str) -> None:
    """Items join the list by `key`, replacing what has the same."""
    if not items:
        return
    have = objects_at(target, field)
    kept = [h for h in have if str_at(h, key) not in {str_at(i, key) for i in items}]
    target[field] = [*kept, *(copy_object(i) for i in items)]


def _overlay(objects: list[JsonObject], patch: JsonObject, where: str) -> None:
    kind, name, version = str_at(patch, "kind"), str_at(patch, "name"), str_at(patch, "apiVersion")
    found = [
        o
        for o in objects
        if str_at(o, "kind") == kind and name_of(o) == name and (not version or str_at(o, "apiVersion") == version)
    ]
    if not found:
        raise UserError(f"finds no {kind} {name} among what the component renders", where=where)
    for obj in found:
        for step in objects_at(patch, "patches"):
            path = str_at(step, "path")
            if "value" in step and step["value"] is not None:
                set_at(obj, path, copy_json(step["value"]))
            else:
                remove_at(obj, path)
