"""Two networks that reach one another by east-west gateways alone: the far side is called by its gateways, which pass
mutual TLS through to the workload. The caller and `near` are on network1, `far` and both gateways on network2."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from mesh_rig import Mesh, eventually, namespace
from outside_rig import applied

SERVED = re.compile(r"version: (\S+),")
DOORS = ("door-a", "door-b")

SERVER = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: helloworld, version: {name}}}}}
  template:
    metadata: {{labels: {{app: helloworld, version: {name}, topology.istio.io/network: {network}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: helloworld
        image: docker.io/meltem/examples-helloworld-v1:1.0
        imagePullPolicy: IfNotPresent
        env: [{{name: SERVICE_VERSION, value: {name}}}]
        ports: [{{containerPort: 5000}}]
---
"""
DOOR = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, labels: {{topology.istio.io/network: network2}}}}
spec:
  type: LoadBalancer
  selector: {{door: {name}}}
  ports: [{{name: tls, port: 15443, targetPort: 15443}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{door: {name}}}}}
  template:
    metadata:
      labels: {{door: {name}, istio: eastwest, sidecar.istio.io/inject: "true", topology.istio.io/network: network2}}
      annotations: {{inject.istio.io/templates: gateway}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: istio-proxy
        image: auto
        env: [{{name: ISTIO_META_REQUESTED_NETWORK_VIEW, value: network2}}]
---
"""
CROSS = """
apiVersion: v1
kind: Service
metadata: {name: helloworld}
spec: {selector: {app: helloworld}, ports: [{name: http, port: 5000}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: cross-network}
spec:
  selector: {istio: eastwest}
  servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ["*.local"], tls: {mode: AUTO_PASSTHROUGH}}]
---
"""
OUTLIERS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: helloworld}
spec:
  host: helloworld
  trafficPolicy:
    outlierDetection: {consecutiveGatewayErrors: 1, interval: 1s, baseEjectionTime: 5m, maxEjectionPercent: 100}
"""


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    with namespace(mesh, "networks", "istio-injection=enabled") as name:
        mesh.apply("curl/curl.yaml", namespace=name)
        label = '{"spec":{"template":{"metadata":{"labels":{"topology.istio.io/network":"network1"}}}}}'
        mesh.kubectl("patch", "deployment", "curl", "-n", name, "-p", label)
        servers = SERVER.format(name="near", network="network1") + SERVER.format(name="far", network="network2")
        mesh.create(CROSS + servers + "".join(DOOR.format(name=n) for n in DOORS), name)
        mesh.rolled_out("curl", "near", "far", *DOORS, namespace=name)
        yield name


@pytest.fixture
def served(mesh: Mesh, ns: str) -> Callable[..., Counter[str]]:
    """Which server answered so many requests; whatever fails counts as its status."""
    loop = "for i in $(seq $0); do curl -s -m 5 -w ' version: %{http_code},' http://helloworld:5000/hello; done"

    def ask(count: int = 40) -> Counter[str]:
        text = mesh.execute("deploy/curl", "sh", "-c", loop, str(count), namespace=ns, container="curl")
        found = Counter(SERVED.findall(text))
        assert sum(number for what, number in found.items() if what.isdigit()) == count, text
        return found

    return ask


def address(mesh: Mesh, ns: str, selector: str) -> str:
    return mesh.pods(ns, selector)[0]["status"]["podIP"]


def test_the_far_side_is_called_by_its_gateways_with_mutual_tls_from_end_to_end(
    mesh: Mesh, ns: str, served: Callable[..., Counter[str]]
) -> None:
    doors = {mesh.load_balancer(name, ns) for name in DOORS}

    def both() -> None:
        found = served()
        assert found["200"] == 40 and found["near"] > 0 and found["far"] > 0, found

    eventually(both)
    known = mesh.istioctl(
        "proxy-config", "endpoints", f"deploy/curl.{ns}",
        "--cluster", f"outbound|5000||helloworld.{ns}.svc.cluster.local",
    )  # fmt: skip
    assert set(re.findall(r"(\S+):15443", known)) == doors, known
    near = {address(mesh, ns, "version=near")}
    assert set(re.findall(r"(\S+):5000\b", known)) == near, "the far pod itself is not known"
    gateways = {address(mesh, ns, f"door={name}") for name in DOORS}
    log = mesh.kubectl("logs", "deploy/far", "-n", ns, "-c", "istio-proxy")
    callers = set(re.findall(r"inbound\|5000\|\| \S+ \S+ (\S+):\d+ ", log))
    assert callers and callers <= gateways, "requests came by a gateway"
    policy = f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: far}}
spec:
  selector: {{matchLabels: {{version: far}}}}
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/{ns}/sa/PRINCIPAL]}}}}]}}]
"""
    for principal, allowed in (("curl", True), ("default", False)):
        with applied(mesh, policy.replace("PRINCIPAL", principal), ns):

            def as_said(allowed: bool = allowed) -> None:
                found = served()
                assert (found["far"] > 0) == allowed and (found["403"] == 0) == allowed, found

            eventually(as_said)  # the workload sees the caller's identity, not the gateway's


def test_shares_follow_the_number_of_workloads_not_of_gateways(
    mesh: Mesh, ns: str, served: Callable[..., Counter[str]]
) -> None:
    """One pod here, one there behind two gateways: half each."""
    rule = OUTLIERS.split("    outlierDetection")[0] + "    loadBalancer: {simple: ROUND_ROBIN}\n"
    with applied(mesh, rule, ns):

        def halves() -> None:
            found = served()
            assert abs(found["near"] - 20) <= 2 and abs(found["far"] - 20) <= 2, found

        eventually(halves)


def test_a_gateway_that_dies_is_left_out_and_then_forgotten(
    mesh: Mesh, ns: str, served: Callable[..., Counter[str]]
) -> None:
    dead = mesh.load_balancer(DOORS[0], ns)
    with applied(mesh, OUTLIERS, ns):
        mesh.kubectl("scale", f"deploy/{DOORS[0]}", "-n", ns, "--replicas=0")

        def ejected() -> None:
            found = served()
            assert found["200"] == 40 and found["far"] > 0, found
            known = mesh.istioctl(
                "proxy-config", "endpoints", f"deploy/curl.{ns}",
                "--cluster", f"outbound|5000||helloworld.{ns}.svc.cluster.local",
            )  # fmt: skip
            assert re.search(rf"{re.escape(dead)}:15443\s+\S+\s+FAILED", known), known

        eventually(ejected)
        mesh.kubectl("delete", "service", DOORS[0], "-n", ns)

        def forgotten() -> None:
            known = mesh.istioctl("proxy-config", "endpoints", f"deploy/curl.{ns}", "--port", "15443")
            assert f"{dead}:15443" not in known and mesh.load_balancer(DOORS[1], ns) in known, known
            assert served()["200"] == 40

        eventually(forgotten)
