"""Every protocol passes between pods of the mesh; what the mesh does not know passes or is refused."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from mesh_rig import Mesh, eventually, namespace

pytestmark = pytest.mark.both_homes

GRPC = """
import sys, grpc
from google.protobuf.wrappers_pb2 import StringValue as Text
with grpc.insecure_channel(sys.argv[1]) as channel:
    say = channel.unary_unary("/meltem.samples.Echo/Say", Text.SerializeToString, Text.FromString)
    chat = channel.stream_stream("/meltem.samples.Echo/Chat", Text.SerializeToString, Text.FromString)
    print(say(Text(value="one"), timeout=10).value)
    for answer in chat(iter([Text(value="two"), Text(value="three")]), timeout=10):
        print(answer.value)
"""
WEBSOCKET = """
import asyncio, sys, aiohttp
async def main():
    async with aiohttp.ClientSession() as session, session.ws_connect(sys.argv[1]) as socket:
        for text in ("one", "two"):
            await socket.send_str(text)
            print((await socket.receive(timeout=10)).data)
asyncio.run(main())
"""
TCP = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    if sys.argv[3]:
        connection.sendall(sys.argv[3].encode() + b"\\n")
    print(connection.makefile().readline())
"""


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    """A namespace of the mesh with one of each sample."""
    with namespace(mesh, "protocols", "istio-injection=enabled") as name:
        samples = ("curl/curl", "httpbin/httpbin", "grpc-echo/grpc-echo", "websockets/app", "tcp-echo/tcp-echo")
        mesh.apply(*(f"{s}.yaml" for s in (*samples, "server-first/server-first")), namespace=name)
        mesh.rolled_out("curl", "httpbin", "echo-v1", "echo-v2", "tornado", "tcp-echo", "server-first", namespace=name)
        yield name


@pytest.fixture
def curl(mesh: Mesh, ns: str) -> Callable[..., str]:
    return partial(mesh.execute, "deploy/curl", "curl", "-sS", "-m", "20", namespace=ns, container="curl")


@pytest.fixture
def python(mesh: Mesh, ns: str) -> Callable[..., str]:
    return partial(mesh.python, "deploy/curl", namespace=ns, container="curl")


def test_http_1_1_goes_with_the_caller_s_identity(curl: Callable[..., str]) -> None:
    def told() -> None:
        assert "By=spiffe://cluster.local/ns/protocols/sa/httpbin" in curl("http://httpbin:8000/headers")

    eventually(told)


def test_http_2_without_tls(curl: Callable[..., str]) -> None:
    out = curl("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
               "http://httpbin:8000/status/200")  # fmt: skip
    assert out == "2 200"


def test_grpc_calls_and_streams(python: Callable[..., str]) -> None:
    out = python(GRPC, "echo:7070").splitlines()
    assert [line.rsplit(": ", 1)[1] for line in out] == ["one", "two", "three"]


def test_websocket(python: Callable[..., str]) -> None:
    out = python(WEBSOCKET, "http://tornado:8888/ws")
    assert "one" in out
    assert "two" in out


def test_tcp(python: Callable[..., str]) -> None:
    assert python(TCP, "tcp-echo", "9000", "ahoy").strip().endswith("ahoy")


def test_tcp_where_the_server_speaks_first(python: Callable[..., str]) -> None:
    assert python(TCP, "server-first", "25", "").strip()


def test_a_pod_without_a_sidecar_is_served_too(mesh: Mesh, ns: str, new_namespace: Callable[..., str]) -> None:
    """Permissive inbound: plain text from outside the mesh is accepted."""
    plain = new_namespace()
    mesh.apply("curl/curl.yaml", namespace=plain)
    mesh.rolled_out("curl", namespace=plain)
    command = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://httpbin.{ns}:8000/status/200")
    assert mesh.execute("deploy/curl", *command, namespace=plain) == "200"


@pytest.fixture(scope="module")
def outside(mesh: Mesh) -> Iterator[str]:
    """A server on the machine itself, of which the mesh knows nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"outside")

        def log_message(self, format: str, *args: object) -> None: ...

    address = mesh.host_address
    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{address}:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_the_mesh_does_not_know_passes_or_is_refused(
    mesh: Mesh, ns: str, outside: str, curl: Callable[..., str]
) -> None:
    assert curl(outside) == "outside"
    sidecar = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
"""
    try:
        mesh.create(sidecar, ns)

        def refused() -> None:
            command = [
                "kubectl",
                "exec",
                "-n",
                ns,
                "deploy/curl",
                "-c",
                "curl",
                "--",
                "curl",
                "-sS",
                "-m",
                "5",
                outside,
            ]
            assert "outside" not in mesh.run(command).stdout

        eventually(refused)
        assert "200" in curl("-o", "/dev/null", "-w", "%{http_code}", "http://httpbin:8000/status/200")
    finally:
        mesh.kubectl("delete", "sidecar", "default", "-n", ns)
    eventually(lambda: _equal(curl(outside), "outside"))


def _equal(found: str, wanted: str) -> None:
    assert found == wanted
