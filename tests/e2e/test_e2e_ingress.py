"""Kubernetes' own Ingress, and how the ingress gateway is found: by load balancer, its name, or a port of the node."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator

import pytest
from gateway_rig import Authority, Edge, tls_secret
from mesh_rig import Mesh, eventually, namespace

FIND = {
    "host": '-n "$NS" get service "$NAME" -o jsonpath=\'{.status.loadBalancer.ingress[0].ip}\'',
    "name": '-n "$NS" get service "$NAME" -o jsonpath=\'{.status.loadBalancer.ingress[0].hostname}\'',
    "http": '-n "$NS" get service "$NAME" -o jsonpath=\'{.spec.ports[?(@.name=="http2")].port}\'',
    "https": '-n "$NS" get service "$NAME" -o jsonpath=\'{.spec.ports[?(@.name=="https")].port}\'',
    "tcp": '-n "$NS" get service "$NAME" -o jsonpath=\'{.spec.ports[?(@.name=="tcp")].port}\'',
    "node": "get po -l istio=ingressgateway -n \"$NS\" -o jsonpath='{.items[0].status.hostIP}'",
    "node http": '-n "$NS" get service "$NAME" -o jsonpath=\'{.spec.ports[?(@.name=="http2")].nodePort}\'',
    "node https": '-n "$NS" get service "$NAME" -o jsonpath=\'{.spec.ports[?(@.name=="https")].nodePort}\'',
    "node tcp": '-n "$NS" get service "$NAME" -o jsonpath=\'{.spec.ports[?(@.name=="tcp")].nodePort}\'',
}
"""As Istio's task finds them."""


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    with namespace(mesh, "ingress", "istio-injection=enabled") as name:
        mesh.apply("httpbin/httpbin.yaml", "helloworld/helloworld.yaml", namespace=name)
        mesh.rolled_out("httpbin", "helloworld-v1", namespace=name)
        yield name


def find(mesh: Mesh, what: str) -> str:
    script = f"NS=istio-system NAME=istio-ingressgateway; kubectl {FIND[what]}"
    done = mesh.run(["bash", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout


def status_of(address: str, port: str, host: str, path: str = "/") -> int:
    connection = http.client.HTTPConnection(address, int(port), timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def ingress(name: str, rules: str, *, annotation: str = "", more: str = "") -> str:
    annotations = f"{{kubernetes.io/ingress.class: {annotation}}}" if annotation else "{}"
    metadata = f"metadata: {{name: {name}, annotations: {annotations}}}"
    return f"---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n{metadata}\nspec:\n{more}  rules:\n{rules}"


def rule(host: str, *paths: tuple[str, str, str, int]) -> str:
    """`paths`: path, path type, service and its port."""
    lines = "".join(
        f"      - path: {path}\n        pathType: {kind}\n"
        f"        backend: {{service: {{name: {name}, port: {{number: {port}}}}}}}\n"
        for path, kind, name, port in paths
    )
    return f"  - host: {host}\n    http:\n      paths:\n{lines}"


EVERYTHING = ("/", "Prefix", "httpbin", 8000)


@pytest.mark.both_homes
def test_the_gateway_is_found_by_load_balancer_and_by_node_port(mesh: Mesh) -> None:
    assert find(mesh, "host") == mesh.gateway
    assert find(mesh, "name") == ""
    assert [find(mesh, p) for p in ("http", "https", "tcp")] == ["80", "443", "31400"]
    assert len({find(mesh, p) for p in ("node http", "node https", "node tcp")}) == 3
    for address, port in ((find(mesh, "host"), find(mesh, "http")), (find(mesh, "node"), find(mesh, "node http"))):
        assert status_of(address, port, "any", "/productpage") in (200, 404)


@pytest.mark.both_homes
def test_the_load_balancer_may_have_a_name(mesh: Mesh, ns: str) -> None:
    """Then it is where the address was, and what Ingresses show."""
    service = ("service", "istio-ingressgateway", "-n", "istio-system")
    mesh.create(ingress("named", rule("named.example.com", EVERYTHING), annotation="istio"), ns)
    mesh.kubectl("annotate", *service, "meltem.io/load-balancer-hostname=edge.example.com")
    try:

        def named() -> None:
            assert (find(mesh, "host"), find(mesh, "name")) == ("", "edge.example.com")
            shown = mesh.json("get", "ingress", "named", "-n", ns)["status"]["loadBalancer"].get("ingress", [])
            assert {"hostname": "edge.example.com"} in shown

        eventually(named)
    finally:
        mesh.kubectl("annotate", *service, "meltem.io/load-balancer-hostname-")
        mesh.kubectl("delete", "ingress", "named", "-n", ns)
    assert find(mesh, "host") == mesh.gateway


@pytest.mark.both_homes
def test_paths_classes_and_the_default_backend(mesh: Mesh, ns: str) -> None:
    to_httpbin = ("httpbin", 8000)
    ours = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: breeze}\nspec: {controller: %s}\n"
    paths = (
        ("/status/200", "Exact", *to_httpbin),
        ("/status/201", "Prefix", *to_httpbin),
        ("/hello", "Prefix", "helloworld", 5000),
    )
    backend = "  defaultBackend: {service: {name: httpbin, port: {name: http}}}\n"
    mesh.create(
        ours % "istio.io/ingress-controller"
        + ingress("paths", rule("paths.example.com", *paths), annotation="istio")
        + ingress("by-class", rule("class.example.com", EVERYTHING), more="  ingressClassName: breeze\n")
        + ingress("by-name", rule("name.example.com", EVERYTHING), more="  ingressClassName: istio\n")
        + ingress("other", rule("other.example.com", EVERYTHING), more="  ingressClassName: nginx\n")
        + ingress("default", rule("default.example.com", EVERYTHING), annotation="istio", more=backend),
        ns,
    )
    try:
        address = mesh.gateway
        wanted = {
            ("paths.example.com", "/status/200"): 200,
            ("paths.example.com", "/status/200/more"): 404,
            ("paths.example.com", "/status/201"): 201,
            ("paths.example.com", "/hello"): 200,
            ("paths.example.com", "/helloes"): 404,
            ("class.example.com", "/status/202"): 202,
            ("name.example.com", "/status/203"): 203,
            ("default.example.com", "/status/204"): 204,
            ("any-other-host.example.com", "/status/205"): 205,
        }

        def served() -> None:
            assert {(h, p): status_of(address, "80", h, p) for h, p in wanted} == wanted

        eventually(served)

        def shown() -> None:
            for name, found in (("paths", [{"ip": address}]), ("by-class", [{"ip": address}]), ("other", [])):
                status = mesh.json("get", "ingress", name, "-n", ns)["status"]
                assert status.get("loadBalancer", {}).get("ingress", []) == found, name

        eventually(shown)
        # Of an Ingress that is nobody's, requests get what the default backend says.
        assert status_of(address, "80", "other.example.com", "/status/418") == 418
        mesh.kubectl("delete", "ingress", "--all", "-n", ns)

        def gone() -> None:
            assert {status_of(address, "80", h, p) for h, p in wanted} == {404}

        eventually(gone)
    finally:
        mesh.kubectl("delete", "ingress", "--all", "-n", ns)
        mesh.kubectl("delete", "ingressclass", "breeze")


def test_of_several_ingresses_for_a_host_the_longest_path_wins(mesh: Mesh, ns: str) -> None:
    older = ingress("older", rule("shared.example.com", ("/status", "Prefix", "helloworld", 5000)), annotation="istio")
    newer = ingress("newer", rule("shared.example.com", ("/status/418", "Prefix", "httpbin", 8000)), annotation="istio")
    mesh.create(older, ns)
    mesh.create(newer, ns)
    try:

        def served() -> None:
            found = [status_of(mesh.gateway, "80", "shared.example.com", p) for p in ("/status/418", "/status/1")]
            assert found == [418, 404]

        eventually(served)
        routes = mesh.istioctl(
            "proxy-config", "routes", "deploy/istio-ingressgateway", "-n", "istio-system", "-o", "json"
        )  # fmt: skip
        assert "shared.example.com" in json.dumps(json.loads(routes))
    finally:
        mesh.kubectl("delete", "ingress", "older", "newer", "-n", ns)


@pytest.mark.both_homes
def test_tls_with_a_secret_beside_the_gateway(mesh: Mesh, ns: str, new_namespace: Callable[..., str]) -> None:
    authority = Authority()
    mesh.create(tls_secret("ingress-e2e", authority.issue("tls.example.com", "ingress")), "istio-system")
    tls = "  tls: [{hosts: [tls.example.com], secretName: ingress-e2e}]\n"
    mesh.create(ingress("tls", rule("tls.example.com", EVERYTHING), annotation="istio", more=tls), ns)
    try:
        edge = Edge(mesh, "istio-system", authority, "istio-ingressgateway")

        def served() -> None:
            answer = edge.secure("tls.example.com", "/status/418")
            assert (answer.status, answer.organization) == (418, "ingress")

        eventually(served)
        assert edge.plain("tls.example.com", "/status/418")[0] == 418
    finally:
        mesh.kubectl("delete", "ingress", "tls", "-n", ns)
        mesh.kubectl("delete", "secret", "ingress-e2e", "-n", "istio-system")


ACCESS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: known-addresses}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  action: DENY
  rules: [{{from: [{{source: {{notIpBlocks: [{block}]}}}}], to: [{{operation: {{hosts: [known.example.com]}}}}]}}]
"""


@pytest.mark.both_homes
def test_the_gateway_lets_known_addresses_in_where_its_service_keeps_them(mesh: Mesh, ns: str) -> None:
    """`externalTrafficPolicy: Local`, as Istio's task on access by address has it."""
    service = ("service", "istio-ingressgateway", "-n", "istio-system")
    patch = '{"spec":{"externalTrafficPolicy":"%s"}}'
    mesh.create(ingress("known", rule("known.example.com", EVERYTHING), annotation="istio"), ns)
    mesh.kubectl("patch", *service, "-p", patch % "Local")
    try:
        for block, status in (("203.0.113.0/24", 403), (f"{mesh.host_address}/32", 418)):
            mesh.create(ACCESS.format(block=block), "istio-system")

            def answered(status: int = status) -> None:
                assert status_of(mesh.gateway, "80", "known.example.com", "/status/418") == status

            eventually(answered)
    finally:
        mesh.kubectl("delete", "authorizationpolicy", "known-addresses", "-n", "istio-system", "--ignore-not-found")
        mesh.kubectl("patch", *service, "-p", patch % "Cluster")
        mesh.kubectl("delete", "ingress", "known", "-n", ns)
