"""Server-side apply and field ownership. What is expected here was compared with a real API server."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meltem.errors import Conflict, ServerError
from meltem.local.apiserver.schema import fieldset as fs
from meltem.local.apiserver.schema.apply import apply, track_update
from meltem.local.apiserver.schema.types import Schema, builtin_schema
from meltem.objects import Json, JsonObject, at, copy_object, object_at, objects_at, str_at

DEPLOYMENT = builtin_schema("apps", "v1", "Deployment")
CONFIG_MAP = builtin_schema("", "v1", "ConfigMap")
SERVICE = builtin_schema("", "v1", "Service")
T1, T2 = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def config(**data: str) -> JsonObject:
    values: JsonObject = {**data}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": values}


def web(**spec: Json) -> JsonObject:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": dict(spec)}


def put(
    live: JsonObject | None,
    applied: JsonObject,
    who: str = "me",
    *,
    schema: Schema = CONFIG_MAP,
    force: bool = False,
    now: str = T1,
) -> JsonObject:
    version = str_at(applied, "apiVersion")
    return apply(schema, live, applied, manager=who, api_version=version, force=force, now=now)


def update(live: JsonObject | None, new: JsonObject, who: str = "kubectl-edit", now: str = T1) -> JsonObject:
    return track_update(CONFIG_MAP, live, new, manager=who, operation="Update", api_version="v1", now=now)


def owned(obj: JsonObject, manager: str) -> list[str]:
    entry = next((m for m in objects_at(obj, "metadata", "managedFields") if m["manager"] == manager), None)
    return list(fs.paths(fs.parse(entry["fieldsV1"]))) if entry else []


def test_applying_claims_what_was_applied_and_nothing_of_the_identity() -> None:
    assert owned(put(None, config(a="1")), "me") == [".data.a"]


def test_an_update_claims_what_it_changed_with_the_map_that_it_made() -> None:
    assert owned(update(None, config(a="1")), "kubectl-edit") == [".data", ".data.a"]


def test_applying_again_changes_nothing_not_even_the_time() -> None:
    first = put(None, config(a="1"))
    assert put(first, config(a="1"), now=T2) == first


def test_a_field_no_longer_applied_goes() -> None:
    live = put(None, config(a="1", b="2"))
    assert object_at(put(live, config(a="1")), "data") == {"a": "1"}


def test_a_field_that_another_applies_as_well_stays() -> None:
    live = put(put(None, config(a="1", b="2")), config(b="2"), "other")
    left = put(live, config(a="1"))
    assert object_at(left, "data") == {"a": "1", "b": "2"}
    assert owned(left, "me") == [".data.a"] and owned(left, "other") == [".data.b"]


def test_a_field_that_nobody_applied_stays() -> None:
    live = put(None, config(a="1"))
    edited = update(live, {**live, "data": {"a": "1", "z": "9"}})
    assert object_at(put(edited, config()), "data") == {"z": "9"}


def test_one_conflict() -> None:
    live = update(None, config(a="1"))
    with pytest.raises(Conflict) as caught:
        put(live, config(a="2"))
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "kubectl-edit" using v1: .data.a'
    assert caught.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl-edit" using v1', "field": ".data.a"}
    ]


def test_several_conflicts_are_listed_by_manager() -> None:
    live = put(None, config(a="1", b="2"), "first")
    with pytest.raises(Conflict) as caught:
        put(live, config(a="x", b="x"))
    assert caught.value.message == 'Apply failed with 2 conflicts: conflicts with "first":\n- .data.a\n- .data.b'


def test_force_takes_the_field_over() -> None:
    taken = put(update(None, config(a="1", b="2")), config(a="x"), force=True)
    assert owned(taken, "me") == [".data.a"] and ".data.a" not in owned(taken, "kubectl-edit")
    assert object_at(taken, "data") == {"a": "x", "b": "2"}


def test_the_same_value_is_no_conflict() -> None:
    assert owned(put(update(None, config(a="1")), config(a="1")), "me") == [".data.a"]


def test_an_update_takes_ownership_from_an_applier() -> None:
    live = put(None, config(a="1"))
    edited = update(live, {**live, "data": {"a": "2"}}, now=T2)
    assert owned(edited, "me") == [] and owned(edited, "kubectl-edit") == [".data.a"]
    with pytest.raises(Conflict):
        put(edited, config(a="1"))


def test_list_items_are_told_apart_by_their_keys_and_default_keys() -> None:
    pod: JsonObject = {"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}
    live = put(None, web(template={"spec": pod}), schema=DEPLOYMENT)
    prefix = '.spec.template.spec.containers[name="a"]'
    port = f'{prefix}.ports[containerPort=80,protocol="TCP"]'
    assert owned(live, "me") == [prefix, f"{prefix}.name", port, f"{port}.containerPort"]


def test_two_appliers_share_a_list() -> None:
    one = put(None, web(template={"spec": {"containers": [{"name": "a", "image": "a"}]}}), schema=DEPLOYMENT)
    two = put(one, web(template={"spec": {"containers": [{"name": "b", "image": "b"}]}}), "other", schema=DEPLOYMENT)
    found = at(two, "spec", "template", "spec", "containers")
    assert found == [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]
    back = put(two, web(template={"spec": {"containers": []}}), schema=DEPLOYMENT)
    assert at(back, "spec", "template", "spec", "containers") == [{"name": "b", "image": "b"}]


def test_lists_without_identity_are_refused() -> None:
    twice = web(template={"spec": {"containers": [{"name": "a"}, {"name": "a"}]}})
    with pytest.raises(ServerError, match=r"duplicate entries for key \[name=\"a\"\]"):
        put(None, twice, schema=DEPLOYMENT)
    with pytest.raises(ServerError, match=r"\.spec\.foo: field not declared in schema"):
        put(None, web(foo=1), schema=DEPLOYMENT)


def test_status_belongs_to_the_status_endpoint() -> None:
    live = put(None, web(replicas=1), schema=DEPLOYMENT)
    status: JsonObject = {**live, "status": {"replicas": 1}}
    tracked = track_update(
        DEPLOYMENT, live, status, manager="ctl", operation="Update", api_version="apps/v1", now=T1, subresource="status"
    )
    entry = objects_at(tracked, "metadata", "managedFields")[-1]
    assert entry["subresource"] == "status" and ".status.replicas" in owned(tracked, "ctl")


def test_one_empty_entry_clears_the_managed_fields() -> None:
    live = put(None, config(a="1"))
    cleared = copy_object(live)
    object_at(cleared, "metadata")["managedFields"] = [{}]
    assert "managedFields" not in object_at(update(live, cleared), "metadata")


def test_the_first_apply_finds_what_was_there_before() -> None:
    live = config(a="1", b="2")
    assert owned(put(live, config(a="1")), "before-first-apply") == [".data.a", ".data.b"]


def test_old_updaters_are_merged() -> None:
    live = update(None, config())
    for index in range(15):
        data: JsonObject = {**object_at(live, "data"), f"k{index:02}": "v"}
        live = update(live, {**live, "data": data}, f"m{index:02}", f"2026-01-01T00:00:{index:02}Z")
    managers = [str_at(m, "manager") for m in objects_at(live, "metadata", "managedFields")]
    assert len(managers) == 11 and "ancient-changes" in managers


keys = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xy"), max_size=5)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["p", "q"]), keys), min_size=1, max_size=6))
def test_any_history_of_applies(history: list[tuple[str, dict[str, str]]]) -> None:
    """The object is the union of what its appliers say last, the latest forced value winning; repeating is a no-op."""
    live: JsonObject | None = None
    wanted: dict[str, dict[str, str]] = {}
    for who, data in history:
        live = put(live, config(**data), who, force=True)
        assert put(live, config(**data), who, force=True, now=T2) == live
        for other, theirs in wanted.items():
            if other != who:
                for key, value in data.items():
                    if theirs.get(key, value) != value:
                        del theirs[key]
        wanted[who] = dict(data)
        expected = {k: v for values in wanted.values() for k, v in values.items()}
        assert object_at(live, "data") == expected
        for manager, theirs in wanted.items():
            assert [p for p in owned(live, manager) if p != ".data"] == [f".data.{k}" for k in sorted(theirs)]


paths = st.lists(st.sampled_from([("f:a",), ("f:a", "f:b"), ("f:a", "f:c"), ("f:d",), ("f:d", "k:{}")]), max_size=4)


def build(chosen: list[tuple[str, ...]]) -> fs.FieldSet:
    found: fs.FieldSet = {}
    for path in chosen:
        node: fs.FieldSet = {}
        for step in reversed(path):
            node = {step: node}
        found = fs.union(found, node)
    return found


@given(paths, paths)
def test_field_sets_are_sets(left: list[tuple[str, ...]], right: list[tuple[str, ...]]) -> None:
    a, b = build(left), build(right)
    one, two = set(fs.paths(a)), set(fs.paths(b))
    assert set(fs.paths(fs.union(a, b))) == one | two
    assert set(fs.paths(fs.difference(a, b))) == one - two
    assert set(fs.paths(fs.intersection(a, b))) == one & two
