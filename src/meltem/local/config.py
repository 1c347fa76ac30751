"""What one local cluster is made of: names, addresses, paths. The seam between `up`, the API server, the controllers,
the node and the cluster network; written by `istioctl local up` to `<home>/clusters/<name>/cluster.json`, read by all.

The node is a network namespace of its own, joined to the host by one veth pair: pod bridge, service rules and cluster
DNS live in there, so several clusters stand side by side and the host's own firewall is left alone. The host has only
routes to the cluster's addresses by way of that veth.

    host 10.<64+index>.255.1 ──veth── 10.<64+index>.255.2 node ──bridge── pods 10.<64+index>.0.0/17
                                       services 10.<64+index>.128.0/18 · load balancers 10.<64+index>.192.0/24

With IPv6 the same again under fd00:10:<64+index>::/48: link ffff::1 and ffff::2, pods 1::/112, services 2::/112, load
balancers 3::/120. Of each list of addresses the first is of the cluster's primary family: IPv4 where it has both.
"""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

import msgspec

NODE_NAME = "meltem"
CLUSTER_DOMAIN = "cluster.local"

IpFamily = Literal["ipv4", "ipv6", "dual"]
IP_FAMILIES: tuple[IpFamily, ...] = ("ipv4", "ipv6", "dual")
FAMILY_NAMES: dict[int, str] = {4: "IPv4", 6: "IPv6"}
"""As Kubernetes writes them in `ipFamilies` and `addressType`."""


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One local cluster. `index` (0..127) tells its addresses from those of the other clusters on the machine."""

    name: str
    index: int
    home: str
    """Directory of everything that is kept: `<root>/clusters/<name>`."""
    api_port: int = 6443

    ip_family: IpFamily = "ipv4"

    @property
    def versions(self) -> tuple[int, ...]:
        """The cluster's families, 4 and 6, the primary one first."""
        return {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[self.ip_family]

    def _each(self, four: str, six: str) -> tuple[str, ...]:
        texts = {4: f"10.{64 + self.index}.{four}", 6: f"fd00:10:{64 + self.index}:{six}"}
        return tuple(texts[version] for version in self.versions)

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return self._each("0.0/17", "1::/112")

    @property
    def pod_cidr(self) -> str:
        return self.pod_cidrs[0]

    @property
    def pod_gateways(self) -> tuple[str, ...]:
        """The bridge's addresses in the node namespace; every pod's default routes."""
        return self._each("0.1", "1::1")

    @property
    def pod_gateway(self) -> str:
        return self.pod_gateways[0]

    def pod_addresses(self, address: str) -> tuple[str, ...]:
        """All addresses of the pod (or node) that has this primary one: in each pod network it has the same number."""
        if not address or address == self.node_ip:
            return self.node_ips if address else ()
        networks = [ip_network(cidr) for cidr in self.pod_cidrs]
        number = int(ip_address(address)) - int(networks[0].network_address)
        return tuple(str(network[number]) for network in networks)

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        return self._each("128.0/18", "2::/112")

    @property
    def service_cidr(self) -> str:
        return self.service_cidrs[0]

    @property
    def kubernetes_ip(self) -> str:
        """ClusterIP of the `kubernetes` service."""
        return self._each("128.1", "2::1")[0]

    @property
    def dns_ips(self) -> tuple[str, ...]:
        """ClusterIPs of the `kube-dns` service in kube-system."""
        return self._each("128.10", "2::a")

    @property
    def dns_ip(self) -> str:
        return self.dns_ips[0]

    @property
    def load_balancer_cidrs(self) -> tuple[str, ...]:
        return self._each("192.0/24", "3::/120")

    @property
    def load_balancer_cidr(self) -> str:
        return self.load_balancer_cidrs[0]

    @property
    def host_ips(self) -> tuple[str, ...]:
        """The host's end of the veth."""
        return self._each("255.1", "ffff::1")

    @property
    def host_ip(self) -> str:
        """Where the API server listens, besides 127.0.0.1."""
        return self.host_ips[0]

    @property
    def node_ips(self) -> tuple[str, ...]:
        """The node's end of the veth: the Node's InternalIPs; node ports answer here."""
        return self._each("255.2", "ffff::2")

    @property
    def node_ip(self) -> str:
        return self.node_ips[0]

    @property
    def node_netns(self) -> str:
        """Name of the node's network namespace (under /run/netns)."""
        return f"meltem-{self.name}"

    @property
    def host_veth(self) -> str:
        return f"mltm{self.index}"

    @property
    def inner_api_url(self) -> str:
        """The API server as the node's network sees it."""
        return f"https://{url_host(self.host_ip)}:{self.api_port}"

    @property
    def api_url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def path(self) -> Path:
        return Path(self.home)

    @property
    def database(self) -> Path:
        return self.path / "state.db"

    @property
    def pki(self) -> Path:
        """ca.crt ca.key · apiserver.crt apiserver.key · sa.key sa.pub · admin.crt admin.key."""
        return self.path / "pki"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator (client certificate, group system:masters)."""
        return self.path / "admin.kubeconfig"

    @property
    def node_socket(self) -> Path:
        """Unix socket on which the node serves the kubelet API (logs, exec, attach, port-forward) to the API server."""
        return self.path / "node.sock"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def pods(self) -> Path:
        """Per-pod directories: volumes, overlay layers, container logs."""
        return self.path / "pods"


def url_host(address: str) -> str:
    """An address as it stands in URLs and before a port: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def default_root() -> Path:
    """Where clusters are kept: `$MELTEM_HOME`, else /var/lib/meltem."""
    return Path(os.environ.get("MELTEM_HOME", "/var/lib/meltem"))


def load_cluster(home: Path) -> ClusterConfig:
    return msgspec.json.decode((home / "cluster.json").read_bytes(), type=ClusterConfig)


def save_cluster(config: ClusterConfig) -> None:
    target = config.path / "cluster.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
    partial.replace(target)
