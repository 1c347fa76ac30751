"""A machine outside Kubernetes in the mesh: a network namespace, joined as `docs/virtual-machines.md` says."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import SAMPLES, Mesh, eventually, namespace

from meltem.objects import annotations_of

sys.path.insert(0, str(SAMPLES / "wasm" / "src"))
import plugin

VM = SAMPLES / "vm"
GRACE = 60


class Machine:
    """One that `samples/vm/machine.sh` made. Everything that runs on it ends with it."""

    def __init__(self, mesh: Mesh, name: str, number: int, place: Path) -> None:
        self.mesh, self.name, self.place = mesh, name, place
        self._running: list[subprocess.Popen[bytes]] = []
        mesh.script(str(VM / "machine.sh"), "up", name, str(number))
        self.address = mesh.script(str(VM / "machine.sh"), "address", name).strip()

    def run(self, *command: str) -> str:
        return self.mesh.script(str(VM / "machine.sh"), "run", self.name, *command)

    def start(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.place / log).open("ab") as out:
            line = [str(VM / "machine.sh"), "run", self.name, *command]
            process = subprocess.Popen(line, stdout=out, stderr=out, env=self.mesh.environment)
        self._running.append(process)
        return process

    def settings(self, more: str) -> None:
        """The machine's own, for the next start of the proxy. Connections need not be waited for at its end."""
        text = f"TERMINATION_DRAIN_DURATION_SECONDS=1\n{more}"
        self.run("sh", "-c", 'printf %s "$0" > /var/lib/istio/envoy/sidecar.env', text)

    def curl(self, url: str, *options: str) -> tuple[int, str]:
        text = self.run("curl", "-s", "-m", "10", "-w", "\n%{http_code}", *options, url)
        body, _, code = text.rpartition("\n")
        return int(code), body

    def down(self) -> None:
        self.mesh.run([str(VM / "machine.sh"), "down", self.name])
        for process in self._running:
            process.wait(30)


class Rig:
    """A namespace with callers in pods, and a machine that has joined it."""

    def __init__(self, mesh: Mesh, where: str, machine: Machine) -> None:
        self.mesh, self.where, self.machine = mesh, where, machine
        self._proxy = self.start_proxy()

    def start_proxy(self) -> subprocess.Popen[bytes]:
        self._proxy = self.machine.start("proxy.log", str(VM / "istio-start.sh"))
        return self._proxy

    def stop_proxy(self) -> None:
        self.machine.run("pkill", "-f", "pilot-agent proxy")
        self._proxy.wait(30)

    @property
    def entry_name(self) -> str:
        return f"legacy-{self.machine.address}"

    def entry(self) -> Any:
        found = self.mesh.json("get", "workloadentries", "-n", self.where)["items"]
        return next((e for e in found if e["metadata"]["name"] == self.entry_name), None)

    def health(self) -> str:
        entry = self.entry()
        conditions = (entry or {}).get("status", {}).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == "Healthy"), "")

    def healthy(self, wanted: str) -> None:
        assert self.health() == wanted, self.entry()

    def call(self, url: str, *options: str) -> tuple[int, Any]:
        """From a pod: status and the application's answer."""
        text = self.mesh.execute(
            "deploy/curl", "curl", "-s", "-m", "10", "-w", "\n%{http_code}", *options, url,
            namespace=self.where, container="curl",
        )  # fmt: skip
        body, _, code = text.rpartition("\n")
        return int(code), json.loads(body) if body.startswith("{") else body

    def answers(self, url: str, *options: str) -> Any:
        code, body = self.call(url, *options)
        assert code == 200, body
        return body

    def refuses(self, url: str, code: int) -> None:
        assert self.call(url)[0] == code


def configured(mesh: Mesh, where: str, machine: Machine) -> Path:
    """What the machine needs, by its group as it is now."""
    istiod = mesh.kubectl("get", "svc", "istiod", "-n", "istio-system", "-o", "jsonpath={.spec.clusterIP}")
    files = machine.place / "files"
    mesh.istioctl(
        "x", "workload", "entry", "configure", "--name", "legacy", "-n", where, "-o", str(files),
        "--autoregister", "--internalIP", machine.address, "--ingressIP", istiod,
    )  # fmt: skip
    return files


@pytest.fixture(scope="module")
def rig(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    place = tmp_path_factory.mktemp("machine")
    with ExitStack() as stack:
        where = stack.enter_context(namespace(mesh, "t-machines", "istio-injection=enabled"))
        machine = Machine(mesh, "legacy", 0, place)
        stack.callback(machine.down)
        mesh.apply("vm/workloadgroup.yaml", "curl/curl.yaml", "httpbin/httpbin.yaml", namespace=where)
        files = configured(mesh, where, machine)
        assert sorted(f.name for f in files.iterdir()) == [
            "cluster.env", "hosts", "istio-token", "mesh.yaml", "root-cert.pem",
        ]  # fmt: skip
        assert (files / "istio-token").stat().st_mode & 0o077 == 0
        machine.run(str(VM / "join.sh"), str(files))
        machine.settings("")
        machine.start("app.log", "python3", str(VM / "app.py"), "8080")
        made = Rig(mesh, where, machine)
        mesh.rolled_out("curl", "httpbin", namespace=where)
        try:
            eventually(lambda: made.healthy("True"))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(place / 'proxy.log').read_text()[-4000:]}") from None
        yield made


def test_it_is_registered_under_its_group(rig: Rig) -> None:
    entry = rig.entry()
    assert entry["spec"]["address"] == rig.machine.address
    assert entry["spec"]["serviceAccount"] == "legacy" and entry["spec"]["labels"]["app"] == "legacy"
    annotations = annotations_of(entry)
    assert annotations["istio.io/autoRegistrationGroup"] == "legacy"
    assert annotations["istio.io/workloadController"].startswith("istiod-")
    owner = entry["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("WorkloadGroup", "legacy")


def test_pods_call_it_and_it_calls_pods_each_knowing_the_other(rig: Rig) -> None:
    answer = eventually(lambda: rig.answers(f"http://legacy.{rig.where}/"))
    assert answer["machine"] == "legacy"
    assert f"URI=spiffe://cluster.local/ns/{rig.where}/sa/curl" in answer["headers"]["X-Forwarded-Client-Cert"]
    for name in (f"httpbin.{rig.where}", f"httpbin.{rig.where}.svc.cluster.local"):  # known by DNS capture alone
        code, body = rig.machine.curl(f"http://{name}:8000/headers")
        assert code == 200
        assert f"URI=spiffe://cluster.local/ns/{rig.where}/sa/legacy" in body


def test_a_service_entry_selects_it(rig: Rig) -> None:
    rig.mesh.create(
        """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-entry}
spec:
  hosts: [legacy.example.com]
  addresses: [240.240.9.9]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: legacy}}
""",
        rig.where,
    )
    answer = eventually(lambda: rig.answers("http://240.240.9.9/", "-H", "Host: legacy.example.com"))
    assert answer["machine"] == "legacy" and "X-Forwarded-Client-Cert" in answer["headers"]


def test_an_entry_by_hand_for_a_port_without_proxy(rig: Rig) -> None:
    """9090 is not among the captured ports, and the entry names no identity: plain HTTP."""
    rig.machine.start("plain.log", "python3", str(VM / "app.py"), "9090")
    rig.mesh.create(
        f"""
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: plain}}
spec:
  address: {rig.machine.address}
  labels: {{app: plain}}
  ports: {{http: 9090}}
  locality: region1/zone1
  weight: 3
---
apiVersion: v1
kind: Service
metadata: {{name: plain}}
spec:
  selector: {{app: plain}}
  ports: [{{name: http, port: 80}}]
""",
        rig.where,
    )
    answer = eventually(lambda: rig.answers(f"http://plain.{rig.where}/"))
    assert answer["machine"] == "legacy" and "X-Forwarded-Client-Cert" not in answer["headers"]


def test_while_it_is_ill_nothing_is_sent_to_it(rig: Rig) -> None:
    rig.machine.run("touch", "/run/ill")
    eventually(lambda: rig.healthy("False"))
    conditions = {c["type"]: c for c in rig.entry()["status"]["conditions"]}
    assert conditions["Healthy"]["message"] == "port 8080 answered its probe /health with 503"
    eventually(lambda: rig.refuses(f"http://legacy.{rig.where}/", 503))
    rig.machine.run("rm", "/run/ill")
    eventually(lambda: rig.healthy("True"))
    eventually(lambda: rig.answers(f"http://legacy.{rig.where}/"))


def test_its_health_is_asked_in_other_ways(rig: Rig) -> None:
    """Of a real process, which then ends; of a file, which then goes."""
    server = str(SAMPLES / "grpc-echo" / "src" / "grpc_echo.py")
    asked: dict[str, tuple[dict[str, Any], list[str], list[str], str]] = {
        "tcpSocket": ({"port": 9191}, ["python3", str(VM / "app.py"), "9191"], ["pkill", "-f", " 9191$"], "9191"),
        "grpc": ({"port": 9292}, [sys.executable, server, "9292"], ["pkill", "-f", " 9292$"], "9292"),
        "exec": ({"command": ["test", "-e", "/run/well"]}, ["touch", "/run/well"], ["rm", "/run/well"], "status 1"),
    }
    usual = rig.mesh.json("get", "workloadgroup", "legacy", "-n", rig.where)["spec"]["probe"]

    def probe_by(probe: dict[str, Any]) -> None:
        patch = [{"op": "replace", "path": "/spec/probe", "value": probe}]
        rig.mesh.kubectl("patch", "workloadgroup", "legacy", "-n", rig.where, "--type=json", "-p", json.dumps(patch))
        rig.machine.run(str(VM / "join.sh"), str(configured(rig.mesh, rig.where, rig.machine)))

    def ill_because(reason: str) -> None:
        conditions = {c["type"]: c for c in rig.entry().get("status", {}).get("conditions", [])}
        assert conditions["Healthy"]["status"] == "False" and reason in conditions["Healthy"]["message"], conditions

    for kind, (question, begin, end, reason) in asked.items():
        rig.machine.start("asked.log", *begin)
        probe_by({kind: question, "periodSeconds": 1, "failureThreshold": 1})
        started_again(rig)
        rig.machine.run(*end)
        eventually(lambda reason=reason: ill_because(reason))
        rig.machine.start("asked.log", *begin)
        eventually(lambda: rig.healthy("True"))
    probe_by(usual)  # in force from the next start on


def started_again(rig: Rig) -> None:
    """Stops the proxy, starts it, and waits until istiod has seen it connect anew."""
    connected = annotations_of(rig.entry())["istio.io/connectedAt"]
    rig.stop_proxy()
    rig.start_proxy()

    def connected_again() -> None:
        entry = rig.entry()
        assert entry is not None
        now = annotations_of(entry).get("istio.io/connectedAt", "")
        assert now > connected and "istio.io/disconnectedAt" not in annotations_of(entry)
        rig.healthy("True")

    try:
        eventually(connected_again)
    except AssertionError as error:
        log = (rig.machine.place / "proxy.log").read_text()
        raise AssertionError(f"{error}\n{log[-4000:]}") from None
    eventually(lambda: rig.answers(f"http://legacy.{rig.where}/"))


def test_without_its_first_token_it_signs_in_with_its_certificate(rig: Rig) -> None:
    rig.machine.run("rm", "/var/run/secrets/tokens/istio-token")
    started_again(rig)


def test_it_reaches_istiod_through_a_gateway_that_passes_tls_on(rig: Rig) -> None:
    rig.mesh.create(
        """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: t-istiod}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 15443, name: tls-istiod, protocol: TLS}
    tls: {mode: PASSTHROUGH}
    hosts: [istiod.istio-system.svc]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: t-istiod}
spec:
  hosts: [istiod.istio-system.svc]
  gateways: [t-istiod]
  tls:
  - match: [{port: 15443, sniHosts: [istiod.istio-system.svc]}]
    route: [{destination: {host: istiod.istio-system.svc.cluster.local, port: {number: 15012}}}]
""",
        "istio-system",
    )
    try:
        hosts = f"127.0.0.1 localhost\n{rig.machine.address} legacy\n{rig.mesh.gateway} istiod.istio-system.svc\n"
        rig.machine.run("sh", "-c", 'printf %s "$0" > /etc/hosts', hosts)
        rig.machine.settings("PILOT_ADDRESS=istiod.istio-system.svc:15443\n")
        started_again(rig)
        assert ":15443, valid for" in (rig.machine.place / "proxy.log").read_text()
        a_plugin_comes_to_it(rig)
    finally:
        rig.mesh.kubectl("delete", "gateways.networking.istio.io,virtualservices", "t-istiod", "-n", "istio-system")


def a_plugin_comes_to_it(rig: Rig) -> None:
    """Its module comes from istiod on the stream of the proxy: nothing else is open to a machine behind a gateway."""
    code = base64.urlsafe_b64encode(plugin.module()).decode()
    rig.mesh.create(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: machine}\nspec:\n"
        "  selector: {matchLabels: {app: legacy}}\n  pluginConfig: {on: machine}\n"
        f"  url: http://httpbin.{rig.where}.svc.cluster.local:8000/base64/{code}\n",
        rig.where,
    )

    def changed() -> None:
        assert "x-wasm: " in rig.call(f"http://legacy.{rig.where}/", "-D", "-", "-o", "/dev/null")[1]

    eventually(changed)
    rig.mesh.kubectl("delete", "wasmplugin", "machine", "-n", rig.where)


def test_when_it_is_gone_its_entry_goes(rig: Rig) -> None:
    rig.machine.run("pkill", "-9", "-u", "istio-proxy")

    def gone() -> None:
        assert rig.entry() is None

    eventually(gone, GRACE)
    eventually(lambda: rig.refuses(f"http://legacy.{rig.where}/", 503))
