"""What scopes contain: only what matters to them, so that a change costs only whom it touches."""

from __future__ import annotations

import mesh_files
from mesh_yaml import istio, service

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.generate.bundle import Notice
from meltem.view.proxy import parse_proxy


def engine(*texts: str) -> Engine:
    made = Engine()
    for text in texts:
        mesh_files.load(made, text)
    return made


def test_a_sidecar_resource_keeps_other_namespaces_changes_away() -> None:
    mesh = engine(service("a", {"http": 80}), istio("Sidecar", "default", "egress: [{hosts: ['./*']}]"))
    proxy = mesh_files.sidecar("a-1", "default", "10.0.0.1", {"app": "a"})
    mesh.connect(proxy)
    notices: list[Notice] = []
    mesh.bundles.attach(proxy.id, notices.append)
    mesh_files.load(mesh, service("b", {"http": 80}, namespace="other", ip="10.9.0.2"))
    assert notices == []
    mesh_files.load(mesh, service("c", {"http": 80}, ip="10.9.0.3"))
    assert api.CLUSTER in notices[0]


def test_a_gateway_of_another_selector_costs_this_gateway_nothing() -> None:
    mesh = engine(service("a", {"http": 80}))
    proxy = mesh_files.router("gw-1", "istio-system", "10.0.0.9", {"istio": "ingressgateway"})
    mesh.connect(proxy)
    notices: list[Notice] = []
    mesh.bundles.attach(proxy.id, notices.append)
    servers = "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]"
    mesh_files.load(mesh, istio("Gateway", "other", "selector: {istio: other}\n" + servers))
    assert notices == []
    mesh_files.load(mesh, istio("Gateway", "mine", "selector: {istio: ingressgateway}\n" + servers))
    assert api.LISTENER in {url for notice in notices for url in notice}


def test_a_secret_that_no_server_names_costs_a_gateway_nothing() -> None:
    servers = "servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}]"
    mesh = engine(istio("Gateway", "g", "selector: {istio: ingressgateway}\n" + servers))
    proxy = mesh_files.router("gw-1", "istio-system", "10.0.0.9", {"istio": "ingressgateway"})
    mesh.connect(proxy)
    notices: list[Notice] = []
    mesh.bundles.attach(proxy.id, notices.append)
    unrelated = "\napiVersion: v1\nkind: Secret\nmetadata: {name: x, namespace: istio-system}\ndata: {a: Yg==}\n"
    mesh_files.load(mesh, unrelated)
    assert notices == []


def test_an_external_name_follows_the_service_that_it_stands_for() -> None:
    alias = "\napiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: default}\n"
    alias += "spec: {type: ExternalName, externalName: a.default.svc.cluster.local}\n"
    mesh = engine(service("a", {"http": 80}), alias)
    made = mesh_files.generated(mesh, mesh_files.sidecar("c", "default", "10.0.0.1", {}))["virtualhosts"]
    host = api.route_components.VirtualHost.FromString(made["80/alias.default.svc.cluster.local:80"])
    assert host.routes[0].route.cluster == "outbound|80||a.default.svc.cluster.local"
    assert "alias" in host.domains


def test_gateways_may_be_held_to_their_own_namespace() -> None:
    servers = "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]"
    foreign = istio("Gateway", "foreign", "selector: {istio: ingressgateway}\n" + servers, namespace="elsewhere")
    proxy = mesh_files.router("gw-1", "istio-system", "10.0.0.9", {"istio": "ingressgateway"})
    for scoped in (False, True):
        made = Engine(scope_gateways=scoped)
        mesh_files.load(made, foreign)
        assert bool(mesh_files.generated(made, proxy)["listeners"]) is not scoped


ENTRY = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: %s, namespace: vms, labels: {app: %s}}
spec: {address: 192.0.2.7, labels: {app: %s}, ports: {http: %s}}
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: vms}
spec: {clusterIP: 10.96.0.%s, selector: {app: %s}, ports: [{name: http, port: 80, targetPort: %s}]}
"""


def test_of_two_entries_at_one_address_a_machine_is_its_own() -> None:
    """Whichever was there first: the other is written by hand, for a port that has no proxy."""
    own = ENTRY % ("legacy-192.0.2.7", "legacy", "legacy", 8080, "legacy", 7, "legacy", 8080)
    other = ENTRY % ("by-hand", "plain", "plain", 9090, "plain", 8, "plain", 9090)
    machine = parse_proxy(
        "sidecar~192.0.2.7~box.vms~vms.svc.cluster.local", {"NAMESPACE": "vms", "AUTO_REGISTER_GROUP": "legacy"}
    )
    for texts in ((own, other), (other, own)):
        engine = Engine()
        for text in texts:
            mesh_files.load(engine, text)
        listener = mesh_files.generated(engine, machine)["listeners"]["virtualInbound"]
        assert b"inbound|8080||" in listener and b"inbound|9090||" not in listener


def test_whose_agent_a_proxy_has() -> None:
    """Istio's own serves secrets at a socket and says which Istio it is of; ours says where it keeps them too."""
    node = "sidecar~192.0.2.7~web.shop~shop.svc.cluster.local"
    said = ({}, {"ISTIO_VERSION": "1.27.0"}, {"ISTIO_VERSION": "1.27.0", "MELTEM_SDS_PATH": "/etc/istio/proxy"})
    assert [parse_proxy(node, {**one}).secrets_by_socket for one in said] == [False, True, False]
