"""The real Kubernetes that tests run on: it stands beside others, the host stays as it is, nothing of it is left."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kubecluster.cluster import ClusterError, KubeCluster
from kubecluster.node import SWITCHES

pytestmark = pytest.mark.kubernetes


def _host() -> dict[str, str]:
    """What a cluster might change on a machine, and must not."""
    said = {switch: Path(f"/proc/sys/{switch}").read_text() for switch in SWITCHES}
    for directory in ("/etc/cni/net.d", "/opt/cni/bin", "/var/lib/kubelet", "/run/containerd"):
        path = Path(directory)
        said[directory] = " ".join(sorted(p.name for p in path.iterdir())) if path.exists() else "absent"
    said["kube-proxy"] = subprocess.run(
        ["nft", "list", "table", "ip", "kube-proxy"], capture_output=True, text=True, check=False
    ).stdout
    return said


def _processes(home: Path) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_text().replace("\0", " ")
        except OSError:
            continue
        if str(home) in line:
            found.append(line)
    return found


def test_a_cluster_comes_and_goes_and_the_host_stays_as_it_was(tmp_path: Path) -> None:
    before = _host()
    cluster = KubeCluster(f"kc-{os.getpid()}", tmp_path, Path(os.environ["MELTEM_KUBE_BIN"]))
    try:
        cluster.up()
        config = cluster.config
        with pytest.raises(ClusterError, match="runs already"):
            cluster.up()
        assert " Ready " in cluster.kubectl("get", "nodes", "--no-headers")
        assert _host() == before
        assert _processes(cluster.home)
    finally:
        cluster.down()
    assert _host() == before
    assert not _processes(cluster.home)
    assert not cluster.home.exists()
    assert not Path(f"/run/netns/{config.node_netns}").exists()
    assert not Path(f"/sys/class/net/{config.host_veth}").exists()
    assert not [p for p in Path("/sys/fs/cgroup").glob("**/meltem-kubernetes-*") if cluster.name in p.name]
    assert str(cluster.home) not in Path("/proc/mounts").read_text()
    cluster.down()  # again: no error


def test_what_is_missing_on_a_machine_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"kube-apiserver, .*kubelet"):
        KubeCluster("nothing", tmp_path, tmp_path).up()
