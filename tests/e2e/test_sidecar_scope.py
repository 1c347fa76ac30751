"""The Sidecar resource: what a proxy is told, where it listens for its pod, and where what comes in goes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

import pytest
from gateway_rig import Authority
from mesh_rig import Mesh, eventually, namespace
from outside_rig import Caller, applied

UNIX_SERVER = """
import http.server, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"from the socket")
    def address_string(self): return "unix"
    def log_message(self, *arguments): pass
path = "/sockets/app.sock"
if os.path.exists(path): os.unlink(path)
server = socketserver.ThreadingUnixStreamServer(path, Handler)
os.chmod(path, 0o777)
server.serve_forever()
"""
UNIX_CLIENT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as talk:
    talk.settimeout(10)
    talk.connect("/sockets/egress.sock")
    talk.sendall(("GET /hello HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % sys.argv[1]).encode())
    while chunk := talk.recv(10000):
        sys.stdout.write(chunk.decode())
"""
USER_MOUNT = '{"sockets":{"mountPath":"/sockets"}}'


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    with namespace(mesh, "scope", "istio-injection=enabled") as name:
        mesh.apply("curl/curl.yaml", "httpbin/httpbin.yaml", "helloworld/helloworld.yaml", namespace=name)
        volume = {
            "template": {
                "metadata": {"annotations": {"sidecar.istio.io/userVolumeMount": USER_MOUNT}},
                "spec": {
                    "volumes": [{"name": "sockets", "emptyDir": {}}],
                    "containers": [{"name": "httpbin", "volumeMounts": [{"name": "sockets", "mountPath": "/sockets"}]}],
                },
            }
        }
        mesh.kubectl("patch", "deployment", "httpbin", "-n", name, "-p", json.dumps({"spec": volume}))
        mesh.rolled_out("curl", "httpbin", "helloworld-v1", "helloworld-v2", namespace=name)
        yield name


@pytest.fixture
def curl(mesh: Mesh, ns: str) -> Caller:
    return Caller(mesh, ns)


def sidecar(spec: str, name: str = "default") -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"


def known(caller: Caller) -> set[str]:
    """Hosts that the caller's proxy has clusters for."""
    names = {line.split("::")[0] for line in caller.proxy("clusters").splitlines() if line.startswith("outbound|")}
    return {name.rpartition("|")[2] for name in names}


def until(check: Callable[[], bool], what: str) -> None:
    def once() -> None:
        assert check(), what

    eventually(once)


# --- what is imported ---


def test_a_proxy_is_told_only_what_is_imported(mesh: Mesh, curl: Caller, ns: str) -> None:
    assert f"helloworld.{ns}.svc.cluster.local" in known(curl)
    assert "productpage.default.svc.cluster.local" in known(curl)
    with applied(mesh, sidecar('  egress: [{hosts: ["./httpbin.scope.svc.cluster.local", "istio-system/*"]}]'), ns):
        until(lambda: "productpage.default.svc.cluster.local" not in known(curl), "productpage is still known")
        until(lambda: f"helloworld.{ns}.svc.cluster.local" not in known(curl), "helloworld is still known")
        assert f"httpbin.{ns}.svc.cluster.local" in known(curl)
        routes = curl.proxy("config_dump?resource=dynamic_route_configs")
        assert "helloworld" not in routes and "productpage" not in routes
        curl.until("http://httpbin:8000/status/200", status="200")
        # What is not imported is unknown, not forbidden, unless the policy says so.
        curl.until("http://helloworld:5000/hello", status="200")
        curl.logged("PassthroughCluster", "5000")
    until(lambda: "productpage.default.svc.cluster.local" in known(curl), "productpage did not come back")


def test_what_is_not_imported_is_refused_where_the_policy_says_so(mesh: Mesh, curl: Caller, ns: str) -> None:
    spec = '  egress: [{hosts: ["./httpbin.scope.svc.cluster.local"]}]\n  outboundTrafficPolicy: {mode: REGISTRY_ONLY}'
    with applied(mesh, sidecar(spec), ns):
        curl.until("http://productpage.default:9080/productpage", status="000")
        curl.until("http://httpbin:8000/status/200", status="200")


def test_hosts_can_be_left_out(mesh: Mesh, curl: Caller, ns: str) -> None:
    with applied(mesh, sidecar('  egress: [{hosts: ["*/*", "~default/*"]}]'), ns):
        until(lambda: "productpage.default.svc.cluster.local" not in known(curl), "productpage is still known")
        assert f"helloworld.{ns}.svc.cluster.local" in known(curl)


def test_a_selector_goes_before_the_namespace_s_and_that_before_the_mesh_s(mesh: Mesh, curl: Caller, ns: str) -> None:
    root = sidecar('  egress: [{hosts: ["istio-system/*"]}]', "whole-mesh")
    general = sidecar('  egress: [{hosts: ["./*"]}]')
    selected = sidecar(
        '  workloadSelector: {labels: {app: curl}}\n  egress: [{hosts: ["./httpbin.scope.svc.cluster.local"]}]', "mine"
    )
    mine, ours = f"httpbin.{ns}.svc.cluster.local", f"helloworld.{ns}.svc.cluster.local"
    with applied(mesh, root, "istio-system"):
        until(lambda: mine not in known(curl) and ours not in known(curl), "the mesh's Sidecar does not hold")
        with applied(mesh, general, ns):
            until(lambda: {mine, ours} <= known(curl), "the namespace's Sidecar does not hold")
            with applied(mesh, selected, ns):
                until(lambda: mine in known(curl) and ours not in known(curl), "the selecting Sidecar does not hold")


# --- where it listens for its pod ---


def test_an_egress_listener_on_a_port_of_its_own(mesh: Mesh, curl: Caller, ns: str) -> None:
    """`bind` and captureMode NONE: the application asks its proxy at the loopback address."""
    spec = """
  egress:
  - port: {number: 8000, protocol: HTTP, name: http}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ["./httpbin.scope.svc.cluster.local"]
  - hosts: ["./*"]
"""
    with applied(mesh, sidecar(spec), ns):
        curl.until("http://127.0.0.1:8000/status/418", "-H", f"Host: httpbin.{ns}.svc.cluster.local", status="418")
        curl.until("http://helloworld:5000/hello", status="200")


def test_an_egress_listener_takes_its_port_for_its_hosts_alone(mesh: Mesh, curl: Caller, ns: str) -> None:
    spec = """
  egress:
  - port: {number: 5000, protocol: HTTP, name: http}
    hosts: ["istio-system/*"]
  - hosts: ["./*"]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""
    with applied(mesh, sidecar(spec), ns):
        until(lambda: curl.ask("http://helloworld:5000/hello").status != "200", "helloworld is reached on 5000")
        curl.until("http://httpbin:8000/status/200", status="200")


# --- where what comes in goes ---


def inbound(listener: str, more: str = "") -> str:
    return sidecar(f"  workloadSelector: {{labels: {{app: httpbin}}}}\n  ingress:\n  - {listener}\n{more}", "inbound")


PORT = "port: {number: 8080, protocol: HTTP, name: http}"


def test_what_comes_in_goes_to_the_default_endpoint(mesh: Mesh, curl: Caller, ns: str) -> None:
    """To another port of the loopback address, where nobody listens; then to the application."""
    with applied(mesh, inbound(PORT + "\n    defaultEndpoint: 127.0.0.1:8099"), ns):
        curl.until("http://httpbin:8000/status/200", status="503")
    with applied(mesh, inbound(PORT + "\n    defaultEndpoint: 127.0.0.1:8080"), ns):
        seen = curl.until("http://httpbin:8000/headers", status="200")
        assert f"ns/{ns}/sa/curl" in seen.headers


def test_what_comes_in_goes_to_a_unix_socket(mesh: Mesh, curl: Caller, ns: str) -> None:
    start = f"nohup {mesh.interpreter} -c '{UNIX_SERVER}' >/dev/null 2>&1 & echo $!"
    number = mesh.execute("deploy/httpbin", "sh", "-c", start, namespace=ns, container="httpbin").strip()
    try:
        with applied(mesh, inbound(PORT + '\n    defaultEndpoint: "unix:///sockets/app.sock"'), ns):

            def told() -> None:
                said = mesh.execute(
                    "deploy/curl", "curl", "-sS", "-m", "5", "http://httpbin:8000/", namespace=ns, container="curl"
                )
                assert said == "from the socket"

            eventually(told)
    finally:
        mesh.execute("deploy/httpbin", "sh", "-c", f"kill {number}", namespace=ns, container="httpbin")
    curl.until("http://httpbin:8000/status/200", status="200")


MANY = "for i in $(seq 8); do curl -s -o /dev/null -w '%{http_code}\\n' -m 10 http://httpbin:8000/delay/1 & done; wait"


@pytest.mark.parametrize("place", ["listener", "all listeners"])
def test_connections_that_come_in_are_limited(mesh: Mesh, curl: Caller, ns: str, place: str) -> None:
    """`connectionPool` of an ingress listener, `inboundConnectionPool` of all: one request at a time, the others are
    told to come again."""
    pool = "{http: {http1MaxPendingRequests: 1, http2MaxRequests: 1}, tcp: {maxConnections: 1}}"
    if place == "listener":
        text = inbound(f"{PORT}\n    connectionPool: {pool}\n    defaultEndpoint: 127.0.0.1:8080")
    else:
        text = sidecar(f"  workloadSelector: {{labels: {{app: httpbin}}}}\n  inboundConnectionPool: {pool}", "inbound")
    with applied(mesh, text, ns):

        def limited() -> None:
            said = mesh.execute("deploy/curl", "sh", "-c", MANY, namespace=ns, container="curl").split()
            assert "200" in said and "503" in said, said

        eventually(limited)
    curl.until("http://httpbin:8000/status/200", status="200")


SECURE = """
apiVersion: v1
kind: Service
metadata: {name: secure}
spec: {selector: {app: httpbin}, ports: [{name: https, port: 443, targetPort: 9443}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: secure}
spec: {selector: {matchLabels: {app: httpbin}}, portLevelMtls: {9443: {mode: DISABLE}}}
---
"""


def test_tls_ends_at_the_sidecar(mesh: Mesh, curl: Caller, ns: str) -> None:
    """Simple, then mutual, with files that the pod brings along."""

    def put(target: str, container: str, path: str, text: str) -> None:
        line = f"echo {base64.b64encode(text.encode()).decode()} | base64 -d > {path} && chmod a+r {path}"
        mesh.execute(target, "sh", "-c", line, namespace=ns, container=container)

    authority = Authority()
    server, client = authority.issue("secure"), authority.issue("client.example.com")
    for name, text in (("tls.crt", server.chain), ("tls.key", server.key), ("ca.crt", authority.pem)):
        put("deploy/httpbin", "httpbin", f"/sockets/{name}", text)
    for name, text in (
        ("ca.crt", authority.pem),
        ("client.crt", client.chain),
        ("client.key", client.key),
    ):
        put("deploy/curl", "curl", f"/tmp/{name}", text)
    listener = "port: {number: 9443, protocol: HTTPS, name: https}\n    defaultEndpoint: 127.0.0.1:8080\n    tls: "
    files = "serverCertificate: /sockets/tls.crt, privateKey: /sockets/tls.key"
    shown = ("--cert", "/tmp/client.crt", "--key", "/tmp/client.key")

    def ask(*options: str, status: str) -> None:
        curl.until("https://secure/status/418", "--cacert", "/tmp/ca.crt", *options, status=status)

    with applied(mesh, SECURE + inbound(f"{listener}{{mode: SIMPLE, {files}}}"), ns):
        ask(status="418")
    with applied(mesh, SECURE + inbound(f"{listener}{{mode: MUTUAL, {files}, caCertificates: /sockets/ca.crt}}"), ns):
        ask(*shown, status="418")
        ask(status="000")


# --- where what goes out goes ---


def test_an_application_asks_at_a_unix_socket(mesh: Mesh, ns: str) -> None:
    spec = """
  workloadSelector: {labels: {app: httpbin}}
  egress:
  - bind: unix:///sockets/egress.sock
    port: {protocol: HTTP, name: http}
    hosts: ["./helloworld.scope.svc.cluster.local"]
  - hosts: ["./*"]
"""
    with applied(mesh, sidecar(spec, "outgoing"), ns):

        def answered() -> None:
            host = f"helloworld.{ns}.svc.cluster.local:5000"  # only of port 80 the host alone is enough
            said = mesh.python("deploy/httpbin", UNIX_CLIENT, host, namespace=ns, container="httpbin")
            assert "200 OK" in said and "Hello version" in said, said

        eventually(answered)


def test_what_nobody_knows_goes_through_the_egress_proxy(mesh: Mesh, curl: Caller, ns: str) -> None:
    """HTTP on a port that services have, and a port that none has; httpbin plays the proxy."""
    spec = f"""
  workloadSelector: {{labels: {{app: curl}}}}
  outboundTrafficPolicy:
    mode: ALLOW_ANY
    egressProxy: {{host: httpbin.{ns}.svc.cluster.local, port: {{number: 8000}}}}
"""
    nobody = mesh.host_address
    with applied(mesh, sidecar(spec, "outgoing"), ns):
        for port in (8000, 7777):
            curl.until(f"http://{nobody}:{port}/status/418", status="418")
        curl.until("http://helloworld:5000/hello", status="200")
    curl.until(f"http://{nobody}:7777/status/418", status="000")
