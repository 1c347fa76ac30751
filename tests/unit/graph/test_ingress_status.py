"""The addresses that Ingresses show in their status."""

from __future__ import annotations

from meltem.graph.ingress import status_addresses
from meltem.resources import core
from meltem.resources.parse import parse


def gateway(status: object, external: list[str]) -> core.Service:
    made = parse(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system"},
            "spec": {"type": "LoadBalancer", "externalIPs": list(external), "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": status}},
        }
    )
    assert isinstance(made, core.Service)
    return made


def test_load_balancer_addresses_come_before_external_ones_and_names_last() -> None:
    service = gateway([{"hostname": "lb.example.com"}, {"ip": "192.0.2.1"}], ["192.0.2.2", "192.0.2.1"])
    assert status_addresses(service) == (("192.0.2.1", ""), ("192.0.2.2", ""), ("", "lb.example.com"))


def test_nothing_without_a_service_or_an_address() -> None:
    assert status_addresses(None) == ()
    assert status_addresses(gateway([], [])) == ()


def test_a_service_that_stands_for_a_name_gives_that_name() -> None:
    service = parse(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system"},
            "spec": {"type": "ExternalName", "externalName": "edge.example.com"},
        }
    )
    assert isinstance(service, core.Service)
    assert status_addresses(service) == (("", "edge.example.com"),)
