"""Sets of field paths in the form of FieldsV1, the trie that `managedFields` carries.

A node is a JSON object. Its keys are path elements: `f:<field>`, `k:<keys of a list item>`, `v:<value in a set>`. A
node that is empty, or that has the key `.`, is itself in the set; the root is not. Nodes are never changed once made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias, cast

from meltem.objects import Json, JsonObject

FieldSet: TypeAlias = "dict[str, FieldSet]"
_SELF = "."
LEAF: FieldSet = {}


def parse(fields: Json) -> FieldSet:
    """`fieldsV1` as stored; anything that is no object reads as an empty set."""
    if not isinstance(fields, dict):
        return {}
    return {key: parse(value) for key, value in fields.items()}


def as_json(fields: FieldSet) -> JsonObject:
    return cast(JsonObject, fields)


def _in(node: FieldSet) -> bool:
    return not node or _SELF in node


def _node(member: bool, children: FieldSet) -> FieldSet | None:
    if not children:
        return {} if member else None
    return {_SELF: {}, **children} if member else children


def _children(node: FieldSet) -> FieldSet:
    return {k: v for k, v in node.items() if k != _SELF} if _SELF in node else node


def union(a: FieldSet, b: FieldSet) -> FieldSet:
    """Every path of either. The arguments are roots, whose own membership means nothing."""
    if not a:
        return b
    merged = dict(a)
    for key, node in b.items():
        mine = merged.get(key)
        if mine is None or key == _SELF:
            merged[key] = node
        else:
            merged[key] = _node(_in(mine) or _in(node), union(_children(mine), _children(node))) or {}
    return merged


def difference(a: FieldSet, b: FieldSet) -> FieldSet:
    """The paths of `a` that are not in `b`."""
    kept: FieldSet = {}
    for key, node in a.items():
        other = b.get(key)
        if other is None:
            kept[key] = node
            continue
        left = _node(_in(node) and not _in(other), difference(_children(node), _children(other)))
        if left is not None:
            kept[key] = left
    return kept


def intersection(a: FieldSet, b: FieldSet) -> FieldSet:
    """The paths in both."""
    kept: FieldSet = {}
    for key, node in a.items():
        other = b.get(key)
        if other is None:
            continue
        left = _node(_in(node) and _in(other), intersection(_children(node), _children(other)))
        if left is not None:
            kept[key] = left
    return kept


def with_parents(fields: FieldSet) -> FieldSet:
    """The set with every ancestor of its paths."""
    return {key: _node(True, with_parents(_children(node))) or {} for key, node in fields.items()}


def holds(node: FieldSet) -> bool:
    """Whether the path that leads to this (non-root) node is in its set."""
    return _in(node)


def below(node: FieldSet) -> FieldSet:
    """The part of the set below a node, as a root."""
    return _children(node)


def paths(fields: FieldSet, prefix: str = "") -> Iterator[str]:
    """The paths as people read them: `.spec.containers[name="a"].image`."""
    for key in sorted(fields):
        if key == _SELF:
            continue
        node = fields[key]
        here = prefix + _element(key)
        if _in(node):
            yield here
        yield from paths(_children(node), here)


def _element(key: str) -> str:
    kind, _, rest = key.partition(":")
    if kind == "k":
        try:
            keys = json.loads(rest)
        except ValueError:
            return f"[{rest}]"
        shown = ",".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in sorted(keys.items()))
        return f"[{shown}]"
    if kind == "v":
        return f"[={rest}]"
    if kind == "i":
        return f"[{rest}]"
    return f".{rest}"


def item_key(keys: JsonObject) -> str:
    """The path element of a list item with these keys."""
    return "k:" + json.dumps(keys, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def value_key(value: Json) -> str:
    """The path element of a value in a list of type set."""
    return "v:" + json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
