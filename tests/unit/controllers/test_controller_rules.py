"""The rules that controllers follow, without an API server: rollouts, endpoints, placement, schedules, addresses."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltem.errors import InvalidResource
from meltem.local.controllers import pods, rollout
from meltem.local.controllers.binding import ports_taken, why_not
from meltem.local.controllers.endpoints import desired_slices, legacy_subsets, mirror_slices
from meltem.local.controllers.indexes import compress, expand
from meltem.local.controllers.schedule import parse_schedule
from meltem.objects import JsonObject, objects_at, strings_at


def replica_set(name: str, replicas: int, available: int) -> JsonObject:
    return {
        "metadata": {"name": name, "creationTimestamp": name},
        "spec": {"replicas": replicas},
        "status": {"replicas": replicas, "availableReplicas": available},
    }


def deployment(replicas: int, surge: int | str, unavailable: int | str) -> JsonObject:
    rolling: JsonObject = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}}


def test_percentages_round_so_that_there_is_always_a_step() -> None:
    limits = rollout.bounds(deployment(3, "25%", "25%"))
    assert (limits.surge, limits.unavailable) == (1, 0)
    stuck = rollout.bounds(deployment(3, 0, "10%"))
    assert (stuck.surge, stuck.unavailable) == (0, 1)


@given(st.integers(1, 20), st.integers(0, 5), st.integers(0, 5), st.integers(0, 20), st.integers(0, 25), st.data())
def test_a_rollout_step_never_leaves_its_bounds(
    replicas: int, surge: int, unavailable: int, new_size: int, old_size: int, data: st.DataObject
) -> None:
    """Whatever the state: no step grows past the surge, none takes an available pod that is still needed."""
    limits = rollout.bounds(deployment(replicas, surge, unavailable))
    new = replica_set("new", min(new_size, replicas), data.draw(st.integers(0, min(new_size, replicas))))
    old = replica_set("old", old_size, data.draw(st.integers(0, old_size)))
    grown = rollout.grow_new(limits, new, [old])
    assert grown <= max(limits.most - old_size, rollout.size(new))
    left = rollout.shrink_old(limits, new, [old]).get("old", old_size)
    lost = max(0, rollout.available(old) - left)
    before = rollout.available(new) + rollout.available(old)
    assert before - lost >= min(before, limits.least_available)


def test_pods_that_never_became_available_go_first() -> None:
    limits = rollout.bounds(deployment(4, 1, 1))
    healthy, sick = replica_set("healthy", 3, 3), replica_set("sick", 2, 0)
    assert rollout.shrink_old(limits, replica_set("new", 0, 0), [healthy, sick]) == {"sick": 0}


def test_scaling_in_the_middle_of_a_rollout_is_shared() -> None:
    limits = rollout.bounds(deployment(20, 0, 1))
    sizes = rollout.proportional(limits, [replica_set("a", 5, 5), replica_set("b", 5, 5)])
    assert sizes == {"a": 10, "b": 10}


def test_a_condition_keeps_its_transition_time_while_its_status_does() -> None:
    old: JsonObject = {"type": "Ready", "status": "True", "reason": "A", "lastTransitionTime": "then"}
    new: JsonObject = {"type": "Ready", "status": "True", "reason": "B", "lastTransitionTime": "now"}
    assert pods.set_condition([old], new) == [{**new, "lastTransitionTime": "then"}]
    assert pods.set_condition([old], {**new, "status": "False"}) == [{**new, "status": "False"}]


def pod(name: str, ip: str, *, ready: bool = True, deleting: bool = False, port: int = 8080) -> JsonObject:
    metadata: JsonObject = {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}}
    if deleting:
        metadata["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "spec": {"nodeName": "meltem", "containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def service(**spec: object) -> JsonObject:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": ports, **spec},  # type: ignore[dict-item]
    }


def conditions(slice_: JsonObject) -> list[tuple[object, ...]]:
    return [
        tuple((e["conditions"] or {}).get(c) for c in ("ready", "serving", "terminating"))  # type: ignore[union-attr,arg-type]
        for e in objects_at(slice_, "endpoints")
    ]


def test_an_endpoint_says_whether_it_is_ready_serving_and_terminating() -> None:
    found = desired_slices(
        service(), [pod("a", "10.0.1.1"), pod("b", "10.0.1.2", ready=False), pod("c", "10.0.1.3", deleting=True)]
    )
    assert len(found) == 1
    assert conditions(found[0]) == [(True, True, False), (False, False, False), (False, True, True)]


def test_publishing_not_ready_addresses_makes_them_ready_but_not_serving() -> None:
    found = desired_slices(service(publishNotReadyAddresses=True), [pod("b", "10.0.1.2", ready=False)])
    assert conditions(found[0]) == [(True, False, False)]


def test_pods_whose_named_port_differs_stand_in_slices_of_their_own() -> None:
    found = desired_slices(service(), [pod("a", "10.0.1.1"), pod("b", "10.0.1.2", port=9090)])
    assert [[p["port"] for p in objects_at(s, "ports")] for s in found] == [[8080], [9090]]


def test_more_than_a_hundred_endpoints_take_another_slice() -> None:
    found = desired_slices(service(), [pod(f"p{i}", f"10.0.{1 + i // 250}.{i % 250}") for i in range(230)])
    assert [len(objects_at(s, "endpoints")) for s in found] == [100, 100, 30]


def test_endpoints_list_ready_and_other_addresses_apart() -> None:
    subsets = legacy_subsets(service(), [pod("a", "10.0.1.1"), pod("b", "10.0.1.2", ready=False)])
    assert [a["ip"] for a in objects_at(subsets, 0, "addresses")] == ["10.0.1.1"]
    assert [a["ip"] for a in objects_at(subsets, 0, "notReadyAddresses")] == ["10.0.1.2"]


def test_hand_written_endpoints_are_mirrored_by_address_family() -> None:
    addresses = [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]
    subset = {"addresses": addresses, "ports": [{"port": 5432, "name": "pg"}]}
    source: JsonObject = {"metadata": {"name": "db", "namespace": "default"}, "subsets": [subset]}  # type: ignore[list-item]
    found = mirror_slices(source)
    assert [(s["addressType"], strings_at(s, "endpoints", 0, "addresses")) for s in found] == [
        ("IPv4", ["192.0.2.1"]),
        ("IPv6", ["2001:db8::1"]),
    ]


NODE: JsonObject = {
    "metadata": {"name": "meltem", "labels": {"disk": "ssd", "cores": "8"}},
    "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
}
TOLERATION: JsonObject = {"key": "gpu", "operator": "Exists"}


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({"tolerations": [TOLERATION]}, True),
        ({}, False),
        ({"tolerations": [TOLERATION], "nodeSelector": {"disk": "hdd"}}, False),
        ({"tolerations": [TOLERATION], "nodeSelector": {"disk": "ssd"}}, True),
    ],
)
def test_a_pod_goes_where_it_may(spec: JsonObject, fits: bool) -> None:
    assert (why_not({"spec": spec}, NODE) == "") is fits


def test_node_affinity_terms_are_alternatives() -> None:
    def affinity(*expressions: JsonObject) -> JsonObject:
        terms = [{"matchExpressions": [e]} for e in expressions]
        required: JsonObject = {"nodeSelectorTerms": terms}  # type: ignore[dict-item]
        node_affinity: JsonObject = {"requiredDuringSchedulingIgnoredDuringExecution": required}
        return {"spec": {"tolerations": [TOLERATION], "affinity": {"nodeAffinity": node_affinity}}}

    many: JsonObject = {"key": "cores", "operator": "Gt", "values": ["16"]}
    some: JsonObject = {"key": "cores", "operator": "Gt", "values": ["4"]}
    assert why_not(affinity(many), NODE)
    assert not why_not(affinity(many, some), NODE)


def moment(text: str, zone: ZoneInfo | None = None) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp()


@pytest.mark.parametrize(
    ("schedule", "after", "following"),
    [
        ("*/15 * * * *", "2024-03-01T10:07", "2024-03-01T10:15"),
        ("0 0 29 2 *", "2024-03-01T00:00", "2028-02-29T00:00"),
        ("@daily", "2024-12-31T00:00", "2025-01-01T00:00"),
        ("30 9 * * mon-fri", "2024-03-01T10:00", "2024-03-04T09:30"),
        ("0 12 13 * 5", "2024-09-01T00:00", "2024-09-06T12:00"),  # a Friday comes before the 13th
    ],
)
def test_the_next_time_of_a_schedule(schedule: str, after: str, following: str) -> None:
    assert parse_schedule(schedule).next_after(moment(after)) == moment(following)


def test_a_schedule_follows_its_time_zone() -> None:
    zone = ZoneInfo("Europe/Athens")
    assert parse_schedule("0 8 * * *").next_after(moment("2024-07-01T00:00", zone), zone) == moment("2024-07-01T05:00")


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "a * * * *", "*/0 * * * *", "5-1 * * * *"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(InvalidResource):
        parse_schedule(text)


@given(st.sets(st.integers(0, 200)))
def test_index_sets_survive_writing_and_reading(numbers: set[int]) -> None:
    assert expand(compress(numbers)) == numbers


def test_equal_templates_have_equal_hashes_whatever_their_order() -> None:
    one = pods.template_hash({"a": 1, "b": {"c": 2, "d": 3}})
    assert one == pods.template_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert one != pods.template_hash({"b": {"d": 3, "c": 2}, "a": 1}, collisions=1)


def test_a_host_port_is_given_to_one_pod_at_a_time() -> None:
    def pod(uid: str, node: str, phase: str, *ports: JsonObject) -> JsonObject:
        spec: JsonObject = {"containers": [{"name": "c", "ports": [*ports]}], "nodeName": node}
        return {"metadata": {"uid": uid}, "spec": spec, "status": {"phase": phase}}

    web: JsonObject = {"containerPort": 8080, "hostPort": 80}
    udp: JsonObject = {"containerPort": 8080, "hostPort": 80, "protocol": "UDP"}
    running = pod("a", "meltem", "Running", web)
    assert "free ports" in ports_taken(pod("b", "", "Pending", web), [running])
    assert not ports_taken(pod("b", "", "Pending", udp), [running])
    assert not ports_taken(pod("b", "", "Pending", web), [pod("a", "meltem", "Succeeded", web)])
    assert not ports_taken(running, [running])
