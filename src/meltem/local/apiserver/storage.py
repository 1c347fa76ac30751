"""Where the local cluster's objects live: every object in memory, every change in SQLite before anyone hears of it.

In: `stage(change)` decides and orders a write at once (no await between reading `head` and staging, so a
compare-and-swap is one step); the returned future is done when the change is on disk. Out: committed entries by key,
the history of changes by resourceVersion, and one callback a committed change, in order.

Changes that arrive while a commit is under way go to disk together in the next one (group commit). Readers see only
what is committed; writers build on `head`, which includes what is staged. SQLite runs in WAL mode with
`synchronous=NORMAL`: a commit is in the kernel's hands before it is acknowledged, so killing the process loses
nothing; losing power may lose the last moments, but then whoever saw them is gone as well.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from meltem.errors import Gone, ServerError
from meltem.objects import JsonObject, ensure_object

HISTORY_LIMIT = 20_000
"""Changes kept for watches that resume; older ones are answered with 410 Expired."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, rv INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
  rv INTEGER PRIMARY KEY, kind TEXT NOT NULL, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  data BLOB NOT NULL, before_rv INTEGER NOT NULL, before BLOB);
CREATE INDEX IF NOT EXISTS history_by_resource ON history (resource, rv);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def encode(value: object) -> bytes:
    return _encoder.encode(value)


def decode(data: bytes) -> JsonObject:
    """An object that this process or its predecessor encoded."""
    return cast(JsonObject, _decoder.decode(data))


class Key(NamedTuple):
    """`resource` is plural and group (`deployments.apps`, `pods`); `namespace` is empty for cluster-scoped kinds."""

    resource: str
    namespace: str
    name: str


class Entry:
    """One version of one object: its bytes, and the decoded object when asked (never change it)."""

    __slots__ = ("_object", "data", "key", "rv")

    def __init__(self, key: Key, rv: int, data: bytes, obj: JsonObject | None = None) -> None:
        self.key = key
        self.rv = rv
        self.data = data
        self._object = obj

    @property
    def object(self) -> JsonObject:
        if self._object is None:
            self._object = decode(self.data)
        return self._object


class Change:
    """One committed change. `kind`: ADDED, MODIFIED, DELETED (then `entry` is the last state, at the deletion's rv).

    `encoded` keeps what watchers made of it, by format, so that equal watchers share the bytes.
    """

    __slots__ = ("before", "encoded", "entry", "kind")

    def __init__(self, kind: str, entry: Entry, before: Entry | None) -> None:
        self.kind = kind
        self.entry = entry
        self.before = before
        self.encoded: dict[object, bytes] = {}


class Store:
    """The cluster's state. Open with `Store.open`, run `commit_loop` in a task, `close` at the end."""

    def __init__(self, connection: sqlite3.Connection, reader: sqlite3.Connection, history_limit: int) -> None:
        self._connection = connection
        self._reader = reader
        self._history_limit = history_limit
        self._committed: dict[str, dict[tuple[str, str], Entry]] = {}
        self._staged: dict[Key, Entry | None] = {}
        self._pending: list[tuple[Change, asyncio.Future[Entry]]] = []
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._listeners: list[Callable[[Change], None]] = []
        self._last_rv = 0
        self._next_rv = 1
        self._compacted = 0

    @classmethod
    def open(cls, path: Path, *, history_limit: int = HISTORY_LIMIT) -> Store:
        """Opens or creates the database and reads every object; raises sqlite3.Error when it cannot be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(_SCHEMA)
        reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        store = cls(connection, reader, history_limit)
        store._load()
        return store

    def _load(self) -> None:
        for resource, namespace, name, rv, data in self._reader.execute(
            "SELECT resource, namespace, name, rv, data FROM objects"
        ):
            self._table(resource)[(namespace, name)] = Entry(Key(resource, namespace, name), rv, data)
        facts: dict[str, int] = dict(self._reader.execute("SELECT name, value FROM facts"))
        self._last_rv = facts.get("rv", 0)
        self._next_rv = self._last_rv + 1
        self._compacted = facts.get("compacted", 0)

    def close(self) -> None:
        self._executor.shutdown()
        self._reader.close()
        self._connection.close()

    # Reading

    @property
    def rv(self) -> int:
        """resourceVersion of the newest committed change."""
        return self._last_rv

    @property
    def compacted(self) -> int:
        """Changes up to this resourceVersion are forgotten."""
        return self._compacted

    def get(self, key: Key) -> Entry | None:
        return self._committed.get(key.resource, {}).get((key.namespace, key.name))

    def head(self, key: Key) -> Entry | None:
        """The newest state, staged changes included: what the next write builds on."""
        if key in self._staged:
            return self._staged[key]
        return self.get(key)

    def entries(self, resource: str, namespace: str = "") -> list[Entry]:
        """Committed entries in key order; `namespace` empty means all."""
        table = self._committed.get(resource, {})
        if namespace:
            return [table[k] for k in sorted(k for k in table if k[0] == namespace)]
        return [table[k] for k in sorted(table)]

    def heads(self, resource: str) -> list[Entry]:
        """Every entry as the next write would find it, unordered."""
        table = {Key(resource, *k): e for k, e in self._committed.get(resource, {}).items()}
        for key, entry in self._staged.items():
            if key.resource == resource:
                if entry is None:
                    table.pop(key, None)
                else:
                    table[key] = entry
        return list(table.values())

    def count(self, resource: str) -> int:
        return len(self._committed.get(resource, {}))

    def resources(self) -> list[str]:
        return [r for r, table in self._committed.items() if table]

    def entries_at(self, resource: str, namespace: str, rv: int) -> list[Entry]:
        """The entries as they were at `rv`: the current ones with later changes undone. Raises Gone when compacted."""
        if rv >= self._last_rv:
            return self.entries(resource, namespace)
        self._check_kept(rv)
        table = dict(self._committed.get(resource, {}))
        for change in reversed(self.history(resource, rv)):
            key = change.entry.key
            if change.before is None:
                table.pop((key.namespace, key.name), None)
            else:
                table[(key.namespace, key.name)] = change.before
        return [table[k] for k in sorted(table) if not namespace or k[0] == namespace]

    def history(self, resource: str, after: int) -> list[Change]:
        """Committed changes of `resource` with a resourceVersion over `after`; raises Gone when some are forgotten."""
        self._check_kept(after)
        if after >= self._last_rv:
            return []
        rows = self._reader.execute(
            "SELECT rv, kind, namespace, name, data, before_rv, before FROM history"
            " WHERE resource = ? AND rv > ? AND rv <= ? ORDER BY rv",
            (resource, after, self._last_rv),
        )
        changes: list[Change] = []
        for rv, kind, namespace, name, data, before_rv, before in rows:
            key = Key(resource, namespace, name)
            previous = None if before is None else Entry(key, before_rv, before)
            changes.append(Change(kind, Entry(key, rv, data), previous))
        return changes

    def _check_kept(self, rv: int) -> None:
        if rv < self._compacted:
            raise Gone(f"too old resource version: {rv} ({self._compacted})")

    # Writing

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Calls `listener` for every committed change, in order, in the event loop."""
        self._listeners.append(listener)

    def stage(self, key: Key, obj: JsonObject | None) -> asyncio.Future[Entry]:
        """Orders a write of `obj` (None: removal) as the next change; sets its resourceVersion.

        The object belongs to the store from here on. The future is done when the change is durable and published.
        """
        before = self.head(key)
        rv = self._next_rv
        if obj is None:
            if before is None:
                raise ServerError(f"{key.resource} {key.name} is not stored and cannot be removed")
            last = dict(before.object)
            last["metadata"] = {**cast(JsonObject, last.get("metadata") or {}), "resourceVersion": str(rv)}
            change = Change("DELETED", Entry(key, rv, encode(last), last), before)
            self._staged[key] = None
        else:
            ensure_object(obj, "metadata")["resourceVersion"] = str(rv)
            entry = Entry(key, rv, encode(obj), obj)
            change = Change("MODIFIED" if before is not None else "ADDED", entry, before)
            self._staged[key] = entry
        self._next_rv = rv + 1
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._pending.append((change, future))
        self._wake.set()
        return future

    async def commit_loop(self) -> None:
        """Writes staged changes, batch after batch, until cancelled; then what is staged is still written."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._pending = self._pending, []
                write = loop.run_in_executor(self._executor, self._write, [c for c, _ in batch])
                try:
                    compacted = await asyncio.shield(write)
                except asyncio.CancelledError:
                    self._finish(batch, await write)
                    raise
                except sqlite3.Error as error:
                    self._abandon(batch, error)
                else:
                    self._finish(batch, compacted)
        finally:
            if self._pending:
                batch, self._pending = self._pending, []
                self._finish(batch, self._write([c for c, _ in batch]))

    def _write(self, changes: list[Change]) -> int:
        db = self._connection
        last = changes[-1].entry.rv
        db.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                self._write_one(change)
            compacted = self._compacted
            if last - compacted > self._history_limit + self._history_limit // 10:
                compacted = last - self._history_limit
                db.execute("DELETE FROM history WHERE rv <= ?", (compacted,))
                db.execute("INSERT OR REPLACE INTO facts VALUES ('compacted', ?)", (compacted,))
            db.execute("INSERT OR REPLACE INTO facts VALUES ('rv', ?)", (last,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return compacted

    def _write_one(self, change: Change) -> None:
        entry, before = change.entry, change.before
        if change.kind == "DELETED":
            self._connection.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", entry.key)
        else:
            self._connection.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", (*entry.key, entry.rv, entry.data)
            )
        self._connection.execute(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                entry.rv,
                change.kind,
                *entry.key,
                entry.data,
                before.rv if before else 0,
                before.data if before else None,
            ),
        )

    def _finish(self, batch: Iterable[tuple[Change, asyncio.Future[Entry]]], compacted: int) -> None:
        self._compacted = compacted
        for change, future in batch:
            entry = change.entry
            table = self._table(entry.key.resource)
            where = (entry.key.namespace, entry.key.name)
            if change.kind == "DELETED":
                table.pop(where, None)
            else:
                table[where] = entry
            staged = self._staged.get(entry.key, entry)
            if staged is entry or (staged is None and change.kind == "DELETED" and not self._is_pending(entry.key)):
                self._staged.pop(entry.key, None)
            self._last_rv = entry.rv
            for listener in self._listeners:
                listener(change)
            if not future.done():
                future.set_result(entry)

    def _is_pending(self, key: Key) -> bool:
        return any(change.entry.key == key for change, _ in self._pending)

    def _abandon(self, batch: list[tuple[Change, asyncio.Future[Entry]]], error: sqlite3.Error) -> None:
        # What was staged later was built on what failed, so it fails as well; nobody was told of either.
        failed, self._pending = [*batch, *self._pending], []
        self._staged.clear()
        for _, future in failed:
            if not future.done():
                future.set_exception(ServerError(f"the change could not be stored: {error}"))

    def _table(self, resource: str) -> dict[tuple[str, str], Entry]:
        return self._committed.setdefault(resource, {})
