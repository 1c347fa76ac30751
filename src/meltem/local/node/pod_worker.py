"""One pod from admission to removal: sandbox, volumes, init containers, sidecars, containers, end.

In: the pod as the API server has it (`update`), `stop`. Out: running containers, the pod's status, its events, and at
the end its deletion at the API server. `run` lives until the pod is gone from this node. Sandbox and records outlive
the node process: a new worker for the same pod adopts what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from meltem import errors
from meltem.kube.client import PatchKind
from meltem.kube.resource_types import PODS
from meltem.local.node.container_runner import ContainerRunner, Kind, init_containers
from meltem.local.node.pod_context import NodeServices, PodContext
from meltem.local.node.pod_sandbox import adopt, forget_pod, make_sandbox, remove_sandbox
from meltem.local.node.status import pod_status
from meltem.objects import JsonObject, int_at, name_of, namespace_of, objects_at, str_at, uid_of

_RETRY_FIRST = 0.5
_RETRY_MOST = 10.0
_ACTIVE = ("", "Pending", "Running", "Unknown")


class PodWorker:
    def __init__(self, node: NodeServices, pod: JsonObject) -> None:
        self._node = node
        self._dirty = asyncio.Event()
        self._volumes_dirty = asyncio.Event()
        self._stop = asyncio.Event()
        self._ephemeral = asyncio.Event()
        self._gone = False
        self._grace: float | None = None
        self.context = PodContext(node, pod, self._dirty.set)
        self.runners: dict[str, ContainerRunner] = {}
        self._guests: list[asyncio.Task[None]] = []
        self._last_status: JsonObject = {}

    @property
    def pod(self) -> JsonObject:
        return self.context.pod

    # ---- from outside ----

    def update(self, pod: JsonObject) -> None:
        """The API server has a newer version of it."""
        old = self.context.pod
        self.context.pod = pod
        if str_at(pod, "metadata", "deletionTimestamp"):
            grace = int_at(pod, "metadata", "deletionGracePeriodSeconds", default=30)
            self.stop(float(grace))
        self._ephemeral.set()
        if old.get("metadata") != pod.get("metadata"):
            self._volumes_dirty.set()
            self._dirty.set()

    def stop(self, grace: float, *, gone: bool = False) -> None:
        """End the pod; `gone`: it is not at the API server any more."""
        self._gone = self._gone or gone
        self._grace = grace if self._grace is None else min(grace, self._grace)
        self._stop.set()

    def source_changed(self, kind: str, namespace: str, name: str) -> None:
        """A config map or secret changed."""
        if namespace == namespace_of(self.pod) and self.context.volumes.needs(kind, name, self.pod):
            self._volumes_dirty.set()

    # ---- the life ----

    async def run(self) -> None:
        context = self.context
        context.load()
        if not context.sandbox_record.started:
            context.sandbox_record.started = self._node.clock.now()
        if str_at(self.pod, "metadata", "deletionTimestamp"):
            self.update(self.pod)
        status = asyncio.create_task(self._write_statuses())
        try:
            apps = [(c, Kind.APP) for c in objects_at(self.pod, "spec", "containers")]
            for container, kind in [*init_containers(self.pod), *apps]:
                self.runners[str_at(container, "name")] = ContainerRunner(context, container, kind)
                context.record(str_at(container, "name"))
            self._dirty.set()
            await self._until_stopped()
            await self._stop.wait()
            await self._end()
            await self._remove(status)
        finally:
            status.cancel()
            await asyncio.gather(status, return_exceptions=True)

    async def _until_stopped(self) -> None:
        living = asyncio.create_task(self._live())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({living, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                living.result()
        finally:
            for task in (living, stopping):
                task.cancel()
            await asyncio.gather(living, stopping, return_exceptions=True)

    async def _live(self) -> None:
        record = self.context.sandbox_record
        phase = str_at(self.pod, "status", "phase")
        if record.finished or phase not in _ACTIVE:
            return
        self.context.paths.root.mkdir(parents=True, exist_ok=True)
        deadline = int_at(self.pod, "spec", "activeDeadlineSeconds", default=-1)
        try:
            async with asyncio.timeout(self._seconds_left(deadline) if deadline >= 0 else None):
                await self._containers()
        except TimeoutError:
            text = "Pod was active on the node longer than the specified deadline"
            self.context.event("Normal", "DeadlineExceeded", text)
            record.finished, record.reason, record.message = "Failed", "DeadlineExceeded", text
            await self._terminate(self._default_grace())
        await self._terminate_sidecars(self._default_grace())
        self.context.sandbox_ready = False
        await remove_sandbox(self.context)
        self.context.changed()

    def _seconds_left(self, deadline: int) -> float:
        return max(0.0, self.context.sandbox_record.started + deadline - self._node.clock.now())

    async def _containers(self) -> None:
        """Returns when every container but the sidecars is over."""
        await self._retry(lambda: make_sandbox(self.context), "FailedCreatePodSandBox")
        self.context.sandbox_ready = True
        self.context.changed()
        await self._retry(lambda: self.context.volumes.mount_all(self.context.request()), "FailedMount")
        await adopt(self.context)
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep_volumes_fresh())
            guests = group.create_task(self._run_ephemeral(group))
            sidecars = await self._run_inits(group)
            if sidecars is not None:
                await self._run_apps(group)
            for task in (keeper, guests, *self._guests, *(sidecars or ())):
                task.cancel()

    async def _run_ephemeral(self, group: asyncio.TaskGroup) -> None:
        """Starts ephemeral containers (kubectl debug) as they are added to the pod."""
        while True:
            for container in objects_at(self.pod, "spec", "ephemeralContainers"):
                name = str_at(container, "name")
                if name not in self.runners:
                    self.runners[name] = ContainerRunner(self.context, container, Kind.EPHEMERAL)
                    self.context.record(name).waiting_reason = "ContainerCreating"
                    self._guests.append(group.create_task(self.runners[name].run()))
            await self._ephemeral.wait()
            self._ephemeral.clear()

    async def _run_inits(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]] | None:
        """Init containers in order; the tasks of sidecars, or None when one failed for good."""
        sidecars: list[asyncio.Task[None]] = []
        for container, kind in init_containers(self.pod):
            runner = self.runners[str_at(container, "name")]
            if kind is Kind.SIDECAR:
                task = group.create_task(runner.run())
                sidecars.append(task)
                await runner.started_event.wait()
                continue
            ended = runner.record.terminated
            if not (ended is not None and ended.exit_code == 0):
                await runner.run()
            ended = runner.record.terminated
            if ended is not None and ended.exit_code == 0:
                if not runner.record.ready:
                    runner.record.ready = True
                    self.context.changed()
                continue
            self.context.sandbox_record.finished = "Failed"
            for task in sidecars:
                task.cancel()
            return None
        for container in objects_at(self.pod, "spec", "containers"):
            record = self.context.record(str_at(container, "name"))
            if record.waiting_reason == "PodInitializing" and not record.running:
                record.waiting_reason = "ContainerCreating"
        return sidecars

    async def _run_apps(self, group: asyncio.TaskGroup) -> None:
        tasks: list[asyncio.Task[None]] = []
        for container in objects_at(self.pod, "spec", "containers"):
            runner = self.runners[str_at(container, "name")]
            tasks.append(group.create_task(runner.run()))
            first = asyncio.create_task(runner.first_attempt.wait())
            await asyncio.wait({first, tasks[-1]}, return_when=asyncio.FIRST_COMPLETED)
            first.cancel()
        if tasks:
            await asyncio.wait(tasks)
        ends = [self.context.record(str_at(c, "name")).terminated for c in objects_at(self.pod, "spec", "containers")]
        codes = [end.exit_code if end else 1 for end in ends]
        self.context.sandbox_record.finished = "Failed" if any(codes) else "Succeeded"

    async def _keep_volumes_fresh(self) -> None:
        volumes = self.context.volumes
        while True:
            now = self._node.clock.now()
            pause = max(1.0, volumes.refresh_at - now) if volumes.refresh_at else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._volumes_dirty.wait()
            self._volumes_dirty.clear()
            try:
                await volumes.refresh(self.context.request())
            except errors.MeltemError:  # the API server is away: the old contents stay
                await self._node.clock.sleep(2.0)

    async def _retry(self, step: Callable[[], Awaitable[None]], reason: str) -> None:
        pause = _RETRY_FIRST
        while True:
            try:
                await step()
                return
            except (errors.MeltemError, OSError) as error:
                self.context.event(
                    "Warning", reason, error.what if isinstance(error, errors.MeltemError) else str(error)
                )
            self._volumes_dirty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._volumes_dirty.wait()
            pause = min(_RETRY_MOST, pause * 2)

    # ---- the end ----

    def _default_grace(self) -> float:
        return float(int_at(self.pod, "spec", "terminationGracePeriodSeconds", default=30))

    async def _terminate(self, grace: float) -> None:
        """Ends all containers: the pod's own together, then sidecars in reverse order with what is left of the
        grace."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        first = [r for r in self.runners.values() if r.kind is not Kind.SIDECAR]
        await asyncio.gather(*(r.terminate(grace) for r in first))
        await self._terminate_sidecars(max(0.0, deadline - loop.time()) if grace > 0 else 0.0)

    async def _terminate_sidecars(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        for runner in reversed([r for r in self.runners.values() if r.kind is Kind.SIDECAR]):
            # At least a moment each, so that a proxy can say goodbye even when the grace is used up.
            await runner.terminate(max(min(2.0, grace), deadline - loop.time()))

    async def _end(self) -> None:
        """Terminates with the grace that was asked for; a shorter one asked for meanwhile takes over."""
        while True:
            grace = self._grace if self._grace is not None else self._default_grace()
            self._stop.clear()
            ending = asyncio.create_task(self._terminate(grace))
            hurry = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait({ending, hurry}, return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    ending.result()
                    return
            finally:
                for task in (ending, hurry):
                    task.cancel()
                await asyncio.gather(ending, hurry, return_exceptions=True)

    async def _remove(self, status: asyncio.Task[None]) -> None:
        self.context.sandbox_ready = False
        await remove_sandbox(self.context)
        if not self._gone:
            with contextlib.suppress(errors.MeltemError):  # the deletion below is what counts, and is tried again
                await self._write_status()
        status.cancel()
        await asyncio.to_thread(self.context.volumes.remove)
        await self._delete_at_server()
        await forget_pod(self.context)

    async def _delete_at_server(self) -> None:
        pause = _RETRY_FIRST
        while not self._gone:
            try:
                await self._node.client.delete(
                    PODS, name_of(self.pod), namespace_of(self.pod), grace_seconds=0, uid=uid_of(self.pod)
                )
                return
            except (errors.NotFound, errors.Conflict):
                return
            except errors.MeltemError:
                await self._node.clock.sleep(pause)
                pause = min(_RETRY_MOST, pause * 2)

    # ---- status ----

    async def _write_statuses(self) -> None:
        pause = _RETRY_FIRST
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write_status()
                pause = _RETRY_FIRST
            except errors.NotFound:
                continue
            except errors.MeltemError:
                self._dirty.set()
                await self._node.clock.sleep(pause)
                pause = min(_RETRY_MOST, pause * 2)

    async def _write_status(self) -> None:
        """Raises Conflict where others were quicker again and again, or the pod of this name is another one by now."""
        status = pod_status(self.context)
        if status == self._last_status:
            return
        patch: JsonObject = {"metadata": {"uid": uid_of(self.pod)}, "status": status}
        await self._node.client.patch(
            PODS, name_of(self.pod), namespace_of(self.pod), patch, kind=PatchKind.STRATEGIC, subresource="status"
        )
        self._last_status = status
