"""A cluster of its own for the node's tests: API server and node as processes; what the tests may ask of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from meltem.local.config import ClusterConfig
from meltem.local.node.teardown import teardown
from meltem.objects import JsonObject

PATIENCE = 40.0


class Cluster:
    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.node: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []

    def start_node(self) -> None:
        self.node = self._run("meltem.local.node", "node.log")

    def start_server(self) -> None:
        self._others.append(self._run("meltem.local.apiserver", "apiserver.log"))

    def kill_node(self) -> None:
        """As a crash would."""
        assert self.node is not None
        self.node.kill()
        self.node.wait()

    def stop(self) -> None:
        for process in [*([self.node] if self.node else []), *self._others]:
            process.send_signal(signal.SIGKILL)
            process.wait()
        teardown(self.config)

    def kubectl(self, *arguments: str, text: str = "", check: bool = True, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.config.kubeconfig), "--cache-dir", str(self.config.path / "cache"),
             *arguments],
            input=text, capture_output=True, text=True, check=False, timeout=90, env={**os.environ, **(env or {})},
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}"

    def apply(self, *objects: JsonObject) -> None:
        for obj in objects:
            self.kubectl("create", "-f", "-", text=json.dumps(obj))

    def pod(self, name: str) -> JsonObject:
        return json.loads(self.kubectl("get", "pod", name, "-o", "json"))

    def wait(self, what: str, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError(f"not within {patience:g} s: {what}\n{self.kubectl('get', 'pods,events', check=False)}")

    def wait_phase(self, name: str, phase: str) -> None:
        self.wait(f"pod {name} {phase}", lambda: self._status(name).get("phase") == phase)

    def wait_ready(self, name: str) -> None:
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=40s")

    def events(self, name: str) -> list[str]:
        """`Reason: message` of the pod's events."""
        found = json.loads(
            self.kubectl("get", "events", "-o", "json", "--field-selector", f"involvedObject.name={name}")
        )
        return [f"{e['reason']}: {e['message']}" for e in found["items"]]

    def _status(self, name: str) -> JsonObject:
        status = self.pod(name).get("status")
        return status if isinstance(status, dict) else {}

    def _run(self, module: str, log: str) -> subprocess.Popen[bytes]:
        with (self.config.path / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--home", str(self.config.path)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
