"""The grammar of names, Istio's: clusters, listeners, routes, virtual hosts.

outbound|9080|v1|reviews.default.svc.cluster.local     a cluster: direction|port|subset|hostname
inbound|8080||                                         a workload's own port
0.0.0.0_9080, 10.0.0.1_9000                            outbound listeners
9080, tcp-echo.default.svc.cluster.local:9000          route configurations
reviews.default.svc.cluster.local:9080                 a virtual host
"""

from __future__ import annotations

PASSTHROUGH_CLUSTER = "PassthroughCluster"
BLACKHOLE_CLUSTER = "BlackHoleCluster"
INBOUND_PASSTHROUGH_V4 = "InboundPassthroughCluster"
INBOUND_PASSTHROUGH_V6 = "InboundPassthroughClusterIpv6"
VIRTUAL_OUTBOUND = "virtualOutbound"
VIRTUAL_INBOUND = "virtualInbound"
ALLOW_ANY = "allow_any"
ALLOW_ANY_DYNAMIC = "allow_any_dynamic_dns"
ALLOW_ANY_DYNAMIC_CLUSTER = "AllowAnyDynamicDNSCluster"
BLOCK_ALL = "block_all"


def outbound_cluster(port: int, subset: str, hostname: str) -> str:
    return f"outbound|{port}|{subset}|{hostname}"


def sni_cluster(port: int, subset: str, hostname: str) -> str:
    """The SNI by which an east-west gateway finds a cluster (AUTO_PASSTHROUGH); also mutual TLS' default SNI."""
    return f"outbound_.{port}_.{subset}_.{hostname}"


def inbound_cluster(port: int) -> str:
    return f"inbound|{port}||"


def listener(address: str, port: int) -> str:
    return f"{address}_{port}"


def virtual_host(hostname: str, port: int) -> str:
    return f"{hostname}:{port}"


def vhds(route: str, virtual_host: str) -> str:
    """Name of a virtual host as a resource of its own (VHDS), and in there too: Envoy takes a host away again by the
    name that it has inside."""
    return f"{route}/{virtual_host}"


def virtual_host_in(name: str) -> str:
    """The virtual host's own name, as people know it, of one that came by itself or within its route configuration."""
    return name.rpartition("/")[2]
