"""Watches: every change after a resourceVersion, once, in order."""

from __future__ import annotations

from typing import Any

import pytest

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


def maps(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/configmaps"


def seen(event: Any) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


def version(answer: Any) -> str:
    return answer.json["metadata"]["resourceVersion"]


def test_a_watch_from_a_version_gives_every_later_event_once(api: Any, ns: str) -> None:
    start = version(api.get(maps(ns)))
    api.post(maps(ns), config_map("a", x="1"))
    api.patch(f"{maps(ns)}/a", {"data": {"x": "2"}})
    api.delete(f"{maps(ns)}/a")
    watch = api.watch(f"{maps(ns)}?watch=1&resourceVersion={start}")
    events = [watch.next() for _ in range(3)]
    watch.close()
    assert [seen(e) for e in events] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
    assert versions == sorted(set(versions))


def test_two_watchers_see_the_same_history(api: Any, ns: str) -> None:
    start = version(api.get(maps(ns)))
    watches = [api.watch(f"{maps(ns)}?watch=1&resourceVersion={start}") for _ in range(2)]
    for index in range(5):
        api.post(maps(ns), config_map(f"m{index}"))
    first, second = ([w.next() for _ in range(5)] for w in watches)
    assert first == second
    for watch in watches:
        watch.close()


def test_a_watch_without_a_version_begins_with_what_is_there(api: Any, ns: str) -> None:
    api.post(maps(ns), config_map("before"))
    watch = api.watch(f"{maps(ns)}?watch=1")
    assert seen(watch.next()) == ("ADDED", "before")
    api.post(maps(ns), config_map("after"))
    assert seen(watch.next()) == ("ADDED", "after")
    watch.close()


def test_entering_and_leaving_a_selection(api: Any, ns: str) -> None:
    start = version(api.get(maps(ns)))
    watch = api.watch(f"{maps(ns)}?watch=1&resourceVersion={start}&labelSelector=on%3Dyes")
    api.post(maps(ns), config_map("a"))
    api.patch(f"{maps(ns)}/a", {"metadata": {"labels": {"on": "yes"}}})
    assert seen(watch.next()) == ("ADDED", "a")
    api.patch(f"{maps(ns)}/a", {"data": {"k": "v"}})
    assert seen(watch.next()) == ("MODIFIED", "a")
    api.patch(f"{maps(ns)}/a", {"metadata": {"labels": {"on": "no"}}})
    assert seen(watch.next()) == ("DELETED", "a")
    watch.close()


def test_initial_events_end_with_a_marked_bookmark(api: Any, ns: str) -> None:
    rv = version(api.post(maps(ns), config_map("a")))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watch = api.watch(f"{maps(ns)}?{query}&resourceVersion={rv}")
    first = watch.next()
    if first["type"] == "ERROR" and api.flavour == "kubernetes":
        watch.close()
        pytest.skip(f"its etcd is too old for watch lists: {first['object']['message']}")
    assert seen(first) == ("ADDED", "a")
    end = watch.next()
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    watch.close()


def test_initial_events_need_the_match_parameter(api: Any, ns: str) -> None:
    assert api.get(f"{maps(ns)}?watch=1&sendInitialEvents=true").status == 422


def test_a_watch_ends_at_its_timeout(api: Any, ns: str) -> None:
    watch = api.watch(f"{maps(ns)}?watch=1&timeoutSeconds=1&resourceVersion={version(api.get(maps(ns)))}")
    try:
        watch.next()
    except EOFError:
        ended = True
    else:
        ended = False
    watch.close()
    assert ended


def test_a_watched_table_has_one_row_an_event(api: Any, ns: str) -> None:
    api.post(maps(ns), config_map("a", x="1"))
    watch = api.watch(f"{maps(ns)}?watch=1", accept=TABLE)
    event = watch.next()
    watch.close()
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][0] == "a"


def test_watching_one_object_by_field_selector(api: Any, ns: str) -> None:
    start = version(api.get(maps(ns)))
    watch = api.watch(f"{maps(ns)}?watch=1&resourceVersion={start}&fieldSelector=metadata.name%3Db")
    api.post(maps(ns), config_map("a"))
    api.post(maps(ns), config_map("b"))
    assert seen(watch.next()) == ("ADDED", "b")
    watch.close()
