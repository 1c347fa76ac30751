"""Endpoints on other networks are called through the gateways of these: labelled Services, and MeshNetworks."""

from __future__ import annotations

import mesh_files as files
import msgspec
import pytest

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.resources.mesh import parse_mesh_networks

MESH = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: near, namespace: shop}
spec:
  address: 10.0.0.1
  network: main
  labels: {app: web, security.istio.io/tlsMode: istio}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: far, namespace: shop}
spec:
  address: 172.16.0.1
  network: machines
  weight: 3
  labels: {app: web, security.istio.io/tlsMode: istio}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: plain, namespace: shop}
spec: {address: 172.16.0.2, network: machines, labels: {app: web}}
"""
GATEWAY = """
apiVersion: v1
kind: Service
metadata: {name: eastwest, namespace: istio-system, labels: {topology.istio.io/network: machines}}
spec: {clusterIP: 10.1.0.9, ports: [{name: tls, port: 15443}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
"""
MAIN = files.sidecar("main-1", "shop", "10.0.0.9", {}, network="main")
MACHINE = files.sidecar("machine-1", "shop", "172.16.0.9", {}, network="machines")
NOWHERE = files.sidecar("nowhere-1", "shop", "10.0.0.8", {})
CLUSTER = "outbound|80||web.shop.svc.cluster.local"


class World:
    def __init__(self, *texts: str) -> None:
        self.engine = Engine()
        files.load(self.engine, MESH)
        for text in texts:
            files.load(self.engine, text)

    def networks(self, text: str) -> None:
        with self.engine.graph.transaction():
            self.engine.inputs.mesh_networks.set("", parse_mesh_networks(text))

    def seen(self, proxy: files.Proxy) -> dict[str, int]:
        """Address and port of each endpoint → its weight."""
        body = files.generated(self.engine, proxy)["endpoints"][CLUSTER]
        found: dict[str, int] = {}
        for place in api.endpoint.ClusterLoadAssignment.FromString(body).endpoints:
            for one in place.lb_endpoints:
                where = one.endpoint.address.socket_address
                found[f"{where.address}:{where.port_value}"] = one.load_balancing_weight.value
                if where.port_value == 15443:
                    fields = one.metadata.filter_metadata["envoy.transport_socket_match"].fields
                    assert fields["tlsMode"].string_value == "istio"
        return found


INSIDE = msgspec.structs.replace(MACHINE, requested_network_view=("machines",))
DIRECT = {"10.0.0.1:80": 1, "172.16.0.1:80": 3, "172.16.0.2:80": 1}


def test_without_a_gateway_everything_is_called_directly() -> None:
    world = World()
    assert world.seen(MAIN) == DIRECT
    assert world.seen(NOWHERE) == DIRECT


def test_a_labelled_service_stands_for_the_workloads_of_its_network() -> None:
    world = World(GATEWAY)
    assert world.seen(MAIN) == {"10.0.0.1:80": 1, "192.0.2.1:15443": 3}, "what takes no mutual TLS is out of reach"
    assert world.seen(MACHINE) == DIRECT, "its own network, and one without a gateway"
    assert "10.0.0.1:80" not in world.seen(INSIDE), "what came from there is not sent back"
    assert world.seen(NOWHERE) == DIRECT
    with world.engine.graph.transaction():
        world.engine.inputs.services.delete((files.CLUSTER, "istio-system", "eastwest"))
    assert world.seen(MAIN) == DIRECT


def test_several_gateways_share_the_weight() -> None:
    world = World(GATEWAY.replace("[{ip: 192.0.2.1}]", "[{ip: 192.0.2.1}, {ip: 192.0.2.2}]"))
    assert world.seen(MAIN) == {"10.0.0.1:80": 2, "192.0.2.1:15443": 3, "192.0.2.2:15443": 3}


@pytest.mark.parametrize(
    ("gateways", "address"),
    [
        ("[{address: 192.0.2.7, port: 15443}]", "192.0.2.7:15443"),
        ("[{registryServiceName: eastwest.istio-system.svc.cluster.local, port: 15443}]", "192.0.2.1:15443"),
    ],
)
def test_mesh_networks_names_gateways(gateways: str, address: str) -> None:
    unlabelled = GATEWAY.replace(", labels: {topology.istio.io/network: machines}", "")
    world = World(unlabelled)
    world.networks(f"networks: {{machines: {{gateways: {gateways}, endpoints: [{{fromRegistry: other}}]}}}}")
    assert world.seen(MAIN) == {"10.0.0.1:80": 1, address: 3}


def test_mesh_networks_says_which_addresses_and_clusters_are_on_which_network() -> None:
    unsaid = MESH.replace("  network: machines\n", "").replace(", network: machines", "")
    world = World(unsaid, GATEWAY)
    assert world.seen(MAIN) == DIRECT
    world.networks("networks: {machines: {gateways: [], endpoints: [{fromCidr: 172.16.0.0/16}]}}")
    assert world.seen(MAIN) == {"10.0.0.1:80": 1, "192.0.2.1:15443": 3}
    world.networks(f"networks: {{main: {{gateways: [], endpoints: [{{fromRegistry: {files.CLUSTER}}}]}}}}")
    assert world.seen(MAIN) == DIRECT
    assert world.seen(MACHINE) == DIRECT, "no gateway leads to main"
