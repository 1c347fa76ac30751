"""Which resources are served: the built-in kinds, and those that CustomResourceDefinitions add while the server runs.

In: `builtin_kinds()` and established CRDs. Out: `Resource` values, found by group, version and plural (a request's
path) or by kind (owner references, scale targets, discovery).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from meltem.local.apiserver.schema.kinds import KindInfo, builtin_kinds
from meltem.local.apiserver.schema.types import Schema, builtin_schema
from meltem.objects import JsonObject

CRD_STORAGE = "customresourcedefinitions.apiextensions.k8s.io"
_SHARED_STORAGE = {("events.k8s.io", "events"): "events"}
_STORAGE_VERSION = {"events": "v1", "horizontalpodautoscalers.autoscaling": "autoscaling/v2"}


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One served version of one resource. Versions of the same resource share `storage`."""

    info: KindInfo
    storage: str
    """Key in the store and name in messages: `deployments.apps`, `pods`."""
    storage_version: str
    """apiVersion in which objects are kept."""
    load_schema: Callable[[], Schema]
    crd: JsonObject | None = None
    """The CustomResourceDefinition that brought it; None for built-in kinds."""
    crd_version: JsonObject | None = None
    """This version's item of the CRD's `spec.versions`."""

    @property
    def schema(self) -> Schema:
        return self.load_schema()

    @property
    def api_version(self) -> str:
        return self.info.api_version

    @property
    def columns(self) -> list[JsonObject] | None:
        """additionalPrinterColumns of a custom resource; None for built-in kinds."""
        if self.crd_version is None:
            return None
        columns = self.crd_version.get("additionalPrinterColumns")
        return [c for c in columns if isinstance(c, dict)] if isinstance(columns, list) else []


def _builtin(info: KindInfo) -> Resource:
    storage = _SHARED_STORAGE.get((info.group, info.plural), info.resource)
    return Resource(
        info=info,
        storage=storage,
        storage_version=_STORAGE_VERSION.get(storage, info.api_version),
        load_schema=lambda: builtin_schema(info.group, info.version, info.kind),
    )


class Registry:
    """The served resources. `generation` grows with every change, so that discovery documents can be kept."""

    def __init__(self, kinds: Iterable[KindInfo] | None = None) -> None:
        self._builtin: dict[tuple[str, str, str], Resource] = {}
        self._custom: dict[tuple[str, str, str], Resource] = {}
        self.generation = 0
        for info in builtin_kinds() if kinds is None else kinds:
            self._builtin[(info.group, info.version, info.plural)] = _builtin(info)

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        key = (group, version, plural)
        return self._builtin.get(key) or self._custom.get(key)

    def by_kind(self, group: str, version: str, kind: str) -> Resource | None:
        """The resource of a kind; posted-only kinds are found as well."""
        for resource in self:
            info = resource.info
            if info.kind == kind and info.group == group and info.version == version:
                return resource
        return None

    def by_storage(self, storage: str) -> Resource | None:
        """The version of a resource in which it is kept, else the first served one."""
        found = [r for r in self if r.storage == storage]
        return next((r for r in found if r.api_version == r.storage_version), found[0] if found else None)

    def versions_of(self, storage: str) -> list[Resource]:
        return [r for r in self if r.storage == storage]

    def serves(self, group: str, version: str) -> bool:
        return any(r.info.group == group and r.info.version == version for r in self)

    def __iter__(self) -> Iterator[Resource]:
        yield from self._builtin.values()
        yield from self._custom.values()

    def custom(self) -> list[Resource]:
        return list(self._custom.values())

    def replace_custom(self, storage: str, resources: Iterable[Resource]) -> None:
        """Serves exactly `resources` for this custom resource (none: it is no longer served)."""
        kept = {k: r for k, r in self._custom.items() if r.storage != storage}
        for resource in resources:
            info = resource.info
            kept[(info.group, info.version, info.plural)] = resource
        self._custom = kept
        self.generation += 1
