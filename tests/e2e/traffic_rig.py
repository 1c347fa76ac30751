"""Servers that tell what they were sent and clients that send it, for tests of routes and destinations.

In: a mesh and a namespace. Out: `Traffic`: three versions of one server (`pod/echo.py`) and a client, a service of its
own for every test, batches of requests from a pod (one `exec` each), and what the servers have counted.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh_rig import Mesh, eventually

POD = Path(__file__).parent / "pod"
VERSIONS = ("v1", "v2", "v3")
PORTS = (
    ("http", 80, 8080),
    ("http-alt", 81, 8080),
    ("tcp", 9000, 9000),
    ("tcp-first", 9001, 9001),
    ("https", 443, 8443),
)

_DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {app}, version: {version}}}}}
  template:
    metadata: {{labels: {{app: {app}, version: {version}, team: {team}}}, annotations: {annotations}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: {app}
        image: {image}
        imagePullPolicy: IfNotPresent
        command: {command}
        volumeMounts:
        - {{name: programs, mountPath: /srv/programs}}
        - {{name: tls, mountPath: /tls}}
      volumes:
      - {{name: programs, configMap: {{name: programs}}}}
      - {{name: tls, secret: {{secretName: echo-tls, optional: true}}}}
"""
_CLIENT_IMAGE, _SERVER_IMAGE = "docker.io/curlimages/curl:8.16.0", "docker.io/mccutchen/go-httpbin:v2.15.0"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any
    """What a JSON body says, else its text; of a TCP server the line that came back."""
    seconds: float

    @property
    def version(self) -> str:
        """Which version answered; empty where a proxy did."""
        return self.headers.get("x-version", "")


@dataclass
class Traffic:
    """A namespace with `echo-v1` to `echo-v3` (one pod each), and the clients `client` (of team blue) and `red`."""

    mesh: Mesh
    namespace: str
    other: str
    """A namespace with a client only."""
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    """Version → address of its pod."""

    def deploy(self) -> None:
        files = {name: (POD / name).read_text() for name in ("echo.py", "client.py")}
        # (kubectl takes what begins with a brace for JSON throughout)
        parts = [
            "# programs\n"
            + json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "programs"}, "data": files})
        ]
        parts += [deployment(f"echo-{v}", "echo", v) for v in VERSIONS]
        client = deployment("client", "client", "v1")
        self.mesh.create("\n---\n".join([parts[0], client]), self.other)
        parts += [client, deployment("red", "client", "red", team="red")]
        self.mesh.create("\n---\n".join(parts), self.namespace)
        self.mesh.rolled_out(*(f"echo-{v}" for v in VERSIONS), "client", "red", namespace=self.namespace)
        self.mesh.rolled_out("client", namespace=self.other)
        for pod in self.mesh.pods(self.namespace, "app=echo"):
            self.addresses[pod["metadata"]["labels"]["version"]] = pod["status"]["podIP"]

    # --- what a test sets up ---

    def service(self, host: str, http: str = "", *, policy: str = "", ports: str = "", more: str = "") -> str:
        """Makes a service over all versions with subsets v1 to v3, and routes for it: `http` is the items of that list.
        Returns once requests to each subset are answered by way of the routes. `policy` is the DestinationRule's
        trafficPolicy, `more` other documents."""
        rule = f"  trafficPolicy: {policy}\n" if policy else ""
        subsets = ", ".join(f"{{name: {v}, labels: {{version: {v}}}}}" for v in VERSIONS)
        text = f"""
apiVersion: v1
kind: Service
metadata: {{name: {host}}}
spec:
  selector: {{app: echo}}
  ports: [{ports or ", ".join(f"{{name: {n}, port: {p}, targetPort: {t}}}" for n, p, t in PORTS)}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec:
  host: {host}
{rule}  subsets: [{subsets}]
"""
        if more:
            text += f"---\n{more}"
        self.mesh.create(text, self.namespace)
        if http:
            self.routes(host, http)
        return host

    def routes(self, host: str, http: str, *, annotations: str = "{}", name: str = "") -> None:
        """Routes of a service, in effect when this returns: a route of their own tells their number."""
        mark = f"/_mark/{abs(hash((host, http, annotations)))}"
        ready = "".join(
            f"""  - match: [{{uri: {{exact: {mark}/{v}}}}}]
    route: [{{destination: {{host: {host}, subset: {v}, port: {{number: 80}}}}}}]
"""
            for v in VERSIONS
        )
        text = f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name or host}, annotations: {annotations}}}
spec:
  hosts: [{host}]
  http:
{ready}{textwrap.indent(textwrap.dedent(http).strip(), "  ")}
"""
        self.mesh.create(text, self.namespace)

        def there() -> None:
            found = self.ask(*({"url": f"http://{host}{mark}/{v}"} for v in VERSIONS))
            told = [(a.status, a.version, a.body["path"]) if a.version else a for (a,) in found]
            assert told == [(200, v, f"{mark}/{v}") for v in VERSIONS]

        eventually(there)

    # --- requests ---

    def ask(self, *wants: Mapping[str, Any], client: str = "client", namespace: str = "") -> list[list[Answer]]:
        """Sends batches from a client's pod; the form of a batch is `pod/client.py`'s."""
        command = (self.mesh.interpreter, "/srv/programs/client.py", json.dumps(wants))
        where = namespace or self.namespace
        out = self.mesh.execute(f"deploy/{client}", *command, namespace=where, container="client")
        return [[Answer(**one) for one in batch] for batch in json.loads(out)]

    def one(self, url: str, *, client: str = "client", namespace: str = "", **want: Any) -> Answer:
        return self.ask({"url": url, **want}, client=client, namespace=namespace)[0][0]

    def each(self, host: str, *wants: Mapping[str, Any]) -> list[Answer]:
        """One request for each of `{path, method, headers}`."""
        return [a for (a,) in self.ask(*({"url": f"http://{host}{w.get('path', '/')}", **w} for w in wants))]

    def versions(self, url: str, count: int, **want: Any) -> Counter[str]:
        """Which version answered how many of so many requests."""
        answers = self.ask({"url": url, "count": count, **want})[0]
        assert {a.status for a in answers} == {200}, Counter(a.status for a in answers)
        return Counter(a.version for a in answers)

    def lines(self, address: str, count: int, client: str = "client") -> Counter[str]:
        """Connects so many times with one line each: which version sent it back."""
        answers = self.ask({"address": address, "line": "ahoy", "count": count}, client=client)[0]
        return Counter(str(a.body).partition(" ")[0] for a in answers)

    def seen(self, mark: str) -> dict[str, int]:
        """How many requests with `x-id: mark` have come to each version, by the servers' own count."""
        wants = [{"url": f"http://{self.addresses[v]}:8080/_seen"} for v in VERSIONS]
        found = self.ask(*wants)
        return {v: a.body.get(mark, 0) for v, (a,) in zip(VERSIONS, found, strict=True)}

    def until_seen(self, mark: str, check: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """What the servers have counted once it is as `check` wants it."""

        def look() -> dict[str, int]:
            found = self.seen(mark)
            assert check(found), found
            return found

        return eventually(look)


def deployment(name: str, app: str, version: str, *, team: str = "blue", annotations: str = "{}") -> str:
    server = app != "client"
    command = json.dumps(["python3", "-u", "/srv/programs/echo.py", version] if server else ["/bin/sleep", "infinity"])
    image = _SERVER_IMAGE if server else _CLIENT_IMAGE
    return _DEPLOYMENT.format(
        name=name, app=app, version=version, team=team, command=command, image=image, annotations=annotations
    )


def within(count: int, total: int, share: float) -> bool:
    """Whether so many of `total` fit a share (0 to 1), five standard deviations either side: one miss in a million."""
    spread = 5 * (total * share * (1 - share)) ** 0.5
    return abs(count - total * share) <= spread
