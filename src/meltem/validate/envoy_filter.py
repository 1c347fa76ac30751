"""EnvoyFilter: the structure of patches and their values. Whether Envoy takes what they make is tried elsewhere.

In: an `EnvoyFilter`. Out: findings.
"""

from __future__ import annotations

from meltem.generate import patches
from meltem.resources.networking import ConfigPatch, EnvoyFilter, ListenerMatch, PatchMatch
from meltem.validate import checks
from meltem.validate.findings import Report

HTTP_MANAGER = "envoy.filters.network.http_connection_manager"
_MANAGERS = (HTTP_MANAGER, "envoy.http_connection_manager")
_LISTENER_CLASS = frozenset({"LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER"})
_ROUTE_CLASS = frozenset({"ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"})
_OLD_NAMES = {
    "envoy.buffer": "envoy.filters.http.buffer",
    "envoy.cors": "envoy.filters.http.cors",
    "envoy.csrf": "envoy.filters.http.csrf",
    "envoy.ext_authz": "envoy.filters.http.ext_authz",
    "envoy.fault": "envoy.filters.http.fault",
    "envoy.gzip": "envoy.filters.http.gzip",
    "envoy.health_check": "envoy.filters.http.health_check",
    "envoy.http_connection_manager": HTTP_MANAGER,
    "envoy.lua": "envoy.filters.http.lua",
    "envoy.mongo_proxy": "envoy.filters.network.mongo_proxy",
    "envoy.rate_limit": "envoy.filters.http.ratelimit",
    "envoy.redis_proxy": "envoy.filters.network.redis_proxy",
    "envoy.router": "envoy.filters.http.router",
    "envoy.squash": "envoy.filters.http.squash",
    "envoy.tcp_proxy": "envoy.filters.network.tcp_proxy",
}
_FILTERS = frozenset({"NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER"})
_TYPED = frozenset({"typed_config", "typedConfig", "config_discovery", "configDiscovery"})
MAX_VERSION = 1024


def check_envoy_filter(r: Report, envoy_filter: EnvoyFilter) -> None:
    spec = envoy_filter.spec
    r.warn(
        "EnvoyFilter changes generated configuration, which may differ in the next version",
        "Prefer other resources where they can do the same.",
    )
    if spec.workload_selector is not None:
        checks.check_selector_labels(r.at("workloadSelector").at("labels"), spec.workload_selector.labels)
        if spec.target_refs:
            r.error("workloadSelector and targetRefs exclude each other", "Keep one of them.")
    for i, ref in enumerate(spec.target_refs):
        what = checks.target_error(ref)
        if what:
            r.at("targetRefs", i).warn(f"{what}: it selects nobody", checks.TARGET_REMEDY)
    for i, patch in enumerate(spec.config_patches):
        _patch(r.at("configPatches", i), patch)


def _patch(r: Report, patch: ConfigPatch) -> None:
    match = patch.match
    if match is not None and (match.context == "WAYPOINT") != (match.waypoint is not None) and match.waypoint:
        r.at("match").at("waypoint").error("needs context WAYPOINT", "Set match.context: WAYPOINT.")
    if match is not None and match.context == "WAYPOINT":
        return
    if patch.apply_to == "INVALID":
        r.at("applyTo").error("is missing", "Write for example applyTo: HTTP_FILTER.")
        return
    if patch.apply_to == "BOOTSTRAP":
        r.at("applyTo").warn(
            patches.NO_BOOTSTRAP,
            "Put the change into a ConfigMap and name it in the pod's annotation sidecar.istio.io/bootstrapOverride.",
        )
    if patch.patch is None:
        r.at("patch").error("is missing", "Write patch: {operation: ..., value: ...}.")
        return
    if patch.patch.operation == "INVALID":
        r.at("patch").at("operation").error("is missing", "Write for example operation: INSERT_BEFORE.")
        return
    if patch.patch.operation != "REMOVE" and patch.patch.value is None:
        r.at("patch").at("value").error(f"operation {patch.patch.operation} needs a value")
    _value(r.at("patch").at("value"), patch)
    if match is None:
        return
    here = r.at("match")
    _version(here, match)
    _object(here, patch, match)
    if match.listener is not None and patch.apply_to in _LISTENER_CLASS:
        _listener(here.at("listener"), patch.apply_to, match.listener)


def _value(r: Report, patch: ConfigPatch) -> None:
    if patch.apply_to not in patches.KINDS:
        return
    try:
        patches.parsed(patch)
    except patches.UnknownType as error:
        if "'envoy." in str(error):
            r.error(str(error), "Version 3 of Envoy's API: https://www.envoyproxy.io/docs/envoy/latest/api-v3/api")
        else:
            r.warn(f"{error}: the patch is not applied", "Filters of Istio's own Envoy are not in stock Envoy.")
    except patches.Unreadable as error:
        r.error(str(error))
    else:
        for path in patches.ignored_of(patch):
            r.warn(f"{path} is no field that Envoy is known to have: it is ignored")
    operation = patch.patch.operation if patch.patch is not None else ""
    value = patch.patch.value if patch.patch is not None else None
    if patch.apply_to in _FILTERS and operation not in ("REMOVE", "MERGE") and value and not _TYPED & set(value):
        r.warn("has no typed_config: Envoy finds filters by the type of their configuration", "Add typed_config.")


def _version(r: Report, match: PatchMatch) -> None:
    if match.proxy is None or not match.proxy.proxy_version:
        return
    here = r.at("proxy").at("proxyVersion")
    if len(match.proxy.proxy_version) > MAX_VERSION:
        here.warn(f"is longer than {MAX_VERSION} characters: it is ignored")
    else:
        checks.check_regex(here, match.proxy.proxy_version)


def _object(r: Report, patch: ConfigPatch, match: PatchMatch) -> None:
    given = {
        "listener": match.listener is not None,
        "routeConfiguration": match.route_configuration is not None,
        "cluster": match.cluster is not None,
    }
    names = [name for name, there in given.items() if there]
    if len(names) > 1:
        r.error(f"{names[0]} and {names[1]} exclude each other", "Keep the one that fits applyTo.")
    if patch.apply_to in _LISTENER_CLASS:
        fits = "listener"
    elif patch.apply_to in _ROUTE_CLASS:
        fits = "routeConfiguration"
    elif patch.apply_to == "CLUSTER":
        fits = "cluster"
    else:
        return
    for name in names:
        if name != fits:
            r.at(name).error(f"applyTo {patch.apply_to} cannot match by {name}", f"Use match.{fits}.")


def _listener(r: Report, apply_to: str, match: ListenerMatch) -> None:
    if match.filter_chain is None or match.filter_chain.filter is None:
        return
    wanted = match.filter_chain.filter
    here = r.at("filterChain").at("filter")
    if apply_to in ("LISTENER", "FILTER_CHAIN"):
        here.warn(f"has no effect with applyTo {apply_to}")
    if not wanted.name:
        here.at("name").error("is missing", f"Write for example name: {HTTP_MANAGER}.")
        return
    _old_name(here.at("name"), wanted.name)
    if wanted.sub_filter is None:
        return
    below = here.at("subFilter")
    if apply_to != "HTTP_FILTER":
        below.error("works with applyTo HTTP_FILTER only")
    elif wanted.name not in _MANAGERS:
        below.error("needs the filter that has filters of its own", f"Set filter.name: {HTTP_MANAGER}.")
    elif not wanted.sub_filter.name:
        below.at("name").error("is missing", "Write for example name: envoy.filters.http.router.")
    else:
        _old_name(below.at("name"), wanted.sub_filter.name)


def _old_name(r: Report, name: str) -> None:
    new = _OLD_NAMES.get(name)
    if new:
        r.warn(f"{name!r} is the old name of the filter", f"Write {new}.")
