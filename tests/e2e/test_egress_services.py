"""Leaving the mesh from a sidecar: what is let out, ServiceEntries of every resolution, wildcard hosts, TLS that the
sidecar begins. The outside is a server inside the cluster that the mesh does not see."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from mesh_rig import Mesh, eventually, may_read_secrets, namespace
from outside_rig import Caller, Outside, applied, outside

API = "apiVersion: networking.istio.io/v1\n"
REGISTRY_ONLY = API + "kind: Sidecar\nmetadata: {name: default}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n"
CNN = """
  hosts: [edition.cnn.com]
  ports: [{number: 80, name: http-port, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
"""


@pytest.fixture(scope="module")
def away(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(mesh, tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    with namespace(mesh, "egress-services", "istio-injection=enabled") as name:
        mesh.apply("curl/curl.yaml", "httpbin/httpbin.yaml", namespace=name)
        mesh.rolled_out("curl", "httpbin", namespace=name)
        yield name


@pytest.fixture
def curl(mesh: Mesh, ns: str, away: Outside) -> Caller:
    return Caller(mesh, ns)


def entry(name: str, spec: str) -> str:
    return f"{API}kind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n{spec}\n---\n"


def requests_to(curl: Caller, service: str) -> list[str]:
    lines = curl.proxy("stats/prometheus").splitlines()
    return [line for line in lines if "istio_" in line and f'destination_service_name="{service}"' in line]


# --- outboundTrafficPolicy ---


@pytest.mark.both_homes
def test_what_the_mesh_does_not_know_is_let_out_and_learns_nothing_of_it(curl: Caller) -> None:
    seen = curl.until("http://httpbin.org/anything", status="200", host="httpbin.org")
    assert "x-meltem-peer" not in seen.headers
    assert curl.until("https://httpbin.org/", "-k", status="200").told["sni"] == "httpbin.org"
    assert "allow_any" in curl.logged("PassthroughCluster", "GET /anything")
    assert "- - -" in curl.logged("PassthroughCluster", ":443")
    eventually(lambda: _any(requests_to(curl, "PassthroughCluster")))


def test_a_connection_is_one_line_in_the_access_log(curl: Caller, away: Outside) -> None:
    curl.until("https://www.google.com/", "-k", status="200")
    curl.until("https://www.cnn.com/", "-k", status="200")
    first = curl.logged(f"{away.address}:443").split(" ")
    local = next(word for word in first if word.startswith("10.") and word.rpartition(":")[2] not in ("443",))
    assert len([line for line in curl.log() if local in line]) == 1


def test_registry_only_by_a_sidecar_resource_refuses_what_no_service_entry_names(
    mesh: Mesh, curl: Caller, ns: str
) -> None:
    with applied(mesh, REGISTRY_ONLY, ns):
        curl.until("http://httpbin.org/refused", status="502")
        assert curl.until("https://httpbin.org/", "-k", status="000").error
        assert "block_all" in curl.logged("GET /refused", " 502 ")
        assert curl.logged("BlackHoleCluster", ":443")
        eventually(lambda: _any(requests_to(curl, "BlackHoleCluster")))
        curl.until("http://httpbin:8000/status/200", status="200")
        with applied(
            mesh, entry("httpbin-ext", f"{CNN.replace('edition.cnn.com', 'httpbin.org')}  resolution: DNS"), ns
        ):
            curl.until("http://httpbin.org/", status="200", host="httpbin.org")
            curl.until("https://httpbin.org/", "-k", status="200", sni="httpbin.org")
        curl.until("http://httpbin.org/", status="502")
    curl.until("http://httpbin.org/", status="200")


def test_registry_only_for_the_whole_mesh(mesh: Mesh, curl: Caller) -> None:
    before = mesh.kubectl("get", "configmap", "istio", "-n", "istio-system", "-o", "jsonpath={.data.mesh}")
    try:
        _mesh_config(mesh, before + "\noutboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n")
        curl.until("http://httpbin.org/", status="502")
    finally:
        _mesh_config(mesh, before)
    curl.until("http://httpbin.org/", status="200")


def _mesh_config(mesh: Mesh, text: str) -> None:
    patch = json.dumps({"data": {"mesh": text}})
    mesh.kubectl("patch", "configmap", "istio", "-n", "istio-system", "--type", "merge", "-p", patch)


# --- ServiceEntry ---


@pytest.mark.both_homes
@pytest.mark.parametrize("resolution", ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"])
def test_a_service_entry_of_every_resolution(mesh: Mesh, curl: Caller, away: Outside, ns: str, resolution: str) -> None:
    endpoints = f"  endpoints: [{{address: {away.address}}}]\n" if resolution == "STATIC" else ""
    text = entry("cnn", f"{CNN.replace('edition', 'www')}  resolution: {resolution}\n{endpoints}")
    with applied(mesh, REGISTRY_ONLY, ns):
        curl.until("http://www.cnn.com/", status="502")
        with applied(mesh, text, ns):
            seen = curl.until(f"http://www.cnn.com/{resolution}", status="200", host="www.cnn.com")
            assert "x-meltem-peer" not in seen.headers
            curl.until("https://www.cnn.com/", "-k", status="200", sni="www.cnn.com")
            assert "outbound|80||www.cnn.com" in curl.logged(f"GET /{resolution} ", " 200 ", "www.cnn.com")
            assert curl.logged("outbound|443||www.cnn.com")


@pytest.mark.both_homes
def test_an_entry_inside_the_mesh_selects_pods(mesh: Mesh, curl: Caller, away: Outside, ns: str) -> None:
    """`workloadSelector`: the pods of httpbin under a name of their own; the call is the mesh's, mutual TLS and all."""
    text = entry(
        "named",
        """
  hosts: [www.google.com]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  workloadSelector: {labels: {app: httpbin}}
""",
    )
    with applied(mesh, text, ns):

        def told() -> None:
            headers = curl.ask("http://www.google.com/headers").told.get("headers", {})
            assert f"ns/{ns}/sa/curl" in str(headers), headers

        eventually(told)


@pytest.mark.both_homes
@pytest.mark.parametrize("resolution", ["NONE", "DYNAMIC_DNS"])
def test_wildcard_hosts(mesh: Mesh, curl: Caller, ns: str, resolution: str) -> None:
    """Any name below: where the client's DNS sends it (NONE), or as the proxy finds by host or SNI (DYNAMIC_DNS)."""
    spec = CNN.replace("edition.cnn.com", '"*.wikipedia.org"').replace("HTTPS", "TLS") + f"  resolution: {resolution}"
    with applied(mesh, REGISTRY_ONLY, ns), applied(mesh, entry("wikipedia", spec), ns):
        for host in ("en.wikipedia.org", "de.wikipedia.org"):
            curl.until(f"http://{host}/{resolution}", status="200", host=host)
            curl.until(f"https://{host}/", "-k", status="200", sni=host)
        assert "outbound|80||*.wikipedia.org" in curl.logged(f"GET /{resolution} ", " 200 ", "de.wikipedia.org")
        assert "outbound|443||*.wikipedia.org" in curl.logged("de.wikipedia.org", ":443")
        curl.until("http://httpbin.org/", status="502")


def test_endpoints_with_ports_and_weights(mesh: Mesh, curl: Caller, away: Outside, ns: str) -> None:
    """An address of the entry's own, and endpoints elsewhere under other ports."""
    spec = f"""
  hosts: [tcp.example.com]
  addresses: [240.1.2.3]
  ports: [{{number: 7000, name: tcp, protocol: TCP}}, {{number: 7001, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {away.address}, ports: {{tcp: 9000, http: 80}}}}]
"""
    with applied(mesh, REGISTRY_ONLY, ns), applied(mesh, entry("tcp", spec), ns):
        curl.until("http://240.1.2.3:7001/", "-H", "Host: tcp.example.com", status="200")
        said = mesh.execute(
            "deploy/curl", "sh", "-c", "printf 'ahoy\\n' | curl -s -m 5 telnet://240.1.2.3:7000 || true",
            namespace=ns, container="curl",
        )  # fmt: skip
        assert said == "outside ahoy\n"


# --- TLS that the sidecar begins ---

ORIGINATE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cnn}
spec:
  hosts: [edition.cnn.com]
  ports:
  - {number: 80, name: http-port, protocol: HTTP, targetPort: PORT}
  - {number: 443, name: https-port, protocol: HTTPS}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cnn}
spec:
  host: edition.cnn.com
  workloadSelector: {matchLabels: {app: curl}}
  trafficPolicy:
    portLevelSettings:
    - port: {number: 80}
      tls: {mode: MODE, credentialName: outside, sni: edition.cnn.com}
"""


@pytest.fixture
def credentials(mesh: Mesh, away: Outside, ns: str) -> Iterator[None]:
    """The outside's CA and a client certificate, in a secret that the client's service account may read."""
    d = away.certificates
    mesh.kubectl("create", "secret", "generic", "outside", "-n", ns, f"--from-file=cacert={d}/ca.crt",
                 f"--from-file=cert={d}/client.crt", f"--from-file=key={d}/client.key")  # fmt: skip
    mesh.create(may_read_secrets(ns, "curl"), ns)
    yield
    mesh.kubectl("delete", "secret", "outside", "-n", ns)


def test_plain_requests_leave_with_tls(mesh: Mesh, curl: Caller, ns: str, credentials: None) -> None:
    with applied(mesh, ORIGINATE.replace("PORT", "443").replace("MODE", "SIMPLE"), ns):
        seen = curl.until("http://edition.cnn.com/politics", status="200", scheme="https", sni="edition.cnn.com")
        assert seen.told["certificate"] == ""
        # Requests that bring their own TLS are not encrypted twice.
        curl.until("https://edition.cnn.com/politics", "-k", status="200", scheme="https", sni="edition.cnn.com")


@pytest.mark.both_homes
def test_plain_requests_leave_with_a_client_certificate(mesh: Mesh, curl: Caller, ns: str, credentials: None) -> None:
    with applied(mesh, ORIGINATE.replace("PORT", "8443").replace("MODE", "MUTUAL"), ns):
        curl.until(
            "http://edition.cnn.com/politics", status="200", scheme="https",
            certificate="organizationName=client organization, CN=client.example.com",
        )  # fmt: skip


def test_a_server_that_another_authority_signed_is_not_trusted(mesh: Mesh, curl: Caller, ns: str) -> None:
    """Without a CA of its own the rule means the machine's authorities."""
    text = ORIGINATE.replace("PORT", "443").replace("MODE", "SIMPLE").replace("credentialName: outside, ", "")
    with applied(mesh, text, ns):
        curl.until("http://edition.cnn.com/politics", status="503")
        assert "CERTIFICATE_VERIFY_FAILED" in curl.logged("GET /politics", " 503 ")


def _any(found: list[str]) -> None:
    assert found
