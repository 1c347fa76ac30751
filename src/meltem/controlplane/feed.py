"""From the API server into the engine: one reflector a kind, typed decoding, one transaction an event.

In: a client, the engine's inputs. Out: the inputs, always as the API server has them; `problems`, the objects that
could not be read (each costs only itself and is logged once); callbacks for the few objects that istiod itself is
configured by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from meltem.collections import Graph, Source
from meltem.errors import InvalidResource
from meltem.graph.inputs import Inputs, ResourceKey, Unusable
from meltem.kube.client import KubeClient
from meltem.kube.reflector import Reflector
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, int_at, name_of, namespace_of, str_at
from meltem.resources.kinds import KINDS, KindInfo
from meltem.resources.parse import first_line, read_as

Watcher = Callable[[str, str, JsonObject | None], None]
"""namespace, name, the object or None when it has gone"""

log = structlog.stdlib.get_logger("config")
_UNREAD_SECRETS = frozenset(
    {"helm.sh/release.v1", "kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"}
)


class KindFeed:
    """A reflector's sink for one kind."""

    def __init__(
        self,
        graph: Graph,
        source: Source[ResourceKey, object],
        info: KindInfo,
        cluster: str,
        problems: dict[tuple[str, str, str], Unusable],
        selected: Callable[[str], bool] = lambda _namespace: True,
    ) -> None:
        """`selected`: whether the mesh looks into a namespace (`discoverySelectors`)."""
        self.info = info
        self._selected = selected
        self._aside: dict[ResourceKey, object] = {}  # objects of namespaces that are not selected
        self._graph = graph
        self._source = source
        self._cluster = cluster
        self._problems = problems
        self._watchers: list[Watcher] = []
        self._named: set[tuple[str, str]] = set()  # everything there is, for watchers
        self.events: Callable[[str, str], None] = lambda _kind, _event: None

    def watch(self, watcher: Watcher) -> None:
        """Be told of every object of this kind."""
        self._watchers.append(watcher)

    def replace(self, items: Sequence[JsonObject]) -> None:
        content: dict[ResourceKey, object] = {}
        with self._graph.transaction():
            for item in items:
                read = self._read(item)
                if read is not None:
                    content[self._key(item)] = read
            for key in [k for k in self._source if k[0] == self._cluster and k not in content]:
                self._source.delete(key)
            self._aside.clear()
            for key, value in content.items():
                self._put(key, value)
            self._forget_problems(items)
            self._tell_all(items)

    def upsert(self, obj: JsonObject) -> None:
        self.events(self.info.kind, "update")
        read = self._read(obj)
        with self._graph.transaction():
            if read is None:
                self._drop(self._key(obj))
            else:
                self._put(self._key(obj), read)
            self._tell(obj, obj)

    def delete(self, obj: JsonObject) -> None:
        self.events(self.info.kind, "delete")
        self._problems.pop((self.info.kind, namespace_of(obj), name_of(obj)), None)
        with self._graph.transaction():
            self._drop(self._key(obj))
            self._tell(obj, None)

    def reselect(self) -> None:
        """Other namespaces are selected now."""
        if not self.info.namespaced:
            return
        with self._graph.transaction():
            for key in [k for k in self._source if k[0] == self._cluster and not self._selected(k[1])]:
                value = self._source.get(key)
                if value is not None:
                    self._put(key, value)
            for key, value in [i for i in self._aside.items() if self._selected(i[0][1])]:
                self._put(key, value)

    def _put(self, key: ResourceKey, value: object) -> None:
        if self.info.namespaced and not self._selected(key[1]):
            self._aside[key] = value
            if key in self._source:
                self._source.delete(key)
            return
        self._aside.pop(key, None)
        self._source.set(key, value)

    def _drop(self, key: ResourceKey) -> None:
        self._aside.pop(key, None)
        self._source.delete(key)

    def _forget_problems(self, items: Iterable[JsonObject]) -> None:
        there = {(self.info.kind, namespace_of(i), name_of(i)) for i in items}
        for key in [k for k in self._problems if k[0] == self.info.kind and k not in there]:
            del self._problems[key]

    def _key(self, obj: JsonObject) -> ResourceKey:
        return (self._cluster, namespace_of(obj), name_of(obj))

    def _read(self, obj: JsonObject) -> object | None:
        if self.info.kind == "Secret" and str_at(obj, "type") in _UNREAD_SECRETS:
            return None
        where = (self.info.kind, namespace_of(obj), name_of(obj))
        try:
            read = read_as(obj, self.info)
        except InvalidResource as error:
            line = first_line(error)
            found = Unusable(line, str_at(obj, "metadata", "uid"), int_at(obj, "metadata", "generation"))
            if self._problems.get(where) != found:
                log.warning("an object cannot be used", kind=where[0], namespace=where[1], name=where[2], reason=line)
            self._problems[where] = found
            return None
        self._problems.pop(where, None)
        return read

    def _tell(self, obj: JsonObject, new: JsonObject | None) -> None:
        if not self._watchers:
            return
        key = (namespace_of(obj), name_of(obj))
        if new is None:
            self._named.discard(key)
        else:
            self._named.add(key)
        for watcher in self._watchers:
            watcher(*key, new)

    def _tell_all(self, items: Iterable[JsonObject]) -> None:
        if not self._watchers:
            return
        now = {(namespace_of(i), name_of(i)): i for i in items}
        for key in self._named - now.keys():
            self._named.discard(key)
            for watcher in self._watchers:
                watcher(*key, None)
        for item in now.values():
            self._tell(item, item)


def ignored_kinds(ignore: str, include: str) -> Callable[[KindInfo], bool]:
    """PILOT_IGNORE_RESOURCES without PILOT_INCLUDE_RESOURCES: `destinationrules.networking.istio.io`, `*.istio.io`."""

    def named(kind: KindInfo, text: str) -> bool:
        full = f"{kind.plural}.{kind.group}"
        patterns = [p.strip() for p in text.split(",") if p.strip()]
        return any(full.endswith(p[1:]) if p.startswith("*.") else full == p for p in patterns)

    return lambda kind: bool(kind.group) and named(kind, ignore) and not named(kind, include)


class Feed:
    """All kinds of one cluster. `namespace`: only there (namespaced kinds); empty: everywhere."""

    def __init__(
        self,
        graph: Graph,
        inputs: Inputs,
        client: KubeClient,
        *,
        cluster: str,
        namespace: str = "",
        selected: Callable[[str], bool] = lambda _namespace: True,
        ignored: Callable[[KindInfo], bool] = lambda _kind: False,
    ) -> None:
        self.problems: dict[tuple[str, str, str], Unusable] = {}
        self.kinds: dict[str, KindFeed] = {}
        self._graph = graph
        self._reflectors: dict[str, Reflector] = {}
        wanted: Mapping[str, Source[ResourceKey, object]] = inputs.by_kind
        for info in KINDS:
            source = wanted.get(info.kind)
            # Gateway API kinds share names with Istio's (`Gateway`): the inputs' sources are Istio's.
            if source is None or info.kind in self.kinds or info.group.endswith("gateway.networking.k8s.io"):
                continue
            if ignored(info):
                log.info("a kind is ignored, as PILOT_IGNORE_RESOURCES says", kind=f"{info.plural}.{info.group}")
                continue
            feed = KindFeed(graph, source, info, cluster, self.problems, selected)
            self.kinds[info.kind] = feed
            rt = ResourceType(info.group, info.versions[0], info.plural, info.kind, info.namespaced)
            self._reflectors[info.kind] = Reflector(client, rt, feed, namespace=namespace if info.namespaced else "")

    def reselect(self) -> None:
        """Other namespaces are selected now."""
        with self._graph.transaction():
            for kind in self.kinds.values():
                kind.reselect()

    async def listed(self, kind: str) -> None:
        """Until this kind has been listed once."""
        await self._reflectors[kind].synced.wait()

    @property
    def synced(self) -> bool:
        return all(r.synced.is_set() for r in self._reflectors.values())

    def waiting_for(self) -> list[str]:
        """Kinds that have not been listed yet."""
        return [k for k, r in self._reflectors.items() if not r.synced.is_set()]

    async def wait(self) -> None:
        """Until everything has been listed once."""
        for reflector in self._reflectors.values():
            await reflector.synced.wait()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, reflector in self._reflectors.items():
                group.create_task(reflector.run(), name=f"watch {kind}")
