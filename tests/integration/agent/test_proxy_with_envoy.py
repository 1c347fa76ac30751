"""`pilot-agent proxy` with the real Envoy, against an istiod made of the certificate service and a tiny ADS."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from meltem.agent.metrics import resident_bytes
from meltem.ca.authority import Authority, self_signed_material
from meltem.ca.identity import TokenAuthenticator
from meltem.ca.service import CertificateService
from meltem.ca.serving import ServingCertificate, serving_names
from meltem.clock import SystemClock
from meltem.objects import JsonObject

pytestmark = pytest.mark.envoy

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class AnyToken:
    async def review_token(self, token: str, audiences: Sequence[str]) -> JsonObject:
        user: JsonObject = {"username": "system:serviceaccount:default:reviews"}
        return {"authenticated": token == "good", "audiences": list(audiences), "user": user}


class Istiod:
    """Answers every subscription with nothing; remembers who came, and with what."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.authority = Authority(self_signed_material(clock, organization="cluster.local"), clock)
        self.pair = ServingCertificate(self.authority, clock, serving_names()).current()
        self.certificates = CertificateService(self.authority, TokenAuthenticator(AnyToken(), clock), clock)
        self.nodes: list[Any] = []
        self.tokens: list[str] = []
        self.server = grpc.aio.server()
        self.port = 0

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        self.tokens += [v for k, v in context.invocation_metadata() if k == "authorization"]
        async for request in requests:
            if request.node.id:
                self.nodes.append(request.node)
            if not request.response_nonce:
                yield discovery_pb2.DeltaDiscoveryResponse(type_url=request.type_url, nonce=request.type_url)

    async def start(self) -> None:
        ads = grpc.stream_stream_rpc_method_handler(
            self.stream,
            discovery_pb2.DeltaDiscoveryRequest.FromString,
            discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        name = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        handler = grpc.method_handlers_generic_handler(name, {"DeltaAggregatedResources": ads})
        self.server.add_generic_rpc_handlers((self.certificates.handler(), handler))
        credentials = grpc.ssl_server_credentials([(self.pair.key_pem, self.pair.chain_pem)])
        self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        await self.server.start()


@asynccontextmanager
async def istiod() -> AsyncIterator[Istiod]:
    fake = Istiod()
    await fake.start()
    try:
        yield fake
    finally:
        await fake.server.stop(None)


def get(url: str, method: str = "GET") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


async def until(url: str, status: int, seconds: float = 20.0) -> str:
    deadline = asyncio.get_running_loop().time() + seconds
    answer = (0, "")
    while asyncio.get_running_loop().time() < deadline:
        answer = await asyncio.to_thread(get, url)
        if answer[0] == status:
            return answer[1]
        await asyncio.sleep(0.05)
    raise AssertionError(f"{url} answered {answer} and not {status} within {seconds} s")


class Agent:
    def __init__(self, process: asyncio.subprocess.Process, ports: list[int]) -> None:
        self.process = process
        self.admin, self.status, self.health, self.metrics = ports

    def url(self, port: int, path: str) -> str:
        return f"http://127.0.0.1:{port}{path}"


@asynccontextmanager
async def agent(tmp_path: Path, fake: Istiod, **environment: str) -> AsyncIterator[Agent]:
    ports = free_ports(4)
    directory = tmp_path / "proxy"
    (tmp_path / "root.pem").write_bytes(fake.authority.roots_pem)
    token = tmp_path / "token"
    token.write_text("good")
    config = {
        "configPath": str(directory),
        "discoveryAddress": f"127.0.0.1:{fake.port}",
        "proxyAdminPort": ports[0],
        "statusPort": ports[1],
        "terminationDrainDuration": "0.2s",
        "concurrency": 1,
    }
    code = (
        "import sys, meltem.agent.environment as e\n"
        f"e.AgentSettings.token_path = property(lambda self: e.Path({str(token)!r}))\n"
        "from meltem.agent.main import main\nsys.exit(main(['proxy', 'sidecar']))\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "POD_NAME": "reviews-1",
        "POD_NAMESPACE": "default",
        "SERVICE_ACCOUNT": "reviews",
        "INSTANCE_IP": "127.0.0.1",
        "PROXY_CONFIG": json.dumps(config),
        "CA_ROOT_CA": str(tmp_path / "root.pem"),
        "XDS_ROOT_CA": str(tmp_path / "root.pem"),
        "ISTIOD_SAN": "istiod.istio-system.svc",
        "ENVOY_STATUS_PORT": str(ports[2]),
        "ENVOY_PROMETHEUS_PORT": str(ports[3]),
        **environment,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=env)
    try:
        yield Agent(process, ports)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def test_envoy_gets_its_configuration_from_istiod_with_the_token(tmp_path: Path) -> None:
    async with istiod() as fake, agent(tmp_path, fake) as proxy:
        await until(proxy.url(proxy.health, "/healthz/ready"), 200)
        assert fake.tokens == ["Bearer good"]
        assert fake.nodes[0].id == "sidecar~127.0.0.1~reviews-1.default~default.svc.cluster.local"
        assert fake.nodes[0].metadata["SERVICE_ACCOUNT"] == "reviews"
        merged = await until(proxy.url(proxy.status, "/stats/prometheus"), 200)
        assert "istio_agent_cert_expiry_seconds" in merged
        assert "envoy_server_live" in merged
        statm = Path(f"/proc/{proxy.process.pid}/statm").read_text().split()
        assert int(statm[1]) * 4096 < 25 * 1024 * 1024, f"{int(statm[1]) * 4 / 1024:.1f} MiB resident"
        assert resident_bytes() > 0
        proxy.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(proxy.process.wait(), 10) == 0


async def test_without_istiod_the_agent_waits_and_says_so(tmp_path: Path) -> None:
    async with istiod() as fake:
        await fake.server.stop(None)
        async with agent(tmp_path, fake) as proxy:
            assert "certificate" in await until(proxy.url(proxy.status, "/healthz/ready"), 503)
            proxy.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(proxy.process.wait(), 10) == 0


async def test_envoys_end_ends_the_agent(tmp_path: Path) -> None:
    async with istiod() as fake, agent(tmp_path, fake) as proxy:
        await until(proxy.url(proxy.health, "/healthz/ready"), 200)
        assert await until(proxy.url(proxy.status, "/quitquitquit"), 405)  # a GET must not end a pod
        await asyncio.to_thread(get, proxy.url(proxy.admin, "/quitquitquit"), "POST")
        assert await asyncio.wait_for(proxy.process.wait(), 10) == 0
