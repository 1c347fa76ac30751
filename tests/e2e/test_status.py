"""Conditions: who has a resource, by generation, from what proxies acknowledged; waiting for that."""

from __future__ import annotations

from typing import Any

import pytest
from mesh_rig import Mesh, eventually

pytestmark = pytest.mark.both_homes
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: told}}
spec:
  hosts: [ratings]
  http: [{{route: [{{destination: {{host: {host}}}}}], headers: {{response: {{set: {{x-told: "{word}"}}}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: told}}
spec: {{host: ratings, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: told}}
spec: {{workloadSelector: {{labels: {{app: ratings}}}}, egress: [{{hosts: ["*/*"]}}]}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: told}}
spec: {{selector: {{matchLabels: {{app: details}}}}, mtls: {{mode: STRICT}}}}
"""


def _condition(mesh: Mesh, kind: str) -> dict[str, Any]:
    one = mesh.json("get", kind, "told")
    conditions = {c["type"]: c for c in one.get("status", {}).get("conditions", [])}
    return {"generation": one["metadata"]["generation"], **conditions.get("Reconciled", {})}


def _says(mesh: Mesh, kind: str, reason: str, words: str) -> None:
    found = _condition(mesh, kind)
    assert found.get("reason") == reason and words in found["message"], found
    assert found["observedGeneration"] == found["generation"]


def _pushes(mesh: Mesh) -> dict[str, int]:
    """How many messages of each type istiod has sent."""
    address = mesh.pods("istio-system", "app=istiod")[0]["status"]["podIP"]
    text = mesh.execute("deploy/ratings-v1", "curl", "-s", f"http://{address}:15014/metrics", container="ratings")
    lines = [line for line in text.splitlines() if line.startswith("pilot_xds_pushes_total{")]
    return {line.partition("{")[2].partition("}")[0]: int(float(line.rpartition(" ")[2])) for line in lines}


def _told(mesh: Mesh, word: str) -> None:
    answer = mesh.execute("deploy/reviews-v2", "curl", "-si", "http://ratings:9080/health", container="reviews")
    assert f"x-told: {word}" in answer, answer


def test_every_kind_says_which_proxies_have_it_and_one_can_wait_for_that(mesh: Mesh) -> None:
    try:
        mesh.create(ROUTE.format(host="ratings", word="one"))
        said = mesh.istioctl("x", "wait", "--for=distribution", "virtualservice", "told.default", "--timeout=120s")
        assert "Resource virtualservice/default/told present on" in said
        waits = [f"{kind}/told" for kind in ("virtualservice", "destinationrule", "sidecar", "peerauthentication")]
        mesh.kubectl("wait", "--for=condition=Reconciled", *waits, "--timeout=120s")
        eventually(lambda: _says(mesh, "sidecar", "Accepted", "1/1 proxies up to date."))
        eventually(lambda: _says(mesh, "peerauthentication", "Accepted", "1/1 proxies up to date."))
        eventually(lambda: _told(mesh, "one"))

        # Writing conditions wakes nobody.
        before = _pushes(mesh)
        mesh.kubectl("annotate", "virtualservice", "told", "some.test/note=x")
        eventually(lambda: _says(mesh, "virtualservice", "Accepted", "proxies up to date."))
        assert _pushes(mesh) == before

        # A new generation is waited for anew.
        mesh.create(ROUTE.format(host="nowhere", word="two"))
        eventually(lambda: _says(mesh, "virtualservice", "HostNotFound", "nowhere.default.svc.cluster.local"))
        done = mesh.run(["istioctl", "x", "wait", "virtualservice/told.default", "--timeout=2s"])
        assert done.returncode == 1
        assert "HostNotFound" in done.stderr
        mesh.create(ROUTE.format(host="ratings", word="three"))
        mesh.kubectl("wait", "--for=condition=Reconciled", "virtualservice/told", "--timeout=120s")
        eventually(lambda: _told(mesh, "three"))
    finally:
        kinds = "virtualservice,destinationrule,sidecar,peerauthentication"
        mesh.kubectl("delete", kinds, "told", "--ignore-not-found")
    mesh.istioctl("x", "wait", "--for=delete", "virtualservice", "told.default")
