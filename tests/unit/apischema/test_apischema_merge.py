"""The three kinds of patch."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltem.errors import ApiError, BadRequest, Invalid
from meltem.local.apiserver.schema.merge import json_patch, merge_patch, strategic_merge
from meltem.local.apiserver.schema.types import builtin_schema
from meltem.objects import Json, JsonObject, at, copy_json

DEPLOYMENT = builtin_schema("apps", "v1", "Deployment")
SERVICE = builtin_schema("", "v1", "Service")
POD = builtin_schema("", "v1", "Pod")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("document", "op", "expected"),
    [
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a/b": 1, "~": 2}, {"op": "remove", "path": "/a~1b"}, {"~": 2}),
        ({"~": 2}, {"op": "replace", "path": "/~0", "value": 3}, {"~": 3}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
        ({"a": {"x": 1}}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": 1}, {"a": 1}),
    ],
)
def test_json_patch(document: Json, op: Json, expected: Json) -> None:
    before = copy_json(document)
    assert json_patch(document, [op]) == expected
    assert document == before


@pytest.mark.parametrize(
    ("op", "error"),
    [
        ({"op": "test", "path": "/a", "value": True}, Invalid),
        ({"op": "remove", "path": "/b"}, Invalid),
        ({"op": "replace", "path": "/b", "value": 1}, Invalid),
        ({"op": "add", "path": "/l/9", "value": 1}, Invalid),
        ({"op": "add", "path": "/l/01", "value": 1}, Invalid),
        ({"op": "add", "path": "/a"}, BadRequest),
        ({"op": "dance", "path": "/a"}, Invalid),
        (5, BadRequest),
    ],
)
def test_json_patches_that_do_not_apply(op: Json, error: type[Exception]) -> None:
    with pytest.raises(error):
        json_patch({"a": 1, "l": [0]}, [op])


@given(
    json_values,
    st.lists(
        st.fixed_dictionaries(
            {
                "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
                "path": st.sampled_from(["", "/a", "/a/b", "/b/0", "/c/-", "/d~0"]),
                "from": st.sampled_from(["/a", "/b"]),
                "value": json_values,
            }
        ),
        max_size=4,
    ),
)
def test_any_json_patch_applies_or_is_refused(document: Json, ops: list[Json]) -> None:
    before = copy_json(document)
    with contextlib.suppress(ApiError):
        json_patch(document, ops)
    assert document == before


@given(json_values, json_values)
def test_merge_patch_twice_is_merge_patch_once(document: Json, patch: Json) -> None:
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once


def test_merge_patch_removes_with_null() -> None:
    assert merge_patch({"a": 1, "b": {"c": 1, "d": 2}}, {"a": None, "b": {"c": None}}) == {"b": {"d": 2}}


def containers(*names: str) -> JsonObject:
    return {"spec": {"template": {"spec": {"containers": [{"name": n, "image": n} for n in names]}}}}


def names(obj: JsonObject) -> list[Json]:
    found = at(obj, "spec", "template", "spec", "containers")
    return [at(c, "name") for c in found] if isinstance(found, list) else []


def pod_patch(**spec: Json) -> JsonObject:
    return {"spec": {"template": {"spec": dict(spec)}}}


def test_set_image_merges_by_name() -> None:
    patch = pod_patch(
        containers=[{"name": "b", "image": "new"}], **{"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}]}
    )
    patched = strategic_merge(DEPLOYMENT, containers("a", "b"), patch)
    assert names(patched) == ["a", "b"]
    assert at(patched, "spec", "template", "spec", "containers", 1) == {"name": "b", "image": "new"}


def test_delete_and_replace_directives() -> None:
    gone = strategic_merge(DEPLOYMENT, containers("a", "b"), pod_patch(containers=[{"name": "a", "$patch": "delete"}]))
    assert names(gone) == ["b"]
    only = strategic_merge(
        DEPLOYMENT, containers("a", "b"), pod_patch(containers=[{"$patch": "replace"}, {"name": "c"}])
    )
    assert names(only) == ["c"]


def test_retain_keys_drops_the_other_strategy() -> None:
    live: JsonObject = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch: JsonObject = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(DEPLOYMENT, live, patch) == {"spec": {"strategy": {"type": "Recreate"}}}


def test_primitive_lists() -> None:
    live: JsonObject = {"metadata": {"finalizers": ["a", "b"]}}
    added = strategic_merge(POD, live, {"metadata": {"finalizers": ["b", "c"]}})
    assert at(added, "metadata", "finalizers") == ["a", "b", "c"]
    removed = strategic_merge(POD, live, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})
    assert at(removed, "metadata", "finalizers") == ["b"]


def test_an_item_without_its_merge_key_is_refused() -> None:
    with pytest.raises(BadRequest, match="does not contain declared merge key: port"):
        strategic_merge(SERVICE, {"spec": {"ports": []}}, {"spec": {"ports": [{"name": "q"}]}})


def test_order_keeps_the_servers_own_items() -> None:
    patch = pod_patch(
        containers=[{"name": "c", "image": "c"}], **{"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}
    )
    assert sorted(map(str, names(strategic_merge(DEPLOYMENT, containers("a", "side"), patch)))) == ["a", "c", "side"]
    assert names(strategic_merge(DEPLOYMENT, containers("a"), patch)) == ["c", "a"]
