"""DestinationRules and ServiceEntries, seen to happen: hashing, ejection, limits, TCP, tunnels, wildcard hosts, DNS."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path
from typing import cast

import mesh_files
import msgspec
import pytest
from aiohttp import web
from envoys import Rig, until
from mesh_yaml import istio, service

from meltem.objects import Json, JsonObject
from meltem.view.proxy import Locality

pytestmark = pytest.mark.envoy

CLIENT = mesh_files.sidecar("client-1", "default", "10.0.0.9", {"app": "client"}, interception="NONE")
THREE = service("reviews", {"http": 80}, [(f"10.8.0.{i}", "v1") for i in (1, 2, 3)])


def rule(spec: str) -> str:
    return istio("DestinationRule", "reviews", "host: reviews\ntrafficPolicy:\n" + spec)


@pytest.mark.parametrize("kind", ["ringHash: {minimumRingSize: 1024}", "maglev: {}"])
async def test_consistent_hash_keeps_a_key_on_one_endpoint(tmp_path: Path, kind: str) -> None:
    async with Rig(tmp_path) as rig:
        backends = [await rig.backend(f"10.8.0.{i}", 8080) for i in (1, 2, 3)]
        spec = f"  loadBalancer: {{consistentHash: {{httpHeaderName: x-user, {kind}}}}}"
        envoy = await rig.envoy(rig.engine(THREE + "---" + rule(spec)), CLIENT)
        users: dict[str, set[str]] = {}
        for _ in range(3):
            for user in (f"u{i}" for i in range(30)):
                answer = await rig.get(envoy, 80, "reviews", headers={"x-user": user})
                users.setdefault(user, set()).add(answer.body)
        assert all(len(found) == 1 for found in users.values())
        assert all(b.seen for b in backends)


async def test_zone_aware_balancing_stays_in_the_zone_while_callers_are_spread_over_the_zones(tmp_path: Path) -> None:
    """Envoy compares where the callers are (`local_cluster`, as istiod tells it) with where the endpoints are."""
    nodes = [f"kind: Node\napiVersion: v1\nmetadata: {{name: n-{z}, labels: {{topology.kubernetes.io/zone: {z}}}}}\n"
             for z in ("a", "b")]  # fmt: skip
    callers = service("client", {"http": 80}, [("10.0.0.9", "v1"), ("10.0.0.8", "v1")], ip="10.9.0.2")
    callers = callers.replace("nodeName: node-1", "nodeName: n-a", 1).replace("nodeName: node-1", "nodeName: n-b")
    owner = "[{apiVersion: apps/v1, kind: ReplicaSet, name: client-5f, uid: u, controller: true}]"
    callers = callers.replace(
        "labels: {app: client", f"ownerReferences: {owner}, labels: {{pod-template-hash: 5f, app: client"
    )
    servers = istio(
        "ServiceEntry",
        "zoned",
        "hosts: [zoned.test]\nports: [{number: 80, name: http, protocol: HTTP}]\nresolution: STATIC\nendpoints:\n"
        "- {address: 10.8.0.1, locality: /a}\n- {address: 10.8.0.2, locality: /b}",
    )
    policy = "host: zoned.test\ntrafficPolicy: {loadBalancer: {zoneAwareLbSetting: {minClusterSize: 1}}}"
    mesh = "---\n".join((*nodes, callers, servers, istio("DestinationRule", "zoned", policy)))
    client = mesh_files.sidecar(
        "client-v1-9", "default", "10.0.0.9", {"app": "client"}, interception="NONE",
        metadata=(("ENABLE_SELF_DISCOVERY", "true"),),
    )  # fmt: skip

    async with Rig(tmp_path) as rig:
        near, far = await rig.backend("10.8.0.1", 80), await rig.backend("10.8.0.2", 80)
        engine = rig.engine(mesh)
        told = mesh_files.readable("endpoints", mesh_files.generated(engine, client)["endpoints"]["local_cluster"])

        def as_the_agent_has_it(document: JsonObject) -> None:
            cast(JsonObject, document["node"])["locality"] = {"zone": "a"}
            document["cluster_manager"] = {"local_cluster_name": "local_cluster"}
            own: JsonObject = {"name": "local_cluster", "type": "STATIC", "load_assignment": cast(Json, told)}
            own["common_lb_config"] = {"zone_aware_lb_config": {"min_cluster_size": 1}}
            cast("list[Json]", cast(JsonObject, document["static_resources"])["clusters"]).append(own)

        spread = await rig.envoy(engine, client)
        aware = await rig.envoy(engine, client, change=as_the_agent_has_it)
        for envoy, everywhere in ((spread, True), (aware, False)):
            before = len(far.seen)
            for _ in range(20):
                assert (await rig.get(envoy, 80, "zoned.test")).status == 200
            assert (len(far.seen) > before) is everywhere
        assert len(near.seen) >= 20


async def test_an_endpoint_that_fails_is_ejected_and_stays_silent(tmp_path: Path) -> None:
    async def failing(_request: web.Request) -> web.Response:
        return web.Response(status=500)

    async with Rig(tmp_path) as rig:
        bad = await rig.backend("10.8.0.1", 8080, failing)
        good = [await rig.backend(f"10.8.0.{i}", 8080) for i in (2, 3)]
        ejection = "{consecutive5xxErrors: 2, interval: 0.1s, baseEjectionTime: 60s, maxEjectionPercent: 100}"
        spec = f"  outlierDetection: {ejection}"
        envoy = await rig.envoy(rig.engine(THREE + "---" + rule(spec)), CLIENT)
        statuses = Counter([(await rig.get(envoy, 80, "reviews")).status for _ in range(60)])
        assert len(bad.seen) == 2
        assert statuses == {500: 2, 200: 58}
        assert all(b.seen for b in good)


async def test_the_rule_says_which_answers_eject(tmp_path: Path) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=429)

    async with Rig(tmp_path) as rig:
        bad = await rig.backend("10.8.0.1", 8080, busy)
        for i in (2, 3):
            await rig.backend(f"10.8.0.{i}", 8080)
        ejection = "{consecutive5xxErrors: 2, interval: 0.1s, baseEjectionTime: 60s, maxEjectionPercent: 100"
        spec = f"  outlierDetection: {ejection}, outlierDetectionHttpErrorCodes: [429]}}"
        envoy = await rig.envoy(rig.engine(THREE + "---" + rule(spec)), CLIENT)
        statuses = Counter([(await rig.get(envoy, 80, "reviews")).status for _ in range(40)])
        assert len(bad.seen) == 2
        assert statuses == {429: 2, 200: 38}


async def test_a_full_pool_refuses_at_once(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def held(_request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    async with Rig(tmp_path) as rig:
        backends = [await rig.backend(f"10.8.0.{i}", 8080, held) for i in (1, 2, 3)]
        spec = "  connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1}}"
        envoy = await rig.envoy(rig.engine(THREE + "---" + rule(spec)), CLIENT)
        first = asyncio.create_task(rig.get(envoy, 80, "reviews"))
        await until(lambda: any(b.seen for b in backends))
        refused = await rig.get(envoy, 80, "reviews")
        assert (refused.status, refused.headers["x-envoy-overloaded"]) == (503, "true")
        gate.set()
        assert (await first).status == 200


async def test_failover_to_the_next_locality_only_when_the_near_one_is_gone(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        dead: list[bool] = []

        async def dying(_request: web.Request) -> web.Response:
            return web.Response(status=503 if dead else 200)

        near = await rig.backend("10.8.0.1", 8080, dying)
        far = await rig.backend("10.8.0.2", 8080)
        entry = istio(
            "ServiceEntry",
            "two",
            """
hosts: [two.example.com]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
endpoints: [{address: 10.8.0.1, locality: r1/z1}, {address: 10.8.0.2, locality: r2/z2}]
""",
        )
        ejection = "{consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}"
        spec = f"host: two.example.com\ntrafficPolicy: {{outlierDetection: {ejection}}}"
        client = mesh_files.sidecar("c", "default", "10.0.0.9", {}, interception="NONE", locality=Locality("r1", "z1"))
        envoy = await rig.envoy(rig.engine(entry + "---" + istio("DestinationRule", "two", spec)), client)
        for _ in range(20):
            await rig.get(envoy, 80, "two.example.com")
        assert (len(near.seen), len(far.seen)) == (20, 0)
        dead.append(True)
        answers = [(await rig.get(envoy, 80, "two.example.com")).status for _ in range(20)]
        assert answers == [503] + [200] * 19
        assert len(far.seen) == 19


async def _echo(name: str) -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(name.encode() + b" " + line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def _say(port: int, text: str = "hello") -> str:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text.encode() + b"\n")
        answer = await reader.readline()
        writer.close()
    return answer.decode().strip()


async def test_tcp_weights(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        servers = [await _echo("one"), await _echo("two")]
        rig.stands_for("10.8.0.1", 9000, servers[0][1])
        rig.stands_for("10.8.0.2", 9000, servers[1][1])
        text = service("echo", {"tcp": 9000}, [("10.8.0.1", "v1"), ("10.8.0.2", "v2")], target=9000)
        subsets = "host: echo\nsubsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"
        split = """
hosts: [echo]
tcp:
- route:
  - {destination: {host: echo, subset: v1, port: {number: 9000}}, weight: 80}
  - {destination: {host: echo, subset: v2, port: {number: 9000}}, weight: 20}
"""
        parts = (text, istio("DestinationRule", "echo", subsets), istio("VirtualService", "echo", split))
        envoy = await rig.envoy(rig.engine("---".join(parts)), CLIENT)
        found = Counter([(await _say(envoy.ports[9000])).split()[0] for _ in range(150)])
        assert 10 <= found["two"] <= 55  # 30 expected, standard deviation 4.9
        for server, _ in servers:
            server.close()


async def test_tcp_goes_through_an_http_proxy_where_the_rule_has_a_tunnel(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        line = await reader.readline()
        writer.write(b"far " + line)
        writer.close()

    async with Rig(tmp_path) as rig:
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        rig.stands_for("10.8.0.1", 3128, server.sockets[0].getsockname()[1])
        parts = (
            service("forward", {"tcp": 3128}, [("10.8.0.1", "v1")], target=3128),
            istio(
                "ServiceEntry",
                "far",
                "hosts: [far.example.com]\nresolution: DNS\nports: [{number: 9000, name: tcp, protocol: TCP}]",
            ),
            istio(
                "DestinationRule",
                "forward",
                "host: forward\nsubsets: [{name: out, trafficPolicy: "
                "{tunnel: {protocol: CONNECT, targetHost: far.example.com, targetPort: 9000}}}]",
            ),
            istio(
                "VirtualService",
                "far",
                "hosts: [far.example.com]\n"
                "tcp: [{route: [{destination: {host: forward, subset: out, port: {number: 3128}}}]}]",
            ),
        )
        envoy = await rig.envoy(rig.engine("---".join(parts)), CLIENT)
        assert await _say(envoy.ports[9000]) == "far hello"
        assert asked[0].startswith(b"CONNECT far.example.com:9000 HTTP/1.1")
        server.close()


@pytest.mark.parametrize("addresses", [("fd00::9",), ("10.0.0.9", "fd00::9")])
async def test_ipv6_endpoints_are_reached_over_ipv6(tmp_path: Path, addresses: tuple[str, ...]) -> None:
    """By a client that has only IPv6, and by one that has both; all of it on ::1."""
    entry = istio(
        "ServiceEntry",
        "six",
        """
hosts: [six.example.com]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
endpoints: [{address: "fd00:8::1"}, {address: "fd00:8::2"}]
""",
    )
    client = msgspec.structs.replace(CLIENT, addresses=addresses)
    async with Rig(tmp_path, "::1") as rig:
        backends = [await rig.backend(f"fd00:8::{i}", 8080) for i in (1, 2)]
        envoy = await rig.envoy(rig.engine(entry), client)
        answers = {(await rig.get(envoy, 80, "six.example.com")).body for _ in range(20)}
        assert answers == {b.name for b in backends}


async def test_a_wildcard_host_is_resolved_when_it_is_called(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        backend = await rig.backend("10.8.0.1", 8080)
        spec = "hosts: ['*.localhost']\nresolution: DYNAMIC_DNS\nports: [{number: 80, name: http, protocol: HTTP}]"
        envoy = await rig.envoy(rig.engine(istio("ServiceEntry", "any", spec)), CLIENT)
        answer = await rig.get(envoy, 80, f"one.localhost:{backend.port}")
        assert (answer.status, answer.body) == (200, backend.name)
        assert backend.seen[0].headers["host"] == f"one.localhost:{backend.port}"


def _query(name: str) -> bytes:
    labels = b"".join(bytes((len(p),)) + p.encode() for p in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"


async def test_captured_dns_answers_names_of_the_mesh(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        client = mesh_files.sidecar("c", "default", "10.0.0.9", {}, interception="NONE", dns_capture=True)
        envoy = await rig.envoy(rig.engine(THREE), client)
        loop = asyncio.get_running_loop()
        for name in ("reviews.default.svc.cluster.local", "reviews", "reviews.default"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", envoy.ports[15054]))
                await loop.sock_sendall(sock, _query(name))
                answer = await asyncio.wait_for(loop.sock_recv(sock, 512), 5)
            assert answer[-4:] == bytes((10, 9, 0, 1))
