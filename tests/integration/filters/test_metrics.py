"""Istio's standard metrics, counted by two stock Envoys with the generated configuration, on loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files
from envoys import Backend, Rig, Running

from meltem.agent import metrics as agent_metrics
from meltem.generate.filters import labels
from meltem.objects import JsonObject

Become = Callable[[str, str], None]
pytestmark = pytest.mark.envoy

MESH = """
apiVersion: v1
kind: Service
metadata: {name: httpbin, namespace: bar}
spec:
  clusterIP: 10.96.0.7
  selector: {app: httpbin}
  ports: [{name: http, port: 8000, targetPort: 8080}, {name: tcp, port: 9000, targetPort: 9090}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: httpbin-1, namespace: bar, labels: {kubernetes.io/service-name: httpbin}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: tcp, port: 9090, protocol: TCP}]
endpoints: [{addresses: [10.0.0.7], targetRef: {kind: Pod, name: httpbin-1, namespace: bar}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: httpbin-1
  namespace: bar
  labels: {app: httpbin, version: v1, service.istio.io/canonical-name: httpbin}
spec: {serviceAccountName: httpbin, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.7, podIPs: [{ip: 10.0.0.7}]}
"""


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Sets what the agent sets in Envoy's environment."""

    def become(workload: str, namespace: str) -> None:
        own = (workload, namespace, workload, "v1", "Kubernetes", workload, "v1")
        for field, value in zip(labels.PEER_FIELDS, own, strict=True):
            monkeypatch.setenv(labels.OWN[field], value)
        monkeypatch.setenv(labels.OWN_PEER, ";".join(own))
        monkeypatch.setenv(labels.UNKNOWN_VARIABLE, "unknown")

    return become


async def metrics(rig: Rig, envoy: Running, name: str) -> list[dict[str, str]]:
    """Label sets of a metric, with its value under `value`, named as the agent names it."""
    async with rig.session.get(f"http://127.0.0.1:{envoy.admin}/stats/prometheus") as answer:
        page = agent_metrics.mesh_names(await answer.read()).decode()
    found: list[dict[str, str]] = []
    for line in page.splitlines():
        if line.startswith(name + "{"):
            inside, _, value = line.removeprefix(name + "{").rpartition("} ")
            pairs = (p.partition("=") for p in inside.split('",'))
            found.append({k: v.strip('"') for k, _, v in pairs} | {"value": value})
    return found


def flush_often(bootstrap: JsonObject) -> None:
    bootstrap["stats_flush_interval"] = "0.05s"


async def merged(rig: Rig, envoy: Running, name: str) -> list[dict[str, str]]:
    """Of a histogram, once Envoy has merged what its workers counted (every flush)."""
    async with asyncio.timeout(10):
        while True:
            found = await metrics(rig, envoy, name)
            if found and found[0]["value"] != "0":
                return found
            await asyncio.sleep(0.05)


async def pair(rig: Rig, identity: Become) -> tuple[Running, Running, Backend]:
    app = await rig.backend("10.0.0.7", 8080)
    server = mesh_files.sidecar(
        "httpbin-1", "bar", "10.0.0.7", {"app": "httpbin", "version": "v1"}, interception="NONE"
    )
    client = mesh_files.sidecar("sleep-1", "foo", "10.0.0.8", {"app": "sleep"})
    engine = rig.engine(MESH)
    identity("httpbin", "bar")
    rig.stands_for("127.0.0.1", 8080, app.port)
    inbound = await rig.envoy(engine, server, change=flush_often)
    rig.stands_for("10.0.0.7", 8080, inbound.ports[8080])
    identity("sleep", "foo")
    outbound = await rig.envoy(engine, client)
    return outbound, inbound, app


async def test_requests_are_counted_on_both_sides_with_all_labels(tmp_path: Path, identity: Become) -> None:
    async with Rig(tmp_path) as rig:
        outbound, inbound, _ = await pair(rig, identity)
        for _ in range(3):
            answer = await rig.get(outbound, 8000, "httpbin.bar:8000", "/status")
            assert answer.status == 200
        (client,) = await metrics(rig, outbound, "istio_requests_total")
        (server,) = await metrics(rig, inbound, "istio_requests_total")
        common = {
            "source_workload": "sleep",
            "source_workload_namespace": "foo",
            "source_app": "sleep",
            "source_version": "v1",
            "source_cluster": "Kubernetes",
            "source_canonical_service": "sleep",
            "source_canonical_revision": "v1",
            "source_principal": "unknown",
            "destination_workload_namespace": "bar",
            "destination_principal": "unknown",
            "destination_app": "httpbin",
            "destination_version": "v1",
            "destination_service": "httpbin.bar.svc.cluster.local",
            "destination_service_name": "httpbin",
            "destination_service_namespace": "bar",
            "destination_cluster": "Kubernetes",
            "destination_canonical_service": "httpbin",
            "destination_canonical_revision": "v1",
            "request_protocol": "http",
            "response_code": "200",
            "grpc_response_status": "",
            "response_flags": "-",
            "value": "3",
        }
        client.pop("destination_workload")
        server.pop("destination_workload")
        assert client == common | {"reporter": "source", "connection_security_policy": "unknown"}
        assert server == common | {"reporter": "destination", "connection_security_policy": "none"}
        assert len(client) == len(labels.LABELS), "25 labels, one taken out above, and the value"
        for name in ("request_duration_milliseconds", "request_bytes", "response_bytes"):
            (one,) = await merged(rig, inbound, f"istio_{name}_count")
            assert one["value"] == "3"


async def test_the_application_does_not_see_who_its_caller_is_by_our_header(tmp_path: Path, identity: Become) -> None:
    async with Rig(tmp_path) as rig:
        outbound, _, app = await pair(rig, identity)
        spoofed = {labels.PEER_HEADER: "x;y;z;a;b;c;d", "baggage": "user=1"}
        await rig.get(outbound, 8000, "httpbin.bar:8000", headers=spoofed)
        seen = app.seen[-1].headers
        assert labels.PEER_HEADER not in seen
        assert seen["baggage"] == "user=1"


async def test_connections_and_their_bytes_are_counted_when_they_end(tmp_path: Path, identity: Become) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"seen " + await reader.read(5))
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening, Rig(tmp_path) as rig:
        rig.stands_for("10.0.0.7", 9090, listening.sockets[0].getsockname()[1])
        identity("sleep", "foo")
        client = mesh_files.sidecar("sleep-1", "foo", "10.0.0.8", {"app": "sleep"})
        outbound = await rig.envoy(rig.engine(MESH), client)
        reader, writer = await asyncio.open_connection("127.0.0.1", outbound.ports[9000])
        writer.write(b"hello")
        assert await reader.read() == b"seen hello"
        writer.close()
        await writer.wait_closed()
        values: dict[str, str] = {}
        async with asyncio.timeout(10):
            while len(values) < 4:
                for name in ("connections_opened", "connections_closed", "sent_bytes", "received_bytes"):
                    for one in await metrics(rig, outbound, f"istio_tcp_{name}_total"):
                        values[name] = one["value"]
                        assert one["source_workload"] == "sleep"
                        assert one["destination_service_name"] == "httpbin"
                        assert one["destination_app"] == "httpbin"
                        assert one["request_protocol"] == "tcp"
                await asyncio.sleep(0.05)
        assert values == {
            "connections_opened": "1",
            "connections_closed": "1",
            "sent_bytes": "10",
            "received_bytes": "5",
        }
