"""The mesh's ConfigMap is followed while all runs: what it says holds for running proxies, what is wrong leaves the
former in force and is told.

The test under load comes first: see test_envoy_filters.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from mesh_rig import Mesh, eventually

from meltem import yamlio
from meltem.objects import Json, JsonObject

pytestmark = pytest.mark.both_homes


def _patch(mesh: Mesh, text: str) -> None:
    patch = json.dumps({"data": {"mesh": text}})
    mesh.kubectl("patch", "configmap", "istio", "-n", "istio-system", "--type", "merge", "-p", patch)


@contextmanager
def changed(mesh: Mesh, **fields: Json) -> Iterator[None]:
    """The mesh's configuration with these fields, and afterwards as it was."""
    before = str(mesh.json("get", "configmap", "istio", "-n", "istio-system")["data"]["mesh"])
    config = yamlio.load(before)
    assert isinstance(config, dict)
    made: JsonObject = {**config, **fields}
    try:
        _patch(mesh, yamlio.dump(made))
        yield
    finally:
        _patch(mesh, before)


def _status(mesh: Mesh, url: str) -> str:
    """What ratings' workload gets, through its proxy; 000: no answer."""
    command = ["kubectl", "exec", "deploy/ratings-v1", "-c", "ratings", "--"]
    return mesh.run([*command, "curl", "-s", "-o", "/dev/null", "-m", "10", "-w", "%{http_code}", url]).stdout


def _is(mesh: Mesh, url: str, *codes: str) -> None:
    found = _status(mesh, url)
    assert found in codes, found


def test_a_configuration_that_cannot_be_used_leaves_the_former_and_is_told(mesh: Mesh) -> None:
    with mesh.load() as load, changed(mesh, connectTimeout="-1s", accessLogFormat="never-seen\n"):

        def told() -> None:
            log = mesh.kubectl("logs", "deploy/istiod", "-n", "istio-system", "--tail=200")
            assert "the mesh's configuration cannot be used, the former stays" in log
            analysis = mesh.run(["istioctl", "analyze"])
            assert "IST0106" in analysis.stdout and "connectTimeout" in analysis.stdout

        eventually(told)
        load.wait_for(50)
        assert "never-seen" not in mesh.kubectl("logs", "deploy/productpage-v1", "-c", "istio-proxy", "--tail=50")
    assert not load.failures, load.failures[:5]


def test_the_policy_for_what_the_mesh_does_not_know_changes_for_running_proxies(mesh: Mesh) -> None:
    address = mesh.pods("istio-system", "app=istiod")[0]["status"]["podIP"]
    unknown = f"http://{address}:15014/metrics"  # by a pod's address: nothing that a service has
    eventually(lambda: _is(mesh, unknown, "200"))
    with changed(mesh, outboundTrafficPolicy={"mode": "REGISTRY_ONLY"}):
        eventually(lambda: _is(mesh, unknown, "502", "000"))
        assert _status(mesh, "http://details:9080/health") == "200"
    eventually(lambda: _is(mesh, unknown, "200"))


def test_the_access_log_changes_for_running_proxies(mesh: Mesh) -> None:
    def logged(word: str) -> None:
        assert _status(mesh, "http://details:9080/health") == "200"
        assert word in mesh.kubectl("logs", "deploy/ratings-v1", "-c", "istio-proxy", "--tail=5")

    with changed(mesh, accessLogFormat="changed-format %RESPONSE_CODE%\n"):
        eventually(lambda: logged("changed-format 200"))
    eventually(lambda: logged("GET /health"))


def test_namespaces_leave_and_enter_the_mesh_by_discovery_selectors(
    mesh: Mesh, new_namespace: Callable[..., str]
) -> None:
    space = new_namespace("hidden=no")
    mesh.apply("httpbin/httpbin.yaml", namespace=space)

    def known(is_known: bool) -> None:
        clusters = mesh.execute("deploy/ratings-v1", "pilot-agent", "request", "GET", "clusters",
                                container="istio-proxy")  # fmt: skip
        assert (f"httpbin.{space}.svc.cluster.local" in clusters) is is_known

    def has_roots() -> None:
        mesh.kubectl("get", "configmap", "istio-ca-root-cert", "-n", space)

    eventually(lambda: known(True))
    selectors: Json = [{"matchExpressions": [{"key": "hidden", "operator": "NotIn", "values": ["yes"]}]}]
    with changed(mesh, discoverySelectors=selectors):
        mesh.kubectl("label", "namespace", space, "hidden=yes", "--overwrite")
        eventually(lambda: known(False))
        mesh.kubectl("delete", "configmap", "istio-ca-root-cert", "-n", space)
        mesh.kubectl("label", "namespace", space, "hidden=no", "--overwrite")
        eventually(lambda: known(True))
        eventually(has_roots)
        mesh.kubectl("label", "namespace", space, "hidden=yes", "--overwrite")
        eventually(lambda: known(False))
    eventually(lambda: known(True))
    assert _status(mesh, "http://details:9080/health") == "200"
