"""What analyzers look at: the world, and questions that several of them ask of it.

In: a `World`; which objects to report on. Out: objects by kind, services and workloads as the engine's graph has them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

from meltem.analyze.messages import Message
from meltem.clock import Clock, SystemClock
from meltem.graph.model import Service, host_matches, short_name
from meltem.objects import JsonObject, Step, labels_of, name_of, namespace_of, str_at, string_map_at
from meltem.simulate.origin import Origin, Placed
from meltem.simulate.world import World

_CLOCK = SystemClock()
SYSTEM_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})


class Context:
    """One analysis. `reported(placed)`: whether findings about an object are wanted (it is of the namespace asked for,
    or from the files). `partial`: only files are known, what is not in them may be there all the same."""

    def __init__(
        self,
        world: World,
        system_namespace: str,
        reported: Callable[[Placed], bool],
        *,
        partial: bool = False,
        clock: Clock = _CLOCK,
    ) -> None:
        self.partial = partial
        self.clock = clock
        self.world = world
        self.system = system_namespace
        self._reported = reported

    def every(self, kind: str) -> list[Placed]:
        """All objects of a kind: what others may refer to."""
        return self._by_kind.get(kind, [])

    def own(self, kind: str) -> Iterator[Placed]:
        """Those to report on."""
        return (p for p in self.every(kind) if self._reported(p))

    @functools.cached_property
    def _by_kind(self) -> Mapping[str, list[Placed]]:
        found: dict[str, list[Placed]] = {}
        for key in sorted(self.world.objects):
            found.setdefault(key[0], []).append(self.world.objects[key])
        return found

    def find(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        placed = self.world.find(kind, namespace, name)
        return placed.obj if placed is not None else None

    @functools.cached_property
    def domain(self) -> str:
        found = self.world.engine.mesh.settings.get("")
        return found.domain if found is not None else "cluster.local"

    @functools.cached_property
    def root_namespace(self) -> str:
        found = self.world.engine.mesh.settings.get("")
        return found.root_namespace if found is not None else self.system

    def services_of(self, host: str, namespace: str) -> list[Service]:
        """The services that a host means in a resource of this namespace, as they are visible there."""
        full = short_name(host, namespace, self.domain).lower()
        every = self.world.engine.mesh.services
        exact = [s for s in self.world.engine.mesh.services_by_host.lookup(full).values() if s.visible_to(namespace)]
        if exact:
            return exact
        return [
            s
            for _, s in sorted(every.items())
            if s.visible_to(namespace)
            and (host_matches(full, s.hostname) or (s.hostname.startswith("*") and host_matches(s.hostname, full)))
        ]

    def pods(self, namespace: str, selector: Mapping[str, str]) -> list[JsonObject]:
        """Pods with these labels; in every namespace when it is empty."""
        return [
            p.obj
            for p in self.every("Pod")
            if namespace in ("", namespace_of(p.obj)) and selector.items() <= labels_of(p.obj).items()
        ]

    def namespaces(self) -> set[str]:
        return {name_of(p.obj) for p in self.every("Namespace")}


def message(code: str, placed: Placed, text: str, *path: Step) -> Message:
    """A finding about an object, at a field of it."""
    obj = placed.obj
    origin: Origin = placed.origin
    return Message(code, str_at(obj, "kind"), namespace_of(obj), name_of(obj), text, origin.place(*path))


def spec_map(placed: Placed, *path: str) -> dict[str, str]:
    return string_map_at(placed.obj, "spec", *path)


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
