"""One container's life in a pod: start, watch, restart with back-off, end; as the kubelet does it.

In: the pod's context and the container's spec. Out: its `ContainerRecord`, kept current; `run` returns when it will not
be started again. `terminate` ends it: preStop, stop signal, grace, kill. One that runs already (an earlier node process
started it) is adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import secrets
import signal

import msgspec

from meltem.errors import ApiError, InvalidResource
from meltem.local.images import Image, NoImage
from meltem.local.node import records
from meltem.local.node.actions import Target, read_limited
from meltem.local.node.container_spec import Parts, Sandbox, build, process_spec, stop_signal
from meltem.local.node.environment import MissingReference, command_line, environment
from meltem.local.node.pid_sandbox import ensure_pid_namespace
from meltem.local.node.pod_context import PodContext
from meltem.local.node.probes import LIVENESS, READINESS, STARTUP, Prober
from meltem.local.node.records import ContainerRecord, Termination
from meltem.local.node.runtime_client import ContainerState, RuntimeFailure, RuntimeGone
from meltem.objects import JsonObject, int_at, object_at, objects_at, str_at

_BACKOFF_FIRST = 10.0
_BACKOFF_MOST = 300.0
_BACKOFF_FORGOTTEN = 600.0
_IMAGE_RETRY = 10.0
_MESSAGE_LIMIT = 4096
_LOG_TAIL = 2048


class Kind(enum.Enum):
    INIT = "init"
    SIDECAR = "sidecar"
    APP = "app"
    EPHEMERAL = "ephemeral"


def kind_of(container: JsonObject, *, init: bool) -> Kind:
    if not init:
        return Kind.APP
    return Kind.SIDECAR if str_at(container, "restartPolicy") == "Always" else Kind.INIT


class ContainerRunner:
    """`first_attempt` is set when the first start has worked (postStart included) or failed; `started` when it counts
    as started (its startup probe passed)."""

    def __init__(self, context: PodContext, container: JsonObject, kind: Kind) -> None:
        self.container = container
        self.kind = kind
        self.name = str_at(container, "name")
        self.first_attempt = asyncio.Event()
        self.started_event = asyncio.Event()
        self._context = context
        self._restart_wanted: asyncio.Future[tuple[str, JsonObject]] | None = None
        self._stopping = False

    @property
    def record(self) -> ContainerRecord:
        return self._context.record(self.name)

    async def run(self) -> None:
        """Until the container is over for good."""
        record = self.record
        while True:
            if record.running:
                self.first_attempt.set()
            elif record.terminated is None and record.waiting_reason == "CrashLoopBackOff" and record.last is not None:
                await self._back_off(record.last)  # an earlier node process was in the middle of it
                await self._start_until_it_works()
            elif record.terminated is not None:
                if not self._starts_again(record.terminated.exit_code):
                    self.first_attempt.set()
                    return
                await self._back_off(record.terminated)
                await self._start_until_it_works()
            else:
                await self._start_until_it_works()
            if record.running:
                await self._supervise()

    def _starts_again(self, code: int) -> bool:
        policy = self._context.restart_policy
        if self.kind is Kind.EPHEMERAL:
            return False
        if self.kind is Kind.SIDECAR:
            return True
        if self.kind is Kind.INIT:
            return code != 0 and policy != "Never"
        own = str_at(self.container, "restartPolicy")
        return policy == "Always" or (policy == "OnFailure" and code != 0) or own == "Always"

    # ---- starting ----

    async def _back_off(self, ended: Termination) -> None:
        """The pause after an end: none the first time, then 10 s, doubled each time up to 5 min."""
        record, clock = self.record, self._context.node.clock
        if ended.started and ended.finished - ended.started > _BACKOFF_FORGOTTEN:
            record.backoff = 0.0
        pause = record.backoff
        if pause > 0:
            record.last, record.terminated = ended, None
            record.waiting_reason = "CrashLoopBackOff"
            record.waiting_message = (
                f"back-off {_duration(pause)} restarting failed container={self.name} pod={self._context.title}"
            )
            self._context.changed()
            self._context.event(
                "Warning", "BackOff",
                f"Back-off restarting failed container {self.name} in pod {self._context.title}", self.name,
            )  # fmt: skip
            rest = ended.finished + pause - clock.now()
            if rest > 0:
                await clock.sleep(rest)
        record.backoff = min(_BACKOFF_MOST, max(_BACKOFF_FIRST, pause * 2))

    async def _start_until_it_works(self) -> None:
        """Tries until the program runs; each failure shows in the status. A failed start of the program itself counts
        as an end of the container."""
        while True:
            record = self.record
            try:
                await self._start()
            except RuntimeGone:
                await self._context.node.clock.sleep(0.5)
                continue
            except RuntimeFailure as error:
                self._failed_start(str(error))
            except _ImageMissing as error:
                await self._image_missing(error.reason)
                continue
            except (MissingReference, InvalidResource, ApiError) as error:
                self._waiting("CreateContainerConfigError", error.what)
                self._context.event("Warning", "Failed", f"Error: {error}", self.name)
                self.first_attempt.set()
                await self._context.node.clock.sleep(_IMAGE_RETRY / 2)
                continue
            except OSError as error:
                self._waiting("CreateContainerError", str(error))
                self._context.event("Warning", "Failed", f"Error: {error}", self.name)
                self.first_attempt.set()
                await self._context.node.clock.sleep(_IMAGE_RETRY)
                continue
            if record.running:
                await self._post_start()
            self.first_attempt.set()
            return

    async def _start(self) -> None:
        context, record, node = self._context, self.record, self._context.node
        image_name = str_at(self.container, "image")
        image = await asyncio.to_thread(lambda: node.images().find(image_name))
        if isinstance(image, NoImage):
            raise _ImageMissing(image.reason)
        env = await environment(self.container, image, context.variables())
        argv = command_line(self.container, image, env)
        await ensure_pid_namespace(context)
        identifier = secrets.token_hex(32)
        spec = build(
            context.pod,
            self._sandbox(),
            Parts(
                container=self.container,
                image=image,
                argv=argv,
                env=env,
                binds=context.volumes.binds(self.container, env),
                identifier=identifier,
                attempt=record.attempt,
                cgroups=node.cgroups.create(context.sandbox_record.uid, identifier, self.container),
            ),
        )
        context.event("Normal", "Pulled", f'Container image "{image_name}" already present on machine', self.name)
        old, previous = record.id, record.terminated
        if previous is not None:
            record.last, record.terminated = previous, None
        if record.attempt > 0:
            record.restarts += 1
        record.id, record.attempt = identifier, record.attempt + 1
        record.image_id = f"meltem://{image_name}"
        record.started, record.ready, record.started_at = False, False, 0.0
        await self._forget(old)
        context.event("Normal", "Created", f"Created container: {self.name}", self.name)
        try:
            state = await node.runtime.current.start(spec)
        except RuntimeGone:
            record.attempt -= 1
            record.restarts = max(0, record.restarts - 1)
            raise
        record.started_at = state.started
        record.waiting_reason = record.waiting_message = ""
        context.changed()
        context.event("Normal", "Started", f"Started container {self.name}", self.name)

    def _sandbox(self) -> Sandbox:
        """The pod's; an ephemeral container joins the processes of the container that it is to look into."""
        sandbox = self._context.sandbox
        target = self._context.containers.get(str_at(self.container, "targetContainerName"))
        if target is None or not target.running or sandbox.shared_pid:
            return sandbox
        state = records.read(self._context.paths.container(target.id) / "state.json", ContainerState)
        return msgspec.structs.replace(sandbox, shared_pid=f"/proc/{state.pid}/ns/pid") if state else sandbox

    async def _forget(self, identifier: str) -> None:
        if not identifier:
            return
        context = self._context
        with contextlib.suppress(RuntimeFailure):
            await context.node.runtime.current.remove(identifier)
        context.node.exits.forget(identifier)
        context.node.cgroups.remove(context.sandbox_record.uid, identifier)
        await asyncio.to_thread(remove_container_directory, context.paths.container(identifier))

    async def _image_missing(self, reason: str) -> None:
        image = str_at(self.container, "image")
        context = self._context
        context.event("Warning", "Failed", f'Failed to pull image "{image}": {reason}', self.name)
        context.event("Warning", "Failed", "Error: ErrImagePull", self.name)
        self._waiting("ErrImagePull", reason)
        self.first_attempt.set()
        await context.node.clock.sleep(1.0)
        context.event("Normal", "BackOff", f'Back-off pulling image "{image}"', self.name)
        context.event("Warning", "Failed", "Error: ImagePullBackOff", self.name)
        self._waiting("ImagePullBackOff", f'Back-off pulling image "{image}": {reason}')
        await context.node.clock.sleep(_IMAGE_RETRY)

    def _failed_start(self, message: str) -> None:
        record, now = self.record, self._context.node.clock.now()
        record.terminated = Termination(
            exit_code=128, reason="StartError", message=f"failed to start container: {message}",
            started=0.0, finished=now, container_id=record.id,
        )  # fmt: skip
        record.waiting_reason = record.waiting_message = ""
        self._context.event(
            "Warning", "Failed", f"Error: failed to start container {self.name!r}: {message}", self.name
        )
        self._context.changed()

    def _waiting(self, reason: str, message: str) -> None:
        record = self.record
        if record.terminated is not None:
            record.last, record.terminated = record.terminated, None
        record.waiting_reason, record.waiting_message = reason, message
        record.started_at = 0.0
        self._context.changed()

    async def _post_start(self) -> None:
        hook = object_at(self.container, "lifecycle", "postStart")
        if not hook:
            return
        ended = asyncio.create_task(self._context.node.exits.wait(self.record.id))
        target = Target(self.container, self._context.sandbox_record.ip)
        action = asyncio.create_task(self._context.node.actions.run(hook, target, self, float("inf")))
        try:
            await asyncio.wait({ended, action}, return_when=asyncio.FIRST_COMPLETED)
            if action.done() and not action.result().ok:
                message = f"PostStartHook failed: {action.result().message}"
                self._context.event("Warning", "FailedPostStartHook", message, self.name)
                await self._kill(self._grace(None), "FailedPostStartHook")
        finally:
            for task in (ended, action):
                task.cancel()

    # ---- running ----

    async def _supervise(self) -> None:
        """While it runs: probes; returns when it has ended."""
        loop = asyncio.get_running_loop()
        self._restart_wanted = loop.create_future()
        node, record = self._context.node, self.record
        target = Target(self.container, self._context.sandbox_record.ip)
        prober = Prober(target, self, node.actions, self, node.clock)
        probing = asyncio.create_task(prober.run(since=record.started_at, started=record.started))
        ended = asyncio.create_task(node.exits.wait(record.id))
        try:
            await asyncio.wait({ended, self._restart_wanted}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                probing.cancel()
                kind, probe = self._restart_wanted.result()
                message = f"Container {self.name} failed {kind.lower()} probe, will be restarted"
                self._context.event("Normal", "Killing", message, self.name)
                await self._kill(self._grace(probe), kind)
            self.note_end(await ended)
        finally:
            probing.cancel()
            ended.cancel()
            self._restart_wanted = None
            await asyncio.gather(probing, ended, return_exceptions=True)

    def started(self) -> None:
        if not self.record.started:
            self.record.started = True
            self._context.changed()
        self.started_event.set()

    def ready(self, value: bool) -> None:
        if self.record.ready != value and self.record.running:
            self.record.ready = value
            self._context.changed()

    def failed(self, kind: str, message: str) -> None:
        if kind in (STARTUP, READINESS, LIVENESS) and not self._stopping:
            self._context.event("Warning", "Unhealthy", f"{kind} probe failed: {message}", self.name)

    def must_restart(self, kind: str, probe: JsonObject) -> None:
        if self._restart_wanted is not None and not self._restart_wanted.done():
            self._restart_wanted.set_result((kind, probe))

    async def execute(self, argv: list[str], timeout: float) -> tuple[int, bytes]:
        """Runs a program in the container (exec probes and hooks)."""
        context, node = self._context, self._context.node
        image = node.images().find(str_at(self.container, "image"))
        image = image if isinstance(image, Image) else Image(match=())
        env = await environment(self.container, image, context.variables())
        process = process_spec(context.pod, {**self.container, "tty": False}, image, argv, env)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            running = await node.runtime.current.exec(self.record.id, process, [null, writing, writing])
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(null)
            os.close(writing)
        output = asyncio.create_task(read_limited(reading, 10 * 1024))
        try:
            async with asyncio.timeout(None if timeout == float("inf") else timeout):
                code = await asyncio.shield(running.ended)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):  # a background child may hold the pipe
                        await asyncio.shield(output)
        except BaseException:
            with contextlib.suppress(RuntimeFailure):
                await node.runtime.current.exec_signal(running, signal.SIGKILL)
            raise
        finally:
            output.cancel()
        return code, output.result() if output.done() and not output.cancelled() else b""

    # ---- ending ----

    def note_end(self, state: ContainerState) -> None:
        """Puts the end into the record; once."""
        record, context = self.record, self._context
        if record.id != state.id or record.terminated is not None or not record.started_at:
            return
        code = state.code if state.code is not None else 137
        reason = "Completed" if code == 0 else "Error"
        if state.signal == signal.SIGKILL and context.node.cgroups.oom_killed(context.sandbox_record.uid, state.id):
            reason = "OOMKilled"
        record.terminated = Termination(
            exit_code=code, reason=reason, message=self._termination_message(code), signal=0,
            started=record.started_at, finished=state.finished or context.node.clock.now(), container_id=state.id,
        )  # fmt: skip
        record.started_at = 0.0
        record.started = record.ready = False
        context.changed()

    def _termination_message(self, code: int) -> str:
        record, paths = self.record, self._context.paths
        attempt = record.attempt - 1
        with contextlib.suppress(OSError):
            with paths.message(self.name, attempt).open("rb") as file:
                text = file.read(_MESSAGE_LIMIT)
            if text:
                return text.decode(errors="replace")
        if str_at(self.container, "terminationMessagePolicy") == "FallbackToLogsOnError" and code != 0:
            with contextlib.suppress(OSError):
                data = paths.log(self.name, attempt).read_bytes()[-64 * 1024 :]
                lines = [line.split(b" ", 3)[-1] for line in data.split(b"\n") if line]
                return b"\n".join(lines[-80:])[-_LOG_TAIL:].decode(errors="replace")
        return ""

    def _grace(self, probe: JsonObject | None) -> float:
        own = (probe or {}).get("terminationGracePeriodSeconds")
        if isinstance(own, int):
            return float(own)
        return float(int_at(self._context.pod, "spec", "terminationGracePeriodSeconds", default=30))

    async def terminate(self, grace: float, *, say: bool = True) -> None:
        """Ends it if it runs; `grace` seconds in all, for preStop and the program together."""
        self._stopping = True
        if not self.record.running:
            return
        if say:
            self._context.event("Normal", "Killing", f"Stopping container {self.name}", self.name)
        await self._kill(grace, "")
        self.note_end(await self._context.node.exits.wait(self.record.id))

    async def _kill(self, grace: float, _why: str) -> None:
        """preStop, then the stop signal, then SIGKILL when the grace is used up; returns when it has ended."""
        node, record = self._context.node, self.record
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        ended = asyncio.create_task(node.exits.wait(record.id))
        try:
            hook = object_at(self.container, "lifecycle", "preStop")
            if hook and grace > 0:
                await self._pre_stop(hook, grace, ended)
                deadline = max(deadline, loop.time() + 2.0)  # as the kubelet: at least two seconds for the program
            if grace > 0 and not ended.done():
                image = node.images().find(str_at(self.container, "image"))
                image = image if isinstance(image, Image) else Image(match=())
                await self._signal(stop_signal(self.container, image))
                await asyncio.wait({ended}, timeout=max(0.0, deadline - loop.time()))
            while not ended.done():
                await self._signal(signal.SIGKILL)
                await asyncio.wait({ended}, timeout=5.0)
        finally:
            ended.cancel()

    async def _pre_stop(self, hook: JsonObject, grace: float, ended: asyncio.Task[ContainerState]) -> None:
        target = Target(self.container, self._context.sandbox_record.ip)
        action = asyncio.create_task(self._context.node.actions.run(hook, target, self, grace))
        try:
            await asyncio.wait({action, ended}, return_when=asyncio.FIRST_COMPLETED)
            if action.done() and not action.result().ok:
                message = f"PreStopHook failed: {action.result().message}"
                self._context.event("Warning", "FailedPreStopHook", message, self.name)
        finally:
            action.cancel()
            await asyncio.gather(action, return_exceptions=True)

    async def _signal(self, number: int) -> None:
        try:
            await self._context.node.runtime.current.signal(self.record.id, number)
        except RuntimeFailure:  # the runtime does not know it: it has ended, in a runtime before this one
            self._context.node.exits.lost({self.record.id}, self._context.node.clock.now())


class _ImageMissing(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def remove_container_directory(path: os.PathLike[str]) -> None:
    """The overlay's layers and the state; the mount itself went with the container's namespace."""
    import shutil

    from meltem.local.node.runtime import linux

    layers = f"{os.fspath(path)}/layers"
    with contextlib.suppress(OSError):
        linux.umount(layers, linux.MNT_DETACH)
    shutil.rmtree(path, ignore_errors=True)


def init_containers(pod: JsonObject) -> list[tuple[JsonObject, Kind]]:
    return [(c, kind_of(c, init=True)) for c in objects_at(pod, "spec", "initContainers")]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
