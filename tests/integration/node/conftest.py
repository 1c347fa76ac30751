"""A cluster of its own for the node's tests, in a home under tmp_path; taken off the machine afterwards."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from node_cluster import PATIENCE, Cluster

from meltem.local.config import ClusterConfig, save_cluster
from meltem.local.node.preflight import preflight
from meltem.objects import JsonObject


def _free_index() -> int:
    """An index whose veth does not exist: making the veth claims it, the node then takes it over."""
    for index in range(127, 40, -1):
        name = f"mltm{index}"
        made = subprocess.run(
            ["ip", "link", "add", name, "type", "veth", "peer", "name", f"mltp{index}"],
            capture_output=True,
            check=False,
        )
        if made.returncode == 0:
            return index
    raise AssertionError("no cluster index is free on this machine")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    problems = [p.what for p in preflight()]
    if problems:
        pytest.skip("; ".join(problems))
    home = tmp_path_factory.mktemp("cluster")
    index = _free_index()
    config = ClusterConfig(name=f"nodetest{index}", index=index, home=str(home), api_port=17000 + index)
    save_cluster(config)
    subprocess.run(["ip", "link", "del", config.host_veth], check=True)
    found = Cluster(config)
    try:
        found.start_node()
        found.start_server()
        deadline = time.monotonic() + PATIENCE
        while "meltem" not in (found.kubectl("get", "nodes", check=False) if config.kubeconfig.exists() else ""):
            assert time.monotonic() < deadline, (home / "node.log").read_text() + (home / "apiserver.log").read_text()
            time.sleep(0.1)
        account: JsonObject = {
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"},
        }  # fmt: skip
        found.apply(account)
        config_map: JsonObject = {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "x"},
        }  # fmt: skip
        found.apply(config_map)
        yield found
    finally:
        found.stop()


@pytest.fixture
def pod() -> Callable[..., JsonObject]:
    """Makes a pod object with one container `main` that runs a shell script."""

    def make(name: str, script: str, *, container: JsonObject | None = None, **spec: object) -> JsonObject:
        main: JsonObject = {"name": "main", "image": "busybox", "command": ["sh", "-c", script], **(container or {})}
        body: JsonObject = {"nodeName": "meltem", "terminationGracePeriodSeconds": 2, "containers": [main]}
        body |= spec  # type: ignore[arg-type]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": body}

    return make
