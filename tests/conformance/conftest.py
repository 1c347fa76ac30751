"""One suite, two API servers: the local cluster's and a real kube-apiserver must answer alike.

The real one's binaries are looked for in `$MELTEM_KUBE_BIN`, then in the build cache; etcd comes from the system.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meltem.local.apiserver.pki import ensure_pki, write_kubeconfig
from meltem.local.config import ClusterConfig, save_cluster

Object = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Object:
        return json.loads(self.body)


class Watch:
    """A watch that is read frame by frame."""

    def __init__(self, connection: http.client.HTTPSConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status

    def next(self) -> Object:
        line = self._response.readline()
        if not line:
            raise EOFError("the watch has ended")
        return json.loads(line)

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Api:
    """One API server: raw requests as an administrator, and kubectl."""

    def __init__(self, flavour: str, config: ClusterConfig, home: Path) -> None:
        self.flavour = flavour
        self.config = config
        self.kubeconfig = config.kubeconfig
        self._home = home
        self._tls = ssl.create_default_context(cafile=str(config.pki / "ca.crt"))
        self._admin = ssl.create_default_context(cafile=str(config.pki / "ca.crt"))
        self._admin.load_cert_chain(str(config.pki / "admin.crt"), str(config.pki / "admin.key"))

    def connect(self, *, admin: bool = True) -> http.client.HTTPSConnection:
        context = self._admin if admin else self._tls
        return http.client.HTTPSConnection("127.0.0.1", self.config.api_port, context=context, timeout=10)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        kind: str = "application/json",
        accept: str = "application/json",
        token: str = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = self.connect(admin=not token)
        sent = {"Accept": accept, **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = kind
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Answer:
        return self.call("GET", path, **more)

    def post(self, path: str, body: object, **more: Any) -> Answer:
        return self.call("POST", path, body, **more)

    def put(self, path: str, body: object, **more: Any) -> Answer:
        return self.call("PUT", path, body, **more)

    def patch(self, path: str, body: object, kind: str = "merge-patch+json", **more: Any) -> Answer:
        return self.call("PATCH", path, body, kind=f"application/{kind}", **more)

    def delete(self, path: str, body: object = None, **more: Any) -> Answer:
        return self.call("DELETE", path, body, **more)

    def watch(self, path: str, accept: str = "application/json") -> Watch:
        connection = self.connect()
        connection.request("GET", path, headers={"Accept": accept})
        return Watch(connection, connection.getresponse())

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, namespace: str = "") -> str:
        """kubectl's standard output; with check=False also what it said on standard error."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self._home / "kubectl-cache")]
        if namespace:
            command += ["-n", namespace]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout if check else done.stdout + done.stderr


def _wait_ready(api: Api, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the API server ended: {log.read_text()[-3000:]}")
        try:
            if api.get("/readyz").status == 200 and api.get("/api/v1/namespaces/default").status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise AssertionError(f"the API server was not ready in time: {log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _config(home: Path) -> ClusterConfig:
    name = f"t{uuid.uuid4().hex[:6]}"
    return ClusterConfig(name=name, index=127, home=str(home), api_port=free_port(), ip_family="dual")


def _local(home: Path) -> Iterator[Api]:
    config = _config(home)
    save_cluster(config)
    log = home / "apiserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "meltem.local.apiserver", "--home", str(home), "--bind", "127.0.0.1"],
            stdout=output,
            stderr=output,
        )
        try:
            while not (config.pki / "admin.crt").exists() or not config.kubeconfig.exists():
                if process.poll() is not None:
                    raise AssertionError(log.read_text()[-3000:])
                time.sleep(0.05)
            api = Api("local", config, home)
            _wait_ready(api, process, log)
            yield api
        finally:
            _stop(process)


def _real(home: Path) -> Iterator[Api]:
    binary, etcd = kube_binary("kube-apiserver"), shutil.which("etcd")
    if binary is None or etcd is None:
        missing = "kube-apiserver (set MELTEM_KUBE_BIN)" if binary is None else "etcd"
        pytest.skip(f"no real Kubernetes to compare with: {missing} was not found")
    config = _config(home)
    save_cluster(config)
    ensure_pki(config)
    write_kubeconfig(config, config.kubeconfig)
    client, peer = free_port(), free_port()
    logs = [home / "etcd.log", home / "kube-apiserver.log"]
    with logs[0].open("wb") as etcd_log, logs[1].open("wb") as api_log:
        url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        store = subprocess.Popen(
            [
                etcd,
                f"--data-dir={home / 'etcd'}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peer_url}",
                f"--initial-advertise-peer-urls={peer_url}",
                f"--initial-cluster=default={peer_url}",
                "--unsafe-no-fsync",
            ],
            stdout=etcd_log,
            stderr=etcd_log,
        )
        server = subprocess.Popen(_kube_flags(str(binary), config, url), stdout=api_log, stderr=api_log)
        try:
            api = Api("kubernetes", config, home)
            _wait_ready(api, server, logs[1])
            yield api
        finally:
            _stop(server)
            _stop(store)


def kube_binary(name: str) -> Path | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "meltem" / "kubernetes"
    for folder in (os.environ.get("MELTEM_KUBE_BIN", ""), str(cache), str(cache / "bin")):
        if folder and (Path(folder) / name).exists():
            return Path(folder) / name
    return None


def _kube_flags(binary: str, config: ClusterConfig, etcd: str) -> list[str]:
    pki = config.pki
    return [
        binary,
        f"--etcd-servers={etcd}",
        f"--service-cluster-ip-range={','.join(config.service_cidrs)}",
        f"--secure-port={config.api_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=RBAC",
        "--endpoint-reconciler-type=none",
    ]


@pytest.fixture(scope="package", params=["local", pytest.param("kubernetes", marks=pytest.mark.kubernetes)])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp(f"api-{request.param}")
    yield from _local(home) if request.param == "local" else _real(home)


@pytest.fixture
def ns(api: Api) -> str:
    """A namespace of the test's own, with the service account that controllers would make."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    made = api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert made.status == 201, made.body
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    assert api.post(f"/api/v1/namespaces/{name}/serviceaccounts", account).status == 201
    return name
