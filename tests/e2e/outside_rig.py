"""What tests of leaving the mesh share: the server that plays the outside, a caller in the mesh, and what both saw."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh_rig import Mesh, eventually

STAMP = re.compile(r"^\[\d{4}-[^]]+\] ", re.MULTILINE)


@dataclass(frozen=True)
class Outside:
    """The server of samples/outside, as the tests know it."""

    address: str
    certificates: Path
    """Directory of ca.crt, client.crt, client.key."""


@contextmanager
def outside(mesh: Mesh, directory: Path) -> Iterator[Outside]:
    started = mesh.run(["bash", "samples/outside/start.sh", str(directory)])
    try:
        assert started.returncode == 0, started.stderr
        yield Outside(started.stdout.split()[-1], directory)
    finally:
        mesh.run(["bash", "samples/outside/stop.sh"])


@contextmanager
def applied(mesh: Mesh, text: str, namespace: str) -> Iterator[None]:
    """The resources of `text` while the block runs."""
    mesh.create(text, namespace)
    try:
        yield
    finally:
        mesh.kubectl("delete", "-n", namespace, "--ignore-not-found", "-f", "-", stdin=text)


@dataclass(frozen=True)
class Seen:
    """What came back: the status (000: no answer), what curl said, and what the outside saw of the request."""

    status: str
    error: str
    told: dict[str, str]

    @property
    def headers(self) -> str:
        return json.dumps(self.told.get("headers", {})).lower()


class Caller:
    """A pod of the sample `curl`, asked to call."""

    def __init__(self, mesh: Mesh, namespace: str) -> None:
        self.mesh = mesh
        self.namespace = namespace

    def ask(self, url: str, *options: str) -> Seen:
        command = ["kubectl", "exec", "-n", self.namespace, "deploy/curl", "-c", "curl", "--",
                   "curl", "-sS", "-m", "10", "-w", "\n%{http_code}", *options, url]  # fmt: skip
        done = self.mesh.run(command)
        body, _, status = done.stdout.rpartition("\n")
        return Seen(status or "000", done.stderr, json.loads(body) if body.startswith("{") else {})

    def until(self, url: str, *options: str, **wanted: str) -> Seen:
        """The answer once it has the wanted status and the outside saw what is wanted."""

        def check() -> Seen:
            seen = self.ask(url, *options)
            found = {"status": seen.status, **seen.told}
            assert {k: found.get(k) for k in wanted} == wanted, seen
            return seen

        return eventually(check)

    def proxy(self, path: str) -> str:
        """The admin interface of the caller's sidecar."""
        return self.mesh.execute(
            "deploy/curl", "pilot-agent", "request", "GET", path, namespace=self.namespace, container="istio-proxy"
        )

    def log(self) -> list[str]:
        """Lines of the sidecar's access log."""
        return access_log(self.mesh, "deploy/curl", self.namespace)

    def logged(self, *parts: str) -> str:
        return logged(self.log, *parts)


def access_log(mesh: Mesh, target: str, namespace: str) -> list[str]:
    text = mesh.kubectl("logs", target, "-n", namespace, "-c", "istio-proxy", "--tail=200")
    return [line for line in text.splitlines() if STAMP.match(line)]


def logged(lines: Callable[[], list[str]], *parts: str) -> str:
    """The newest line that has all parts, once there is one."""

    def check() -> str:
        found = [line for line in lines() if all(p in line for p in parts)]
        assert found, f"no line with {parts}: {lines()[-10:]}"
        return found[-1]

    return eventually(check)
