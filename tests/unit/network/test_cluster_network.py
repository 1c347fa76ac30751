"""Service rules and cluster DNS as pure functions: what the plan holds, what nft is told, what names answer."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import pytest

from meltem.kube.store import Store
from meltem.local.config import ClusterConfig
from meltem.local.network.conntrack import stale_frontends
from meltem.local.network.dns_server import DnsServer
from meltem.local.network.host_ports import HostPorts
from meltem.local.network.hosts import HostNames
from meltem.local.network.nft import script_for
from meltem.local.network.plan import Plan, make_plan
from meltem.local.network.upstream import Upstream, name_servers
from meltem.local.network.zone import Zone, service_indexes, slice_indexes
from meltem.objects import Json, JsonObject

CONFIG = ClusterConfig(name="t", index=0, home="/nowhere")


def service(name: str = "web", **spec: Json) -> JsonObject:
    ports: Json = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "1", "uid": name},
        "spec": {"type": "ClusterIP", "clusterIP": "10.64.128.5", "ports": ports, **spec},
    }


def endpoint(ip: str, **conditions: Json) -> JsonObject:
    return {"addresses": [ip], "conditions": {"ready": True, **conditions}, "nodeName": "meltem"}


def slice_of(*endpoints: JsonObject, name: str = "web", port: int = 8080, protocol: str = "TCP") -> JsonObject:
    return {
        "metadata": {
            "name": f"{name}-x",
            "namespace": "default",
            "resourceVersion": "1",
            "uid": f"{name}-x",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [*endpoints],
        "ports": [{"name": "http", "port": port, "protocol": protocol}],
    }


def rules(plan: Plan, key: str = "10.64.128.5 . tcp . 80") -> str:
    chain = plan.elements["services"][key].removeprefix("goto ")
    return " ".join(plan.chains[chain])


def test_ready_endpoints_share_the_connections() -> None:
    plan = make_plan(
        CONFIG,
        [service()],
        [slice_of(endpoint("10.64.0.2"), endpoint("10.64.0.3"), endpoint("10.64.0.4", ready=False))],
    )
    assert "mod 2 map { 0 : 10.64.0.2 . 8080, 1 : 10.64.0.3 . 8080 }" in rules(plan)


def test_those_that_terminate_serve_while_nobody_is_ready() -> None:
    going = endpoint("10.64.0.2", ready=False, serving=True, terminating=True)
    assert "10.64.0.2:8080" in rules(make_plan(CONFIG, [service()], [slice_of(going)]))


def test_a_service_without_endpoints_is_refused() -> None:
    plan = make_plan(CONFIG, [service()], [slice_of()])
    assert plan.elements["unserved"] == {"10.64.128.5 . tcp . 80": "goto refuse"}
    assert not plan.elements["services"]


def test_local_traffic_policy_leaves_far_endpoints_out_and_drops() -> None:
    far = {**endpoint("192.0.2.1"), "nodeName": "other"}
    plan = make_plan(CONFIG, [service(internalTrafficPolicy="Local")], [slice_of(far)])
    assert plan.elements["unserved"] == {"10.64.128.5 . tcp . 80": "drop"}


def test_load_balancer_and_node_port_lead_to_the_same_chain() -> None:
    ports: Json = [{"name": "http", "port": 80, "nodePort": 30080}]
    one = service(type="LoadBalancer", ports=ports)
    one["status"] = {"loadBalancer": {"ingress": [{"ip": "10.64.192.1"}]}}
    plan = make_plan(CONFIG, [one], [slice_of(endpoint("10.64.0.2"))])
    assert (
        plan.elements["services"]["10.64.192.1 . tcp . 80"]
        == plan.elements["services"]["10.64.128.5 . tcp . 80"]
        == plan.elements["nodeports"]["tcp . 30080"]
    )


def test_of_two_services_with_one_address_the_older_keeps_it() -> None:
    younger = service("young")
    younger["metadata"] = {"name": "young", "namespace": "default", "creationTimestamp": "2025"}
    plan = make_plan(
        CONFIG, [younger, service()], [slice_of(endpoint("10.64.0.2")), slice_of(endpoint("10.64.0.9"), name="young")]
    )
    assert "10.64.0.2" in rules(plan)


def test_only_what_changed_is_written() -> None:
    before = make_plan(CONFIG, [service()], [slice_of(endpoint("10.64.0.2"))])
    after = make_plan(CONFIG, [service()], [slice_of(endpoint("10.64.0.3"))])
    assert script_for(before, before) == ""
    lines = script_for(before, after).splitlines()
    assert not any("hook" in line or "delete table" in line for line in lines)
    assert any(line.startswith("delete chain ip meltem svc-") for line in lines)


def test_session_affinity_remembers_clients_when_other_endpoints_come() -> None:
    sticky = service(sessionAffinity="ClientIP")
    before = make_plan(CONFIG, [sticky], [slice_of(endpoint("10.64.0.2"))])
    after = make_plan(CONFIG, [sticky], [slice_of(endpoint("10.64.0.2"), endpoint("10.64.0.3"))])
    remembered = {n for n in before.declarations if n.startswith("aff-")}
    assert remembered < {n for n in after.declarations if n.startswith("aff-")}
    assert not any("delete set" in line for line in script_for(before, after).splitlines())


def test_udp_flows_to_endpoints_that_went_are_stale_and_tcp_flows_are_not() -> None:
    a, b = frozenset({("10.0.0.1", 53)}), frozenset({("10.0.0.2", 53)})
    before = {("10.64.128.9", "udp", 53): a, ("10.64.128.9", "tcp", 53): a}
    after = {("10.64.128.9", "udp", 53): b, ("10.64.128.9", "tcp", 53): b}
    assert stale_frontends(before, after) == {("10.64.128.9", 53): b}


@pytest.fixture
def zone() -> Zone:
    services, slices, namespaces = Store(service_indexes()), Store(slice_indexes()), Store()
    external = service("out", type="ExternalName", clusterIP="", externalName="web.default.svc.cluster.local")
    services.replace([service(), service("db", clusterIP="None"), external])
    named: JsonObject = {**endpoint("10.64.0.7"), "hostname": "db-0"}
    slices.replace([slice_of(named, endpoint("10.64.0.8", ready=False), endpoint("10.64.0.9"), name="db")])
    namespaces.replace([{"metadata": {"name": "default", "uid": "d", "resourceVersion": "1"}}])
    config_maps = Store()
    lines = """# mine
10.64.128.9 Edition.CNN.com www.cnn.com # two names
no-address a.example.com
10.64.128.8 www.cnn.com
"""
    config_maps.replace(
        [
            {
                "metadata": {"name": "coredns", "namespace": "kube-system", "uid": "c", "resourceVersion": "1"},
                "data": {"NodeHosts": lines},
            }
        ]
    )
    return Zone("cluster.local", ["10.64.0.0/16"], services, slices, namespaces, HostNames(config_maps))


async def ask(zone: Zone, name: str, kind: str = "A") -> tuple[str, list[str]]:
    server = DnsServer(zone, Upstream(host_network=None))
    wire = await server.answer(dns.message.make_query(name, kind).to_wire(), datagram=True)
    assert wire is not None
    message = dns.message.from_wire(wire)
    return dns.rcode.to_text(message.rcode()), sorted(str(rr) for rrset in message.answer for rr in rrset)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.default.svc.cluster.local", "A", ("NOERROR", ["10.64.128.5"])),
        ("WEB.default.svc.Cluster.Local", "A", ("NOERROR", ["10.64.128.5"])),
        ("web.default.svc.cluster.local", "AAAA", ("NOERROR", [])),
        ("none.default.svc.cluster.local", "A", ("NXDOMAIN", [])),
        ("_http._tcp.web.default.svc.cluster.local", "SRV", ("NOERROR", ["0 100 80 web.default.svc.cluster.local."])),
        ("db.default.svc.cluster.local", "A", ("NOERROR", ["10.64.0.7", "10.64.0.9"])),
        ("db-0.db.default.svc.cluster.local", "A", ("NOERROR", ["10.64.0.7"])),
        ("10-64-0-9.db.default.svc.cluster.local", "A", ("NOERROR", ["10.64.0.9"])),
        ("db-1.db.default.svc.cluster.local", "A", ("NXDOMAIN", [])),
        ("out.default.svc.cluster.local", "A", ("NOERROR", ["10.64.128.5", "web.default.svc.cluster.local."])),
        ("10-64-0-3.default.pod.cluster.local", "A", ("NOERROR", ["10.64.0.3"])),
        ("10-64-0-3.nowhere.pod.cluster.local", "A", ("NXDOMAIN", [])),
        ("default.svc.cluster.local", "A", ("NOERROR", [])),
        ("nowhere.svc.cluster.local", "A", ("NXDOMAIN", [])),
        ("5.128.64.10.in-addr.arpa", "PTR", ("NOERROR", ["web.default.svc.cluster.local."])),
        ("7.0.64.10.in-addr.arpa", "PTR", ("NOERROR", ["db-0.db.default.svc.cluster.local."])),
        ("99.0.64.10.in-addr.arpa", "PTR", ("NXDOMAIN", [])),
        ("dns-version.cluster.local", "TXT", ("NOERROR", ['"1.1.0"'])),
        ("edition.cnn.com", "A", ("NOERROR", ["10.64.128.9"])),
        ("edition.cnn.com", "AAAA", ("NOERROR", [])),
        ("www.cnn.com", "A", ("NOERROR", ["10.64.128.8", "10.64.128.9"])),
    ],
)
async def test_names(zone: Zone, name: str, kind: str, expected: tuple[str, list[str]]) -> None:
    assert await ask(zone, name, kind) == expected


@pytest.mark.parametrize("wire", [b"", b"x", bytes(12), b"\x12\x34\x01\x00" + b"\xff" * 40])
async def test_garbage_does_no_harm(zone: Zone, wire: bytes) -> None:
    await DnsServer(zone, Upstream(host_network=None)).answer(wire, datagram=True)


async def test_an_answer_that_does_not_fit_says_so() -> None:
    services, slices, namespaces = Store(service_indexes()), Store(slice_indexes()), Store()
    services.replace([service("db", clusterIP="None")])
    slices.replace([slice_of(*(endpoint(f"10.64.1.{i}") for i in range(100)), name="db")])
    server = DnsServer(Zone("cluster.local", [], services, slices, namespaces), Upstream(host_network=None))
    query = dns.message.make_query("db.default.svc.cluster.local", "A").to_wire()
    short, whole = await server.answer(query, datagram=True), await server.answer(query, datagram=False)
    assert short is not None and whole is not None
    assert dns.message.from_wire(short).flags & dns.flags.TC
    assert len(dns.message.from_wire(whole).answer[0]) == 100


def test_name_servers_are_read_from_resolv_conf(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "resolv.conf"
    file.write_text("# c\nsearch x\nnameserver 127.0.0.53\nnameserver junk\nnameserver 192.0.2.1#5353\n")
    assert name_servers(file) == [("127.0.0.53", 53), ("192.0.2.1", 5353)]
    assert name_servers(tmp_path / "missing") == []


def test_of_a_service_with_two_families_each_table_serves_its_own() -> None:
    config = ClusterConfig(name="t", index=0, home="/nowhere", ip_family="dual")
    two = service(clusterIPs=["10.64.128.5", "fd00:10:64:2::5"], type="NodePort")
    two["spec"]["ports"] = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]  # type: ignore[index, call-overload]
    six: JsonObject = {**slice_of(endpoint("fd00:10:64:1::2"), endpoint("fd00:10:64:1::3")), "addressType": "IPv6"}
    plan = make_plan(config, [two], [slice_of(endpoint("10.64.0.2")), six], (), 6)
    chosen = rules(plan, "fd00:10:64:2::5 . tcp . 80")
    assert "dnat ip6 to numgen random mod 2 map { 0 : fd00:10:64:1::2 . 8080, 1 : fd00:10:64:1::3 . 8080 }" in chosen
    assert not any("10.64." in line for line in script_for(None, plan).splitlines())
    assert "tcp . 30080" in plan.elements["nodeports"]
    four = make_plan(config, [two], [slice_of(endpoint("10.64.0.2")), six])
    assert "dnat ip to 10.64.0.2:8080" in rules(four)
    single = service(clusterIP="fd00:10:64:2::6")
    alone = make_plan(config, [single], [{**slice_of(endpoint("fd00:10:64:1::2")), "addressType": "IPv6"}], (), 6)
    assert "dnat ip6 to [fd00:10:64:1::2]:8080" in rules(alone, "fd00:10:64:2::6 . tcp . 80")
    assert not make_plan(config, [single], []).elements["unserved"], "not the business of the other table"


def pod(uid: str, *ports: JsonObject, created: str = "2026-01-01T00:00:00Z", **status: Json) -> JsonObject:
    return {
        "metadata": {"name": uid, "namespace": "default", "uid": uid, "creationTimestamp": created},
        "spec": {"containers": [{"name": "c", "ports": [*ports]}]},
        "status": {"phase": "Running", "podIP": "10.64.0.2", **status},
    }


def test_a_host_port_leads_to_the_pod_that_runs_and_had_it_first() -> None:
    marks: list[int] = []
    ports = HostPorts(CONFIG.node_ips, lambda: marks.append(1))
    web: JsonObject = {"containerPort": 8080, "hostPort": 80}
    ports.replace([pod("a", web), pod("none"), pod("late", web, created="2026-01-02T00:00:00Z", podIP="10.64.0.3")])
    plan = make_plan(CONFIG, [], [], ports)
    chain = plan.elements["hostports"]["tcp . 80"].removeprefix("goto ")
    assert plan.chains[chain] == ("meta l4proto tcp dnat ip to 10.64.0.2:8080",)
    ports.upsert(pod("none", podIP="10.64.0.9"))
    assert len(marks) == 1  # a pod without host ports is nobody's business
    ports.upsert(pod("a", web, phase="Succeeded"))
    plan = make_plan(CONFIG, [], [], ports)
    chain = plan.elements["hostports"]["tcp . 80"].removeprefix("goto ")
    assert plan.chains[chain] == ("meta l4proto tcp dnat ip to 10.64.0.3:8080",)
    ports.delete(pod("late", web))
    assert not make_plan(CONFIG, [], [], ports).elements["hostports"]


def test_a_host_port_of_another_address_is_not_of_the_node() -> None:
    ports = HostPorts(CONFIG.node_ips, lambda: None)
    ports.upsert(pod("a", {"containerPort": 1, "hostPort": 1, "hostIP": "192.0.2.1"}))
    ports.upsert(pod("b", {"containerPort": 2, "hostPort": 2, "hostIP": CONFIG.node_ip, "protocol": "UDP"}))
    assert list(make_plan(CONFIG, [], [], ports).elements["hostports"]) == ["udp . 2"]
