"""The pod's /etc files, identity and capabilities, addresses, quality of service."""

from __future__ import annotations

import pytest

from meltem.errors import InvalidResource
from meltem.local.config import ClusterConfig
from meltem.local.images import Image
from meltem.local.node import container_spec, dns
from meltem.local.node.addresses import AddressPool
from meltem.local.node.runtime import linux
from meltem.local.node.status import quality
from meltem.objects import JsonObject

CONFIG = ClusterConfig(name="t", index=3, home="/nowhere/clusters/t")


def pod(**spec: object) -> JsonObject:
    return {"metadata": {"name": "p-1", "namespace": "shop"}, "spec": {**spec}}  # type: ignore[dict-item]


def test_resolv_conf_of_cluster_first_names_the_cluster() -> None:
    lines = dns.resolv_conf(pod(), CONFIG).splitlines()
    assert lines[0].startswith("search shop.svc.cluster.local svc.cluster.local cluster.local")
    assert "nameserver 10.67.128.10" in lines
    assert "options ndots:5 timeout:1 attempts:5" in lines


def test_dns_policy_none_is_dns_config_alone() -> None:
    config: JsonObject = {"nameservers": ["1.2.3.4"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}
    text = dns.resolv_conf(pod(dnsPolicy="None", dnsConfig=config), CONFIG)
    assert text == "search x\nnameserver 1.2.3.4\noptions ndots:2\n"


def test_hosts_has_the_pods_name_subdomain_and_aliases() -> None:
    spec = pod(hostname="h", subdomain="s", hostAliases=[{"ip": "9.9.9.9", "hostnames": ["a", "b"]}])
    lines = dns.hosts_file(spec, ["10.67.0.5", "fd00:10:67:1::5"]).splitlines()
    assert "10.67.0.5\th.s.shop.svc.cluster.local\th" in lines
    assert "fd00:10:67:1::5\th.s.shop.svc.cluster.local\th" in lines
    assert "9.9.9.9\ta\tb" in lines


def test_identity_prefers_container_then_pod_then_image() -> None:
    image = Image(match=(), user="5:6")
    assert container_spec.identity(pod(), {}, image)[:2] == (5, 6)
    secured = pod(securityContext={"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4]})
    assert container_spec.identity(secured, {}, image) == (1000, 2000, [4, 2000, 3000])
    assert container_spec.identity(secured, {"securityContext": {"runAsUser": 1}}, image)[0] == 1


def test_root_is_refused_where_the_pod_says_non_root() -> None:
    with pytest.raises(InvalidResource, match="runAsNonRoot"):
        container_spec.identity(pod(securityContext={"runAsNonRoot": True}), {}, Image(match=()))


def test_capabilities_drop_all_add_one() -> None:
    context: JsonObject = {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}}
    assert container_spec.capabilities(context) == linux.mask(["NET_ADMIN"])
    assert container_spec.capabilities({}) & linux.mask(["NET_BIND_SERVICE"])
    assert not container_spec.capabilities({}) & linux.mask(["SYS_ADMIN"])
    assert container_spec.capabilities({"securityContext": {"privileged": True}}) & linux.mask(["SYS_ADMIN"])


def test_addresses_are_not_given_again_at_once() -> None:
    pool = AddressPool("10.0.0.0/29", {"10.0.0.1"})
    first, second = pool.take(), pool.take()
    pool.release(first)
    assert [first, second, pool.take()] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert pool.take() == "10.0.0.5"
    assert pool.take() == "10.0.0.6"
    assert pool.take() == first


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: JsonObject, expected: str) -> None:
    assert quality(pod(containers=[{"name": "a", "resources": resources}])) == expected
