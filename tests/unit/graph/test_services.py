"""Services of the mesh, as far as golden cases do not show them."""

from __future__ import annotations

from meltem.graph.model import Port, Protocol, Resolution, Service
from meltem.graph.services import merge


def service(*ports: Port, created: str = "") -> Service:
    return Service(hostname="dns.test", namespace="n", name="dns", ports=ports, resolution=Resolution.ENDPOINTS,
                   created=created)  # fmt: skip


UDP, TCP = Port(53, "dns", Protocol.UDP, 53), Port(53, "dns-tcp", Protocol.TCP, 53)


def test_of_two_ports_with_one_number_proxies_mean_tcp() -> None:
    assert service(UDP, TCP).port(53) == TCP
    assert service(UDP).port(53) == UDP
    assert service(UDP).port(54) is None


def test_both_outlast_a_merge_of_clusters() -> None:
    parts = {("n", "dns.test", c, ""): service(UDP, TCP, created=c) for c in ("1", "2")}
    assert set(merge(parts).ports) == {UDP, TCP}
