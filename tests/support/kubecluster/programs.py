"""The programs of the cluster: how each is started, and the files that it reads. Pure, but for `write_files`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from meltem.local.apiserver.pki import write_kubeconfig
from meltem.local.config import NODE_NAME, ClusterConfig

REGISTRY_PORT = 5000
CONTAINERD = "/run/containerd/containerd.sock"
KUBELET = "/var/lib/kubelet"
"""Inside, the cluster's own directory `kubelet`: a socket's path must be short."""
PAUSE = "registry.k8s.io/pause:3.10"
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
ISSUER = "https://kubernetes.default.svc.cluster.local"
CNI_PLUGINS = Path("/usr/lib/cni")
CNI_NEEDED = ("ptp", "host-local", "portmap", "loopback")


@dataclass(frozen=True)
class Program:
    """`ready`: a URL or a socket's path that answers when the next program may start."""

    name: str
    command: tuple[str, ...]
    ready: str = ""


def server(config: ClusterConfig) -> str:
    return f"https://{config.node_ip}:{config.api_port}"


def write_files(config: ClusterConfig) -> None:
    """Everything that the programs below read, keys excepted, into the cluster's directory."""
    home = config.path
    for user, path in (("admin", config.kubeconfig), ("node", home / "node.kubeconfig")):
        write_kubeconfig(config, path, user, server=server(config))
    write_kubeconfig(config, home / "controllers.kubeconfig", "controllers", server=server(config))
    for directory in ("cni/net.d", "cni/bin", "logs", "log", "certs.d/_default", "kubelet"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    (home / "cni/net.d/10-ptp.conflist").write_text(json.dumps(_cni(config), indent=1))
    (home / "containerd.toml").write_text(_containerd(home))
    registry = f"http://127.0.0.1:{REGISTRY_PORT}"
    (home / "certs.d/_default/hosts.toml").write_text(
        f'server = "{registry}"\n[host."{registry}"]\ncapabilities = ["pull", "resolve"]\n'
    )
    (home / "kubelet.json").write_text(json.dumps(_kubelet(config), indent=1))
    lines = Path("/etc/resolv.conf").read_text().splitlines() if Path("/etc/resolv.conf").exists() else []
    far = [n for n in lines if n.startswith("nameserver") and not n.split()[-1].startswith(("127.", "::1"))]
    (home / "resolv.conf").write_text("\n".join(far or [f"nameserver {config.host_ip}"]) + "\n")


def programs(config: ClusterConfig, binaries: Path, etcd: str, python: str) -> list[Program]:
    """In the order in which they are started."""
    home, pki = config.path, config.pki
    here = ("-m", "kubecluster.registry")
    controllers = f"--kubeconfig={home / 'controllers.kubeconfig'}"
    return [
        Program("registry", (python, *here, str(home)), f"http://127.0.0.1:{REGISTRY_PORT}/v2/"),
        Program("etcd", _etcd(home, etcd), "http://127.0.0.1:2379/health"),
        Program("containerd", (str(binaries / "containerd"), "-c", str(home / "containerd.toml")), CONTAINERD),
        Program("kube-apiserver", _apiserver(config, binaries), f"{server(config)}/readyz"),
        Program(
            "kube-controller-manager",
            (
                str(binaries / "kube-controller-manager"),
                controllers,
                f"--authentication-kubeconfig={home / 'controllers.kubeconfig'}",
                f"--authorization-kubeconfig={home / 'controllers.kubeconfig'}",
                f"--service-account-private-key-file={pki / 'sa.key'}",
                f"--root-ca-file={pki / 'ca.crt'}",
                f"--cluster-signing-cert-file={pki / 'ca.crt'}",
                f"--cluster-signing-key-file={pki / 'ca.key'}",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--cert-dir={home / 'kcm'}",
            ),
        ),
        Program(
            "kube-scheduler",
            (
                str(binaries / "kube-scheduler"),
                controllers,
                f"--authentication-kubeconfig={home / 'controllers.kubeconfig'}",
                f"--authorization-kubeconfig={home / 'controllers.kubeconfig'}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ),
        ),
        Program(
            "kubelet",
            (
                str(binaries / "kubelet"),
                f"--config={home / 'kubelet.json'}",
                f"--kubeconfig={home / 'node.kubeconfig'}",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={config.node_ip}",
                f"--root-dir={KUBELET}",
                f"--cert-dir={KUBELET}/pki",
            ),
        ),
        Program(
            "kube-proxy",
            (
                str(binaries / "kube-proxy"),
                f"--kubeconfig={home / 'controllers.kubeconfig'}",
                f"--hostname-override={NODE_NAME}",
                "--proxy-mode=nftables",
                f"--cluster-cidr={config.pod_cidr}",
                # The rest are switches of the whole machine, which are not ours to set.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
            ),
        ),
        Program("load-balancers", (python, "-m", "kubecluster.loadbalancer", str(home))),
    ]


def _etcd(home: Path, etcd: str) -> tuple[str, ...]:
    return (
        etcd,
        f"--data-dir={home / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
    )


def _apiserver(config: ClusterConfig, binaries: Path) -> tuple[str, ...]:
    pki = config.pki
    return (
        str(binaries / "kube-apiserver"),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={config.service_cidr}",
        f"--secure-port={config.api_port}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={config.node_ip}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'admin.crt'}",
        f"--kubelet-client-key={pki / 'admin.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-account-issuer={ISSUER}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--cert-dir={config.path / 'apiserver'}",
    )


def _cni(config: ClusterConfig) -> dict[str, object]:
    """Each pod has a link of its own to the node: what pods say to each other passes the node's rules both ways."""
    ranges = [[{"subnet": config.pod_cidr, "gateway": config.pod_gateway}]]
    ipam = {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam, "mtu": 1500},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return {"cniVersion": "1.0.0", "name": "kubernetes", "plugins": plugins}


def _containerd(home: Path) -> str:
    return f"""version = 3
root = "{home / "containerd"}"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{home / "certs.d"}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


def _kubelet(config: ClusterConfig) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(config.pki / "ca.crt")},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [config.dns_ip],
        "resolvConf": str(config.path / "resolv.conf"),
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "serializeImagePulls": False,
        "nodeStatusReportFrequency": "1m",
    }
