"""Two networks that reach one another by east-west gateways alone: the far side is called by its gateways, which pass
mutual TLS through to the workload. The caller and `near` are on network1, `far` and both gateways on network2."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from mesh_rig import Mesh, eventually
from outside_rig import applied
from places_rig import Calls, placed

DOORS = ("door-a", "door-b")

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
    on = "topology.istio.io/network"
    doors = CROSS + "".join(DOOR.format(name=n) for n in DOORS)
    servers = {"near": {on: "network1"}, "far": {on: "network2"}}
    with placed(mesh, "networks", servers, {on: "network1"}, doors) as name:
        mesh.rolled_out(*DOORS, namespace=name)
        yield name


@pytest.fixture
def served(mesh: Mesh, ns: str) -> Calls:
    return Calls(mesh, ns)


def address(mesh: Mesh, ns: str, selector: str) -> str:
    return mesh.pods(ns, selector)[0]["status"]["podIP"]


def test_the_far_side_is_called_by_its_gateways_with_mutual_tls_from_end_to_end(
    mesh: Mesh, ns: str, served: Calls
) -> None:
    doors = {mesh.load_balancer(name, ns) for name in DOORS}

    def both() -> None:
        found = served(40)
        assert set(found) == {"near", "far"}, found

    eventually(both)
    known = mesh.istioctl(
        "proxy-config", "endpoints", f"deploy/curl.{ns}",
        "--cluster", f"outbound|5000||helloworld.{ns}.svc.cluster.local",
    )  # fmt: skip
    assert set(re.findall(r"(\S+):15443", known)) == doors, known
    near = {address(mesh, ns, "version=near")}
    assert set(re.findall(r"(\S+):5000\b", known)) == near, "the far pod itself is not known"
    gateways = {address(mesh, ns, f"door={name}") for name in DOORS}
    log = mesh.kubectl("logs", "deploy/helloworld-far", "-n", ns, "-c", "istio-proxy")
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
                found = served(40)
                assert (found["far"] > 0) == allowed and (found["403"] == 0) == allowed, found

            eventually(as_said)  # the workload sees the caller's identity, not the gateway's


def test_shares_follow_the_number_of_workloads_not_of_gateways(mesh: Mesh, ns: str, served: Calls) -> None:
    """One pod here, one there behind two gateways: half each."""
    rule = OUTLIERS.split("    outlierDetection")[0] + "    loadBalancer: {simple: ROUND_ROBIN}\n"
    with applied(mesh, rule, ns):

        def halves() -> None:
            found = served(40)
            assert abs(found["near"] - 20) <= 2 and abs(found["far"] - 20) <= 2, found

        eventually(halves)


def test_a_gateway_that_dies_is_left_out_and_then_forgotten(mesh: Mesh, ns: str, served: Calls) -> None:
    dead = mesh.load_balancer(DOORS[0], ns)
    with applied(mesh, OUTLIERS, ns):
        mesh.kubectl("scale", f"deploy/{DOORS[0]}", "-n", ns, "--replicas=0")

        def ejected() -> None:
            found = served(40)
            assert set(found) == {"near", "far"}, found
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
            assert set(served(40)) <= {"near", "far"}

        eventually(forgotten)
