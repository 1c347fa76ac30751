"""On a real Kubernetes: helm, the operator, a canary upgrade under load, several istiods, the CNI plugin. Each road
ends with what it made taken out again. A cluster of their own, as they install and remove what other tests stand on.
The commands of each road are those of docs/kubernetes.md, typed from the page: all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mesh_rig import ROOT, KubernetesMesh, Load, eventually
from page_rig import Section

pytestmark = pytest.mark.kubernetes

CHARTS = ROOT / "src/meltem/install/charts"
ROUTE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: helm-made}
spec: {selector: {istio: ingress}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: helm-made}
spec: {hosts: ["*"], gateways: [helm-made], http: [{route: [{destination: {host: httpbin, port: {number: 8000}}}]}]}
"""


class Bare(KubernetesMesh):
    """A cluster without a mesh."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, root)
        self.environment["PATH"] += f":{os.environ['MELTEM_KUBE_BIN']}"

    def helm(self, *arguments: str) -> str:
        return self._ok(["helm", *arguments])

    def gone(self, *what: str) -> None:
        """Until none of these is there."""

        def check() -> None:
            found = self.kubectl("get", *what, "--ignore-not-found", "-o", "name")
            assert not found, found

        eventually(check)

    def operator_says(self, wanted: str) -> Any:
        """The status of the one IstioOperator, once it is `wanted`."""

        def check() -> Any:
            status = self.json("get", "istiooperators", "-n", "istio-system")["items"][0].get("status", {})
            assert status.get("status") == wanted, status
            return status

        return eventually(check)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    made = Bare(f"roads-{os.getpid()}", tmp_path_factory.mktemp("clusters"))
    try:
        made.up()
        yield made
    finally:
        made.down()


def answered(where: str, path: str, host: str = "") -> None:
    """Until the path answers 200 twenty times in a row."""

    def check() -> None:
        with Load(where, path, connections=1) as load:
            load.wait_for(20)
        assert not load.failures, load.failures[:3]

    eventually(check)


def test_helm_installs_upgrades_and_removes_each_chart(bare: Bare) -> None:
    page = Section("With helm")
    page.type(bare)
    bare.kubectl("create", "namespace", "shop")
    bare.kubectl("label", "namespace", "shop", "istio-injection=enabled")
    bare.apply("httpbin/httpbin.yaml", namespace="shop")
    bare.create(ROUTE, namespace="shop")
    bare.rolled_out("httpbin", namespace="shop")
    assert sorted(bare.containers("shop", "app=httpbin")) == ["httpbin", "istio-proxy"]
    where = bare.load_balancer("istio-ingress", "istio-ingress")
    answered(where, "/status/200")

    setting = "meshConfig.accessLogFile=/dev/stdout"
    bare.helm("upgrade", "istiod", f"{CHARTS}/istiod", "-n", "istio-system", "--set", setting, "--wait")

    def logged() -> None:
        answered(where, "/status/200?after=upgrade")
        log = bare.kubectl("logs", "deploy/httpbin", "-n", "shop", "-c", "istio-proxy", "--tail=40")
        assert "/status/200?after=upgrade" in log

    eventually(logged)
    many = ("-n", "istio-system", "--set", "pilot.replicaCount=many")
    refused = bare.run(["helm", "upgrade", "istiod", f"{CHARTS}/istiod", *many])
    assert refused.returncode and "replicaCount" in refused.stderr, refused.stderr

    bare.kubectl("delete", "namespace", "shop")
    removed = page.type(bare, 2)
    assert "kept due to the resource policy" in removed, "as in Istio, resources outlive the chart that defined them"
    bare.gone("mutatingwebhookconfigurations,validatingwebhookconfigurations")
    assert "istio" not in bare.kubectl("get", "clusterroles,clusterrolebindings,crds", "-o", "name")

    bare.helm("install", "istio-base", f"{CHARTS}/base", "-n", "istio-system")
    page.type(bare, 1)
    injected = bare.json("create", "deployment", "probe", "--image=curlimages/curl", "--dry-run=client")
    with_proxy = bare.run(["istioctl", "kube-inject", "-f", "-"], stdin=json.dumps(injected)).stdout
    assert "istio-validation" in with_proxy and "NET_ADMIN" not in with_proxy
    for chart in ("istiod", "istio-cni", "istio-base"):
        bare.helm("uninstall", chart, "-n", "istio-system", "--wait")
    eventually(lambda: off_the_node(bare))
    page.typed_whole()
    bare.kubectl("delete", "namespace", "istio-system", "istio-ingress")


@pytest.mark.parametrize("road", ["istioctl", "chart"])
def test_the_operator_makes_keeps_and_removes_a_mesh(bare: Bare, road: str) -> None:
    page = Section("With the operator")
    if road == "istioctl":
        page.type(bare)
    else:
        for namespace in ("istio-operator", "istio-system"):
            bare.kubectl("create", "namespace", namespace)
        bare.helm("install", "istio-operator", f"{CHARTS}/istio-operator", "-n", "istio-operator", "--wait")
        bare.apply("minikube/istio.yaml", namespace="istio-system")
    status = bare.operator_says("HEALTHY")
    assert set(status["componentStatus"]) == {"Base", "Pilot", "IngressGateways", "EgressGateways"}

    ports = ("get", "svc", "istio-ingressgateway", "-n", "istio-system", "-o", "jsonpath={.spec.ports[*].port}")
    before = bare.kubectl(*ports)
    bare.kubectl("delete", "deploy", "istio-egressgateway", "-n", "istio-system")
    patch = '[{"op": "remove", "path": "/spec/ports/1"}]'
    bare.kubectl("patch", "svc", "istio-ingressgateway", "-n", "istio-system", "--type=json", "-p", patch)

    def repaired() -> None:
        assert bare.kubectl(*ports) == before
        bare.kubectl("get", "deploy", "istio-egressgateway", "-n", "istio-system")

    eventually(repaired)
    wrong = '{"spec": {"values": {"globl": {"hub": "x"}}}}'
    edit = ("patch", "istiooperator", "istiocontrolplane", "-n", "istio-system")
    bare.kubectl(*edit, "--type=merge", "-p", wrong)
    assert "Did you mean global?" in bare.operator_says("ERROR")["message"]
    bare.kubectl(*edit, "--type=json", "-p", '[{"op": "remove", "path": "/spec/values"}]')
    less = '{"spec": {"components": {"egressGateways": [{"name": "istio-egressgateway", "enabled": false}]}}}'
    bare.kubectl(*edit, "--type=merge", "-p", less)
    bare.gone("deploy", "istio-egressgateway", "-n", "istio-system")
    bare.operator_says("HEALTHY")

    if road == "istioctl":
        page.type(bare, 1)
        page.typed_whole()
    else:
        bare.kubectl("delete", "istiooperator", "istiocontrolplane", "-n", "istio-system")
    bare.gone("deployments,services,pods,configmaps", "-n", "istio-system", "-l", "operator.istio.io/managed")
    leases = bare.json("get", "leases", "-n", "istio-system")["items"]
    assert not [x["metadata"]["name"] for x in leases if x["spec"].get("holderIdentity")], "nobody has to wait for them"
    if road == "chart":
        bare.helm("uninstall", "istio-operator", "-n", "istio-operator")
    bare.istioctl("uninstall", "--purge", "-y")
    bare.kubectl("delete", "namespace", "istio-system", "istio-operator", "--ignore-not-found")


def test_a_canary_upgrade_and_its_rollback_lose_no_request(bare: Bare, tmp_path: Path) -> None:
    with_istioctl, page = Section("With istioctl"), Section("A canary upgrade")
    bare.apply("helloworld/helloworld.yaml")
    with_istioctl.type(bare)
    both = ("helloworld-v1", "helloworld-v2")
    bare.rolled_out(*both)
    bare.apply("helloworld/helloworld-gateway.yaml")
    answered(bare.gateway, "/hello")

    def everywhere(revision: str) -> None:
        lines = [li for li in bare.istioctl("proxy-status").splitlines() if li.startswith("helloworld")]
        assert len(lines) == 2 and all("istiod-" in li for li in lines), lines
        assert all(("istiod-1-1-0-" in li) == (revision == "1-1-0") for li in lines), lines

    def restarted(namespace: str, *deployments: str) -> None:
        bare.kubectl("rollout", "restart", "-n", namespace, *(f"deploy/{d}" for d in deployments))
        bare.rolled_out(*deployments, namespace=namespace)

    with bare.load("/hello") as load:
        load.wait_for(50)
        page.type(bare)
        bare.rolled_out(*both)
        eventually(lambda: everywhere("1-1-0"))
        tags = [li.split()[:2] for li in page.type(bare, 1).splitlines()]
        assert ["prod", "1-1-0"] in tags and ["default", "1-1-0"] in tags, tags
        held = bare.run(["istioctl", "uninstall", "--revision", "1-1-0"], stdin="n\n")
        assert held.returncode and "proxies pointing to the control plane" in held.stdout + held.stderr
        # Back, by the tag that the namespace follows from now on.
        bare.kubectl("label", "namespace", "default", "istio.io/rev=prod", "--overwrite")
        for tag in ("prod", "default"):
            bare.istioctl("tag", "set", tag, "--revision", "default", "--overwrite")
        restarted("default", *both)
        eventually(lambda: everywhere("default"))
        bare.istioctl("uninstall", "--revision", "1-1-0", "-y")
        # In place: another configuration, then new pods of the control plane and of the gateway.
        (tmp_path / "mesh.yaml").write_text(with_istioctl.files[0])
        with_istioctl.type(bare, 1, tmp_path)
        with_istioctl.typed_whole()
        restarted("istio-system", "istiod", "istio-ingressgateway")
        load.wait_for(50)
    assert not load.failures, (load.answered, load.failures[:5])
    bare.istioctl("tag", "remove", "prod", "-y")
    page.type(bare, 2)
    page.typed_whole()
    bare.gone("deploy", "istiod", "-n", "istio-system")
    bare.kubectl("delete", "-f", str(ROOT / "samples/helloworld/helloworld.yaml"), "--wait=false")
    bare.kubectl("label", "namespace", "default", "istio.io/rev-")


def test_another_istiod_leads_at_once_when_the_leader_goes(bare: Bare) -> None:
    """Goes on with the mesh of the test before, or makes one."""
    replicas = ("values.pilot.autoscaleEnabled=false", "values.pilot.replicaCount=2")
    bare.istioctl("install", "--set", "profile=minimal", *(a for r in replicas for a in ("--set", r)), "-y")
    name = ("get", "lease", "istio-status-leader", "-n", "istio-system", "-o", "jsonpath={.spec.holderIdentity}")

    def led() -> str:
        holder = bare.kubectl(*name)
        assert holder in {p["metadata"]["name"] for p in bare.pods("istio-system", "app=istiod")}
        return holder

    leader = eventually(led)
    began = time.monotonic()
    bare.kubectl("delete", "pod", leader, "-n", "istio-system", "--wait=false")

    def another() -> None:
        assert bare.kubectl(*name) not in ("", leader)

    eventually(another)
    assert time.monotonic() - began < 25, "a lease that is given back is not waited for"
    bare.istioctl("uninstall", "--purge", "-y")


def test_the_cni_plugin_captures_pods_and_leaves_the_node_again(bare: Bare) -> None:
    bare.istioctl("install", "--set", "profile=minimal", "--set", "components.cni.enabled=true", "-y")
    assert any("istio-cni" in f.read_text() for f in (bare.home / "cni/net.d").iterdir())
    bare.kubectl("create", "namespace", "cni")
    bare.kubectl("label", "namespace", "cni", "istio-injection=enabled")
    bare.apply("httpbin/httpbin.yaml", "curl/curl.yaml", namespace="cni")
    bare.rolled_out("httpbin", "curl", namespace="cni")
    for app in ("httpbin", "curl"):
        (pod,) = bare.pods("cni", f"app={app}")
        (init,) = pod["spec"]["initContainers"]
        assert init["name"] == "istio-validation" and not init["securityContext"]["capabilities"].get("add")
    ask = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://httpbin:8000/headers")
    assert bare.execute("deploy/curl", *ask, namespace="cni", container="curl") == "200"
    stats = bare.execute("deploy/httpbin", "pilot-agent", "request", "GET", "stats/prometheus", namespace="cni",
                         container="istio-proxy")  # fmt: skip
    assert 'connection_security_policy="mutual_tls"' in stats

    # The plugin outlives its pod: nothing starts uncaptured while that is replaced, but the pod itself can.
    bare.kubectl("delete", "pod", "-n", "istio-system", "-l", "k8s-app=istio-cni-node")
    bare.kubectl("rollout", "status", "ds/istio-cni-node", "-n", "istio-system", "--timeout=90s")
    assert (bare.home / "cni/bin/istio-cni").exists()

    bare.istioctl("uninstall", "--purge", "-y")
    eventually(lambda: off_the_node(bare))
    bare.kubectl("label", "namespace", "cni", "istio-injection-")
    bare.kubectl("rollout", "restart", "deploy/httpbin", "-n", "cni")
    bare.rolled_out("httpbin", namespace="cni")
    bare.kubectl("delete", "namespace", "cni", "--wait=false")


def off_the_node(bare: Bare) -> None:
    """Nothing is left of the CNI plugin."""
    assert not (bare.home / "cni/bin/istio-cni").exists()
    assert not any("istio-cni" in f.read_text() for f in (bare.home / "cni/net.d").iterdir())
