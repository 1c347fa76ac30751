"""What no template can do: rewrite probes, merge metrics annotations, order containers, write the status.

In: the merged pod (changed in place), the partial pod that the templates made, the original. Pure but for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from meltem.errors import InvalidResource
from meltem.inject.config import InjectorConfig
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    at,
    ensure_object,
    int_at,
    list_at,
    object_at,
    objects_at,
    str_at,
)

PROXY = "istio-proxy"
STATUS = "sidecar.istio.io/status"
PROBERS = "ISTIO_KUBE_APP_PROBERS"
SCRAPING = "ISTIO_PROMETHEUS_ANNOTATIONS"
_LISTS = ("containers", "initContainers")
_PROBES = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}
_HOOKS = {"preStop": "prestopz", "postStart": "poststartz"}
_RESERVED = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15054, 15090})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def finish(
    pod: JsonObject,
    made: JsonObject,
    original: JsonObject,
    config: InjectorConfig,
    *,
    environment: Mapping[str, str],
    status_port: int,
    hold: bool,
) -> None:
    """Changes `pod`. `status_port`: where its agent answers, 0 for nowhere. Raises InvalidResource for annotations that
    cannot be used together."""
    metadata = ensure_object(pod, "metadata")
    notes = ensure_object(metadata, "annotations")
    labels = ensure_object(metadata, "labels")
    _set_environment(pod, environment)
    if status_port:
        _merge_prometheus(pod, config, str(status_port))
        _rewrite_probes(pod, original, config, status_port)
    if network := environment.get("ISTIO_META_NETWORK"):
        labels["topology.istio.io/network"] = network
    notes[STATUS] = json.dumps(_status(made, config.revision), separators=(",", ":"))
    for name, value in config.injected_annotations.items():
        notes[name] = value
    _order(pod, hold=hold)


def sidecar_of(pod: JsonObject) -> JsonObject | None:
    for key in _LISTS:
        for container in objects_at(pod, "spec", key):
            if str_at(container, "name") == PROXY:
                return container
    return None


def _status(made: JsonObject, revision: str) -> JsonObject:
    spec = object_at(made, "spec")

    def names(key: str) -> Json:
        return [str_at(item, "name") for item in objects_at(spec, key)] or None

    return {
        "initContainers": names("initContainers"),
        "containers": names("containers"),
        "volumes": names("volumes"),
        "imagePullSecrets": names("imagePullSecrets"),
        "revision": revision,
    }


def _set_environment(pod: JsonObject, environment: Mapping[str, str]) -> None:
    """Cluster and network of this request in the proxy's environment, over what the template wrote."""
    sidecar = sidecar_of(pod)
    if sidecar is None:
        return
    for name, value in environment.items():
        _set_variable(sidecar, name, value)


def _set_variable(container: JsonObject, name: str, value: str) -> None:
    variables = list_at(container, "env")
    for variable in variables:
        if isinstance(variable, dict) and variable.get("name") == name:
            variable.pop("valueFrom", None)
            variable["value"] = value
            return
    container["env"] = [*variables, {"name": name, "value": value}]


# metrics


def _merge_prometheus(pod: JsonObject, config: InjectorConfig, status_port: str) -> None:
    """Scrapers are sent to the agent, which shows the application's metrics beside its own and Envoy's."""
    notes = object_at(pod, "metadata", "annotations")
    by_meaning = {_sanitized(name): value for name, value in notes.items() if isinstance(value, str)}
    if by_meaning.get("prometheus_io_scrape", "") in _FALSE or not _merging(notes, config):
        return
    if by_meaning.get("prometheus_io_port") == status_port:
        return
    scrape: JsonObject = {
        "scrape": by_meaning.get("prometheus_io_scrape", ""),
        "path": by_meaning.get("prometheus_io_path", ""),
        "port": by_meaning.get("prometheus_io_port", ""),
    }
    if targets := _targets(by_meaning.get("prometheus_istio_io_scrape_targets", "")):
        scrape |= {"targets": [*targets], "port": targets[0]["port"], "path": targets[0]["path"]}
    for port in [str_at(t, "port") for t in targets] or [str_at(scrape, "port")]:
        _check_port(port, status_port)
    sidecar = sidecar_of(pod)
    if sidecar is not None and any(scrape.values()):
        _set_variable(sidecar, SCRAPING, json.dumps(scrape, separators=(",", ":")))
    ours = ("prometheus_io_path", "prometheus_io_port", "prometheus_io_scrape", "prometheus_istio_io_scrape_targets")
    for name in [n for n in notes if _sanitized(n) in ours]:
        del notes[name]
    notes["prometheus.io/port"] = status_port
    notes["prometheus.io/path"] = "/stats/prometheus"
    notes["prometheus.io/scrape"] = "true"


def _merging(notes: JsonObject, config: InjectorConfig) -> bool:
    own = notes.get("prometheus.istio.io/merge-metrics")
    return own not in _FALSE if isinstance(own, str) else config.prometheus_merge


def _sanitized(name: str) -> str:
    """As Prometheus makes a label of an annotation's name: `prometheus.io/port` and `prometheus_io_port` are one."""
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)


def _targets(text: str) -> list[JsonObject]:
    found: list[JsonObject] = []
    for entry in (e.strip() for e in text.split(",")):
        if entry:
            port, _, path = entry.partition(":")
            found.append({"port": port.strip(), "path": path.strip() or "/metrics"})
    return found


def _check_port(port: str, status_port: str) -> None:
    where = "metadata.annotations[prometheus.io/port]"
    if not port:
        return
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidResource(f"{port[:40]!r} is no port", where=where)
    if port == status_port or int(port) in _RESERVED:
        raise InvalidResource(
            f"port {port} belongs to the proxy",
            where=where,
            remedy="Name the port on which the application itself shows its metrics.",
        )


# probes


def _rewrite_probes(pod: JsonObject, original: JsonObject, config: InjectorConfig, status_port: int) -> None:
    sidecar = sidecar_of(pod)
    notes = annotations_of(pod)
    asked = notes.get("sidecar.istio.io/rewriteAppHTTPProbers")
    wanted = asked not in _FALSE if asked is not None else config.rewrite_probes
    if sidecar is None or not wanted:
        return
    probers: JsonObject = {}
    if STATUS in annotations_of(original):  # injected before: what was rewritten then is known only from there
        probers.update(_existing_probers(original))
    for key in _LISTS:
        for container in objects_at(pod, "spec", key):
            if str_at(container, "name") != PROXY:
                probers.update(_rewritten(container, status_port))
    if probers:
        _set_variable(sidecar, PROBERS, json.dumps(probers, separators=(",", ":")))


def _existing_probers(pod: JsonObject) -> JsonObject:
    sidecar = sidecar_of(pod)
    for variable in objects_at(sidecar, "env"):
        if str_at(variable, "name") == PROBERS:
            try:
                value = cast(Json, json.loads(str_at(variable, "value") or "{}"))
            except (ValueError, RecursionError):
                return {}
            return value if isinstance(value, dict) else {}
    return {}


def _rewritten(container: JsonObject, status_port: int) -> JsonObject:
    """Points the container's probes at the agent; what the agent must know, by path."""
    name = str_at(container, "name")
    ports = {str_at(p, "name"): int_at(p, "containerPort") for p in objects_at(container, "ports") if str_at(p, "name")}
    found: JsonObject = {}
    for key, suffix in _PROBES.items():
        probe = container.get(key)
        if isinstance(probe, dict):
            _rewrite(probe, f"/app-health/{name}/{suffix}", ports, status_port, found, int_at(probe, "timeoutSeconds"))
    lifecycle = object_at(container, "lifecycle")
    for key, suffix in _HOOKS.items():
        hook = lifecycle.get(key)
        if isinstance(hook, dict) and "grpc" not in hook:
            _rewrite(hook, f"/app-lifecycle/{name}/{suffix}", ports, status_port, found, 0)
    return found


def _rewrite(
    probe: JsonObject, path: str, ports: Mapping[str, int], status_port: int, found: JsonObject, timeout: int
) -> None:
    kind = next((k for k in ("httpGet", "tcpSocket", "grpc") if isinstance(probe.get(k), dict)), None)
    if kind is None:
        return
    action = object_at(probe, kind)
    port = at(action, "port")
    number = ports.get(port, int(port) if port.isdigit() else 0) if isinstance(port, str) else port
    if not isinstance(number, int) or number == 0 or number == status_port:
        return  # a port name that nothing declares, which the kubelet would not find either; or rewritten already
    known: JsonObject = {kind: {**action, "port": number}}
    if timeout:
        known["timeoutSeconds"] = timeout
    found[path] = known
    if kind == "httpGet":
        action |= {"path": path, "port": status_port}
        if str_at(action, "scheme").upper() == "HTTPS":
            action["scheme"] = "HTTP"
    else:
        del probe[kind]
        probe["httpGet"] = {"path": path, "port": status_port}


# order


def _order(pod: JsonObject, *, hold: bool) -> None:
    """The proxy last (so that `kubectl exec` goes to the application), or first where the application waits for it.

    Init containers: a native sidecar comes before the others, behind the capture rules; without one the rules come
    last, so that other init containers can still reach the network.
    """
    spec = ensure_object(pod, "spec")
    if "containers" in spec:
        spec["containers"] = _moved(list_at(spec, "containers"), PROXY, first=hold)
    if "initContainers" not in spec:
        return
    items = list_at(spec, "initContainers")
    if any(str_at(c, "name") == PROXY for c in items):
        for name in ("enable-core-dump", PROXY, "istio-validation", "istio-init"):
            items = _moved(items, name, first=True)
    else:
        items = _moved(items, "istio-validation", first=True)
        items = _moved(items, "istio-init", first=False)
        items = _moved(items, "enable-core-dump", first=False)
    if items:
        spec["initContainers"] = items
    else:
        del spec["initContainers"]


def _moved(containers: list[Json], name: str, *, first: bool) -> list[Json]:
    mine = [c for c in containers if str_at(c, "name") == name]
    others = [c for c in containers if str_at(c, "name") != name]
    return [*mine, *others] if first else [*others, *mine]
