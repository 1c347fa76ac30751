"""What one local cluster is made of: names, addresses, paths. The seam between `up`, the API server, the controllers,
the node and the cluster network; written by `istioctl local up` to `<home>/clusters/<name>/cluster.json`, read by all.

The node is a network namespace of its own, joined to the host by one veth pair: pod bridge, service rules and cluster
DNS live in there, so several clusters stand side by side and the host's own firewall is left alone. The host has only
routes to the cluster's addresses by way of that veth.

    host 10.<64+index>.255.1 ──veth── 10.<64+index>.255.2 node ──bridge── pods 10.<64+index>.0.0/17
                                       services 10.<64+index>.128.0/18 · load balancers 10.<64+index>.192.0/24
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

NODE_NAME = "meltem"
CLUSTER_DOMAIN = "cluster.local"


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One local cluster. `index` (0..127) tells its addresses from those of the other clusters on the machine."""

    name: str
    index: int
    home: str
    """Directory of everything that is kept: `<root>/clusters/<name>`."""
    api_port: int = 6443

    @property
    def _net(self) -> str:
        return f"10.{64 + self.index}"

    @property
    def pod_cidr(self) -> str:
        return f"{self._net}.0.0/17"

    @property
    def pod_gateway(self) -> str:
        """The bridge's address in the node namespace; every pod's default route."""
        return f"{self._net}.0.1"

    @property
    def service_cidr(self) -> str:
        return f"{self._net}.128.0/18"

    @property
    def kubernetes_ip(self) -> str:
        """ClusterIP of the `kubernetes` service."""
        return f"{self._net}.128.1"

    @property
    def dns_ip(self) -> str:
        """ClusterIP of the `kube-dns` service in kube-system."""
        return f"{self._net}.128.10"

    @property
    def load_balancer_cidr(self) -> str:
        return f"{self._net}.192.0/24"

    @property
    def host_ip(self) -> str:
        """The host's end of the veth; the API server listens here and on 127.0.0.1."""
        return f"{self._net}.255.1"

    @property
    def node_ip(self) -> str:
        """The node's end of the veth: the Node's InternalIP; node ports answer here."""
        return f"{self._net}.255.2"

    @property
    def node_netns(self) -> str:
        """Name of the node's network namespace (under /run/netns)."""
        return f"meltem-{self.name}"

    @property
    def host_veth(self) -> str:
        return f"mltm{self.index}"

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
