"""The store: order, durability, history, and watchers that see all of it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meltem.errors import Gone
from meltem.local.apiserver import watch as watching
from meltem.local.apiserver.selectors import parse_labels, predicate
from meltem.local.apiserver.storage import Key, Store
from meltem.local.apiserver.watch import Hub, Interest
from meltem.objects import JsonObject


@asynccontextmanager
async def opened(path: Path, history_limit: int = 1000) -> AsyncIterator[Store]:
    store = Store.open(path / "state.db", history_limit=history_limit)
    task = asyncio.create_task(store.commit_loop())
    await asyncio.sleep(0)
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close()


def obj(name: str, **labels: str) -> JsonObject:
    return {"metadata": {"name": name, "labels": dict(labels)}}


def key(name: str) -> Key:
    return Key("configmaps", "ns", name)


def names(store: Store) -> list[str]:
    return [e.key.name for e in store.entries("configmaps", "ns")]


async def test_readers_see_a_change_only_when_it_is_durable(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        future = store.stage(key("a"), obj("a"))
        assert store.get(key("a")) is None
        assert store.head(key("a")) is not None
        await future
        assert store.get(key("a")) is store.head(key("a"))


async def test_a_reopened_store_is_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.stage(key("a"), obj("a"))
        await store.stage(key("b"), obj("b"))
        await store.stage(key("a"), None)
        rv = store.rv
    async with opened(tmp_path) as store:
        assert names(store) == ["b"]
        assert store.rv == rv
        assert [(c.kind, c.entry.key.name) for c in store.history("configmaps", 0)] == [
            ("ADDED", "a"),
            ("ADDED", "b"),
            ("DELETED", "a"),
        ]
        entry = await store.stage(key("c"), obj("c"))
        assert entry.rv == rv + 1


async def test_what_is_staged_when_the_loop_ends_is_still_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for index in range(20):
            store.stage(key(f"n{index}"), obj("n"))
    async with opened(tmp_path) as store:
        assert len(names(store)) == 20


async def test_many_writers_share_commits_and_keep_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        entries = await asyncio.gather(*(store.stage(key(f"n{i}"), obj("n")) for i in range(200)))
        assert [e.rv for e in entries] == list(range(1, 201))


async def test_delete_and_create_again_in_one_batch(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.stage(key("a"), obj("a"))
        last = [store.stage(key("a"), None), store.stage(key("a"), obj("a", again="yes")), store.stage(key("a"), None)]
        assert store.head(key("a")) is None
        await asyncio.gather(*last)
        assert store.get(key("a")) is None and store.head(key("a")) is None


async def test_the_past_can_be_read_until_it_is_compacted(tmp_path: Path) -> None:
    async with opened(tmp_path, history_limit=10) as store:
        await store.stage(key("a"), obj("a"))
        rv = store.rv
        await store.stage(key("b"), obj("b"))
        await store.stage(key("a"), None)
        assert [e.key.name for e in store.entries_at("configmaps", "ns", rv)] == ["a"]
        for index in range(30):
            await store.stage(key("c"), obj("c", n=str(index)))
        with pytest.raises(Gone):
            store.entries_at("configmaps", "ns", rv)
        with pytest.raises(Gone):
            store.history("configmaps", rv)


async def test_a_failed_commit_fails_its_writers_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.stage(key("a"), obj("a"))
        store._connection.execute("DROP TABLE history")  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(Exception, match="could not be stored"):
            await store.stage(key("b"), obj("b"))
        assert names(store) == ["a"] and store.head(key("b")) is None


def interest(selector: str = "") -> Interest:
    return Interest("configmaps", "ns", "", predicate(parse_labels(selector), ()))


async def test_a_watcher_gets_history_then_live_changes_without_gap(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        hub = Hub(store)
        await store.stage(key("a"), obj("a"))
        await store.stage(key("b"), obj("b"))
        staged = store.stage(key("c"), obj("c"))
        watcher = hub.subscribe(interest(), 1, lambda: None)
        await staged
        events = await watcher.take(1)
        assert [(e.kind, e.entry.key.name, e.rv) for e in events] == [("ADDED", "b", 2), ("ADDED", "c", 3)]


async def test_a_selection_is_entered_and_left(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        hub = Hub(store)
        watcher = hub.subscribe(interest("on=yes"), 0, lambda: None)
        for labels in ({}, {"on": "yes"}, {"on": "yes", "x": "y"}, {"on": "no"}):
            await store.stage(key("a"), obj("a", **labels))
        assert [e.kind for e in await watcher.take(1)] == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_watcher_that_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "QUEUE_LIMIT", 5)
    async with opened(tmp_path) as store:
        hub = Hub(store)
        dropped: list[str] = []
        slow = hub.subscribe(interest(), 0, lambda: dropped.append("slow"))
        for index in range(10):
            await store.stage(key("a"), obj("a", n=str(index)))
        assert dropped == ["slow"] and slow.dropped
        assert await slow.take(0.01) == []
