"""Where requests go when a service's endpoints are in several places: the nearest first, the next when it dies, or by
shares. Pods say where they are with the label `istio-locality`; the caller is in region1/zone1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from mesh_rig import Mesh, eventually, namespace
from outside_rig import applied

HERE, NEXT_ZONE, NEXT_REGION, FAR = "region1.zone1", "region1.zone2", "region2.zone3", "region3.zone4"
OUTLIERS = "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1m}"
SERVED = re.compile(r"version: (\S+),")

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: "helloworld-PLACE"}
spec:
  selector: {matchLabels: {app: helloworld, version: PLACE}}
  template:
    metadata: {labels: {app: helloworld, version: PLACE, istio-locality: PLACE, rack: RACK}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: helloworld
        image: docker.io/meltem/examples-helloworld-v1:1.0
        imagePullPolicy: IfNotPresent
        env: [{name: SERVICE_VERSION, value: PLACE}]
        ports: [{containerPort: 5000}]
---
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: helloworld}
spec: {selector: {app: helloworld}, ports: [{name: http, port: 5000}]}
---
"""


@pytest.fixture(scope="module")
def ns(mesh: Mesh) -> Iterator[str]:
    with namespace(mesh, "locality", "istio-injection=enabled") as name:
        mesh.apply("curl/curl.yaml", namespace=name)
        label = '{"spec":{"template":{"metadata":{"labels":{"istio-locality":"region1.zone1","rack":"a"}}}}}'
        mesh.kubectl("patch", "deployment", "curl", "-n", name, "-p", label)
        racks = {HERE: "b", NEXT_ZONE: "b", NEXT_REGION: "a", FAR: "b"}
        parts = [DEPLOYMENT.replace("PLACE", place).replace("RACK", rack) for place, rack in racks.items()]
        mesh.create(SERVICE + "".join(parts), name)
        mesh.rolled_out("curl", *(f"helloworld-{place}" for place in racks), namespace=name)
        yield name


@pytest.fixture
def served(mesh: Mesh, ns: str) -> Callable[..., Counter[str]]:
    """Where so many requests of the caller were answered."""
    loop = "for i in $(seq $0); do curl -s -m 5 http://helloworld:5000/hello; done"

    def ask(count: int = 12) -> Counter[str]:
        text = mesh.execute("deploy/curl", "sh", "-c", loop, str(count), namespace=ns, container="curl")
        return Counter(SERVED.findall(text))

    return ask


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


def only(served: Callable[..., Counter[str]], *places: str) -> None:
    def check() -> None:
        found = served()
        assert set(found) == set(places) and found.total() == 12, found

    eventually(check)


def gone(mesh: Mesh, ns: str, *places: str) -> None:
    for place in places:
        mesh.kubectl("scale", f"deploy/helloworld-{place}", "-n", ns, "--replicas=0")


def back(mesh: Mesh, ns: str, *places: str) -> None:
    for place in places:
        mesh.kubectl("scale", f"deploy/helloworld-{place}", "-n", ns, "--replicas=1")
    mesh.rolled_out(*(f"helloworld-{place}" for place in places), namespace=ns)


def test_without_outlier_detection_all_places_are_alike(
    mesh: Mesh, ns: str, served: Callable[..., Counter[str]]
) -> None:
    with applied(mesh, rule("{enabled: true}", outliers=""), ns):
        only(served, HERE, NEXT_ZONE, NEXT_REGION, FAR)


def test_the_nearest_serves_and_when_it_dies_the_next(mesh: Mesh, ns: str, served: Callable[..., Counter[str]]) -> None:
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


def test_a_place_whose_endpoints_are_ejected_is_left(mesh: Mesh, ns: str, served: Callable[..., Counter[str]]) -> None:
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


def test_failover_by_labels(mesh: Mesh, ns: str, served: Callable[..., Counter[str]]) -> None:
    """The caller is in rack a: its rack comes first, wherever that is; `key=value` names a label's value itself."""
    with applied(mesh, rule("{enabled: true, failoverPriority: [rack]}"), ns):
        only(served, NEXT_REGION)
    with applied(mesh, rule('{enabled: true, failoverPriority: ["rack=b", topology.kubernetes.io/region]}'), ns):
        only(served, HERE, NEXT_ZONE)


def test_shares(mesh: Mesh, ns: str, served: Callable[..., Counter[str]]) -> None:
    """70 of 100 here, 20 in the next zone, 10 in another region; nothing where no share is named."""
    shares = '{"region1/zone1/*": 70, "region1/zone2/*": 20, "region2/*": 10}'
    with applied(mesh, rule(f'{{enabled: true, distribute: [{{from: "region1/zone1/*", to: {shares}}}]}}'), ns):

        def check() -> None:
            found = served(100)
            assert found.total() == 100 and not found[FAR], found
            assert found[HERE] > found[NEXT_ZONE] > found[NEXT_REGION] > 0, found
            assert 55 <= found[HERE] <= 85, found

        eventually(check)


@pytest.mark.both_homes
def test_a_service_that_prefers_what_is_close(mesh: Mesh, ns: str, served: Callable[..., Counter[str]]) -> None:
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


def test_entries_of_a_service_entry_have_places_of_their_own(
    mesh: Mesh, ns: str, served: Callable[..., Counter[str]]
) -> None:
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
    loop = "for i in $(seq 12); do curl -s -m 5 -H 'Host: hello.example.com' http://240.1.1.1:5000/hello; done"
    with applied(mesh, text, ns):

        def check() -> None:
            said = mesh.execute("deploy/curl", "sh", "-c", loop, namespace=ns, container="curl")
            assert Counter(SERVED.findall(said)) == {FAR: 12}, said

        eventually(check)
