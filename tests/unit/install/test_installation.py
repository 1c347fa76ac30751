"""From what a person types to the objects of an installation; no cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from meltem.clock import ManualClock
from meltem.errors import UserError
from meltem.install.deploy import remove
from meltem.install.operator import Quiet
from meltem.install.paths import parse_value, set_at
from meltem.install.render import render
from meltem.install.spec import Request, profile_names, resolve
from meltem.kube.client import KubeClient, ListResult
from meltem.kube.resource_types import ResourceType
from meltem.objects import JsonObject, name_of, object_at, objects_at, str_at


def objects(*sets: str, files: tuple[str, ...] = (), revision: str = "") -> dict[tuple[str, str], JsonObject]:
    installation = resolve(Request(files=files, sets=sets, revision=revision))
    return {(str_at(o, "kind"), name_of(o)): o for c in render(installation) for o in c.objects}


def test_set_reaches_maps_lists_and_dotted_names() -> None:
    spec: JsonObject = {"components": {"ingressGateways": [{"name": "a", "enabled": True}]}}
    set_at(spec, "components.ingressGateways[0].enabled", False)
    set_at(spec, "components.ingressGateways[name:b].enabled", parse_value("true"))
    set_at(spec, "values.pilot.podAnnotations.example\\.com/x", parse_value("1"))
    assert spec == {
        "components": {"ingressGateways": [{"name": "a", "enabled": False}, {"name": "b", "enabled": True}]},
        "values": {"pilot": {"podAnnotations": {"example.com/x": 1}}},
    }


def test_demo_has_istiod_and_both_gateways_with_the_ports_that_users_know() -> None:
    made = objects("profile=demo")
    ports = {n: [p["port"] for p in objects_at(o, "spec", "ports")] for (k, n), o in made.items() if k == "Service"}
    assert ports == {
        "istiod": [15010, 15012, 443, 15014],
        "istio-ingressgateway": [15021, 80, 443, 31400, 15443],
        "istio-egressgateway": [80, 443],
    }
    assert str_at(made["Service", "istio-ingressgateway"], "spec", "type") == "LoadBalancer"


def test_a_revision_stands_in_every_name_that_must_not_collide() -> None:
    first, second = set(objects("profile=minimal")), set(objects("profile=minimal", revision="1-1-0"))
    shared = {key for key in first & second if key[0] != "CustomResourceDefinition"}
    assert shared == {
        ("ServiceAccount", "istio-reader-service-account"),
        ("ValidatingWebhookConfiguration", "istiod-default-validator"),
    }


def test_k8s_settings_and_overlays_change_what_the_chart_rendered(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text("""
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  profile: minimal
  components:
    pilot:
      k8s:
        env: [{name: PILOT_TRACE_SAMPLING, value: "7"}]
        replicaCount: 3
        overlays:
        - kind: Deployment
          name: istiod
          patches:
          - {path: "spec.template.spec.containers[name:discovery].args[0]", value: changed}
""")
    deployment = objects(files=(str(file),))["Deployment", "istiod"]
    container = objects_at(deployment, "spec", "template", "spec", "containers")[0]
    assert deployment["spec"]["replicas"] == 3  # type: ignore[index, call-overload]
    assert [e["value"] for e in objects_at(container, "env") if e["name"] == "PILOT_TRACE_SAMPLING"] == ["7"]
    assert str_at(container, "args", 0) == "changed"


def test_what_a_user_sets_of_istiods_environment_stands_once_and_wins() -> None:
    """An API server refuses a server-side apply with one name twice."""
    made = objects("values.pilot.env.ENABLE_NATIVE_SIDECARS=true", "values.pilot.env.OWN=1")
    container = objects_at(made["Deployment", "istiod"], "spec", "template", "spec", "containers")[0]
    variables = [(str_at(v, "name"), str_at(v, "value")) for v in objects_at(container, "env")]
    assert [v for n, v in variables if n in ("ENABLE_NATIVE_SIDECARS", "OWN")] == ["true", "1"]
    assert len({n for n, _ in variables}) == len(variables)


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_renders(profile: str) -> None:
    assert (("Deployment", "istiod") in objects(f"profile={profile}")) == (
        profile not in ("empty", "remote", "external")
    )


@pytest.mark.parametrize("bad", ["nothing", "foo.bar=1", "profile=nope", "components.pilot[0=1", "values[0]=1"])
def test_a_bad_set_names_itself(bad: str) -> None:
    with pytest.raises(UserError):
        objects(bad)


class Cluster:
    """What of a client `remove` uses. Pods end some looks after their Deployment."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.looks: list[tuple[str, str, int]] = []

    async def resource_type(self, api_version: str, kind: str) -> ResourceType:
        return ResourceType("", "v1", kind.lower() + "s", kind, True)

    async def delete(self, rt: ResourceType, name: str, namespace: str, **_: object) -> None:
        self.gone.append(rt.kind)

    async def list(self, rt: ResourceType, namespace: str, *, label_selector: str = "") -> ListResult:
        self.looks.append((namespace, label_selector, len(self.gone)))
        return ListResult([{}] if len(self.looks) < 3 else [], "7")


async def test_an_istiod_keeps_its_rights_until_its_pods_have_ended() -> None:
    """It gives back its leases as it ends; without rights the next mesh would wait for them."""
    made = objects()
    wanted = [made[k] for k in (("Deployment", "istiod"), ("Service", "istiod"), ("ServiceAccount", "istiod"))]
    cluster, clock = Cluster(), ManualClock()
    work = asyncio.create_task(remove(cast(KubeClient, cluster), wanted, Quiet(), clock=clock))
    for _ in range(5):
        await clock.advance(1)
    await work
    assert cluster.gone == ["Deployment", "Service", "ServiceAccount"]
    assert len(cluster.looks) == 3 and {n for _, _, n in cluster.looks} == {2}, "between the Service and the account"
    namespace, selector, _ = cluster.looks[0]
    assert namespace == "istio-system" and "app=istiod" in selector


def test_only_what_has_several_pods_gets_a_disruption_budget() -> None:
    assert not [name for kind, name in objects("profile=demo") if kind == "PodDisruptionBudget"]
    many = objects("values.pilot.autoscaleMin=2", "values.gateways.istio-ingressgateway.autoscaleMin=2")
    assert str_at(many["PodDisruptionBudget", "istiod"], "spec", "selector", "matchLabels", "app") == "istiod"
    assert ("PodDisruptionBudget", "istio-ingressgateway") in many
    pdb = objects("values.pilot.autoscaleMin=2", "values.pilot.pdb.maxUnavailable=1")["PodDisruptionBudget", "istiod"]
    assert object_at(pdb, "spec") | {"selector": {}} == {"maxUnavailable": 1, "selector": {}}


def test_network_policies_admit_what_the_services_lead_to() -> None:
    made = objects("profile=demo", "values.global.networkPolicy.enabled=true")
    ports = {
        name: {port["port"] for rule in objects_at(o, "spec", "ingress") for port in objects_at(rule, "ports")}
        for (kind, name), o in made.items()
        if kind == "NetworkPolicy"
    }
    assert ports["istiod"] == {15010, 15012, 15014, 15017, 8080}
    assert ports["istio-ingressgateway"] == {15020, 15021, 15090, 8080, 8443, 31400, 15443}


def test_gateways_are_rolled_and_secured_as_their_values_say() -> None:
    gateway = "values.gateways.istio-ingressgateway"
    made = objects(f"{gateway}.rollingMaxSurge=1", "values.gateways.seccompProfile.type=RuntimeDefault")
    deployment = made["Deployment", "istio-ingressgateway"]
    assert object_at(deployment, "spec", "strategy") == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}
    assert object_at(deployment, "spec", "template", "spec", "securityContext", "seccompProfile") == {
        "type": "RuntimeDefault"
    }


@pytest.mark.parametrize(
    ("sets", "directory", "chained"),
    [
        ((), "/opt/cni/bin", "true"),
        (("values.global.platform=k3s",), "/var/lib/rancher/k3s/data/cni", "true"),
        (("values.global.platform=k3s", "values.cni.cniBinDir=/mine"), "/mine", "true"),
        (("values.global.platform=openshift",), "/var/lib/cni/bin", "false"),
    ],
)
def test_the_plugin_goes_where_the_platform_has_it(sets: tuple[str, ...], directory: str, chained: str) -> None:
    made = objects("components.cni.enabled=true", *sets)
    volumes = objects_at(made["DaemonSet", "istio-cni-node"], "spec", "template", "spec", "volumes")
    assert [str_at(v, "hostPath", "path") for v in volumes if v["name"] == "cni-bin-dir"] == [directory]
    assert str_at(made["ConfigMap", "istio-cni-config"], "data", "CHAINED_CNI_PLUGIN") == chained


def test_the_control_planes_namespace_is_said_as_in_istio_or_by_the_flag() -> None:
    for request in (Request(sets=("values.global.istioNamespace=mesh",)), Request(namespace="mesh")):
        assert resolve(request).namespace == "mesh"
