"""IPv4 and IPv6 side by side: real requests over both, through sidecars and the gateway, on a cluster of its own.

docs/dual-stack.md is typed here, its installation included.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mesh_rig import ROOT, LocalMesh, Mesh, eventually
from page_rig import Section, type_page

from meltem.local.config import load_cluster

PAGE = ROOT / "docs/dual-stack.md"
NAMESPACE = "families"
_SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: httpbin}}
  ports: [{{name: http, port: {port}, targetPort: 8080}}]
  {spec}
---
"""
_SERVICES = "".join(
    _SERVICE.format(name=name, port=port, spec=spec)
    for name, port, spec in (
        ("both", 80, "ipFamilyPolicy: RequireDualStack"),
        ("preferred", 80, "ipFamilyPolicy: PreferDualStack\n  ipFamilies: [IPv6]"),
        ("four", 80, "ipFamilies: [IPv4]"),
        ("six", 80, "ipFamilies: [IPv6]"),
        ("later", 80, "ipFamilyPolicy: SingleStack"),
        ("headless", 8080, "clusterIP: None\n  ipFamilyPolicy: PreferDualStack"),
    )
)
_STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
"""
_GATEWAY = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [families.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: [families.example.com], gateways: [edge], http: [{route: [{destination: {host: six}}]}]}
"""


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A cluster of two families with the mesh as the page installs it, a server and a caller under STRICT."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine's kernel has no IPv6")
    made = LocalMesh(f"dual-{os.getpid()}", tmp_path_factory.mktemp("clusters"))
    try:
        made.up("--ip-family", "dual")
        Section("The mesh", PAGE).type(made, 0, tmp_path_factory.mktemp("page"))
        eventually(lambda: _istiod_answers(made))
        made.kubectl("create", "namespace", NAMESPACE)
        made.kubectl("label", "namespace", NAMESPACE, "istio-injection=enabled")
        made.apply("httpbin/httpbin.yaml", "curl/curl.yaml", namespace=NAMESPACE)
        made.create(_SERVICES + _STRICT + _GATEWAY, NAMESPACE)
        made.rolled_out("httpbin", "curl", namespace=NAMESPACE)
        yield made
    finally:
        made.down()


def _istiod_answers(mesh: Mesh) -> None:
    """Its webhook, at each address of its pod, to the host, where the API server is."""
    path = "jsonpath={.items[*].status.podIPs[*].ip}"
    found = mesh.kubectl("get", "pods", "-n", "istio-system", "-l", "app=istiod", "-o", path).split()
    urls = [f"https://[{ip}]:15017/validate" if ":" in ip else f"https://{ip}:15017/validate" for ip in found]
    ask = ("curl", "-skg", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}")
    assert {url: mesh.run([*ask, url]).stdout for url in urls} == dict.fromkeys(urls, "405")
    assert len(urls) == 2, urls


def call(mesh: Mesh, url: str, family: int, *more: str) -> tuple[str, str, str]:
    """One request from the caller over that family: status, the address that was called, the caller's identity as the
    server's proxy saw it."""
    form = "%{stderr}%{http_code} %{remote_ip}"
    command = f"curl -s -g -{family} -m 10 -w '{form}' {' '.join(more)} '{url}' 2>&1 || true"
    body, _, told = mesh.execute("deploy/curl", "sh", "-c", command, namespace=NAMESPACE, container="curl").rpartition(
        "}"
    )
    status, _, address = told.strip().partition(" ")
    seen = json.loads(body + "}").get("headers", {}).get("X-Forwarded-Client-Cert", [""]) if body else [""]
    return status, address, seen[0].rpartition("URI=")[2]


@pytest.mark.parametrize(
    ("service", "families"),
    [("both", (4, 6)), ("preferred", (4, 6)), ("headless:8080", (4, 6)), ("four", (4,)), ("six", (6,))],
)
def test_a_service_is_reached_over_each_family_that_it_has(dual: Mesh, service: str, families: tuple[int, ...]) -> None:
    for family in families:
        status, address, caller = eventually(lambda f=family: _answered(call(dual, f"http://{service}/headers", f)))
        assert (status, caller) == ("200", f"spiffe://cluster.local/ns/{NAMESPACE}/sa/curl")
        assert (":" in address) == (family == 6)
    for family in {4, 6} - {*families}:
        assert call(dual, f"http://{service}/headers", family)[0] == "000", "it has no such address"


def _answered(found: tuple[str, str, str]) -> tuple[str, str, str]:
    assert found[0] == "200", found
    return found


def test_a_service_takes_a_second_family_while_it_is_called(dual: Mesh) -> None:
    assert call(dual, "http://later/headers", 6)[0] == "000"
    dual.kubectl("patch", "service", "later", "-n", NAMESPACE, "-p", '{"spec":{"ipFamilyPolicy":"PreferDualStack"}}')
    assert ":" in eventually(lambda: _answered(call(dual, "http://later/headers", 6)))[1]
    assert ":" not in call(dual, "http://later/headers", 4)[1]


def test_the_gateway_takes_requests_of_both_families_to_a_service_of_one(dual: Mesh) -> None:
    service = dual.json("get", "service", "istio-ingressgateway", "-n", "istio-system")
    port = next(p["nodePort"] for p in service["spec"]["ports"] if p["port"] == 80)
    balancers = [(one["ip"], 80) for one in service["status"]["loadBalancer"]["ingress"]]
    node = dual.json("get", "nodes")["items"][0]["status"]["addresses"]
    nodes = [(one["address"], port) for one in node if one["type"] == "InternalIP"]
    assert [":" in ip for ip, _ in (*balancers, *nodes)] == [False, True] * 2
    for address, number in (*balancers, *nodes):
        eventually(lambda a=address, n=number: _through(a, n))


def _through(address: str, port: int) -> None:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", "/headers", headers={"Host": "families.example.com"})
        response = connection.getresponse()
        told = response.read().decode()
    finally:
        connection.close()
    assert response.status == 200, (address, told)
    assert "ns/istio-system/sa/istio-ingressgateway-service-account" in told, "mutual TLS behind the gateway"


def test_a_host_outside_the_mesh_at_an_ipv6_address(dual: Mesh) -> None:
    outside = load_cluster(dual.home).host_ips[1]
    with _Outside(outside) as server:
        entry = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [six.example.com]
  addresses: ["2001:db8::80"]
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {server.port}}}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{{address: "{outside}"}}]
"""
        dual.create(entry, NAMESPACE)
        url, host = "http://[2001:db8::80]/", ("-H", "'Host: six.example.com'")
        assert eventually(lambda: _answered(call(dual, url, 6, *host)))[1] == "2001:db8::80"
        assert server.asked[-1] == "six.example.com"
        direct = call(dual, f"http://[{outside}]:{server.port}/", 6)
        assert direct[:2] == ("200", outside), "what the mesh does not know passes, over IPv6 too"


class _Outside:
    """A server on this machine's end of the cluster's link, for as long as the block runs; `asked`: hosts that were."""

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.headers["Host"])
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6

        self._server = Server((address, 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> _Outside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_the_page_says_what_happens(dual: Mesh, tmp_path: Path) -> None:
    type_page(dual, PAGE, tmp_path)
