"""Service rules with the real nft and kernel: a node and two pods as network namespaces of this test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]

VIP = "10.64.128.5"
_SERVER = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", 8080)); s.listen(); print("up", flush=True)
while True:
    c, peer = s.accept(); c.sendall((sys.argv[1] + " saw " + peer[0]).encode()); c.close()
"""
_CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3); print(s.recv(100).decode())
"""
_APPLY = """
import asyncio, json, sys
from meltem.local.config import ClusterConfig
from meltem.local.network.nft import Table
from meltem.local.network.plan import make_plan

async def main():
    table = Table()
    for services, slices in json.load(sys.stdin):
        await table.apply(make_plan(ClusterConfig(name="t", index=0, home="/x"), services, slices))
asyncio.run(main())
"""


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Node:
    """A node namespace that routes between pod namespaces, as the local node does."""

    def __init__(self, stack: ExitStack) -> None:
        self.prefix = f"mt{uuid.uuid4().hex[:6]}"
        self.node = f"{self.prefix}-n"
        self._stack = stack
        self._add(self.node)
        run("ip", "-n", self.node, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.node, "addr", "add", "10.64.0.1/17", "dev", "br0")
        run("ip", "-n", self.node, "link", "set", "br0", "up")
        # An uplink that leads nowhere: a packet to a service must never need it.
        run("ip", "-n", self.node, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
        run("ip", "-n", self.node, "addr", "add", "10.64.255.2/30", "dev", "up0")
        for end in ("up0", "up1"):
            run("ip", "-n", self.node, "link", "set", end, "up")
        run("ip", "-n", self.node, "route", "add", "default", "via", "10.64.255.1")
        run("ip", "netns", "exec", self.node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def _add(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self._stack.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def pod(self, number: int, *, serve: bool = True) -> str:
        name, ip = f"{self.prefix}-{number}", f"10.64.0.{number}"
        self._add(name)
        run("ip", "-n", self.node, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", self.node, "link", "set", f"v{number}", "master", "br0", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "addr", "add", f"{ip}/32", "dev", "eth0")
        run("ip", "-n", name, "route", "add", "10.64.0.1", "dev", "eth0")
        run("ip", "-n", name, "route", "add", "default", "via", "10.64.0.1")
        if serve:
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-c", _SERVER, ip], stdout=subprocess.PIPE, text=True
            )
            self._stack.callback(process.wait)
            self._stack.callback(process.kill)
            assert process.stdout is not None
            self._stack.callback(process.stdout.close)
            assert process.stdout.readline() == "up\n"
        return name

    def apply(self, *steps: object) -> None:
        run("ip", "netns", "exec", self.node, sys.executable, "-c", _APPLY, text=json.dumps(steps))

    def connect(self, namespace: str, address: str, port: int = 80) -> str:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _CLIENT, address, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture
def node() -> Iterator[Node]:
    with ExitStack() as stack:
        yield Node(stack)


def service(**spec: object) -> dict[str, object]:
    ports = [{"name": "http", "port": 80}]
    return {"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": VIP, "ports": ports, **spec}}


def slice_of(*ips: str) -> dict[str, object]:
    return {
        "metadata": {"name": "x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}, "nodeName": "meltem"} for ip in ips],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def test_a_service_address_leads_to_its_endpoints_and_follows_their_changes(node: Node) -> None:
    client, _, _ = node.pod(9, serve=False), node.pod(2), node.pod(3)
    node.apply([[service()], [slice_of("10.64.0.2", "10.64.0.3")]])
    assert {node.connect(client, VIP) for _ in range(20)} == {
        "10.64.0.2 saw 10.64.0.9",
        "10.64.0.3 saw 10.64.0.9",
    }
    node.apply([[service()], [slice_of("10.64.0.2", "10.64.0.3")]], [[service()], [slice_of("10.64.0.3")]])
    assert {node.connect(client, VIP) for _ in range(5)} == {"10.64.0.3 saw 10.64.0.9"}


def test_without_endpoints_or_on_another_port_a_connection_is_refused_at_once(node: Node) -> None:
    client = node.pod(9, serve=False)
    node.apply([[service()], []])
    assert "refused" in node.connect(client, VIP)
    assert "refused" in node.connect(client, VIP, 81)
    assert "refused" in node.connect(node.node, VIP)


def test_a_client_sticks_to_its_endpoint_while_others_come(node: Node) -> None:
    client, _, _ = node.pod(9, serve=False), node.pod(2), node.pod(3)
    sticky = service(sessionAffinity="ClientIP")
    node.apply([[sticky], [slice_of("10.64.0.2", "10.64.0.3")]])
    assert len({node.connect(client, VIP) for _ in range(10)}) == 1


def test_source_ranges_of_a_load_balancer_keep_others_out(node: Node) -> None:
    inside, outside, _ = node.pod(9, serve=False), node.pod(8, serve=False), node.pod(2)
    balanced = service(type="LoadBalancer", loadBalancerSourceRanges=["10.64.0.9/32"])
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": "10.64.192.1"}]}}
    node.apply([[balanced], [slice_of("10.64.0.2")]])
    assert node.connect(inside, "10.64.192.1") == "10.64.0.2 saw 10.64.0.9"
    assert "timed out" in node.connect(outside, "10.64.192.1")
