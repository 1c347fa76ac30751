"""Which resources an API server serves.

In: a function that GETs JSON. Out: `resource_type(api_version, kind)`, cached per group version, and `all_types()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from meltem import errors
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, bool_at, objects_at, str_at, strings_at


class Discovery:
    """The server's resource lists, asked for once per group version."""

    def __init__(self, get: Callable[[str], Awaitable[JsonObject]]) -> None:
        self._get = get
        self._known: dict[tuple[str, str], ResourceType] = {}

    async def resource_type(self, api_version: str, kind: str) -> ResourceType:
        """Raises NotFound when the server does not serve that kind (yet): the next call asks again."""
        found = self._known.get((api_version, kind))
        if found is not None:
            return found
        try:
            types = await self._types(api_version)
        except errors.NotFound:
            types = []
        for rt in types:
            self._known[(api_version, rt.kind)] = rt
        found = self._known.get((api_version, kind))
        if found is None:
            raise errors.NotFound(f'the server serves no kind "{kind}" in version "{api_version}"')
        return found

    async def all_types(self) -> list[ResourceType]:
        """Everything that can be listed and deleted, each resource in its group's preferred version first."""
        groups = await self._get("/apis")
        versions = ["v1"]
        for group in objects_at(groups, "groups"):
            preferred = str_at(group, "preferredVersion", "groupVersion")
            others = [str_at(v, "groupVersion") for v in objects_at(group, "versions")]
            versions += [preferred, *(v for v in others if v != preferred)]
        found: dict[tuple[str, str], ResourceType] = {}
        for types in await asyncio.gather(*(self._deletable(v) for v in versions)):
            for rt in types:
                found.setdefault((rt.group, rt.plural), rt)
        return list(found.values())

    async def _deletable(self, api_version: str) -> list[ResourceType]:
        try:
            return await self._types(api_version, frozenset({"list", "delete"}))
        except (errors.NotFound, errors.ServerError):
            return []  # an aggregated API that is down, or a CRD that went meanwhile

    async def _types(self, api_version: str, verbs: frozenset[str] = frozenset()) -> list[ResourceType]:
        group, _, version = api_version.rpartition("/")
        document = await self._get(f"/apis/{api_version}" if group else f"/api/{api_version}")
        return [
            ResourceType(group, version, str_at(item, "name"), str_at(item, "kind"), bool_at(item, "namespaced"))
            for item in objects_at(document, "resources")
            if "/" not in str_at(item, "name") and verbs <= set(strings_at(item, "verbs"))
        ]
