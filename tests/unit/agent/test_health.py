"""The health of applications on machines: what is asked, when it counts, when istiod is told."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meltem.agent.environment import AgentSettings, Flags, read_settings
from meltem.agent.health import Health, HealthKeeper, HealthProbe, Judgement, read_probe
from meltem.agent.log import Log
from meltem.clock import ManualClock
from meltem.errors import EnvironmentError_, UserError
from meltem.objects import JsonObject


def settings(tmp_path: Path, probe: JsonObject | None, **environment: str) -> AgentSettings:
    config = json.dumps({"readinessProbe": probe} if probe else {})
    given = {"INSTANCE_IP": "192.0.2.7", "PROXY_CONFIG": config, "PROV_CERT": "/etc/certs", **environment}
    return read_settings(given, Flags(), root=tmp_path)


class Envoy:
    """Ready or not, with so many streams to istiod so far."""

    def __init__(self) -> None:
        self.reason = ""
        self.streams = 1

    async def not_ready_because(self) -> str:
        return self.reason

    async def stats(self, regex: str, *, timeout: float = 2.0) -> dict[str, int]:
        assert regex == r"^grpc\.xds-grpc\.streams_total$"
        return {"grpc.xds-grpc.streams_total": self.streams}


class Rig:
    """A keeper whose application is a file, and whose reports land in a list."""

    def __init__(self, tmp_path: Path, **probe: int) -> None:
        self.file = tmp_path / "well"
        self.envoy = Envoy()
        self.clock = ManualClock()
        self.told: list[Health] = []
        self.away = 0
        spec: JsonObject = {"exec": {"command": ["test", "-e", str(self.file)]}, **probe}
        chosen = settings(tmp_path, spec)
        found = read_probe(chosen)
        assert found is not None
        self.keeper = HealthKeeper(chosen, found, self.envoy, self.clock, Log("error"), report=self.report)

    async def report(self, order: JsonObject) -> None:
        if self.away:
            self.away -= 1
            raise EnvironmentError_("istiod is away")
        self.told.append(Health(order["healthy"] is True, str(order["message"])))

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not check():
                await self.clock.advance(1)


@pytest.mark.parametrize(
    ("spec", "kind", "host"),
    [
        ({"httpGet": {"port": 8080}}, "http", "192.0.2.7"),
        ({"httpGet": {"port": 8080, "host": "127.0.0.1"}}, "http", "127.0.0.1"),
        ({"tcpSocket": {"port": 5432, "host": "db"}}, "tcp", "db"),
        ({"grpc": {"port": 9000, "service": "shop"}}, "grpc", "192.0.2.7"),
    ],
)
def test_the_address_asked_is_the_machines_own_unless_the_probe_says_otherwise(
    tmp_path: Path, spec: JsonObject, kind: str, host: str
) -> None:
    found = read_probe(settings(tmp_path, spec))
    assert found is not None and found.asked is not None
    assert (found.asked.kind, found.host, found.period, found.failures) == (kind, host, 10.0, 1)
    legacy = read_probe(settings(tmp_path, {"grpc": {"port": 1}}, REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION="true"))
    assert legacy is not None and legacy.host == "127.0.0.1"


def test_no_probe_and_probes_that_cannot_be_used(tmp_path: Path) -> None:
    assert read_probe(settings(tmp_path, None)) is None
    unusable: tuple[JsonObject, ...] = ({"exec": {"command": []}}, {"httpGet": {"port": 0}}, {"periodSeconds": 3})
    for spec in unusable:
        with pytest.raises(UserError, match="ProxyConfig readinessProbe"):
            read_probe(settings(tmp_path, spec))


def test_so_many_answers_in_a_row_decide() -> None:
    judgement = Judgement(HealthProbe(None, "", ("true",), successes=2, failures=3))
    seen: list[bool | None] = []
    for problem in ("", "ill", "", "", "ill", "ill", "", "ill", "ill", "ill", "ill"):
        judgement.add(problem)
        seen.append(judgement.health.healthy if judgement.health else None)
    assert seen == [None, None, None, True, True, True, True, True, True, False, False]


def test_another_reason_takes_the_place_of_the_former() -> None:
    """A proxy that is not ready yet, then an application that does not answer."""
    judgement = Judgement(HealthProbe(None, "", ("true",)))
    for problem in ("the proxy is not ready", "no answer", "no answer"):
        judgement.add(problem)
    assert judgement.health == Health(False, "no answer")


async def test_istiod_is_told_of_changes_and_again_on_a_new_stream(tmp_path: Path) -> None:
    rig = Rig(tmp_path, periodSeconds=1)
    task = asyncio.create_task(rig.keeper.run())
    await rig.until(lambda: len(rig.told) == 1)
    assert not rig.told[0].healthy and rig.told[0].message == "test ended with status 1"
    rig.file.touch()
    await rig.until(lambda: len(rig.told) == 2)
    assert rig.told[1] == Health(True)
    rig.envoy.streams = 2
    await rig.until(lambda: len(rig.told) == 3)
    assert rig.told[2] == Health(True)
    rig.envoy.reason = "no configuration"
    await rig.until(lambda: len(rig.told) == 4)
    assert rig.told[3] == Health(False, "the proxy is not ready: no configuration")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(rig.told) == 4


async def test_an_istiod_that_is_away_is_told_later(tmp_path: Path) -> None:
    rig = Rig(tmp_path, periodSeconds=1)
    rig.file.touch()
    rig.away = 3
    task = asyncio.create_task(rig.keeper.run())
    await rig.until(lambda: rig.told == [Health(True)])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_command_has_its_time(tmp_path: Path) -> None:
    spec: JsonObject = {"exec": {"command": [sys.executable, "-c", "import time; time.sleep(60)"]}}
    chosen = settings(tmp_path, spec)
    found = read_probe(chosen)
    assert found is not None
    keeper = HealthKeeper(chosen, found, None, ManualClock(), Log("error"))
    assert await keeper.problem() == f"{sys.executable} did not end within 1 s"
