"""Port 15020: readiness, merged metrics, the application's probes; over real sockets on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from meltem.agent import http1, metrics, probes
from meltem.agent.admin import Admin, parse_stats, readiness
from meltem.agent.environment import Flags, read_settings
from meltem.agent.http1 import HttpError, Request, Response, fetch
from meltem.agent.log import Log, level_of
from meltem.agent.metrics import AgentMetrics, Merger, Target
from meltem.agent.probes import Probe, read_probes
from meltem.agent.renewal import CertificateKeeper, Life
from meltem.agent.status_server import StatusServer
from meltem.clock import ManualClock
from meltem.errors import EnvironmentError_, UserError
from meltem.objects import JsonObject

QUIET = Log("none")
READY = (
    "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 2\n"
    "listener_manager.workers_started: 1\nserver.state: 0\n"
)


@asynccontextmanager
async def serving(handle: Callable[[Request], Response]) -> AsyncIterator[int]:
    async def answer(request: Request) -> Response:
        return handle(request)

    server = await http1.serve("127.0.0.1", 0, answer)
    async with server:
        yield server.sockets[0].getsockname()[1]


def status_server(admin_port: int, **given: object) -> StatusServer:
    merger = Merger(AgentMetrics(started=0), (), "127.0.0.1", 1, False, QUIET)

    async def drain() -> None: ...

    server = StatusServer(
        Admin("127.0.0.1", admin_port), merger, {}, "127.0.0.1", False, lambda: None, drain, ManualClock(), QUIET
    )
    for name, value in given.items():
        setattr(server, name, value)
    return server


def request(path: str, method: str = "GET", peer: str = "127.0.0.1") -> Request:
    return Request(method, path, "", {}, peer)


async def test_ready_when_envoy_has_its_configuration_and_runs() -> None:
    async with serving(lambda _: Response(200, READY.encode())) as port:
        assert (await status_server(port, starting="").handle(request("/healthz/ready"))).status == 200
        waiting = await status_server(port).handle(request("/healthz/ready"))
        assert waiting.status == 503


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        ("", "not received"),
        (READY.replace("cds.update_success: 1", "cds.update_rejected: 1"), "rejected"),
        (READY.replace("state: 0", "state: 1"), "LIVE"),
        (READY.replace("workers_started: 1", "workers_started: 0"), "workers"),
    ],
)
def test_not_ready_says_why(stats: str, said: str) -> None:
    assert said in readiness(parse_stats(stats))
    assert readiness(parse_stats(READY)) == ""


async def test_only_the_pod_itself_may_end_the_proxy_and_only_by_post() -> None:
    ended: list[bool] = []
    server = status_server(1, quit=lambda: ended.append(True))
    assert (await server.handle(request("/quitquitquit", "POST", "10.0.0.9"))).status == 403
    assert (await server.handle(request("/quitquitquit"))).status == 405
    assert not ended
    assert (await server.handle(request("/quitquitquit", "POST"))).status == 200
    assert ended
    assert (await server.handle(request("/nothing"))).status == 404


async def test_metrics_of_agent_envoy_and_application_on_one_page() -> None:
    def answer(asked: Request) -> Response:
        if asked.path == "/stats/prometheus":
            page = (
                b'# TYPE envoy_istio_requests_total counter\nenvoy_istio_requests_total{a="envoy_istio_"} 1\nenvoy_x 2'
            )
            return Response(200, page)
        return Response(200, b"app_total 3\n# EOF\n")

    async with serving(answer) as port:
        merger = Merger(AgentMetrics(started=0), (Target(port), Target(port, "/m2")), "127.0.0.1", port, True, QUIET)
        page = (await merger.page("", {}, 100.0)).body.decode()
    assert '\nistio_requests_total{a="envoy_istio_"} 1\n' in page
    assert "# TYPE istio_requests_total counter" in page
    assert "\nenvoy_x 2\n" in page
    assert page.count("app_total 3") == 2
    assert "# EOF" not in page
    assert "istio_agent_scrapes_total 1" in page


async def test_an_application_without_metrics_does_not_hide_the_proxys() -> None:
    async with serving(lambda r: Response(200 if r.path == "/stats/prometheus" else 500, b"envoy_x 1\n")) as port:
        own = AgentMetrics(started=0)
        page = await Merger(own, (Target(port),), "127.0.0.1", port, True, QUIET).page("", {}, 0.0)
    assert page.status == 200
    assert b"envoy_x 1" in page.body
    assert own.scrape_failures["application"] == 1


def test_scrape_targets_that_are_the_proxys_own_ports_are_refused() -> None:
    for port in ("15020", "15090", "0", "x"):
        with pytest.raises(UserError):
            metrics.read_targets({"ISTIO_PROMETHEUS_ANNOTATIONS": json.dumps({"port": port})}, 15020)
    assert metrics.read_targets({"ISTIO_PROMETHEUS_ANNOTATIONS": '{"scrape":"false","port":"1"}'}, 15020) == ()
    assert metrics.read_targets({}, 15020) == ()


async def test_probes_ask_the_application() -> None:
    seen: list[Request] = []

    def answer(asked: Request) -> Response:
        seen.append(asked)
        if asked.path == "/moved":
            return Response(302, b"", {"location": "/ok"})
        if asked.path == "/away":
            return Response(302, b"", {"location": "http://elsewhere.example/"})
        return Response(418 if asked.path == "/teapot" else 200, b"fine")

    async with serving(answer) as port:
        headers = (("X-Probe", "1"),)
        assert (await probes.run(Probe("http", port, "/ok", headers=headers), "127.0.0.1", {})).body == b"fine"
        assert seen[-1].headers["x-probe"] == "1"
        assert seen[-1].peer == "127.0.0.6", "the capture rules let this source pass"
        assert (await probes.run(Probe("http", port, "/teapot"), "127.0.0.1", {})).status == 418
        assert (await probes.run(Probe("http", port, "/moved"), "127.0.0.1", {})).status == 200
        assert (await probes.run(Probe("http", port, "/away"), "127.0.0.1", {})).status == 200
        assert (await probes.run(Probe("tcp", port), "127.0.0.1", {})).status == 200
    assert (await probes.run(Probe("tcp", port), "127.0.0.1", {})).status == 500
    assert (await probes.run(Probe("http", port), "127.0.0.1", {})).status == 500


async def test_grpc_probes_ask_the_health_service_from_the_address_that_the_rules_let_pass() -> None:
    answers = {"": b"\x08\x01", "idle": b"\x08\x02", "odd": b""}
    seen: list[tuple[bytes, str]] = []

    async def check(asked: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        seen.append((asked, context.peer()))
        service = asked[2:].decode()
        if service not in answers:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return answers[service]

    async def run(service: str) -> Response:
        return await probes.run(Probe("grpc", port, service=service, timeout=10.0), "127.0.0.1", {})

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert (await run("")).status == 200
        assert seen[-1][0] == b"" and seen[-1][1].startswith("ipv4:127.0.0.6:")
        for service, said in (("idle", b"NOT_SERVING"), ("odd", b"UNKNOWN"), ("x" * 300, b"no such service")):
            answer = await run(service)
            assert answer.status == 500 and said in answer.body, (service, answer)
    finally:
        await server.stop(None)
    assert (await run("")).status == 500


async def test_a_grpc_probe_of_what_is_no_grpc_says_so() -> None:
    async with serving(lambda _: Response(200, b"fine")) as port:
        answer = await probes.run(Probe("grpc", port, timeout=10.0), "127.0.0.1", {})
    assert answer.status == 500 and b"HTTP/2" in answer.body


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"/x": {}}',
        '{"/app-health/a/livez": {}}',
        '{"/app-health/a/livez": {"tcpSocket": {"port": "http"}}}',
    ],
)
def test_probes_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UserError, match="ISTIO_KUBE_APP_PROBERS"):
        read_probes({"ISTIO_KUBE_APP_PROBERS": text})


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 999999999\r\n\r\n",
    ],
)
async def test_bad_requests_get_an_error_and_the_connection_ends(sent: bytes) -> None:
    async with serving(lambda _: Response(200)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.split(b" ")[1].startswith(b"4")
        assert (await fetch("127.0.0.1", port, "/")).status == 200, "others are still served"


async def test_a_server_that_talks_nonsense_is_an_error() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        with pytest.raises(HttpError):
            await fetch("127.0.0.1", server.sockets[0].getsockname()[1], "/")


async def test_certificates_are_renewed_in_time_and_kept_while_istiod_is_away() -> None:
    clock = ManualClock()
    asked: list[float] = []
    failing = False

    async def obtain(order: JsonObject) -> Life:
        asked.append(clock.now())
        if failing:
            raise EnvironmentError_("away")
        return Life(clock.now(), clock.now() + 1000)

    settings = read_settings({"INSTANCE_IP": "10.0.0.1", "POD_NAMESPACE": "a"}, Flags())
    own = AgentMetrics(started=0)
    keeper = CertificateKeeper(settings, own, clock, QUIET, obtain=obtain, jitter=lambda: 0.5)
    await keeper.first()
    assert keeper.seconds_until_renewal() == 500
    task = asyncio.create_task(keeper.keep())
    failing = True
    await clock.advance(600)
    assert len(asked) > 3, "it tries again and again"
    assert own.certificate_not_after == asked[0] + 1000, "the present certificate stays"
    failing = False
    await clock.advance(60)
    assert own.certificate_not_after > asked[0] + 1000
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_short_life_counts_from_its_first_moment_here_though_it_is_dated_back() -> None:
    """The authority dates certificates back by two minutes, for clocks that are behind."""
    clock = ManualClock()

    async def obtain(order: JsonObject) -> Life:
        return Life(clock.now() - 120, clock.now() + 30)

    settings = read_settings({"INSTANCE_IP": "10.0.0.1", "POD_NAMESPACE": "a"}, Flags())
    keeper = CertificateKeeper(settings, AgentMetrics(started=0), clock, QUIET, obtain=obtain, jitter=lambda: 0.5)
    await keeper.first()
    assert keeper.seconds_until_renewal() == 15


def test_log_levels() -> None:
    assert [level_of(t) for t in ("debug", "default:warning", "ca:debug", "default:info,x:error", "nonsense")] == [
        "debug",
        "warn",
        "info",
        "info",
        "info",
    ]
