"""Who gets a sidecar: by namespace, pod and revision label; and who does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mesh_rig import Mesh, eventually

pytestmark = pytest.mark.both_homes

NewNamespace = Callable[..., str]


def _nginx(mesh: Mesh, name: str) -> None:
    mesh.apply("nginx/nginx.yaml", namespace=name)
    mesh.rolled_out("nginx", namespace=name)


def _sleeper(name: str, labels: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}, {labels}}}}}
spec:
  containers: [{{name: app, image: sleep, command: ["/bin/sleep", "infinity"]}}]
  terminationGracePeriodSeconds: 0
"""


def test_namespace_label_injects_and_taking_it_away_stops_it(mesh: Mesh, new_namespace: NewNamespace) -> None:
    ns = new_namespace("istio-injection=enabled")
    _nginx(mesh, ns)
    assert sorted(mesh.containers(ns, "app=nginx")) == ["istio-proxy", "nginx"]

    mesh.kubectl("label", "namespace", ns, "istio-injection-")
    mesh.kubectl("rollout", "restart", "deploy/nginx", "-n", ns)
    mesh.rolled_out("nginx", namespace=ns)

    def bare() -> None:
        assert mesh.containers(ns, "app=nginx") == ["nginx"]

    eventually(bare)


def test_the_check_that_istios_users_type(mesh: Mesh, new_namespace: NewNamespace) -> None:
    ns = new_namespace("istio-injection=enabled")
    _nginx(mesh, ns)
    path = "jsonpath={.items[0].spec.containers.*.name}"
    names = mesh.kubectl("get", "pods", "-n", ns, "-l", "app=nginx", "-o", path)
    assert names.split() == ["nginx", "istio-proxy"]


def test_pod_label_decides_against_its_namespace(mesh: Mesh, new_namespace: NewNamespace) -> None:
    plain, meshed = new_namespace(), new_namespace("istio-injection=enabled")
    mesh.create(_sleeper("wants", 'sidecar.istio.io/inject: "true"'), plain)
    mesh.create(_sleeper("nothing", "team: sails"), plain)
    mesh.create(_sleeper("refuses", 'sidecar.istio.io/inject: "false"'), meshed)
    assert "istio-proxy" in mesh.containers(plain, "app=wants")
    assert mesh.containers(plain, "app=nothing") == ["app"]
    assert mesh.containers(meshed, "app=refuses") == ["app"]


def test_revision_label_injects(mesh: Mesh, new_namespace: NewNamespace) -> None:
    ns = new_namespace("istio.io/rev=default")
    mesh.create(_sleeper("revised", "team: sails"), ns)
    assert "istio-proxy" in mesh.containers(ns, "app=revised")


def test_images_of_istios_own_samples_run(mesh: Mesh, new_namespace: NewNamespace) -> None:
    """Under the names and tags that Istio's manifests use; no image is pulled."""
    ns = new_namespace()
    images = {
        "productpage": "docker.io/istio/examples-bookinfo-productpage-v1:1.20.3",
        "reviews": "docker.io/istio/examples-bookinfo-reviews-v3:1.20.3",
        "helloworld": "docker.io/istio/examples-helloworld-v2:1.0",
        "httpbin": "docker.io/mccutchen/go-httpbin:v2.15.0",
        "tcp-echo": "docker.io/istio/tcp-echo-server:1.3",
        "health": "docker.io/istio/health:example",
    }
    pods = [
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  containers: [{{name: app, image: "{image}"}}]
  terminationGracePeriodSeconds: 0
"""
        for name, image in images.items()
    ]
    sleeping = {"curl": "docker.io/curlimages/curl:8.16.0", "sleep": "curlimages/curl"}
    pods += [
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  containers: [{{name: app, image: "{image}", command: ["/bin/sleep", "infinity"]}}]
  terminationGracePeriodSeconds: 0
"""
        for name, image in sleeping.items()
    ]
    mesh.create("---".join(pods), ns)
    mesh.kubectl("wait", "-n", ns, "--for=condition=Ready", "pod", "--all", "--timeout=120s")


def test_with_a_native_sidecar_an_eager_application_does_not_lose_its_first_request(
    mesh: Mesh, new_namespace: NewNamespace
) -> None:
    ns = new_namespace("istio-injection=enabled")
    mesh.create(
        """
apiVersion: batch/v1
kind: Job
metadata: {name: eager}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {sidecar.istio.io/nativeSidecar: "true"}}
    spec:
      restartPolicy: Never
      containers:
      - {name: eager, image: curlimages/curl, command: [curl, -sSf, -m, "10", "http://productpage.default:9080/health"]}
""",
        ns,
    )
    mesh.kubectl("wait", "-n", ns, "--for=condition=Complete", "job/eager", "--timeout=120s")
