"""Where requests go when a service's endpoints are in several places: the nearest first, the next when it dies, or by
shares. Pods say where they are with the label `istio-locality`; the caller is in region1/zone1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mesh_rig import Mesh, eventually
from outside_rig import applied
from places_rig import Calls, placed

HERE, NEXT_ZONE, NEXT_REGION, FAR = "region1.zone1", "region1.zone2", "region2.zone3", "region3.zone4"
OUTLIERS = "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1m}"


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    racks = {HERE: "b", NEXT_ZONE: "b", NEXT_REGION: "a", FAR: "b"}
    servers = {place: {"istio-locality": place, "rack": rack} for place, rack in racks.items()}
    with placed(mesh, "locality", servers, {"istio-locality": "region1.zone1", "rack": "a"}) as name:
        yield name


@pytest.fixture
def served(mesh: Mesh, ns: str) -> Calls:
    return Calls(mesh, ns)


def rule(balancer: str, outliers: str = OUTLIERS, host: str = "helloworld") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: helloworld}}
spec:
  host: {host}
  trafficPolicy:
    {outliers}
    loadBalancer: {{simple: ROUND_ROBIN, localityLbSetting: {balancer}}}
"""


def only(served: Calls, *places: str) -> None:
    def check() -> None:
        found = served()
        assert set(found) == set(places), found

    eventually(check)


def gone(mesh: Mesh, ns: str, *places: str) -> None:
    for place in places:
        mesh.kubectl("scale", f"deploy/helloworld-{place}", "-n", ns, "--replicas=0")


def back(mesh: Mesh, ns: str, *places: str) -> None:
    for place in places:
        mesh.kubectl("scale", f"deploy/helloworld-{place}", "-n", ns, "--replicas=1")
    mesh.rolled_out(*(f"helloworld-{place}" for place in places), namespace=ns)


def test_without_outlier_detection_all_places_are_alike(mesh: Mesh, ns: str, served: Calls) -> None:
    with applied(mesh, rule("{enabled: true}", outliers=""), ns):
        only(served, HERE, NEXT_ZONE, NEXT_REGION, FAR)


def test_the_nearest_serves_and_when_it_dies_the_next(mesh: Mesh, ns: str, served: Calls) -> None:
    """Zone, then region, then the region that `failover` names, then any."""
    with applied(mesh, rule("{enabled: true, failover: [{from: region1, to: region2}]}"), ns):
        try:
            only(served, HERE)
            gone(mesh, ns, HERE)
            only(served, NEXT_ZONE)
            gone(mesh, ns, NEXT_ZONE)
            only(served, NEXT_REGION)
            gone(mesh, ns, NEXT_REGION)
            only(served, FAR)
        finally:
            back(mesh, ns, HERE, NEXT_ZONE, NEXT_REGION)
        only(served, HERE)


def test_a_place_whose_endpoints_are_ejected_is_left(mesh: Mesh, ns: str, served: Calls) -> None:
    """The pods live, but answer nothing: outlier detection sees what Kubernetes does not."""
    fault = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: broken}
spec:
  workloadSelector: {labels: {version: region1.zone1}}
  ingress: [{port: {number: 5000, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:5999"}]
"""
    with applied(mesh, rule("{enabled: true, failover: [{from: region1, to: region2}]}"), ns):
        only(served, HERE)
        with applied(mesh, fault, ns):
            only(served, NEXT_ZONE)


def test_failover_by_labels(mesh: Mesh, ns: str, served: Calls) -> None:
    """The caller is in rack a: its rack comes first, wherever that is; `key=value` names a label's value itself."""
    with applied(mesh, rule("{enabled: true, failoverPriority: [rack]}"), ns):
        only(served, NEXT_REGION)
    with applied(mesh, rule('{enabled: true, failoverPriority: ["rack=b", topology.kubernetes.io/region]}'), ns):
        only(served, HERE, NEXT_ZONE)


def test_shares(mesh: Mesh, ns: str, served: Calls) -> None:
    """70 of 100 here, 20 in the next zone, 10 in another region; nothing where no share is named."""
    shares = '{"region1/zone1/*": 70, "region1/zone2/*": 20, "region2/*": 10}'
    with applied(mesh, rule(f'{{enabled: true, distribute: [{{from: "region1/zone1/*", to: {shares}}}]}}'), ns):

        def check() -> None:
            found = served(100)
            assert not found[FAR], found
            assert found[HERE] > found[NEXT_ZONE] > found[NEXT_REGION] > 0, found
            assert 55 <= found[HERE] <= 85, found

        eventually(check)


@pytest.mark.both_homes
def test_a_service_that_prefers_what_is_close(mesh: Mesh, ns: str, served: Calls) -> None:
    """`trafficDistribution` of the Service itself: no DestinationRule, no outlier detection."""
    patch = '{"spec":{"trafficDistribution":%s}}'
    mesh.kubectl("patch", "service", "helloworld", "-n", ns, "-p", patch % '"PreferClose"')
    try:
        only(served, HERE)
        gone(mesh, ns, HERE)
        only(served, NEXT_ZONE)
    finally:
        back(mesh, ns, HERE)
        mesh.kubectl("patch", "service", "helloworld", "-n", ns, "-p", patch % "null")
    only(served, HERE, NEXT_ZONE, NEXT_REGION, FAR)


def test_entries_of_a_service_entry_have_places_of_their_own(mesh: Mesh, ns: str, served: Calls) -> None:
    """`locality` of an endpoint: the address of the pod far away, said to be here."""
    address = mesh.pods(ns, f"version={FAR}")[0]["status"]["podIP"]
    near = mesh.pods(ns, f"version={HERE}")[0]["status"]["podIP"]
    text = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: hello}}
spec:
  hosts: [hello.example.com]
  addresses: [240.1.1.1]
  ports: [{{number: 5000, name: http, protocol: HTTP}}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {{address: {address}, locality: region1/zone1}}
  - {{address: {near}, locality: region2/zone3}}
---
{rule("{enabled: true}", host="hello.example.com")}
"""
    with applied(mesh, text, ns):

        def check() -> None:
            assert served(url="http://240.1.1.1:5000/hello", host="hello.example.com") == {FAR: 12}

        eventually(check)
