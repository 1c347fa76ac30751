"""Probes: the kubelet's timing, in virtual time; and gRPC health over a hand-made server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meltem import grpc_health
from meltem.clock import ManualClock
from meltem.local.node.actions import Outcome, Target, port_number
from meltem.local.node.probes import Prober
from meltem.objects import JsonObject


class Listener:
    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.log: list[tuple[float, str]] = []

    def _note(self, text: str) -> None:
        self.log.append((self.clock.now(), text))

    def started(self) -> None:
        self._note("started")

    def ready(self, value: bool) -> None:
        self._note("ready" if value else "unready")

    def failed(self, kind: str, message: str) -> None:
        self._note(f"failed {kind}")

    def must_restart(self, kind: str, probe: JsonObject) -> None:
        self._note(f"restart {kind}")


class Actions:
    """Handlers name a script entry: `{"exec": {"command": ["live"]}}`; its function says whether it works now."""

    def __init__(self, answers: dict[str, Callable[[], bool]]) -> None:
        self.answers = answers

    async def run(self, handler: JsonObject, target: Target, executor: object, timeout: float) -> Outcome:
        name = handler["exec"]["command"][0]  # type: ignore[index,call-overload]
        return Outcome(self.answers[str(name)](), "no")


async def probe(
    container: JsonObject, answers: dict[str, Callable[[], bool]], clock: ManualClock, seconds: int
) -> Listener:
    listener = Listener(clock)
    prober = Prober(Target(container, "10.0.0.2"), None, Actions(answers), listener, clock)  # type: ignore[arg-type]
    task = asyncio.create_task(prober.run(since=clock.now()))
    for _ in range(10):  # let the probes take their first turn before time moves
        await asyncio.sleep(0)
    for _ in range(seconds):
        await clock.advance(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return listener


async def test_without_probes_a_container_is_started_and_ready_at_once() -> None:
    clock = ManualClock(0)
    assert (await probe({}, {}, clock, 1)).log == [(0, "started"), (0, "ready")]


async def test_the_startup_probe_holds_the_others_back() -> None:
    clock = ManualClock(0)
    container: JsonObject = {
        "startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 2},
        "readinessProbe": {"exec": {"command": ["ok"]}, "periodSeconds": 1},
    }
    listener = await probe(container, {"up": lambda: clock.now() >= 3, "ok": lambda: True}, clock, 5)
    assert listener.log[:4] == [(0, "failed Startup"), (2, "failed Startup"), (4, "started"), (4, "ready")]


async def test_thresholds_and_initial_delay() -> None:
    clock = ManualClock(0)
    container: JsonObject = {
        "readinessProbe": {
            "exec": {"command": ["r"]},
            "periodSeconds": 1,
            "successThreshold": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "exec": {"command": ["l"]},
            "initialDelaySeconds": 3,
            "periodSeconds": 1,
            "failureThreshold": 3,
        },
    }
    listener = await probe(container, {"r": lambda: clock.now() < 4, "l": lambda: False}, clock, 7)
    assert (1, "ready") in listener.log, "two successes in a row"
    assert (5, "unready") in listener.log, "two failures in a row"
    assert (0, "ready") not in listener.log
    assert [entry for entry in listener.log if "Liveness" in entry[1]] == [
        (3, "failed Liveness"),
        (4, "failed Liveness"),
        (5, "failed Liveness"),
        (5, "restart Liveness"),
        (6, "failed Liveness"),
        (7, "failed Liveness"),
    ]


def test_ports_by_number_text_and_name() -> None:
    container: JsonObject = {"ports": [{"name": "http", "containerPort": 8080}]}
    assert [port_number(p, container) for p in (80, "81", "http", "other", None)] == [80, 81, 8080, None, None]


async def test_grpc_health_reads_the_status_from_the_message() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"Health/Check")
        settings = b"\0\0\0\x04\0\0\0\0\0"
        headers = b"\0\0\x01\x01\x04\0\0\0\x01\x88"
        message = b"\0\0\0\0\x02\x08\x01"
        data = len(message).to_bytes(3, "big") + b"\0\0\0\0\0\x01" + message
        trailers = b"\0\0\x01\x01\x05\0\0\0\x01\x88"
        writer.write(settings + headers + data + trailers)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await grpc_health.check("127.0.0.1", port, "svc", agent="test") == "SERVING"
