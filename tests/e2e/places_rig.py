"""One service whose servers are in several places and say who they are, and one caller: where do requests go?

In: a mesh, the labels of each server and of the caller. Out: `placed` is the namespace that has them, `Calls` counts
who answered.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mesh_rig import Mesh, namespace

_SAID = re.compile(r"(?:Hello version: (\S+), [^|]*)?\|(\d+)")
_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: helloworld}
spec: {selector: {app: helloworld}, ports: [{name: http, port: 5000}]}
---
"""
_SERVER = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: "helloworld-{name}"}}
spec:
  selector: {{matchLabels: {{app: helloworld, version: {name}}}}}
  template:
    metadata: {{labels: {labels}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: helloworld
        image: docker.io/meltem/examples-helloworld-v1:1.0
        imagePullPolicy: IfNotPresent
        env: [{{name: SERVICE_VERSION, value: {name}}}]
        ports: [{{containerPort: 5000}}]
---
"""


@contextmanager
def placed(
    mesh: Mesh, name: str, servers: Mapping[str, Mapping[str, str]], caller: Mapping[str, str], more: str = ""
) -> Iterator[str]:
    """A namespace with the service `helloworld`, a deployment `helloworld-SERVER` for each server, `curl` as the
    caller; `more` are further resources."""
    with namespace(mesh, name, "istio-injection=enabled") as ns:
        mesh.apply("curl/curl.yaml", namespace=ns)
        label = {"spec": {"template": {"metadata": {"labels": dict(caller)}}}}
        mesh.kubectl("patch", "deployment", "curl", "-n", ns, "-p", json.dumps(label))
        parts = [
            _SERVER.format(name=server, labels=json.dumps({"app": "helloworld", "version": server, **labels}))
            for server, labels in servers.items()
        ]
        mesh.create("".join([_SERVICE, *parts, more]), ns)
        mesh.rolled_out("curl", *(f"helloworld-{server}" for server in servers), namespace=ns)
        yield ns


@dataclass(frozen=True)
class Calls:
    """What the caller is answered."""

    mesh: Mesh
    namespace: str

    def __call__(self, count: int = 12, url: str = "http://helloworld:5000/hello", host: str = "") -> Counter[str]:
        """Server → how many of so many requests it answered; what no server answered counts under its status."""
        named = f"-H 'Host: {host}'" if host else ""
        loop = f"for i in $(seq {count}); do curl -s -m 5 {named} -w '|%{{http_code}}\\n' {url}; done"
        text = self.mesh.execute("deploy/curl", "sh", "-c", loop, namespace=self.namespace, container="curl")
        found = Counter(server or status for server, status in _SAID.findall(text))
        assert found.total() == count, text
        return found
