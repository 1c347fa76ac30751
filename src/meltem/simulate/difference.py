"""What would a change do? Two worlds, compared proxy by proxy and call by call.

In: the world as it is, and as it would be. Out: for each proxy and type of resource the names that come, go or change;
for each call, how its way differs.
"""

# The stubs of what is imported here leave some types open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meltem import envoyapi as api
from meltem.objects import JsonObject
from meltem.simulate import affected
from meltem.simulate.calls import Asked
from meltem.simulate.explain import Explanation, explain
from meltem.simulate.origin import Placed
from meltem.simulate.proxies import all_proxies
from meltem.simulate.world import ObjectKey, World, key_of
from meltem.view.proxy import Proxy

_NAMES = {
    api.LISTENER: "listeners",
    api.ROUTE: "routes",
    api.VIRTUAL_HOST: "virtualHosts",
    api.CLUSTER: "clusters",
    api.ENDPOINT: "endpoints",
    api.SECRET: "secrets",
}


class TypeChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """Names of one type of resource."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class ProxyChange(msgspec.Struct, frozen=True, omit_defaults=True):
    proxy: str
    types: dict[str, TypeChange]


class CallChange(msgspec.Struct, frozen=True):
    before: Explanation
    after: Explanation


class Difference(msgspec.Struct, frozen=True, rename="camel"):
    objects: dict[str, list[str]]
    """created, changed, unchanged and deleted objects."""
    proxies: tuple[ProxyChange, ...]
    unaffected_proxies: int
    calls: tuple[CallChange, ...] = ()
    """Only those whose way differs."""
    unaffected_calls: int = 0
    problems: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.proxies and not self.calls and not self.problems


def changed_objects(
    before: Sequence[Placed], change: Iterable[Placed], deleted: Iterable[ObjectKey] = ()
) -> tuple[list[Placed], dict[str, list[str]]]:
    """The objects after a change, and what becomes of each object of it. An object of a file keeps what the API server
    alone gives (uid, creation time)."""
    held: dict[ObjectKey, Placed] = {key_of(p.obj): p for p in before}
    said: dict[str, list[str]] = {"created": [], "changed": [], "unchanged": [], "deleted": []}
    for placed in change:
        key = key_of(placed.obj)
        old = held.get(key)
        new = placed if old is None else Placed(_kept(old.obj, placed.obj), placed.origin)
        kind = "created" if old is None else ("unchanged" if _same(old.obj, new.obj) else "changed")
        said[kind].append(_title(key))
        held[key] = new
    for key in deleted:
        if held.pop(key, None) is not None:
            said["deleted"].append(_title(key))
    return list(held.values()), {k: v for k, v in said.items() if v}


def _title(key: ObjectKey) -> str:
    kind, namespace, name = key
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _kept(old: JsonObject, new: JsonObject) -> JsonObject:
    meta = old.get("metadata")
    own = new.get("metadata")
    kept = {
        k: v
        for k, v in (meta.items() if isinstance(meta, dict) else ())
        if k in ("uid", "creationTimestamp", "resourceVersion", "generation")
    }
    merged: JsonObject = {**new, "metadata": {**kept, **(own if isinstance(own, dict) else {})}}
    if "status" in old and "status" not in new:
        merged["status"] = old["status"]
    return merged


def _same(old: JsonObject, new: JsonObject) -> bool:
    content = ("spec", "data", "stringData", "webhooks", "rules")
    return all(old.get(k) == new.get(k) for k in content) and _labels(old) == _labels(new)


def _labels(obj: JsonObject) -> tuple[object, object]:
    meta = obj.get("metadata")
    found = meta if isinstance(meta, dict) else {}
    notes = found.get("annotations")
    plain = {k: v for k, v in (notes.items() if isinstance(notes, dict) else ()) if not k.startswith("kubectl.")}
    return found.get("labels") or {}, plain


def compare(
    before: World,
    after: World,
    objects: dict[str, list[str]],
    calls: Iterable[tuple[Proxy, Asked]] | None = None,
) -> Difference:
    """`calls`: what to follow in both worlds, from the proxies as they are before; None: whatever may be altered."""
    was = {p.id: p for p in all_proxies(before)}
    will = {p.id: p for p in all_proxies(after)}
    found: list[ProxyChange] = []
    changes: dict[str, affected.Changed] = {}
    for name in sorted({*was, *will}):
        old = before.configuration(was[name]).bodies if name in was else {}
        new = after.configuration(will[name]).bodies if name in will else {}
        types = _types(old, new)
        if types:
            found.append(ProxyChange(name, types))
            changes[name] = affected.changed_bodies(old, new)
    altered: list[CallChange] = []
    same = 0
    if calls is None:
        proxies = {**will, **was}
        calls = affected.calls((before, after), [proxies[n] for n in sorted(proxies)], changes)
    for proxy, asked in calls:
        one, other = explain(before, proxy, asked), explain(after, proxy, asked)
        if one.way == other.way:
            same += 1
        else:
            altered.append(CallChange(one, other))
    fresh = tuple(p for p in after.problems if p not in before.problems)
    return Difference(objects, tuple(found), len({*was, *will}) - len(found), tuple(altered), same, fresh)


def _types(old: Mapping[str, Mapping[str, bytes]], new: Mapping[str, Mapping[str, bytes]]) -> dict[str, TypeChange]:
    out: dict[str, TypeChange] = {}
    for type_url, title in _NAMES.items():
        was, will = old.get(type_url, {}), new.get(type_url, {})
        made = TypeChange(
            added=tuple(sorted(will.keys() - was.keys())),
            changed=tuple(sorted(n for n in was.keys() & will.keys() if was[n] != will[n])),
            removed=tuple(sorted(was.keys() - will.keys())),
        )
        if made != TypeChange():
            out[title] = made
    return out
