"""The status that the operator writes, and that every chart and profile that it may be asked for renders."""

from __future__ import annotations

from meltem.install.operator import Progress
from meltem.install.render import Component, render
from meltem.install.spec import Request, resolve, resolve_document
from meltem.objects import JsonObject, name_of, str_at


def _component(key: str, name: str) -> Component:
    return Component(key, name, key, "istio-system", ())


def test_the_whole_is_as_bad_as_its_worst_component_and_gateways_of_a_kind_are_one() -> None:
    progress = Progress()
    progress.hear(_component("Pilot", "pilot"), "HEALTHY")
    progress.hear(_component("IngressGateways", "a"), "HEALTHY")
    progress.hear(_component("IngressGateways", "b"), "RECONCILING")
    status = progress.status(3)
    assert (status["status"], status["observedGeneration"]) == ("RECONCILING", 3)
    assert str_at(status, "componentStatus", "IngressGateways", "status") == "RECONCILING"
    progress.fail("Deployment b is not ready")
    status = progress.status(3)
    assert status["status"] == "ERROR" and status["message"] == "Deployment b is not ready"
    assert str_at(status, "componentStatus", "Pilot", "status") == "HEALTHY"
    assert str_at(status, "componentStatus", "IngressGateways", "status") == "ERROR"


def test_a_resource_of_the_cluster_is_the_same_installation_as_its_file() -> None:
    resource: JsonObject = {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "mine", "namespace": "istio-system", "resourceVersion": "7", "managedFields": []},
        "spec": {"profile": "demo"},
        "status": {"status": "HEALTHY"},
    }
    made = resolve_document(resource)
    assert (made.owner, made.profile) == ("mine", "demo")
    assert made.spec == resolve(Request(sets=("profile=demo",))).spec


def test_openshift_has_the_plugin_and_no_pod_has_a_privileged_init_container() -> None:
    components = {c.key: c for c in render(resolve(Request(sets=("profile=openshift",))))}
    kinds = {str_at(o, "kind"): o for o in components["Cni"].objects}
    assert name_of(kinds["DaemonSet"]) == "istio-cni-node" and "NetworkAttachmentDefinition" in kinds
    assert components["Cni"].namespace == "kube-system"
