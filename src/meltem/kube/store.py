"""A local cache of one kind, with indexes and change callbacks: the usual sink of a reflector.

In: `replace`/`upsert`/`delete` from a `Reflector`. Out: lookups by (namespace, name), by any index function, and
callbacks `(old, new)` for every object that changed (`old` is None when it is new, `new` is None when it is gone).
Objects are shared: never change one in place, copy it (`meltem.objects.copy_object`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from meltem.objects import JsonObject, name_of, namespace_of, object_at, str_at, uid_of

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""
IndexFunction = Callable[[JsonObject], Iterable[str]]
Callback = Callable[[JsonObject | None, JsonObject | None], None]


def key_of(obj: JsonObject) -> Key:
    return namespace_of(obj), name_of(obj)


class Store:
    """The objects of one kind as last seen."""

    def __init__(self, indexes: dict[str, IndexFunction] | None = None) -> None:
        self._objects: dict[Key, JsonObject] = {}
        self._functions: dict[str, IndexFunction] = {"namespace": lambda o: (namespace_of(o),), **(indexes or {})}
        self._indexes: dict[str, dict[str, dict[Key, None]]] = {name: {} for name in self._functions}
        self._callbacks: list[Callback] = []
        self._seen = 0  # the newest resource version that the watch has shown

    def on_change(self, callback: Callback) -> None:
        """Call it for every change from now on, and at once for every object that is there already."""
        self._callbacks.append(callback)
        for obj in list(self._objects.values()):
            callback(None, obj)

    # The sink

    def replace(self, items: Sequence[JsonObject]) -> None:
        fresh = {key_of(item): item for item in items}
        for key in [k for k in self._objects if k not in fresh]:
            self._put(key, None)
        for key, item in fresh.items():
            old = self._objects.get(key)
            if old is None or _version(old) != _version(item) or uid_of(old) != uid_of(item):
                self._put(key, item)
            self._seen = max(self._seen, _number(item))

    def upsert(self, obj: JsonObject) -> None:
        self._seen = max(self._seen, _number(obj))
        key = key_of(obj)
        if not self._newer_is_known(key, obj):
            self._put(key, obj)

    def delete(self, obj: JsonObject) -> None:
        self._seen = max(self._seen, _number(obj))
        key = key_of(obj)
        if key in self._objects and not self._newer_is_known(key, obj):
            self._put(key, None)

    # What this process wrote itself, ahead of the watch

    def observe(self, obj: JsonObject) -> None:
        """The server's answer to a write of ours. Callbacks run at once; what the watch has shown already is left."""
        number = _number(obj)
        if number > self._seen and not self._newer_is_known(key_of(obj), obj):
            self._put(key_of(obj), obj)

    def observe_deleting(self, obj: JsonObject, moment: str) -> None:
        """We asked for this cached object's deletion at `moment` (RFC 3339); the watch will say the rest."""
        cached = self._objects.get(key_of(obj))
        if cached is not None and uid_of(cached) == uid_of(obj) and not str_at(cached, "metadata", "deletionTimestamp"):
            self._put(
                key_of(obj), {**cached, "metadata": {**object_at(cached, "metadata"), "deletionTimestamp": moment}}
            )

    def _newer_is_known(self, key: Key, obj: JsonObject) -> bool:
        cached = self._objects.get(key)
        return cached is not None and _number(cached) > _number(obj) > 0

    # Reading

    def get(self, name: str, namespace: str = "") -> JsonObject | None:
        return self._objects.get((namespace, name))

    def by_index(self, index: str, value: str) -> list[JsonObject]:
        """Objects for which the index function gave `value`, oldest first."""
        return [self._objects[key] for key in self._indexes[index].get(value, ())]

    def in_namespace(self, namespace: str) -> list[JsonObject]:
        return self.by_index("namespace", namespace)

    def __iter__(self) -> Iterator[JsonObject]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def _put(self, key: Key, new: JsonObject | None) -> None:
        old = self._objects.get(key)
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        for name, function in self._functions.items():
            self._index(self._indexes[name], key, function(old) if old else (), function(new) if new else ())
        for callback in self._callbacks:
            callback(old, new)

    @staticmethod
    def _index(index: dict[str, dict[Key, None]], key: Key, before: Iterable[str], after: Iterable[str]) -> None:
        kept = set(after)
        for value in set(before) - kept:
            keys = index.get(value)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del index[value]
        for value in kept:
            index.setdefault(value, {})[key] = None


def _version(obj: JsonObject) -> str:
    return str_at(obj, "metadata", "resourceVersion")


def _number(obj: JsonObject) -> int:
    """Resource versions are numbers that grow (Kubernetes 1.35 promises it); 0 where a server has others."""
    version = _version(obj)
    return int(version) if version.isdigit() else 0
