"""Which proxies have a resource as it stands: from what they acknowledged, by generation.

In: the engine and, of every connected proxy, whether it has acknowledged everything that it was sent. Out: `share`, how
many of the proxies that a resource is for have its present generation.

Time is counted in commits of the engine. A resource's generation came with some commit; a proxy that once had nothing
outstanding after that commit has it. Only proxies of this istiod are known here; `meltem.status.reports` has those of
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from meltem.engine import Engine
from meltem.graph.policies import target_of
from meltem.resources import networking, security
from meltem.resources.base import Resource
from meltem.view.proxy import Proxy, ProxyKind

Key = tuple[str, str, str]
"""kind, namespace, name"""
Version = tuple[str, int]
"""uid and generation: an object that takes a deleted one's place begins again at the same generation"""


def version_of(resource: Resource) -> Version:
    return resource.metadata.uid, resource.metadata.generation


class Standing(msgspec.Struct, frozen=True):
    """A connected proxy, and whether it has acknowledged everything."""

    proxy: Proxy
    current: bool


class Share(msgspec.Struct, frozen=True):
    """How many have it, of how many that it is for; `missing`: some of the others, by id."""

    have: int
    of: int
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.have == self.of

    def __str__(self) -> str:
        if not self.of:
            return "no connected proxy uses it"
        tail = (
            f" {', '.join(self.missing[:3])}{'…' if self.of - self.have > 3 else ''} not yet." if self.missing else ""
        )
        return f"{self.have}/{self.of} proxies up to date.{tail}"


def together(shares: Iterable[Share]) -> Share:
    """Of proxies that are connected to different istiods."""
    found = tuple(shares)
    missing = tuple(m for s in found for m in s.missing)
    return Share(sum(s.have for s in found), sum(s.of for s in found), missing)


class Distribution:
    """See the module's head. `standings`: every connected proxy once."""

    def __init__(self, engine: Engine, standings: Callable[[], Iterable[Standing]]) -> None:
        self._engine = engine
        self._standings = standings
        self._commits = 1
        self._settled_at = 0  # the commit of which everybody had everything at the last look
        self._entered: dict[Key, tuple[Version, int]] = {}  # and the commit with which it was seen first
        self._through: dict[str, int] = {}  # proxy id → the last commit of which it has everything
        self._proxies: dict[str, Proxy] = {}
        self._by_namespace: dict[str, list[Proxy]] = {}
        engine.graph.after_commit(self._count)

    def _count(self) -> None:
        self._commits += 1

    def enter(self, versions: Mapping[Key, Version]) -> None:
        """The resources that there are, with their versions."""
        for key in [k for k in self._entered if k not in versions]:
            del self._entered[key]
        for key, version in versions.items():
            known = self._entered.get(key)
            if known is None or known[0] != version:
                self._entered[key] = version, self._commits

    def look(self) -> None:
        """Asks the proxies anew, where since the last look anything was changed or somebody was behind."""
        if self._settled_at == self._commits:
            return
        commits = self._commits
        through: dict[str, int] = {}
        proxies: dict[str, Proxy] = {}
        for one in self._standings():
            proxies[one.proxy.id] = one.proxy
            through[one.proxy.id] = self._commits if one.current else self._through.get(one.proxy.id, 0)
        self._through = through
        self._settled_at = commits if all(t == commits for t in through.values()) else 0
        if proxies != self._proxies:
            self._proxies, self._by_namespace = proxies, {}
            for proxy in proxies.values():
                self._by_namespace.setdefault(proxy.namespace, []).append(proxy)

    def share(self, resource: Resource) -> Share:
        """Of a resource that `enter` knows. Proxies are those that were connected at the last look."""
        entered = self._entered.get((resource.kind, resource.namespace, resource.name))
        since = entered[1] if entered is not None else self._commits
        concerned = self.concerned(resource)
        missing = sorted(p.id for p in concerned if self._through.get(p.id, 0) < since)
        return Share(len(concerned) - len(missing), len(concerned), tuple(missing[:10]))

    def concerned(self, resource: Resource) -> list[Proxy]:
        """The proxies that a resource is for: by its namespace, selector, gateways and exportTo."""
        mesh = self._engine.inputs.mesh_config.get("")
        root = mesh.root_namespace if mesh is not None else "istio-system"
        match resource:
            case networking.Gateway():
                return [p for p in self._proxies.values() if _is_router(p) and _labels(p, resource.spec.selector)]
            case networking.VirtualService():
                return self._of_virtual_service(resource, mesh.default_virtual_service_export_to if mesh else ())
            case networking.DestinationRule():
                chosen = resource.spec.workload_selector
                found = self._visible(resource, resource.spec.export_to, mesh.default_destination_rule_export_to
                                      if mesh else ())  # fmt: skip
                return found if chosen is None else [p for p in found if _labels(p, chosen.match_labels)]
            case networking.ServiceEntry():
                return self._visible(resource, resource.spec.export_to, mesh.default_service_export_to if mesh else ())
            case networking.WorkloadEntry() | networking.WorkloadGroup():
                return []
            case networking.Sidecar():
                selector = resource.spec.workload_selector
                labels = selector.labels if selector is not None else {}
                found = self._placed(resource.namespace, root)
                return [p for p in found if not _is_router(p) and _labels(p, labels)]
            case security.PeerAuthentication():
                labels = resource.spec.selector.match_labels if resource.spec.selector is not None else {}
                found = self._placed(resource.namespace, root)
                return [p for p in found if not _is_router(p) and _labels(p, labels)]
            case networking.ProxyConfig():
                return []
            case _:
                target = target_of(resource)
                return [p for p in self._placed(resource.namespace, root) if target.selects(p.label_map)]

    def _placed(self, namespace: str, root: str) -> Iterable[Proxy]:
        return self._proxies.values() if namespace == root else self._by_namespace.get(namespace, [])

    def _visible(self, resource: Resource, export_to: Iterable[str], default: Iterable[str]) -> list[Proxy]:
        spaces = tuple(export_to) or tuple(default) or ("*",)
        if "*" in spaces:
            return list(self._proxies.values())
        named = {resource.namespace if s == "." else s for s in spaces if s != "~"}
        return [p for space in sorted(named) for p in self._by_namespace.get(space, [])]

    def _of_virtual_service(self, resource: networking.VirtualService, default: Iterable[str]) -> list[Proxy]:
        spec = resource.spec
        gateways = set(spec.gateways or ("mesh",))
        found = [p for p in self._visible(resource, spec.export_to, default) if not _is_router(p)] if (
            "mesh" in gateways
        ) else []  # fmt: skip
        names = {g if "/" in g else f"{resource.namespace}/{g}" for g in gateways - {"mesh"}}
        selectors = [
            g.spec.selector for k, g in self._engine.inputs.gateways.items() if f"{k[1]}/{k[2]}" in names
        ]  # fmt: skip
        routers = [p for p in self._proxies.values() if _is_router(p)] if selectors else []
        return found + [p for p in routers if any(_labels(p, s) for s in selectors)]


def _is_router(proxy: Proxy) -> bool:
    return proxy.kind is ProxyKind.ROUTER


def _labels(proxy: Proxy, wanted: Mapping[str, str]) -> bool:
    return not wanted or all((k, v) in proxy.labels for k, v in wanted.items())
