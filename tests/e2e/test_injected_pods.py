"""What an injected pod is made to be, on a real kubelet: native sidecars, probes of every kind under strict mutual TLS,
an application that waits, TPROXY, the annotations that reach kernel or kubelet, the user's own `istio-proxy`, templates
of one's own; who is injected, and what is said where istiod cannot be asked. One namespace, few pods."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mesh_rig import Mesh, eventually, namespace

from meltem import yamlio

pytestmark = pytest.mark.kubernetes

NewNamespace = Callable[..., str]
SERVER = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{name: http, port: 8001}, {name: http-two, port: 8002}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "docker.io/istio/health:example"}]
"""
STRANGER = """
apiVersion: v1
kind: Pod
metadata: {name: stranger, labels: {sidecar.istio.io/inject: "false"}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: curlimages/curl, command: ["/bin/sleep", "infinity"]}]
"""
NATIVE = """
apiVersion: batch/v1
kind: Job
metadata: {name: native}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {sidecar.istio.io/nativeSidecar: "true"}}
    spec:
      restartPolicy: Never
      initContainers:
      - {name: first, image: curlimages/curl, command: [curl, -sSf, -m, "10", "http://server:8001/foo"]}
      containers:
      - {name: work, image: curlimages/curl, command: [curl, -sSf, -m, "10", "http://server:8001/bar"]}
"""
HELD = """
apiVersion: v1
kind: Pod
metadata: {name: held, annotations: {proxy.istio.io/config: "holdApplicationUntilProxyStarts: true"}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: curlimages/curl
    command: [sh, -c, "curl -sSf -m 5 http://server:8001/foo && exec sleep infinity"]
"""
TPROXY = """
apiVersion: v1
kind: Pod
metadata: {name: tproxy, labels: {app: tproxy}, annotations: {sidecar.istio.io/interceptionMode: TPROXY}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "docker.io/mccutchen/go-httpbin:v2.15.0"}]
---
apiVersion: v1
kind: Service
metadata: {name: tproxy}
spec: {selector: {app: tproxy}, ports: [{name: http, port: 8080}]}
"""
PROBED = """
apiVersion: v1
kind: Pod
metadata: {name: probed, labels: {app: probed}, annotations: {sidecar.istio.io/nativeSidecar: "true"}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: web
    image: docker.io/istio/health:example
    env: [{name: HEALTH_FILE, value: /tmp/unhealthy}]
    ports: [{name: web, containerPort: 8001}]
    startupProbe: {httpGet: {path: /foo, port: web}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {tcpSocket: {port: 8002}, periodSeconds: 1}
    livenessProbe: {httpGet: {path: /bar, port: 8001}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 10}
  - name: hooked
    image: docker.io/mccutchen/go-httpbin:v2.15.0
    lifecycle: {postStart: {httpGet: {path: /foo, port: 8002}}, preStop: {tcpSocket: {port: 8002}}}
  - name: grpc
    image: docker.io/meltem/grpc-echo:1.0
    readinessProbe: {grpc: {port: 7070}, periodSeconds: 1, timeoutSeconds: 5}
  - name: tls
    image: python
    command: [/usr/bin/python3, -c]
    args:
    - |
      import http.server, ssl, subprocess
      subprocess.run("openssl req -x509 -newkey rsa:2048 -nodes -keyout /tmp/key -out /tmp/chain -subj /CN=x".split())
      server = http.server.HTTPServer(("", 8443), http.server.SimpleHTTPRequestHandler)
      context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
      context.load_cert_chain("/tmp/chain", "/tmp/key")
      server.socket = context.wrap_socket(server.socket, server_side=True)
      server.serve_forever()
    readinessProbe: {httpGet: {path: /, port: 8443, scheme: HTTPS}, periodSeconds: 1}
"""
TUNED = """
apiVersion: v1
kind: ConfigMap
metadata: {name: tuned}
data:
  custom_bootstrap.json: '{"node": {"metadata": {"CUSTOM_BOOTSTRAP": "yes"}}}'
  hello.txt: hello from a volume
---
apiVersion: v1
kind: Pod
metadata:
  name: tuned
  annotations:
    sidecar.istio.io/proxyCPU: 12m
    sidecar.istio.io/proxyMemory: 70Mi
    sidecar.istio.io/proxyCPULimit: "2"
    sidecar.istio.io/proxyMemoryLimit: 1Gi
    sidecar.istio.io/userVolume: '{"mine": {"configMap": {"name": "tuned"}}}'
    sidecar.istio.io/userVolumeMount: '{"mine": {"mountPath": "/etc/mine", "readOnly": true}}'
    sidecar.istio.io/bootstrapOverride: tuned
    sidecar.istio.io/logLevel: info
    sidecar.istio.io/componentLogLevel: "http:debug"
    status.sidecar.istio.io/port: "15920"
    readiness.status.sidecar.istio.io/periodSeconds: "1"
    traffic.sidecar.istio.io/excludeInboundPorts: "8002"
    traffic.sidecar.istio.io/excludeOutboundPorts: "8001"
    proxy.istio.io/config: |
      concurrency: 1
      drainDuration: 7s
      proxyMetadata: {FROM_THE_ANNOTATION: x}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{name: of-the-pod}]
  containers:
  - name: app
    image: docker.io/istio/health:example
    readinessProbe: {httpGet: {path: /foo, port: 8001}, periodSeconds: 1}
  - name: istio-proxy
    image: auto
    env: [{name: OF_THE_CONTAINER, value: "1"}]
    securityContext: {runAsUser: 1338, runAsGroup: 1338}
"""
SPARED = """
apiVersion: v1
kind: Pod
metadata: {name: spared, annotations: {traffic.sidecar.istio.io/excludeInterfaces: eth0}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "docker.io/istio/health:example"}]
---
apiVersion: v1
kind: Pod
metadata: {name: narrow, annotations: {traffic.sidecar.istio.io/includeOutboundIPRanges: 192.0.2.0/24}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "docker.io/istio/health:example"}]
"""

CUSTOM = """
spec:
  containers:
  - name: istio-proxy
    env: [{name: TEAM, value: {{ index .ObjectMeta.Labels `team` | quote }}}]
  - {name: helper, image: curlimages/curl, command: [/bin/sleep, infinity]}
"""


class Pods:
    """The pods of this module."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.mesh = mesh
        self.namespace = name

    def get(self, name: str) -> Any:
        return self.mesh.json("get", "pod", name, "-n", self.namespace)

    def address(self, name: str) -> str:
        return str(self.get(name)["status"]["podIP"])

    def execute(self, name: str, *command: str, container: str = "app") -> str:
        return self.mesh.execute(name, *command, namespace=self.namespace, container=container)

    def ask(self, name: str, url: str) -> str:
        """What curl in a pod's application gets; `refused` where nobody answers it."""
        where = ("exec", "-n", self.namespace, name, "-c", "app")
        done = self.mesh.run(["kubectl", *where, "--", "curl", "-sS", "-m", "10", url])
        return done.stdout.strip() if done.returncode == 0 else "refused"


@pytest.fixture(scope="module")
def pods(mesh: Mesh) -> Iterator[Pods]:
    with namespace(mesh, f"pods-{uuid.uuid4().hex[:6]}", "istio-injection=enabled") as name:
        mesh.create("---".join((SERVER, STRANGER, TPROXY, PROBED, TUNED, SPARED)), name)
        ready = ("wait", "-n", name, "--for=condition=Ready", "pod", "--timeout=120s")
        mesh.kubectl(*ready, "server")
        mesh.create("---".join((NATIVE, HELD)), name)
        mesh.kubectl(*ready, "stranger", "tproxy", "probed", "tuned", "spared", "narrow", "held")
        yield Pods(mesh, name)


def container_of(pod: Any, name: str) -> Any:
    spec = pod["spec"]
    return next(c for c in (*spec["containers"], *spec.get("initContainers", [])) if c["name"] == name)


def test_a_job_with_a_native_sidecar_ends_and_its_init_container_speaks_mutual_tls(mesh: Mesh, pods: Pods) -> None:
    mesh.kubectl("wait", "-n", pods.namespace, "--for=condition=Complete", "job/native", "--timeout=120s")
    for container, said in (("first", "Listening on 8001: foo"), ("work", "Listening on 8001: bar")):
        assert said in mesh.kubectl("logs", "-n", pods.namespace, "job/native", "-c", container)
    assert pods.ask("stranger", "http://server:8001/foo") == "refused", "the server takes nothing but mutual TLS"


def test_an_application_that_is_held_does_not_lose_its_first_request(pods: Pods) -> None:
    """It would have ended, for good."""
    pod = pods.get("held")
    assert [c["name"] for c in pod["spec"]["containers"]] == ["istio-proxy", "app"]
    assert all(s["restartCount"] == 0 and s["ready"] for s in pod["status"]["containerStatuses"])


def test_probes_of_every_kind_pass_under_strict_mutual_tls_and_a_failing_one_is_seen(mesh: Mesh, pods: Pods) -> None:
    """HTTP by port name and number, HTTPS, TCP, gRPC; hooks before and after. The fixture has seen the pod ready."""
    before = {s["name"]: s["restartCount"] for s in pods.get("probed")["status"]["containerStatuses"]}
    assert before["hooked"] == 0, "the hook of a container that has just started passed"
    rewritten = container_of(pods.get("probed"), "grpc")["readinessProbe"]["httpGet"]
    assert rewritten == {"path": "/app-health/grpc/readyz", "port": 15020, "scheme": "HTTP"}
    pods.execute("probed", "touch", "/tmp/unhealthy", container="web")

    def restarted() -> None:
        now = {s["name"]: s["restartCount"] for s in pods.get("probed")["status"]["containerStatuses"]}
        assert now == {**before, "web": before["web"] + 1}

    eventually(restarted)
    mesh.kubectl("delete", "pod", "probed", "-n", pods.namespace)
    failed = ("get", "events", "-n", pods.namespace, "--field-selector", "reason=FailedPreStopHook", "-o", "name")
    assert mesh.kubectl(*failed) == ""


def test_with_tproxy_the_application_sees_its_clients_address(pods: Pods) -> None:
    assert json.loads(pods.ask("held", "http://tproxy:8080/ip"))["origin"] == pods.address("held")
    context = container_of(pods.get("tproxy"), "istio-proxy")["securityContext"]
    assert context["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}


def test_what_annotations_and_a_container_of_ones_own_say_of_the_proxy(pods: Pods) -> None:
    pod = pods.get("tuned")
    proxy = container_of(pod, "istio-proxy")
    assert proxy["resources"] == {
        "requests": {"cpu": "12m", "memory": "70Mi"},
        "limits": {"cpu": "2", "memory": "1Gi"},
    }
    assert pod["spec"]["imagePullSecrets"] == [{"name": "of-the-pod"}]
    script = "id -u; id -g; cat /etc/mine/hello.txt; echo; echo $FROM_THE_ANNOTATION $OF_THE_CONTAINER"
    said = pods.execute("tuned", "sh", "-c", script, container="istio-proxy")
    assert said.split("\n")[:4] == ["1338", "1338", "hello from a volume", "x 1"]
    told = json.loads(pods.execute("tuned", "pilot-agent", "request", "GET", "server_info", container="istio-proxy"))
    line, metadata = told["command_line_options"], told["node"]["metadata"]
    assert (line["concurrency"], line["log_level"], line["drain_time"]) == (1, "info", "7s")
    assert line["component_log_level"] == "http:debug"
    assert metadata["CUSTOM_BOOTSTRAP"] == "yes"
    scraped = pods.ask("stranger", f"http://{pods.address('tuned')}:15920/stats/prometheus")
    assert "istio_agent_scrapes_total" in scraped, "the status port is the pod's own"


def test_ports_ranges_and_interfaces_that_are_not_captured(pods: Pods) -> None:
    """Under strict mutual TLS plain text tells what passes by a proxy: in the server's pod, and in the client's."""
    tuned, spared = pods.address("tuned"), pods.address("spared")
    assert pods.ask("stranger", f"http://{tuned}:8001/foo") == "refused"
    assert pods.ask("stranger", f"http://{tuned}:8002/foo") == "Listening on 8002: foo", "excludeInboundPorts"
    assert pods.ask("tuned", "http://server:8001/foo") == "refused", "excludeOutboundPorts"
    assert pods.ask("tuned", "http://server:8002/foo") == "Listening on 8002: foo"
    assert pods.ask("stranger", f"http://{spared}:8001/foo") == "Listening on 8001: foo", "excludeInterfaces"
    assert pods.ask("narrow", "http://server:8001/foo") == "refused", "includeOutboundIPRanges"


def dry_run(mesh: Mesh, ns: str, labels: dict[str, str], notes: dict[str, str] | None = None) -> Any:
    """A pod as the API server would make it; nothing is kept."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried", "labels": labels, "annotations": notes or {}},
        "spec": {"containers": [{"name": "app", "image": "curlimages/curl"}]},
    }
    return json.loads(
        mesh.kubectl("create", "-n", ns, "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
    )


def injected(pod: Any) -> bool:
    return any(c["name"] == "istio-proxy" for c in pod["spec"]["containers"])


@contextmanager
def injector_config(mesh: Mesh, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """The injector's ConfigMap, changed for a while."""
    where = ("configmap", "istio-sidecar-injector", "-n", "istio-system")
    before = mesh.json("get", *where)["data"]["config"]

    def write(text: str) -> None:
        mesh.kubectl("patch", *where, "--type=merge", "-p", json.dumps({"data": {"config": text}}))

    config: Any = yamlio.load(before)
    change(config)
    write(yamlio.dump(config))
    try:
        yield
    finally:
        write(before)


def test_templates_of_ones_own_and_selectors_by_label(mesh: Mesh, pods: Pods, new_namespace: NewNamespace) -> None:
    plain = new_namespace("istio-injection=enabled")

    def change(config: dict[str, Any]) -> None:
        config["templates"]["custom"] = CUSTOM
        config["neverInjectSelector"] = [{"matchLabels": {"never": "yes"}}]
        config["alwaysInjectSelector"] = [{"matchExpressions": [{"key": "always", "operator": "Exists"}]}]

    asked = {"inject.istio.io/templates": "sidecar,custom"}
    with injector_config(mesh, change):

        def made() -> Any:
            return dry_run(mesh, plain, {"team": "sails"}, asked)

        pod = eventually(made)
        assert {c["name"] for c in pod["spec"]["containers"]} == {"app", "helper", "istio-proxy"}
        assert {"name": "TEAM", "value": "sails"} in container_of(pod, "istio-proxy")["env"]
        assert {c["name"] for c in dry_run(mesh, plain, {})["spec"]["containers"]} == {"app", "istio-proxy"}
        assert not injected(dry_run(mesh, plain, {"never": "yes"}))
        assert injected(dry_run(mesh, plain, {"never": "yes", "sidecar.istio.io/inject": "true"}))

    def default(config: dict[str, Any]) -> None:
        config["templates"]["custom"] = CUSTOM
        config["defaultTemplates"] = ["sidecar", "custom"]

    with injector_config(mesh, default):

        def by_default() -> None:
            names = {c["name"] for c in dry_run(mesh, plain, {"team": "sails"})["spec"]["containers"]}
            assert names == {"app", "helper", "istio-proxy"}

        eventually(by_default)
        mesh.create(STRANGER.replace("stranger", "custom").replace('"false"', '"true", team: sails'), pods.namespace)
    mesh.kubectl("wait", "-n", pods.namespace, "--for=condition=Ready", "pod/custom", "--timeout=120s")
    eventually(lambda: _answers(pods, "custom"))


def _answers(pods: Pods, name: str) -> None:
    assert pods.ask(name, "http://server:8001/foo") == "Listening on 8001: foo"


def test_labels_decide_who_is_asked_about_a_pod(mesh: Mesh, new_namespace: NewNamespace) -> None:
    wants, refuses = {"sidecar.istio.io/inject": "true"}, {"sidecar.istio.io/inject": "false"}
    ours, other = {"istio.io/rev": "default"}, {"istio.io/rev": "other"}
    cases: dict[str, list[tuple[dict[str, str], bool]]] = {
        "": [({}, False), (wants, True), (ours, True), (other, False), (other | wants, False)],
        "istio-injection=enabled": [({}, True), (refuses, False)],
        "istio-injection=disabled": [(wants, False), (ours, False)],
        "istio.io/rev=default": [({}, True), (refuses, False)],
        "istio.io/rev=other": [({}, False), (wants, False), (ours, False)],
    }
    for label, pods in cases.items():
        ns = new_namespace(*([label] if label else []))
        for labels, proxy in pods:
            assert injected(dry_run(mesh, ns, labels)) is proxy, (label, labels)


def test_a_damaged_bundle_of_the_webhook_is_repaired(mesh: Mesh, new_namespace: NewNamespace) -> None:
    ns = new_namespace("istio-injection=enabled")
    where = ("mutatingwebhookconfiguration", "istio-sidecar-injector")
    before = [w["clientConfig"]["caBundle"] for w in mesh.json("get", *where)["webhooks"]]
    other = base64.b64encode((mesh.home / "pki/ca.crt").read_bytes()).decode()
    damage = [
        {"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": other},
        {"op": "remove", "path": "/webhooks/2/clientConfig/caBundle"},
    ]
    mesh.kubectl("patch", *where, "--type=json", "-p", json.dumps(damage))

    def repaired() -> None:
        assert [w["clientConfig"].get("caBundle") for w in mesh.json("get", *where)["webhooks"]] == before
        assert injected(dry_run(mesh, ns, {}))

    eventually(repaired)


def test_without_istiod_no_pod_of_the_mesh_is_made_and_the_message_says_who_is_missing(
    mesh: Mesh, new_namespace: NewNamespace
) -> None:
    """`failurePolicy: Fail`, as in Istio; with `Ignore` the pod is made without its proxy. Others are not concerned."""
    ns, plain = new_namespace("istio-injection=enabled"), new_namespace()
    where = ("mutatingwebhookconfiguration", "istio-sidecar-injector")
    webhooks = mesh.json("get", *where)["webhooks"]

    def policy(value: str) -> None:
        operations = [
            {"op": "replace", "path": f"/webhooks/{i}/failurePolicy", "value": value} for i in range(len(webhooks))
        ]
        mesh.kubectl("patch", *where, "--type=json", "-p", json.dumps(operations))

    mesh.kubectl("scale", "deploy/istiod", "-n", "istio-system", "--replicas=0")
    try:
        mesh.kubectl("wait", "-n", "istio-system", "--for=delete", "pod", "-l", "app=istiod", "--timeout=120s")
        text = STRANGER.replace("stranger", "tried").replace('"false"', '"true"')
        refused = mesh.run(["kubectl", "create", "-n", ns, "-f", "-"], stdin=text)
        assert refused.returncode and "namespace.sidecar-injector.istio.io" in refused.stderr, refused.stderr
        assert not injected(dry_run(mesh, plain, {}))
        policy("Ignore")
        eventually(lambda: mesh.kubectl("create", "-n", ns, "-f", "-", "--dry-run=server", stdin=text))
    finally:
        policy("Fail")
        mesh.kubectl("scale", "deploy/istiod", "-n", "istio-system", "--replicas=1")
        mesh.rolled_out("istiod", namespace="istio-system")
    assert injected(eventually(lambda: dry_run(mesh, ns, {})))
