"""The guard without Envoy: what it does where there is none, where it does not answer, and when proxies refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import mesh_files as files
import pytest

from meltem import envoyapi as api
from meltem.controlplane import guard as module
from meltem.controlplane.guard import Guard
from meltem.engine import Engine
from meltem.errors import EnvironmentError_
from meltem.generate.patched import Job
from meltem.graph.inputs import Trial
from meltem.status.judge import Judge
from meltem.xds.subscription import Rejection

PROXY = files.sidecar("web-1", "default", "10.0.0.1", {"app": "web"})
MESH = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.1.0.1, ports: [{name: tcp, port: 90}]}
"""
CLUSTER = "outbound|90||web.default.svc.cluster.local"
FILTER = """
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: NAME, namespace: default, creationTimestamp: "2024-01-0DAYT00:00:00Z"}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {cluster: {service: web.default.svc.cluster.local}}
    patch: {operation: MERGE, value: {FIELD}}
"""


def a_filter(name: str, day: int, field: str) -> str:
    return FILTER.replace("NAME", name).replace("DAY", str(day)).replace("FIELD", field)


FIRST, SECOND = a_filter("first", 1, "connect_timeout: 7s"), a_filter("second", 2, "alt_stat_name: second")


class Fake:
    """Stands for Envoy: takes everything, unless it is told to be away."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def worst(self, jobs: Sequence[Job]) -> Job | None:
        if self.error is not None:
            raise self.error
        return None

    async def check(self, resources: Sequence[api.Resource]) -> str:
        """Lua: what says `hang` does not end, what says `bad` is refused."""
        if self.error is not None:
            raise self.error
        code = b"".join(r.body for r in resources)
        if b"hang" in code:
            raise TimeoutError
        return "script load error" if b"bad" in code else ""

    async def blame(self, job: Job) -> Trial:
        return Trial()


class World:
    def __init__(self, text: str) -> None:
        self.engine = Engine()
        self.refusals: dict[str, Rejection] = {}
        self.guard = Guard(self.engine, lambda: [(PROXY.id, api.CLUSTER, self.refusals)])
        self.guard.start()
        files.load(self.engine, MESH + text)
        self.engine.connect(PROXY)

    def cluster(self) -> tuple[api.Resource, api.cluster.Cluster]:
        attachment = self.engine.bundles.attach(PROXY.id, lambda _notice: None)
        found = attachment.get(api.CLUSTER, CLUSTER)
        attachment.close()
        assert found is not None
        return found, api.cluster.Cluster.FromString(found.body)

    def refuse(self, error: str = "no") -> None:
        """The proxy refuses what it has now."""
        self.refusals = {CLUSTER: Rejection(self.cluster()[0].version, error)}
        self.guard.look_at_refusals()

    @property
    def left_out(self) -> dict[str, str]:
        return {owner[1]: one.error for (_, owner), one in self.engine.resources.patched.refused.items()}

    def notes(self) -> list[str]:
        return [t.note for t in self.engine.inputs.trials.values() if t.note]


@contextlib.asynccontextmanager
async def running(world: World, fake: Fake) -> AsyncIterator[None]:
    world.guard._trier = fake
    task = asyncio.create_task(world.guard.run())
    try:
        await world.guard.settled(PROXY.id)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_without_an_envoy_filters_are_used_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise EnvironmentError_("the program envoy was not found")

    monkeypatch.setattr(module, "find_envoy", nowhere)
    world = World(FIRST)
    assert world.cluster()[1].connect_timeout.seconds == 7
    assert not world.engine.on_trial(PROXY.id)


@pytest.fixture(autouse=True)
def an_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_envoy", lambda: "envoy")


async def test_until_the_trial_nothing_is_sent_and_then_everything() -> None:
    world = World(FIRST)
    assert world.cluster()[1].connect_timeout.seconds == 10
    async with running(world, Fake()):
        assert world.cluster()[1].connect_timeout.seconds == 7


@pytest.mark.parametrize("error", [TimeoutError(), EnvironmentError_("envoy cannot be started: no memory")])
async def test_an_envoy_that_does_not_answer_holds_nothing_back(error: Exception) -> None:
    world = World(FIRST)
    async with running(world, Fake(error)):
        assert world.cluster()[1].connect_timeout.seconds == 7
        assert world.notes()


async def test_what_a_proxy_refuses_costs_the_filter_that_came_last_then_the_one_before() -> None:
    world = World(FIRST + SECOND)
    async with running(world, Fake()):
        assert world.cluster()[1].alt_stat_name == "second"
        world.refuse()
        assert set(world.left_out) == {"second"}
        assert world.left_out["second"] == "proxy web-1.default refuses it: no"
        await world.guard.settled(PROXY.id)
        assert (world.cluster()[1].alt_stat_name, world.cluster()[1].connect_timeout.seconds) == ("", 7)
        world.refuse()
        assert set(world.left_out) == {"first", "second"}
        assert world.cluster()[1].connect_timeout.seconds == 10


async def test_filters_are_not_to_blame_for_what_a_proxy_refuses_without_them() -> None:
    world = World(FIRST)
    async with running(world, Fake()):
        world.refuse()
        assert set(world.left_out) == {"first"}
        world.refuse("still no")
        assert world.left_out == {}
        assert world.cluster()[1].connect_timeout.seconds == 7
        assert world.notes() == ["proxy web-1.default refuses it: still no without any EnvoyFilter as well"]
        world.refuse("for ever")
        assert world.left_out == {}, "they are not blamed again"


class Refusing(Fake):
    """Refuses clusters with one text in them, and blames the EnvoyFilter `first`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text.encode()

    async def worst(self, jobs: Sequence[Job]) -> Job | None:
        return next((j for j in jobs if any(self.text in r.body for r in j.changed)), None)

    async def blame(self, job: Job) -> Trial:
        return Trial((("default", "first", "spec.configPatches[0]: no"),))


async def edited(world: World, text: str, done: Callable[[], bool]) -> None:
    files.load(world.engine, text)
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 (the guard runs beside)
            await asyncio.sleep(0)


async def test_an_envoy_filter_that_is_edited_to_something_bad_stays_as_it_was() -> None:
    """Until it is edited again; and its status says both."""
    key = (files.CLUSTER, "default", "first")
    world = World(a_filter("first", 1, "alt_stat_name: good"))
    judge = Judge(world.engine, {}, tuple, files.CLUSTER)
    formers = world.engine.inputs.former_filters
    async with running(world, Refusing("bad")):
        assert world.cluster()[1].alt_stat_name == "good"
        await edited(world, a_filter("first", 1, "alt_stat_name: bad"), lambda: key in formers)
        await world.guard.settled(PROXY.id)
        assert world.cluster()[1].alt_stat_name == "good"
        assert world.left_out == {}
        judge.look()
        verdict = judge.verdicts["EnvoyFilter", "default", "first"]
        assert verdict.reason == "RefusedByEnvoy" and "stays in force" in verdict.message
        await edited(world, a_filter("first", 1, "alt_stat_name: better"), lambda: key not in formers)
        await world.guard.settled(PROXY.id)
        assert world.cluster()[1].alt_stat_name == "better"
        judge.look()
        assert not judge.verdicts["EnvoyFilter", "default", "first"].bad


async def test_one_that_was_bad_from_the_start_is_left_out() -> None:
    world = World(a_filter("first", 1, "alt_stat_name: bad"))
    async with running(world, Refusing("bad")):
        assert set(world.left_out) == {"first"}
        assert world.cluster()[1].alt_stat_name == ""
        await edited(world, a_filter("first", 1, "alt_stat_name: good"), lambda: not world.left_out)
        await world.guard.settled(PROXY.id)
        assert world.cluster()[1].alt_stat_name == "good"


LUA = """
---
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {name: script, namespace: default}
spec: {lua: {inlineCode: CODE}}
"""
SCRIPT = "extensions.istio.io/trafficextension/default.script"


def script_of(world: World) -> str:
    """The code that the proxy has; empty: what lets everything pass."""
    attachment = world.engine.bundles.attach(PROXY.id, lambda _notice: None)
    found = attachment.get(api.EXTENSION_CONFIG, SCRIPT)
    attachment.close()
    assert found is not None
    config = api.extension.TypedExtensionConfig.FromString(found.body).typed_config
    lua = api.lua.Lua()
    return lua.default_source_code.inline_string if config.Unpack(lua) else ""


async def becomes(world: World, code: str) -> None:
    async with asyncio.timeout(10):
        while script_of(world) != code:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)


@pytest.mark.parametrize("code", ["bad", "hang"])
async def test_a_script_that_envoy_refuses_or_never_ends_costs_only_itself(code: str) -> None:
    world = World(LUA.replace("CODE", "good"))
    assert script_of(world) == "" and world.engine.on_trial(PROXY.id)
    async with running(world, Fake()):
        assert script_of(world) == "good"
        files.load(world.engine, LUA.replace("CODE", code))
        assert script_of(world) == "good", "until the new one was tried"
        await becomes(world, "")
        judge = Judge(world.engine, {}, tuple, files.CLUSTER)
        judge.look()
        verdict = judge.verdicts["TrafficExtension", "default", "script"]
        assert verdict.reason == "RefusedByEnvoy" and "spec.lua.inlineCode" in verdict.message
        files.load(world.engine, LUA.replace("CODE", "better"))
        await becomes(world, "better")
        assert len(world.engine.inputs.tried_scripts) == 1


async def test_where_envoy_does_not_answer_scripts_are_used_as_they_are() -> None:
    world = World(LUA.replace("CODE", "any"))
    async with running(world, Fake(TimeoutError())):
        assert script_of(world) == "any"
