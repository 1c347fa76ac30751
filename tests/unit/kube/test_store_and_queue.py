"""The cache with what we wrote ourselves, the work queue, selectors, the order of manifests, SPDY frames."""

from __future__ import annotations

import asyncio

from meltem.kube import spdy
from meltem.kube.apply import ordered
from meltem.kube.selectors import map_selects, selects
from meltem.kube.store import Store
from meltem.kube.wait import readiness
from meltem.kube.workqueue import WorkQueue
from meltem.objects import JsonObject


def thing(version: int, name: str = "a", **labels: str) -> JsonObject:
    return {"metadata": {"name": name, "resourceVersion": str(version), "uid": name, "labels": {**labels}}}


def test_an_older_event_does_not_undo_what_we_wrote() -> None:
    store = Store()
    store.upsert(thing(5))
    store.observe(thing(7))
    store.upsert(thing(6))
    assert store.get("a") == thing(7)


def test_an_answer_that_comes_after_the_watch_told_of_the_deletion_is_left() -> None:
    store = Store()
    store.upsert(thing(5))
    store.delete(thing(8))
    store.observe(thing(7))
    assert store.get("a") is None


def test_an_index_follows_its_objects() -> None:
    store = Store({"app": lambda o: [str(v) for v in o["metadata"]["labels"].values()]})  # type: ignore[index,union-attr,call-overload]
    store.upsert(thing(1, app="x"))
    store.upsert(thing(2, app="y"))
    assert store.by_index("app", "x") == []
    assert len(store.by_index("app", "y")) == 1


async def test_a_key_added_while_it_is_worked_on_is_done_once_more_and_failures_come_back() -> None:
    queue: WorkQueue[str] = WorkQueue("test")
    seen: list[str] = []
    done = asyncio.Event()

    async def handler(key: str) -> None:
        seen.append(key)
        if len(seen) == 1:
            queue.add(key)
            queue.add(key)
        if len(seen) == 2:
            raise ValueError("once")
        if len(seen) == 3:
            done.set()

    queue.add("k")
    queue.add("k")
    task = asyncio.create_task(queue.run(handler))
    async with asyncio.timeout(5):
        await done.wait()
    assert seen == ["k"] * 3
    task.cancel()


def test_selectors() -> None:
    assert selects({}, {})
    assert not selects(None, {})
    expression: JsonObject = {"key": "v", "operator": "NotIn", "values": ["2"]}
    assert selects({"matchLabels": {"a": "b"}, "matchExpressions": [expression]}, {"a": "b", "v": "1"})
    assert not selects({"matchExpressions": [expression]}, {"v": "2"})
    assert not map_selects({}, {"a": "b"})


def test_definitions_come_first_and_webhooks_last() -> None:
    kinds = ["ValidatingWebhookConfiguration", "Deployment", "CustomResourceDefinition", "Namespace", "Service"]
    manifests: list[JsonObject] = [{"apiVersion": "v1", "kind": kind} for kind in kinds]
    assert [m["kind"] for m in ordered(manifests)] == [
        "Namespace",
        "CustomResourceDefinition",
        "Service",
        "Deployment",
        "ValidatingWebhookConfiguration",
    ]


def test_a_deployment_is_ready_when_its_newest_generation_is_available() -> None:
    status: JsonObject = {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 1}
    deployment: JsonObject = {"kind": "Deployment", "metadata": {"generation": 2}, "status": status}
    assert readiness(deployment).ready
    assert not readiness({**deployment, "metadata": {"generation": 3}}).ready


def test_spdy_frames_survive_being_cut_anywhere() -> None:
    frame = spdy.Session.data(3, b"hello") + spdy.Session.data(3, b"", end=True)
    session = spdy.Session()
    events: list[spdy.Event] = []
    for byte in frame:
        events += session.receive(bytes([byte]))
    assert events == [spdy.Data(3, b"hello"), spdy.End(3)]
