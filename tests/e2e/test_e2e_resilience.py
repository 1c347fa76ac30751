"""Under load through the gateway nothing is lost: while istiod is away, while Bookinfo rolls, while the cluster's own
processes are killed."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest
from mesh_rig import Load, Mesh, eventually

DEPLOYMENTS = ("productpage-v1", "details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3")
SOON = 15.0
"""Seconds in which each proxy has found istiod again: it tries every two; left to itself Envoy would wait up to 30."""


def _lost_nothing(load: Load) -> None:
    assert not load.failures, (
        f"{len(load.failures)} failed, {sum(load.answered.values())} answered: {load.failures[:5]}"
    )


def _scale_istiod(mesh: Mesh, replicas: int) -> None:
    mesh.kubectl("scale", "deploy/istiod", "-n", "istio-system", f"--replicas={replicas}")
    if replicas:
        mesh.rolled_out("istiod", namespace="istio-system")
        return

    def gone() -> None:
        assert not mesh.json("get", "pods", "-n", "istio-system", "-l", "app=istiod")["items"]

    eventually(gone)


def _knows(mesh: Mesh, host: str, pod: str, namespace: str) -> None:
    clusters = mesh.execute(
        pod, "pilot-agent", "request", "GET", "clusters", namespace=namespace, container="istio-proxy"
    )  # fmt: skip
    assert f"outbound|9080||{host}" in clusters, f"{pod} does not know {host}"


def _all_know(mesh: Mesh, host: str) -> None:
    """The change is at each proxy soon after istiod answers again: none waits much longer than the others."""
    gateways = [(p["metadata"]["name"], "istio-system") for p in mesh.pods("istio-system", "istio=ingressgateway")]
    proxies = [(p["metadata"]["name"], "default") for p in mesh.pods("default", "app")] + gateways
    assert len(proxies) > len(DEPLOYMENTS)
    end = time.monotonic() + SOON
    for pod, namespace in proxies:
        eventually(partial(_knows, mesh, host, pod, namespace), max(0.0, end - time.monotonic()))


@pytest.mark.both_homes
def test_without_istiod_traffic_goes_on_and_a_change_arrives_when_it_is_back(mesh: Mesh) -> None:
    service = """
apiVersion: v1
kind: Service
metadata: {name: critics}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
"""
    with mesh.load() as load:
        try:
            _scale_istiod(mesh, 0)
            load.wait_for(100)
            mesh.create(service)
            load.wait_for(100)
        finally:
            _scale_istiod(mesh, 1)
        _all_know(mesh, "critics.default.svc.cluster.local")
        load.wait_for(50)
    mesh.kubectl("delete", "service", "critics")
    _lost_nothing(load)


@pytest.mark.both_homes
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_a_rolling_restart_loses_no_request(mesh: Mesh, deployment: str) -> None:
    with mesh.load() as load:
        load.wait_for(20)
        mesh.kubectl("rollout", "restart", f"deploy/{deployment}")
        mesh.rolled_out(deployment)
        load.wait_for(100)
    _lost_nothing(load)


@pytest.mark.both_homes
@pytest.mark.parametrize("process", ["apiserver", "controllers", "node"])
def test_a_killed_process_of_the_cluster_loses_nothing(mesh: Mesh, process: str) -> None:
    before = mesh.process(process)
    pods = [p["metadata"]["uid"] for p in mesh.pods("default", "app")]
    with mesh.load() as load:
        load.wait_for(20)
        os.kill(before, signal.SIGKILL)

        def back() -> None:
            assert mesh.process(process) != before
            mesh.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=5s")

        eventually(back)
        load.wait_for(50)
    _lost_nothing(load)
    assert [p["metadata"]["uid"] for p in mesh.pods("default", "app")] == pods
    _still_works(mesh)


def _still_works(mesh: Mesh) -> None:
    """Objects are stored, controllers act on them, the node runs pods."""
    mesh.kubectl("scale", "deploy/details-v1", "--replicas=2")
    mesh.rolled_out("details-v1")
    mesh.kubectl("scale", "deploy/details-v1", "--replicas=1")

    def one() -> None:
        assert len(mesh.pods("default", "app=details")) == 1

    eventually(one)
