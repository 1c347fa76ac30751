"""A mesh to drive as its users do: kubectl, istioctl, requests through the gateway and from pods, load."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kubecluster.cluster import KubeCluster
from meltem.local.config import load_cluster

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES = ROOT / "samples"
PATIENCE = 90.0
REVIEWS = re.compile(r">reviews (v\d)</span>")


def eventually(check: Callable[[], T], seconds: float = PATIENCE) -> T:
    """The check's result once it neither raises AssertionError nor OSError; its last failure when time is up."""
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


class Load:
    """Requests, one after the other on several connections, until the end of the block; every failure is kept."""

    def __init__(self, host: str, path: str, connections: int = 2) -> None:
        self.host, self.path = host, path
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(connections)]

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        while not self._stop.is_set():
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")
                connection.close()
                continue
            broken = re.search(r"Error fetching product \w+", text)
            if response.status != 200 or broken:
                what = broken[0] if broken else text[:200]
                self.failures.append(f"{time.strftime('%X')} {response.status}: {what}")
            found = REVIEWS.search(text)
            self.answered[found[1] if found else str(response.status)] += 1
            self._stop.wait(0.02)
        connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Until so many more requests were answered."""
        goal = sum(self.answered.values()) + more
        eventually(lambda: self._reached(goal))

    def _reached(self, goal: int) -> None:
        assert sum(self.answered.values()) >= goal, self.failures


class Mesh:
    """A cluster with profile demo and Bookinfo in `default`, the local home or real Kubernetes: tests see the same.

    What differs between the two is said by the subclasses below, and nowhere in tests.
    """

    interpreter: str
    """A Python, in the pods of the samples, that has grpcio, protobuf and aiohttp."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.home = root / "clusters" / name
        self.kubeconfig = self.home / "admin.kubeconfig"
        bin_directory = str(Path(sys.executable).parent)
        self.environment = {
            **os.environ,
            "MELTEM_HOME": str(root),
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
        }

    def up(self) -> None:
        raise NotImplementedError

    def runs(self) -> bool:
        """Whether a cluster of this name and place is up already."""
        return self.kubeconfig.exists() and self.run(["kubectl", "version", "--request-timeout=5s"]).returncode == 0

    def down(self) -> None:
        """Nothing is left of the cluster; no error when it never came up."""
        raise NotImplementedError

    def process(self, role: str) -> int:
        """Pid of the cluster's `apiserver`, `controllers` or `node`; each is started again when it ends."""
        raise NotImplementedError

    def _pid(self, word: str) -> int:
        """Of the process that has this word in its command line, and the cluster's directory."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_text()
                except OSError:
                    continue
                if word in line.split("\0") and str(self.home) in line:
                    return int(entry.name)
        raise AssertionError(f"no {word} runs for {self.home}")

    @property
    def host_address(self) -> str:
        """This machine's address as pods see it: where a test's own server stands for the outside world."""
        return load_cluster(self.home).host_ip

    @property
    def node_address(self) -> str:
        """The node's address: node ports answer there."""
        return load_cluster(self.home).node_ip

    # --- typing ---

    def run(self, command: Sequence[str], *, stdin: str = "", seconds: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=seconds, env=self.environment, cwd=ROOT
        )

    def _ok(self, command: Sequence[str], stdin: str = "") -> str:
        done = self.run(command, stdin=stdin)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self._ok(["kubectl", *arguments], stdin)

    def istioctl(self, *arguments: str) -> str:
        return self._ok(["istioctl", *arguments])

    def script(self, *command: str) -> str:
        """Any program, as a user of this mesh types it."""
        return self._ok(command)

    def apply(self, *paths: str, namespace: str = "default") -> None:
        for path in paths:
            self.kubectl("apply", "-n", namespace, "-f", str(SAMPLES / path))

    def create(self, text: str, namespace: str = "default") -> None:
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl(*arguments, "-o", "json"))

    def rolled_out(self, *deployments: str, namespace: str = "default") -> None:
        for deployment in deployments:
            self.kubectl("rollout", "status", f"deploy/{deployment}", "-n", namespace, "--timeout=120s")

    def pods(self, namespace: str, selector: str) -> list[Any]:
        """The pods that `selector` selects, without those that are being deleted."""
        found = self.json("get", "pods", "-n", namespace, "-l", selector)["items"]
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def containers(self, namespace: str, selector: str) -> list[str]:
        """Names of the containers of the one pod that `selector` selects, native sidecars among them."""
        pods = self.pods(namespace, selector)
        assert len(pods) == 1, [p["metadata"]["name"] for p in pods]
        spec = pods[0]["spec"]
        sidecars = [c for c in spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]
        return [c["name"] for c in [*spec["containers"], *sidecars]]

    def execute(self, target: str, *command: str, namespace: str = "default", container: str = "") -> str:
        where = ["-c", container] if container else []
        return self.kubectl("exec", "-n", namespace, target, *where, "--", *command)

    def python(self, target: str, program: str, *arguments: str, namespace: str = "default", container: str) -> str:
        """Runs a Python program in a pod of a sample (curl, sleep, httpbin, ...); it may import grpc and aiohttp."""
        return self.execute(
            target, self.interpreter, "-c", program, *arguments, namespace=namespace, container=container
        )  # fmt: skip

    # --- traffic ---

    @property
    def gateway(self) -> str:
        return self.load_balancer("istio-ingressgateway", "istio-system")

    def load_balancer(self, service: str, namespace: str) -> str:
        """The address at which this machine reaches a Service of type LoadBalancer, once there is one."""

        def address() -> str:
            path = "{.status.loadBalancer.ingress[0].ip}"
            found = self.kubectl("get", "svc", service, "-n", namespace, "-o", f"jsonpath={path}")
            assert found, f"Service {namespace}/{service} has no address"
            return found

        return eventually(address)

    def get(self, path: str, headers: dict[str, str] | None = None, host: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.gateway, timeout=30)
        try:
            connection.request("GET", path, headers=(headers or {}) | ({"Host": host} if host else {}))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def reviews(self, count: int, headers: dict[str, str] | None = None) -> Counter[str]:
        """Which version of reviews made so many pages."""
        seen: Counter[str] = Counter()
        connection = http.client.HTTPConnection(self.gateway, timeout=30)
        for _ in range(count):
            connection.request("GET", "/productpage", headers=headers or {})
            response = connection.getresponse()
            text = response.read().decode()
            found = REVIEWS.search(text)
            assert response.status == 200 and found, (response.status, text[-2000:])
            seen[found[1]] += 1
        connection.close()
        return seen

    def login(self, user: str) -> dict[str, str]:
        """The header of somebody who signed in."""
        connection = http.client.HTTPConnection(self.gateway, timeout=30)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", f"username={user}", form)
        response = connection.getresponse()
        response.read()
        connection.close()
        return {"Cookie": response.headers["Set-Cookie"].split(";")[0]}

    def load(self, path: str = "/productpage") -> Load:
        return Load(self.gateway, path)


class LocalMesh(Mesh):
    """On `istioctl local up`."""

    interpreter = sys.executable
    # Containers of the local cluster see this machine's files.

    def up(self, *options: str) -> None:
        self.istioctl("local", "up", "--name", self.name, "--no-context", *options)

    def down(self) -> None:
        if self.home.exists():
            self.istioctl("local", "down", "--name", self.name, "--purge")

    def process(self, role: str) -> int:
        return self._pid(f"meltem.local.{role}")


class KubernetesMesh(Mesh):
    """On a real Kubernetes of one node, built by tools/kubernetes.py."""

    interpreter = "/usr/bin/python3"

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, root)
        self.cluster = KubeCluster(name, root, Path(os.environ["MELTEM_KUBE_BIN"]))

    def up(self) -> None:
        self.cluster.up()

    def down(self) -> None:
        self.cluster.down()

    def process(self, role: str) -> int:
        programs = {"apiserver": "kube-apiserver", "controllers": "kube-controller-manager", "node": "kubelet"}
        return self._pid(str(Path(os.environ["MELTEM_KUBE_BIN"]) / programs[role]))


@contextmanager
def namespace(mesh: Mesh, name: str, *labels: str) -> Iterator[str]:
    mesh.kubectl("create", "namespace", name)
    try:
        if labels:
            mesh.kubectl("label", "namespace", name, *labels)
        yield name
    finally:
        mesh.kubectl("delete", "namespace", name, "--wait=false")


def may_read_secrets(namespace: str, account: str = "default") -> str:
    """A Role for the service account, without which its proxies are given no private keys."""
    rules = '[{apiGroups: [""], resources: [secrets], verbs: [list]}]'
    return f"""---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {account}-reads-secrets}}
rules: {rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {account}-reads-secrets}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {account}-reads-secrets}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: {namespace}}}]
"""
