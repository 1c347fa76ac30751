"""Discovery: which groups, versions and resources are served, as `/api`, `/apis`, `/apis/<g>/<v>` and aggregated."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence

from meltem.local.apiserver.negotiate import media_ranges
from meltem.local.apiserver.registry import Registry, Resource
from meltem.local.apiserver.storage import encode
from meltem.objects import Json, JsonObject

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
GIT_VERSION = "v1.36.3"
_MINOR = "36"

_SUBRESOURCE_KINDS: dict[str, tuple[str, str, str]] = {
    "scale": ("autoscaling", "v1", "Scale"),
    "eviction": ("policy", "v1", "Eviction"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
    "binding": ("", "v1", "Binding"),
    "exec": ("", "v1", "PodExecOptions"),
    "attach": ("", "v1", "PodAttachOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
}
_PROXY_KINDS = {"pods": "PodProxyOptions", "services": "ServiceProxyOptions", "nodes": "NodeProxyOptions"}
_CONNECT_VERBS = ("create", "get")
_PROXY_VERBS = ("create", "delete", "get", "patch", "update")
_VERBS: dict[str, tuple[str, ...]] = {
    "eviction": ("create",),
    "token": ("create",),
    "binding": ("create",),
    "exec": _CONNECT_VERBS,
    "attach": _CONNECT_VERBS,
    "portforward": _CONNECT_VERBS,
    "proxy": _PROXY_VERBS,
    "log": ("get",),
    "finalize": ("update",),
}


def version_info() -> JsonObject:
    return {
        "major": "1",
        "minor": _MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": f"{platform.system().lower()}/{'amd64' if platform.machine() == 'x86_64' else 'arm64'}",
    }


def subresource_kind(resource: Resource, name: str) -> tuple[str, str, str]:
    """group, version and kind that a subresource speaks."""
    if name == "proxy":
        return "", "v1", _PROXY_KINDS.get(resource.info.plural, resource.info.kind)
    return _SUBRESOURCE_KINDS.get(name, (resource.info.group, resource.info.version, resource.info.kind))


def subresource_verbs(name: str) -> tuple[str, ...]:
    return _VERBS.get(name, ("get", "patch", "update"))


class Discovery:
    """Discovery documents of a registry, kept until it changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._generation = -1
        self._kept: dict[str, bytes] = {}

    def _document(self, name: str) -> bytes | None:
        if self._generation != self._registry.generation:
            self._kept = {}
            self._generation = self._registry.generation
        return self._kept.get(name)

    def groups(self) -> dict[str, list[str]]:
        """Group -> its versions, preferred first; the core group is left out."""
        found: dict[str, list[str]] = {}
        for resource in self._registry:
            if resource.info.group:
                versions = found.setdefault(resource.info.group, [])
                if resource.info.version not in versions:
                    versions.append(resource.info.version)
        return {group: _by_priority(versions) for group, versions in found.items()}

    def serve(self, path: str, accept: str) -> tuple[bytes, str] | None:
        """The document at a path and its content type; None when there is none."""
        wants_aggregated = path in ("/api", "/apis") and _prefers_aggregated(accept)
        name = f"{path}|{wants_aggregated}"
        body = self._document(name)
        if body is None:
            made = self._make(path, wants_aggregated)
            if made is None:
                return None
            body = encode(made)
            self._kept[name] = body
        return body, AGGREGATED if wants_aggregated else "application/json"

    def _make(self, path: str, aggregated: bool) -> JsonObject | None:
        if aggregated:
            return self._aggregated(core=path == "/api")
        match path.strip("/").split("/"):
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
            case ["apis"]:
                groups: list[Json] = [_group(g, v) for g, v in self.groups().items()]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
            case ["apis", group] if group in self.groups():
                return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, self.groups()[group])}
            case ["api", "v1"]:
                return self._resources("", "v1")
            case ["apis", group, version] if self._registry.serves(group, version) and group:
                return self._resources(group, version)
            case _:
                return None

    def _resources(self, group: str, version: str) -> JsonObject:
        items: list[Json] = []
        for resource in self._registry:
            info = resource.info
            if (info.group, info.version) == (group, version):
                items.append(_api_resource(resource))
                items.extend(_api_subresource(resource, s) for s in sorted(info.subresources))
        group_version = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": items}

    def _aggregated(self, *, core: bool) -> JsonObject:
        groups = {"": ["v1"]} if core else self.groups()
        items: list[Json] = []
        for group, versions in groups.items():
            metadata: JsonObject = {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None}
            shown: list[Json] = [self._aggregated_version(group, v) for v in versions]
            items.append({"metadata": metadata, "versions": shown})
        return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}

    def _aggregated_version(self, group: str, version: str) -> JsonObject:
        resources: list[Json] = []
        for resource in self._registry:
            info = resource.info
            if (info.group, info.version) != (group, version):
                continue
            item: JsonObject = {
                "resource": info.plural,
                "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
                "scope": "Namespaced" if info.namespaced else "Cluster",
                "singularResource": info.singular,
                "verbs": list(info.verbs),
            }
            if info.short_names:
                item["shortNames"] = list(info.short_names)
            if info.categories:
                item["categories"] = list(info.categories)
            if info.subresources:
                item["subresources"] = [_aggregated_subresource(resource, s) for s in sorted(info.subresources)]
            resources.append(item)
        return {"version": version, "resources": resources, "freshness": "Current"}


def _aggregated_subresource(resource: Resource, name: str) -> JsonObject:
    group, version, kind = subresource_kind(resource, name)
    return {
        "subresource": name,
        "responseKind": {"group": group, "version": version, "kind": kind},
        "verbs": list(subresource_verbs(name)),
    }


def _api_resource(resource: Resource) -> JsonObject:
    info = resource.info
    item: JsonObject = {
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        item["shortNames"] = list(info.short_names)
    if info.categories:
        item["categories"] = list(info.categories)
    if "list" in info.verbs:
        item["storageVersionHash"] = hashlib.sha256(resource.storage.encode()).hexdigest()[:11]
    return item


def _api_subresource(resource: Resource, name: str) -> JsonObject:
    info = resource.info
    group, version, kind = subresource_kind(resource, name)
    item: JsonObject = {
        "name": f"{info.plural}/{name}",
        "singularName": "",
        "namespaced": info.namespaced,
        "kind": kind,
        "verbs": list(subresource_verbs(name)),
    }
    if (group, version) != (info.group, info.version):
        item["group"], item["version"] = group, version
    return item


def _group(group: str, versions: Sequence[str]) -> JsonObject:
    shown: list[Json] = [{"groupVersion": f"{group}/{v}", "version": v} for v in versions]
    return {"name": group, "versions": shown, "preferredVersion": shown[0]}


def _by_priority(versions: list[str]) -> list[str]:
    """Kubernetes' order: v2, v1, v2beta1, v1beta1, v1alpha1, then the rest by name."""
    return sorted(versions, key=version_priority)


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key: the preferred version is the least."""
    for rank, word in ((0, ""), (1, "beta"), (2, "alpha")):
        major, found, minor = version.removeprefix("v").partition(word) if word else (version.removeprefix("v"), "", "")
        if (
            version.startswith("v")
            and major.isdecimal()
            and (minor.isdecimal() if word else True)
            and (found or not word)
        ):
            return rank, -int(major), -int(minor or "0"), ""
    return 3, 0, 0, version


def _prefers_aggregated(accept: str) -> bool:
    """Does the Accept header ask for aggregated discovery v2 before plain JSON?"""
    for item in media_ranges(accept):
        if item.media == "application/json" and item.parameters.get("as") == "APIGroupDiscoveryList":
            if item.parameters.get("v") == "v2" and item.parameters.get("g") == "apidiscovery.k8s.io":
                return True
            continue
        if item.media in ("application/json", "*/*"):
            return False
    return False
