"""Names: what a proxy with DNS capture answers for its pod, addresses that it makes up, and services that are reached
by the addresses of their pods (headless) or by another name (ExternalName)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from mesh_rig import Mesh, eventually, namespace
from outside_rig import Caller, Outside, applied, outside

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: echoes}
spec: {clusterIP: None, selector: {app: tcp-echo}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: sniffed, labels: {app: web}}
spec: {selector: {app: web}, ports: [{port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: declared, labels: {app: web}}
spec: {selector: {app: web}, ports: [{name: anything, appProtocol: http, port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: opaque, labels: {app: web}}
spec: {selector: {app: web}, ports: [{name: http, appProtocol: tcp, port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: declared.names.svc.cluster.local, ports: [{name: http, port: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: far-away}
spec: {type: ExternalName, externalName: httpbin.org, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: helloworld
        image: docker.io/meltem/examples-helloworld-v1:1.0
        imagePullPolicy: IfNotPresent
        ports: [{containerPort: 5000}]
"""
CAPTURE = (
    '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":'
    '"proxyMetadata: {ISTIO_META_DNS_CAPTURE: \\"true\\", ISTIO_META_DNS_AUTO_ALLOCATE: \\"true\\"}"}}}}}'
)
ASK = """
import socket, struct, sys
name, kind, over = sys.argv[1:]
server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
kinds = {"A": 1, "AAAA": 28, "SRV": 33, "TXT": 16}
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", kinds[kind], 1)
if over == "tcp":
    with socket.create_connection((server, 53), 5) as sock:
        sock.sendall(struct.pack("!H", len(query)) + query)
        stream = sock.makefile("rb")
        answer = stream.read(struct.unpack("!H", stream.read(2))[0])
else:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(query, (server, 53))
        answer = sock.recv(4096)
_, flags, _, answers, _, _ = struct.unpack("!6H", answer[:12])
print(flags & 15, answers, ".".join(str(b) for b in answer[-4:]) if kind == "A" and answers else "")
"""


@pytest.fixture(scope="module")
def away(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(mesh, tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    with namespace(mesh, "names", "istio-injection=enabled") as name:
        mesh.apply("curl/curl.yaml", "sleep/sleep.yaml", "tcp-echo/tcp-echo.yaml", namespace=name)
        mesh.create(SERVICES, name)
        mesh.kubectl("patch", "deployment", "curl", "-n", name, "-p", CAPTURE)
        mesh.rolled_out("curl", "sleep", "tcp-echo", namespace=name)
        mesh.kubectl("rollout", "status", "statefulset/web", "-n", name, "--timeout=120s")
        yield name


@pytest.fixture
def curl(mesh: Mesh, ns: str, away: Outside) -> Caller:
    """Has DNS capture; the pod `sleep` has not."""
    return Caller(mesh, ns)


@pytest.fixture
def lookup(mesh: Mesh, ns: str) -> Callable[..., str]:
    """`lookup(name, kind, "udp" or "tcp")`: code, number of answers, the last address."""
    return partial(mesh.python, "deploy/curl", ASK, namespace=ns, container="curl")


def resolved(mesh: Mesh, ns: str, name: str) -> list[str]:
    done = mesh.run(
        ["kubectl", "exec", "-n", ns, "deploy/curl", "-c", "curl", "--", "getent", "ahostsv4", name]
    )  # fmt: skip
    return sorted({line.split()[0] for line in done.stdout.splitlines()})


def said(mesh: Mesh, ns: str, host: str) -> str:
    """What comes back on port 9000 of the host after `ahoy`."""
    talk = f"printf 'ahoy\\n' | curl -s -m 2 telnet://{host}:9000 || true"
    return mesh.execute("deploy/curl", "sh", "-c", talk, namespace=ns, container="curl")


def entry(name: str, spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n{spec}\n---\n"


# --- DNS capture ---


@pytest.mark.both_homes
def test_hosts_of_service_entries_resolve_though_no_dns_knows_them(
    mesh: Mesh, curl: Caller, ns: str, away: Outside
) -> None:
    spec = f"""
  hosts: [address.internal]
  addresses: [198.51.100.2]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {away.address}}}]
"""
    with applied(mesh, entry("addressed", spec), ns):
        curl.until("http://address.internal/", status="200", host="address.internal")
        assert resolved(mesh, ns, "address.internal") == ["198.51.100.2"]
    eventually(lambda: _equal(resolved(mesh, ns, "address.internal"), []))


def test_hosts_without_addresses_get_their_own_so_that_tcp_can_be_told_apart(
    mesh: Mesh, ns: str, away: Outside
) -> None:
    """Two hosts, one port, no addresses: each connection comes to the right one."""
    echo = mesh.pods(ns, "app=tcp-echo")[0]["status"]["podIP"]
    text = "".join(
        entry(
            name,
            f"""
  hosts: [{name}.internal]
  ports: [{{number: 9000, name: tcp, protocol: TCP}}]
  location: {where}
  resolution: STATIC
  endpoints: [{{address: {address}}}]
""",
        )
        for name, address, where in (("one", away.address, "MESH_EXTERNAL"), ("two", echo, "MESH_INTERNAL"))
    )
    with applied(mesh, text, ns):
        eventually(lambda: _equal(said(mesh, ns, "one.internal"), "outside ahoy\n"))
        assert said(mesh, ns, "two.internal").strip() == "hello ahoy"
        given = [resolved(mesh, ns, f"{name}.internal") for name in ("one", "two")]
        assert given[0] != given[1]
        assert all(a.startswith("240.24") for addresses in given for a in addresses)


def test_a_wildcard_host_with_an_address_stands_for_all_names_below(
    mesh: Mesh, curl: Caller, ns: str, away: Outside
) -> None:
    spec = f"""
  hosts: ["*.wild.internal"]
  addresses: [198.51.100.3]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {away.address}}}]
"""
    with applied(mesh, entry("wild", spec), ns):
        curl.until("http://any.wild.internal/", status="200", host="any.wild.internal")


def test_names_of_the_cluster_in_every_length(mesh: Mesh, curl: Caller, ns: str) -> None:
    for host in ("declared", f"declared.{ns}", f"declared.{ns}.svc", f"declared.{ns}.svc.cluster.local"):
        curl.until(f"http://{host}:5000/hello", status="200")


@pytest.mark.both_homes
def test_what_the_mesh_does_not_know_is_asked_of_the_real_dns(
    lookup: Callable[..., str], away: Outside, ns: str
) -> None:
    assert lookup("httpbin.org", "A", "udp").split() == ["0", "1", away.address]
    assert lookup("nowhere.internal", "A", "udp").split() == ["3", "0"]
    assert lookup(f"web-0.web.{ns}.svc.cluster.local", "A", "udp").split()[:2] == ["0", "1"]


@pytest.mark.both_homes
@pytest.mark.parametrize(("kind", "over"), [("AAAA", "udp"), ("A", "tcp"), ("SRV", "udp"), ("SRV", "tcp")])
def test_other_questions_are_answered_too(lookup: Callable[..., str], ns: str, kind: str, over: str) -> None:
    """An address of the other family: none, and no failure. Over TCP, and for other records: as without capture."""
    name = f"_http._tcp.web.{ns}.svc.cluster.local" if kind == "SRV" else f"declared.{ns}.svc.cluster.local"
    code, answers = lookup(name, kind, over).split()[:2]
    assert (code, int(answers)) == ("0", {"AAAA": 0, "A": 1, "SRV": 2}[kind])


# --- services of other kinds ---


@pytest.mark.both_homes
def test_a_headless_service_and_the_names_of_its_pods(mesh: Mesh, curl: Caller, ns: str) -> None:
    pods = {p["metadata"]["name"]: p["status"]["podIP"] for p in mesh.pods(ns, "app=web")}
    assert set(pods) == {"web-0", "web-1"}
    for name, address in pods.items():
        curl.until(f"http://{name}.web.{ns}:5000/hello", status="200")
        line = curl.logged("GET /hello", f"{name}.web.{ns}")
        assert f"outbound|5000||web.{ns}.svc.cluster.local" in line
        assert f'"{address}:5000"' in line
    curl.until("http://web:5000/hello", status="200")
    assert said(mesh, ns, "echoes").strip() == "hello ahoy"


@pytest.mark.parametrize(("service", "http"), [("sniffed", True), ("declared", True), ("opaque", False)])
def test_a_port_s_protocol_is_declared_or_found_out(curl: Caller, ns: str, service: str, http: bool) -> None:
    """`appProtocol` goes before the port's name; a port with neither is looked at."""
    curl.until(f"http://{service}:5000/hello?{service}", status="200")
    line = curl.logged(f"outbound|5000||{service}.{ns}")
    assert ("GET /hello" in line) == http


@pytest.mark.both_homes
def test_external_names(curl: Caller, ns: str) -> None:
    """One for a service of the mesh, which is called as the mesh calls it, and one for a host outside."""
    curl.until("http://alias:5000/hello", status="200")
    assert f"outbound|5000||declared.{ns}.svc.cluster.local" in curl.logged("GET /hello", "alias:5000")
    curl.until("http://far-away/", status="200", server="outside")


def _equal(found: object, wanted: object) -> None:
    assert found == wanted
