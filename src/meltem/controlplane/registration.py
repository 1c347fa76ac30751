"""Workloads outside pods, as they connect: their WorkloadEntry and its health.

In: proxies that name a WorkloadGroup (metadata AUTO_REGISTER_GROUP) or a WorkloadEntry (WORKLOAD_ENTRY), and what their
agents say of their health. Out: WorkloadEntries in the API server. An entry of a group is made when its proxy connects,
and deleted when the proxy has been away for the grace period; an entry that somebody else wrote is only marked. Which
istiod a proxy is connected to stands in the entry's annotations, so any istiod can take over, and only the one that
holds the newest connection says that the proxy has gone.

Istio's names and order of events: istio.io/docs, "Virtual Machine Installation"; the annotations are those of its API.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from meltem.ca.identity import CallerIdentity
from meltem.clock import Clock, parse_rfc3339, rfc3339
from meltem.controlplane.entries import (
    CONNECTED,
    CONTROLLER,
    DISCONNECTED,
    EntryKey,
    check_identity,
    entry_from_group,
    entry_name,
    group_of,
    health_checked,
    is_registered,
    with_health,
)
from meltem.errors import AlreadyExists, Conflict, MeltemError, NotFound
from meltem.kube.client import ListResult
from meltem.kube.resource_types import WORKLOAD_ENTRIES, WORKLOAD_GROUPS, ResourceType
from meltem.kube.workqueue import WorkQueue
from meltem.objects import JsonObject, annotations_of, ensure_object, name_of, namespace_of, str_at
from meltem.view.proxy import Proxy
from meltem.xds.server import NotRegistered

log = structlog.stdlib.get_logger("workloads")
_ATTEMPTS = 8


class RegistrationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`instance`: this istiod's name. Times are seconds; within `longest_connection` a proxy must have come back."""

    instance: str
    grace: float = 10.0
    longest_connection: float = 2700.0
    registers: bool = True
    health_checks: bool = True
    checks_identity: bool = True


class EntryClient(Protocol):
    """The part of `KubeClient` that is used."""

    async def get(self, rt: ResourceType, name: str, namespace: str = "") -> JsonObject: ...
    async def list(self, rt: ResourceType, namespace: str = "") -> ListResult: ...
    async def create(self, rt: ResourceType, obj: JsonObject, namespace: str = "") -> JsonObject: ...
    async def replace(self, rt: ResourceType, obj: JsonObject, *, subresource: str = "") -> JsonObject: ...
    async def delete(
        self, rt: ResourceType, name: str, namespace: str = "", *, resource_version: str = ""
    ) -> JsonObject: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection of a proxy."""

    proxy: Proxy
    caller: CallerIdentity | None
    since: float
    key: EntryKey


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent said. `problem` is empty where the workload is healthy."""

    problem: str
    at: float


class Registration:
    """See the module's head. `visit` and `report` are called by the discovery server, `run` beside it."""

    def __init__(
        self, client: EntryClient, clock: Clock, settings: RegistrationSettings, registry: CollectorRegistry
    ) -> None:
        self._client = client
        self._clock = clock
        self._settings = settings
        self._visits: dict[EntryKey, list[Visit]] = {}
        self._left: dict[EntryKey, Visit] = {}
        self._reports: dict[EntryKey, Report] = {}
        self._queue: WorkQueue[EntryKey] = WorkQueue("workloads")
        self._locks: WeakValueDictionary[EntryKey, asyncio.Lock] = WeakValueDictionary()
        self._count = {
            name: Counter(f"auto_registration_{name}", text, registry=registry)
            for name, text in (
                ("success", "WorkloadEntries made for proxies that connected."),
                ("updates", "WorkloadEntries taken over or marked as connected."),
                ("unregister", "WorkloadEntries marked as disconnected."),
                ("deletes", "WorkloadEntries deleted after the grace period."),
                ("errors", "Registrations that failed."),
            )
        }

    @contextlib.asynccontextmanager
    async def visit(self, proxy: Proxy, caller: CallerIdentity | None) -> AsyncGenerator[None]:
        """The block is one connection of the proxy. Raises NotRegistered where its entry cannot be had."""
        key = self._key_of(proxy)
        if key is None:
            yield
            return
        visit = Visit(proxy, caller, _as_written(self._clock.now()), key)
        await self._register(visit)
        self._visits.setdefault(key, []).append(visit)
        try:
            yield
        finally:
            self._leave(visit)

    def heard(self, proxy: Proxy, problem: str) -> None:
        """An agent's word on the stream of its Envoy (stock Istio agents)."""
        key = self._key_of(proxy)
        if key is not None and self._settings.health_checks:
            self._reports[key] = Report(problem, self._clock.now())
            self._queue.add(key)

    async def report(self, proxy: Proxy, caller: CallerIdentity | None, problem: str) -> None:
        """An agent's word on a stream of its own. Raises NotRegistered where there is no such entry (yet)."""
        key = self._key_of(proxy)
        if key is None:
            raise NotRegistered(f"{proxy.id} names neither a WorkloadGroup nor a WorkloadEntry to report the health of")
        if not self._settings.health_checks:
            return
        report = Report(problem, self._clock.now())
        async with self._lock(key):
            entry = await self._get(key)
            if entry is None:
                raise NotRegistered(f"there is no WorkloadEntry {key} yet")
            self._check_identity(entry, proxy, caller)
            await self._write_health(key, report)
        if key in self._visits:
            self._reports[key] = report

    def changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        """A watcher of WorkloadEntries: what was deleted under a connected proxy is made again."""
        key = EntryKey(namespace, name)
        if obj is None and key in self._visits:
            self._queue.add(key)

    def group_changed(self, namespace: str, name: str, obj: JsonObject | None) -> None:
        """A watcher of WorkloadGroups: entries of a group that comes back."""
        if obj is None:
            return
        for key, visits in self._visits.items():
            if key.namespace == namespace and group_of(visits[-1].proxy) == name:
                self._queue.add(key)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(self._settle, workers=4))
            group.create_task(self._sweep())

    # Connections

    def _key_of(self, proxy: Proxy) -> EntryKey | None:
        name = entry_name(proxy, registers=self._settings.registers)
        return EntryKey(proxy.namespace, name) if name else None

    def _leave(self, visit: Visit) -> None:
        mine = self._visits[visit.key]
        mine.remove(visit)
        if not mine:
            del self._visits[visit.key]
            self._reports.pop(visit.key, None)
            self._left[visit.key] = visit
            self._queue.add(visit.key)

    def _lock(self, key: EntryKey) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    async def _register(self, visit: Visit) -> None:
        try:
            async with self._lock(visit.key):
                await self._connect(visit)
        except MeltemError:
            self._count["errors"].inc()
            raise

    async def _connect(self, visit: Visit) -> None:
        """Makes the entry, or marks it as connected here."""
        key, proxy = visit.key, visit.proxy
        for _ in range(_ATTEMPTS):
            entry = await self._get(key)
            if entry is None:
                if not group_of(proxy):
                    raise NotRegistered(f"there is no WorkloadEntry {key}, which {proxy.id} says that it is")
                try:
                    await self._create(visit)
                    return
                except AlreadyExists:
                    continue
            self._check_identity(entry, proxy, visit.caller)
            if not group_of(proxy) and not health_checked(entry):
                return
            if not newer(visit, entry, self._settings.instance):
                return
            annotations = ensure_object(ensure_object(entry, "metadata"), "annotations")
            annotations[CONTROLLER] = self._settings.instance
            annotations[CONNECTED] = rfc3339(visit.since, micros=True)
            annotations.pop(DISCONNECTED, None)
            with contextlib.suppress(Conflict, NotFound):
                await self._client.replace(WORKLOAD_ENTRIES, entry)
                self._count["updates"].inc()
                log.info("connected", entry=str(key), proxy=proxy.id)
                return
        raise NotRegistered(f"WorkloadEntry {key} is changed by others all the time; try again")

    async def _create(self, visit: Visit) -> None:
        key, proxy = visit.key, visit.proxy
        try:
            group = await self._client.get(WORKLOAD_GROUPS, group_of(proxy), key.namespace)
        except NotFound:
            raise NotRegistered(
                f"there is no WorkloadGroup {key.namespace}/{group_of(proxy)}, of which {proxy.id} says that it is"
            ) from None
        entry = entry_from_group(key, proxy, group)
        self._check_identity(entry, proxy, visit.caller)
        annotations = ensure_object(ensure_object(entry, "metadata"), "annotations")
        annotations[CONTROLLER] = self._settings.instance
        annotations[CONNECTED] = rfc3339(visit.since, micros=True)
        await self._client.create(WORKLOAD_ENTRIES, entry)
        self._count["success"].inc()
        log.info("registered", entry=str(key), group=group_of(proxy), health_checked=health_checked(entry))
        report = self._reports.get(key)
        if report is not None:
            await self._write_health(key, report)

    def _check_identity(self, entry: JsonObject, proxy: Proxy, caller: CallerIdentity | None) -> None:
        if self._settings.checks_identity and (reason := check_identity(entry, caller)):
            raise NotRegistered(f"{proxy.id} may not be {namespace_of(entry)}/{name_of(entry)}: {reason}")

    # Upkeep

    async def _settle(self, key: EntryKey) -> None:
        """Bring one entry to where it should be. Raises MeltemError: tried again."""
        async with self._lock(key):
            visits = self._visits.get(key)
            if visits:
                self._left.pop(key, None)
                try:
                    if await self._get(key) is None:
                        await self._connect(visits[-1])
                    if (report := self._reports.get(key)) is not None:
                        await self._write_health(key, report)
                except NotRegistered as error:
                    log.info("a connected workload has no entry", entry=str(key), reason=str(error))
                return
            left = self._left.pop(key, None)
            if left is not None:
                await self._disconnect(left)
            await self._clean_up(key)

    async def _disconnect(self, visit: Visit) -> None:
        """Marks the entry as left, unless the proxy has connected elsewhere meanwhile."""
        key = visit.key
        for _ in range(_ATTEMPTS):
            entry = await self._get(key)
            if entry is None or annotations_of(entry).get(CONTROLLER) != self._settings.instance:
                return
            if _moment(entry, CONNECTED) > visit.since:
                return
            annotations = ensure_object(ensure_object(entry, "metadata"), "annotations")
            annotations.pop(CONNECTED, None)
            annotations[DISCONNECTED] = rfc3339(self._clock.now(), micros=True)
            try:
                await self._client.replace(WORKLOAD_ENTRIES, entry)
            except Conflict:
                continue
            self._count["unregister"].inc()
            log.info("disconnected", entry=str(key), proxy=visit.proxy.id)
            return

    async def _clean_up(self, key: EntryKey) -> None:
        """Deletes the entry when its proxy has been away for the grace period, and comes back when it is due."""
        entry = await self._get(key)
        if entry is None or not (is_registered(entry) or annotations_of(entry).get(CONTROLLER)):
            return
        due = self._due(entry)
        now = self._clock.now()
        if due is None:
            return
        if due > now:
            self._queue.add_after(key, due - now)
            return
        if is_registered(entry):
            version = str_at(entry, "metadata", "resourceVersion")
            with contextlib.suppress(NotFound):
                await self._client.delete(WORKLOAD_ENTRIES, key.name, key.namespace, resource_version=version)
                self._count["deletes"].inc()
                log.info("deleted: its proxy has gone", entry=str(key))
        else:
            await self._write_health(key, None)

    def _due(self, entry: JsonObject) -> float | None:
        """When the entry may go; None: not at all."""
        if CONNECTED in annotations_of(entry):  # whoever held it may have ended without a word
            return _moment(entry, CONNECTED) + self._settings.longest_connection
        if DISCONNECTED in annotations_of(entry):
            return _moment(entry, DISCONNECTED) + self._settings.grace
        return None

    async def _sweep(self) -> None:
        """Now and then, for entries whose istiod ended before it could clean up."""
        while True:
            await self._clock.sleep(max(10 * self._settings.grace, 10.0))
            try:
                found = await self._client.list(WORKLOAD_ENTRIES)
            except MeltemError as error:
                log.warning("WorkloadEntries could not be listed", reason=str(error))
                continue
            for entry in found.items:
                due = self._due(entry)
                key = EntryKey(namespace_of(entry), name_of(entry))
                if due is not None and due <= self._clock.now() and key not in self._visits:
                    self._queue.add(key)

    # Health

    async def _write_health(self, key: EntryKey, report: Report | None) -> None:
        """Writes the condition Healthy, or takes it away; an older report never goes over a newer one."""
        for _ in range(_ATTEMPTS):
            entry = await self._get(key)
            if entry is None or not health_checked(entry):
                return
            changed = with_health(entry, report.problem, report.at) if report else with_health(entry, None, 0.0)
            if changed is None:
                return
            with contextlib.suppress(Conflict):
                await self._client.replace(WORKLOAD_ENTRIES, changed, subresource="status")
                if report is not None:
                    log.info("health", entry=str(key), healthy=not report.problem, reason=report.problem)
                return
        raise Conflict(f"the status of WorkloadEntry {key} is changed by others all the time", code=409)

    async def _get(self, key: EntryKey) -> JsonObject | None:
        try:
            return await self._client.get(WORKLOAD_ENTRIES, key.name, key.namespace)
        except NotFound:
            return None


def newer(visit: Visit, entry: JsonObject, instance: str) -> bool:
    """Whether the entry says something older than this connection."""
    if _moment(entry, DISCONNECTED) > visit.since:
        return False
    connected = _moment(entry, CONNECTED)
    same = annotations_of(entry).get(CONTROLLER) == instance
    return visit.since > connected if same else visit.since >= connected


def _as_written(moment: float) -> float:
    """As an annotation will say it, so that what we wrote ourselves is not later than it was."""
    return parse_rfc3339(rfc3339(moment, micros=True))


def _moment(entry: JsonObject, annotation: str) -> float:
    try:
        return parse_rfc3339(annotations_of(entry).get(annotation, ""))
    except ValueError:
        return 0.0
