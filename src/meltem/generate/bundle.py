"""What every proxy should have now: generated resources by group, and notice of what changed for whom.

In: collections of `Resource`s keyed `(group, type URL, name)`, and for every proxy the groups that make up its
configuration (a group is what equal views share: an outbound scope, an inbound view, a gateway). Out: an `Attachment`
for each connected proxy: its resources by type, and one notice a commit naming what changed in them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

import msgspec

from meltem.collections import Change, Changes, Collection, Graph
from meltem.envoyapi import Resource

Group = Hashable
GroupKey = tuple[Group, str, str]
"""group, type URL, resource name"""


class Waiting(msgspec.Struct, frozen=True):
    """A resource whose successor is not settled yet: what stands already under its name goes on to stand, and this
    takes its place only where nothing does."""

    resource: Resource


Notice = Mapping[str, frozenset[str]]
"""Type URL → names that were added, changed or removed."""


class Layer:
    """One group's resources of one type, by name: shared by the group's proxies, and live.

    `generation` grows with every change: what somebody made from the content holds as long as it is the same.
    """

    __slots__ = ("__weakref__", "generation", "resources")

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.generation = 0

    def put(self, name: str, resource: Resource) -> None:
        self.resources[name] = resource
        self.generation += 1

    def drop(self, name: str) -> None:
        self.resources.pop(name, None)
        self.generation += 1


class Attachment:
    """One connected proxy's configuration as it stands; `close` when the connection ends."""

    def __init__(self, bundles: Bundles, proxy_id: str, notify: Callable[[Notice], None]) -> None:
        self._bundles = bundles
        self.proxy_id = proxy_id
        self.notify = notify
        self.groups: tuple[Group, ...] = ()

    def get(self, type_url: str, name: str) -> Resource | None:
        for layer in self.layers(type_url):
            found = layer.resources.get(name)
            if found is not None:
                return found
        return None

    def names(self, type_url: str) -> set[str]:
        return {name for layer in self.layers(type_url) for name in layer.resources}

    def all(self, type_url: str) -> Iterator[Resource]:
        """Every resource of the type once; an earlier group wins over a later one."""
        layers = self.layers(type_url)
        if len(layers) == 1:
            yield from layers[0].resources.values()
            return
        seen: set[str] = set()
        for layer in layers:
            for name, resource in layer.resources.items():
                if name not in seen:
                    seen.add(name)
                    yield resource

    def layers(self, type_url: str) -> list[Layer]:
        """The groups that have resources of the type, the one that wins first; a list of its own for each call."""
        return [layer for group in self.groups if (layer := self._bundles.layer(group, type_url)) is not None]

    def close(self) -> None:
        self._bundles.detach(self)


class Bundles:
    """Resources by group; see the module's head."""

    def __init__(self, graph: Graph, groups_of: Collection[str, tuple[Group, ...]]) -> None:
        """`groups_of`: proxy id → its groups, the one that wins first."""
        self._groups_of = groups_of
        self._layers: dict[Group, dict[str, Layer]] = {}
        self._attached: dict[str, set[Attachment]] = {}
        self._by_group: dict[Group, set[Attachment]] = {}
        self._changed: dict[Group, dict[str, set[str]]] = {}
        self._regrouped: set[str] = set()
        self._graph = graph
        graph.on_commit(groups_of, self._note_groups)
        graph.after_commit(self._notify)

    def add(self, resources: Collection[GroupKey, Resource]) -> None:
        """Take this collection's resources in."""
        self._graph.on_commit(resources, self._note)

    def add_settling(self, resources: Collection[GroupKey, Resource | Waiting]) -> None:
        """Take in a collection some of whose resources may have to wait."""
        self._graph.on_commit(resources, self._note_settling)

    def _note_settling(self, changes: Changes[GroupKey, Resource | Waiting]) -> None:
        now: dict[GroupKey, Change[Resource]] = {}
        for key, change in changes.items():
            new = change.new
            if isinstance(new, Waiting):
                layer = self.layer(key[0], key[1])
                if layer is not None and key[2] in layer.resources:
                    continue
                new = new.resource
            now[key] = Change(None, new)
        self._note(now)

    def layer(self, group: Group, type_url: str) -> Layer | None:
        """None where the group has nothing of the type."""
        types = self._layers.get(group)
        return None if types is None else types.get(type_url)

    def attach(self, proxy_id: str, notify: Callable[[Notice], None]) -> Attachment:
        """The proxy must be in the proxies collection already. `notify` is called inside the commit: it must not block
        and must not write to sources."""
        attachment = Attachment(self, proxy_id, notify)
        self._attached.setdefault(proxy_id, set()).add(attachment)
        self._regroup(attachment)
        return attachment

    def detach(self, attachment: Attachment) -> None:
        for group in attachment.groups:
            self._by_group.get(group, set()).discard(attachment)
        attachment.groups = ()
        mine = self._attached.get(attachment.proxy_id, set())
        mine.discard(attachment)
        if not mine:
            self._attached.pop(attachment.proxy_id, None)

    @property
    def attached(self) -> Iterable[Attachment]:
        return [a for same in self._attached.values() for a in same]

    def _regroup(self, attachment: Attachment) -> None:
        for group in attachment.groups:
            self._by_group.get(group, set()).discard(attachment)
        attachment.groups = self._groups_of.get(attachment.proxy_id) or ()
        for group in attachment.groups:
            self._by_group.setdefault(group, set()).add(attachment)

    def _note_groups(self, changes: Changes[str, tuple[Group, ...]]) -> None:
        self._regrouped.update(changes)

    def _note(self, changes: Changes[GroupKey, Resource]) -> None:
        for (group, type_url, name), change in changes.items():
            self._changed.setdefault(group, {}).setdefault(type_url, set()).add(name)
            if change.new is None:
                types = self._layers[group]
                types[type_url].drop(name)
                if not types[type_url].resources:
                    del types[type_url]
                    if not types:
                        del self._layers[group]
            else:
                types = self._layers.setdefault(group, {})
                layer = types.get(type_url)
                if layer is None:
                    layer = types[type_url] = Layer()
                layer.put(name, change.new)

    def _notify(self) -> None:
        changed, self._changed = self._changed, {}
        regrouped, self._regrouped = self._regrouped, set()
        told: set[Attachment] = set()
        for proxy_id in regrouped:
            for attachment in list(self._attached.get(proxy_id, ())):
                notice = self._difference(attachment, changed)
                told.add(attachment)
                if notice:
                    attachment.notify(notice)
        frozen: dict[Group, Notice] = {g: {t: frozenset(n) for t, n in types.items()} for g, types in changed.items()}
        affected = {a for group in frozen for a in self._by_group.get(group, ())} - told
        for attachment in affected:
            attachment.notify(_union([frozen[g] for g in attachment.groups if g in frozen]))

    def _difference(self, attachment: Attachment, changed: Mapping[Group, Mapping[str, set[str]]]) -> Notice:
        """What may differ for a proxy that moved to other groups: all of the old and new groups that are not common,
        and what changed in those that are."""
        before = set(attachment.groups)
        self._regroup(attachment)
        after = set(attachment.groups)
        names: dict[str, set[str]] = {}
        for group in before ^ after:
            for type_url, layer in self._layers.get(group, {}).items():
                names.setdefault(type_url, set()).update(layer.resources)
        for group in before | after:
            for type_url, some in changed.get(group, {}).items():
                names.setdefault(type_url, set()).update(some)
        return {t: frozenset(n) for t, n in names.items()}


def _union(notices: list[Notice]) -> Notice:
    if len(notices) == 1:
        return notices[0]
    out: dict[str, frozenset[str]] = {}
    for notice in notices:
        for type_url, names in notice.items():
            out[type_url] = out.get(type_url, frozenset()) | names
    return out
