"""Names of other networks' gateways: asked of the resolver when they come, and every now and then."""

from __future__ import annotations

import mesh_files as files
import pytest

from meltem.clock import ManualClock
from meltem.controlplane.names import AFTER_FAILURE, SECONDS, Answer, GatewayNames, ask
from meltem.engine import Engine
from meltem.resources.mesh import parse_mesh_networks

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: east-west, namespace: istio-system, labels: {topology.istio.io/network: far}}
spec: {clusterIP: 10.1.0.1, ports: [{name: tls, port: 15443}]}
status: {loadBalancer: {ingress: [{hostname: lb.test}]}}
"""


class Zone:
    """A DNS zone that can be changed; it counts the questions."""

    def __init__(self) -> None:
        self.records: dict[str, Answer] = {}
        self.asked: list[str] = []

    async def ask(self, name: str) -> Answer:
        self.asked.append(name)
        if name not in self.records:
            raise LookupError("NXDOMAIN")
        return self.records[name]


def gateways(engine: Engine) -> list[str]:
    return sorted(a for n, a, _ in engine.mesh.all_network_gateways if n == "far")


async def test_names_are_resolved_again_when_their_time_is_over_and_kept_while_dns_is_away() -> None:
    engine, clock, zone = Engine(), ManualClock(), Zone()
    names = GatewayNames(engine, clock, zone.ask)
    files.load(engine, SERVICE)
    networks = parse_mesh_networks("networks: {far: {gateways: [{address: other.test, port: 15443}]}}")
    with engine.graph.transaction():
        engine.inputs.mesh_networks.set("", networks)
    zone.records = {"lb.test": ("10.9.0.1",)}
    await names.look()
    assert (sorted(zone.asked), gateways(engine)) == (["lb.test", "other.test"], ["10.9.0.1"])

    zone.records["other.test"] = ("10.9.0.2", "10.9.0.3")
    await names.look()  # nothing is due
    assert len(zone.asked) == 2
    await clock.advance(AFTER_FAILURE)
    await names.look()
    assert gateways(engine) == ["10.9.0.1", "10.9.0.2", "10.9.0.3"]

    zone.records = {"lb.test": ("10.9.0.9",)}
    await clock.advance(SECONDS)
    await names.look()
    assert gateways(engine) == ["10.9.0.2", "10.9.0.3", "10.9.0.9"]

    with engine.graph.transaction():
        engine.inputs.mesh_networks.delete("")
    await names.look()
    assert gateways(engine) == ["10.9.0.9"]
    assert set(engine.inputs.resolved_names) == {"lb.test"}


async def test_the_machine_s_resolver_is_asked() -> None:
    assert "127.0.0.1" in await ask("localhost")
    with pytest.raises(LookupError):
        await ask("nobody." * 40 + "invalid")  # longer than a name can be
