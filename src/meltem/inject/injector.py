"""Injection of one pod: which templates, merge, what the user overrides, what no template can do.

In: a pod and `InjectorConfig`. Out: the pod with its proxy (a new object), or `MeltemError` saying why it cannot be.
Injecting an injected pod again gives the same pod as injecting the original would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from meltem import yamlio
from meltem.errors import InvalidResource
from meltem.inject import postprocess, template
from meltem.inject.annotations import check
from meltem.inject.config import InjectorConfig
from meltem.inject.overlay import overlay
from meltem.inject.template import PROXY_ID, TemplateInput
from meltem.inject.workload import Workload, workload_of
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    copy_object,
    ensure_object,
    int_at,
    labels_of,
    list_at,
    object_at,
    objects_at,
    str_at,
    strings_at,
)

PROXY = "istio-proxy"
AUTO_IMAGE = "auto"
STATUS = "sidecar.istio.io/status"
OVERRIDES = "proxy.istio.io/overrides"
PROXY_CONFIG = "proxy.istio.io/config"
TEMPLATES = "inject.istio.io/templates"
NATIVE = "sidecar.istio.io/nativeSidecar"
STATUS_PORT = "status.sidecar.istio.io/port"
DEFAULT_STATUS_PORT = 15020
NETWORK_LABEL = "topology.istio.io/network"
_LISTS = ("containers", "initContainers")


@dataclass(frozen=True, slots=True)
class PodContext:
    """What the request says beside the pod. `environment`: from the webhook's path (cluster, network);
    `proxy_config`: what ProxyConfigs say for its namespace, `selected_proxy_config`: those that select the pod;
    `workload`: where it is known better than by owner."""

    namespace: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    proxy_config: JsonObject = field(default_factory=dict[str, Json])
    selected_proxy_config: JsonObject = field(default_factory=dict[str, Json])
    workload: Workload | None = None
    namespace_annotations: Mapping[str, str] = field(default_factory=dict[str, str])


def inject_pod(original: JsonObject, config: InjectorConfig, context: PodContext) -> JsonObject:
    """The pod with its proxy. `original` is not changed."""
    check(annotations_of(original))
    environment = _environment(original, config, context)
    config = _with_cluster(config, environment)
    proxy_config = effective_proxy_config(original, config, context)
    status_port = _status_port(original, proxy_config)
    base = _reinserted(_stripped(original, status_port))
    uid, gid = _proxy_ids(context.namespace_annotations)
    given = TemplateInput(
        pod=base,
        workload=context.workload or workload_of(original, context.namespace),
        proxy_config=proxy_config,
        config=config,
        native_sidecars=config.native_sidecars,
        proxy_uid=uid,
        proxy_gid=gid,
    )
    merged = copy_object(original)
    made: JsonObject = {}
    for name in selected_templates(original, config):
        partial = template.render(name, given)
        made = overlay(made, partial)
        merged = overlay(_with_native_place(merged, made), partial)
    merged = _with_overrides(merged, original, made, given)
    postprocess.finish(
        merged,
        made,
        original,
        config,
        environment=environment,
        status_port=status_port,
        hold=_hold(given),
    )
    return merged


def effective_proxy_config(pod: JsonObject, config: InjectorConfig, context: PodContext) -> JsonObject:
    """Mesh default, ProxyConfigs of root namespace and namespace, the pod's own annotation, a ProxyConfig that selects
    the pod: each over the last (Istio's order: `model.ProxyConfigs.EffectiveProxyConfig`)."""
    merged = object_at(config.mesh, "defaultConfig")
    own: JsonObject = {}
    text = annotations_of(pod).get(PROXY_CONFIG, "")
    if text.strip():
        where = f"metadata.annotations[{PROXY_CONFIG}]"
        parsed = yamlio.load(text, source=where)
        if not isinstance(parsed, dict):
            raise InvalidResource("is not a mapping", where=where)
        own = parsed
    for over in (context.proxy_config, own, context.selected_proxy_config):
        both = {**merged, **over}
        for key in ("proxyMetadata", "runtimeValues"):
            values = {**object_at(merged, key), **object_at(over, key)}
            if values:
                both[key] = values
        merged = both
    return merged


def selected_templates(pod: JsonObject, config: InjectorConfig) -> list[str]:
    chosen = annotations_of(pod).get(TEMPLATES, "")
    names = [n.strip() for n in chosen.split(",") if n.strip()] if chosen else list(config.default_templates)
    return [resolved for name in names for resolved in config.aliases.get(name, (name,))]


def path_environment(path: str) -> dict[str, str]:
    """Environment variables in the webhook's path: `/inject/cluster/c1/net/n1` → ISTIO_META_CLUSTER_ID, …_NETWORK."""
    parts = [p for p in path.partition("?")[0].split("/") if p]
    if parts and parts[0] == "inject":
        parts = parts[1:]
    names = {"cluster": "ISTIO_META_CLUSTER_ID", "net": "ISTIO_META_NETWORK"}
    found: dict[str, str] = {}
    for key, value in zip(parts[::2], parts[1::2], strict=False):
        name = names.get(key, key)
        if name.replace("_", "").isalnum():
            found[name] = value.replace("--slash--", "/")
    return found


def _environment(pod: JsonObject, config: InjectorConfig, context: PodContext) -> dict[str, str]:
    found = dict(context.environment)
    cluster = found.get("ISTIO_META_CLUSTER_ID") or str_at(config.values, "global", "multiCluster", "clusterName")
    network = found.get("ISTIO_META_NETWORK") or str_at(config.values, "global", "network")
    network = labels_of(pod).get(NETWORK_LABEL, network)
    if cluster:
        found["ISTIO_META_CLUSTER_ID"] = cluster
    if network:
        found["ISTIO_META_NETWORK"] = network
    return found


def _with_cluster(config: InjectorConfig, environment: Mapping[str, str]) -> InjectorConfig:
    """The values as the template shall see them: cluster and network of this request."""
    values = dict(config.values)
    shown = dict(object_at(values, "global"))
    if cluster := environment.get("ISTIO_META_CLUSTER_ID"):
        shown["multiCluster"] = {**object_at(shown, "multiCluster"), "clusterName": cluster}
    if network := environment.get("ISTIO_META_NETWORK"):
        shown["network"] = network
    values["global"] = shown
    return replace(config, values=values)


def _proxy_ids(namespace_annotations: Mapping[str, str]) -> tuple[int, int]:
    """1337; on OpenShift the second id of the namespace's own range."""
    found: list[int] = []
    for name in ("openshift.io/sa.scc.uid-range", "openshift.io/sa.scc.supplemental-groups"):
        first = namespace_annotations.get(name, "").split("/")[0].split("-")[0]
        found.append(int(first) + 1 if first.isdigit() else PROXY_ID)
    return found[0], found[1]


def _status_port(pod: JsonObject, proxy_config: JsonObject) -> int:
    """Where the pod's agent answers; 0: nowhere."""
    asked = annotations_of(pod).get(STATUS_PORT, "")
    return int(asked) if asked.isdigit() else int_at(proxy_config, "statusPort", default=DEFAULT_STATUS_PORT)


def injection_status(pod: JsonObject) -> JsonObject | None:
    text = annotations_of(pod).get(STATUS)
    if text is None:
        return None
    return _json_annotation(pod, STATUS)


def _json_annotation(pod: JsonObject, name: str) -> JsonObject:
    text = annotations_of(pod).get(name, "")
    if not text:
        return {}
    try:
        value = cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise InvalidResource("is not JSON", where=f"metadata.annotations[{name}]") from None
    return value if isinstance(value, dict) else {}


def _stripped(pod: JsonObject, status_port: int) -> JsonObject:
    """The pod without what an earlier injection added, for the template to look at."""
    status = injection_status(pod)
    if status is None:
        return pod
    bare = copy_object(pod)
    spec = ensure_object(bare, "spec")
    for key in _LISTS:
        ours = set(strings_at(status, key))
        spec[key] = [c for c in list_at(spec, key) if str_at(c, "name") not in ours]
    notes = object_at(bare, "metadata", "annotations")
    if notes.get("prometheus.io/port") == str(status_port):
        for name in ("prometheus.io/port", "prometheus.io/path", "prometheus.io/scrape"):
            notes.pop(name, None)
    notes.pop(STATUS, None)
    return bare


def _reinserted(pod: JsonObject) -> JsonObject:
    """Containers that the user wrote and an earlier injection merged ours into, as the user wrote them."""
    saved = _json_annotation(pod, OVERRIDES)
    if not saved:
        return pod
    whole = copy_object(pod)
    spec = ensure_object(whole, "spec")
    for key in _LISTS:
        present = {str_at(c, "name") for c in objects_at(spec, key)}
        missing = [c for c in objects_at(saved, key) if str_at(c, "name") not in present]
        if missing:
            spec[key] = [*list_at(spec, key), *missing]
    return whole


def _with_native_place(pod: JsonObject, made: JsonObject) -> JsonObject:
    """A user's own settings for the proxy stand in `containers`; where it is a native sidecar, they move along."""
    names = {str_at(c, "name") for c in objects_at(made, "spec", "initContainers")}
    if PROXY not in names:
        return pod
    containers = objects_at(pod, "spec", "containers")
    mine = [c for c in containers if str_at(c, "name") == PROXY]
    if not mine:
        return pod
    moved = copy_object(pod)
    spec = ensure_object(moved, "spec")
    spec["containers"] = [c for c in containers if str_at(c, "name") != PROXY]
    spec["initContainers"] = [*list_at(spec, "initContainers"), *mine]
    return moved


def _with_overrides(merged: JsonObject, original: JsonObject, made: JsonObject, given: TemplateInput) -> JsonObject:
    """What the user wrote for a container that the template also makes wins over the template."""
    status = injection_status(original)
    saved = _json_annotation(original, OVERRIDES)
    kept: dict[str, list[Json]] = {}
    own = [c for key in _LISTS for c in objects_at(original, "spec", key)]
    for key in _LISTS:
        earlier = set(strings_at(status, key)) if status else set[str]()
        for container in objects_at(made, "spec", key):
            name = str_at(container, "name")
            match = next((c for c in objects_at(saved, key) if str_at(c, "name") == name), None)
            if match is None and name not in earlier:
                match = next((c for c in own if str_at(c, "name") == name), None)
            if match is None:
                continue
            over = {k: v for k, v in match.items() if not (k == "image" and v == AUTO_IMAGE)}
            kept.setdefault(key, []).append(over)
            merged = overlay(merged, {"spec": {key: [over]}})
    if kept and status is None:
        notes = ensure_object(ensure_object(merged, "metadata"), "annotations")
        notes[OVERRIDES] = json.dumps(kept, separators=(",", ":"))
    _adjust_user(merged, original, given)
    return merged


def _adjust_user(merged: JsonObject, original: JsonObject, given: TemplateInput) -> None:
    """Where the user runs the proxy as somebody else, the capture rules must spare that user."""
    proxy = next((c for k in _LISTS for c in objects_at(original, "spec", k) if str_at(c, "name") == PROXY), None)
    context = object_at(proxy, "securityContext")
    if "runAsUser" not in context and "runAsGroup" not in context:
        return
    init = next(
        (
            c
            for c in objects_at(merged, "spec", "initContainers")
            if str_at(c, "name") in ("istio-init", "istio-validation")
        ),
        None,
    )
    if init is None:
        return
    mode = annotations_of(merged).get("sidecar.istio.io/interceptionMode") or str_at(
        given.proxy_config, "interceptionMode"
    )
    if mode == "TPROXY":
        for key in _LISTS:
            for container in objects_at(merged, "spec", key):
                if str_at(container, "name") == PROXY:
                    ensure_object(container, "securityContext")["runAsUser"] = 0
        return
    if str_at(init, "name") == "istio-validation":
        mine = ensure_object(init, "securityContext")
        mine |= {k: context[k] for k in ("runAsUser", "runAsGroup") if k in context}
    user = int_at(context, "runAsUser")
    arguments = strings_at(init, "args")
    if user and "-u" in arguments[:-1]:
        arguments[arguments.index("-u") + 1] = str(user)
        init["args"] = [*arguments]


def _hold(given: TemplateInput) -> bool:
    mesh_wide = object_at(given.config.values, "global", "proxy").get("holdApplicationUntilProxyStarts")
    return given.proxy_config.get("holdApplicationUntilProxyStarts") is True or mesh_wide is True
