"""Settings of an installation that do not exist are told, with the name that was probably meant."""

from __future__ import annotations

import pytest

from meltem.errors import UserError
from meltem.gotemplate.chart import load_chart
from meltem.install import values
from meltem.install.spec import Request, package_root, profile_names, resolve
from meltem.objects import JsonObject, object_at

CHARTS = package_root("") / "charts"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("values.globl.hub=x", "values.globl is not known. Did you mean global?"),
        ("values.pilot.replicaCount=many", "values.pilot.replicaCount must be an integer"),
        ("values.global.imagePullPolicy=Sometimes", "must be one of Always, IfNotPresent, Never"),
        ("values.gateways.istio-ingressgateway.typ=NodePort", "Did you mean type?"),
        ("components.pilot.k8s.replicas=2", "components.pilot.k8s.replicas is not known. Did you mean replicaCount?"),
        ("components.pilot.enabled=maybe", "components.pilot.enabled must be true or false"),
        ("values=3", "values must be a map"),
        ("values.gateways=3", "values.gateways must be a map"),
        ("meshConfig=3", "meshConfig must be a map"),
        ("meshConfig.acessLogFile=/dev/stdout", "Did you mean 'accessLogFile'?"),
        ("meshConfig.defaultConfig.concurrency=two", "defaultConfig.concurrency"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(setting: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(Request(sets=(setting,)))
    assert told in str(refused.value)


@pytest.mark.parametrize("setting", ["values.global.tracer.zipkin.address=x", "values.gateways.a.runAsRoot=true"])
def test_what_only_istio_uses_is_a_warning(setting: str) -> None:
    (warning,) = resolve(Request(sets=(setting,))).warnings
    assert "changes nothing here" in warning


@pytest.mark.parametrize(
    "setting",
    [
        "values.pilot.env.ANY_NAME=1",
        "values.global.proxy.resources.limits.cpu=2",
        "values.pilot.podAnnotations.example\\.com/owner=me",
        "unvalidatedValues.whatever.it=is",
        "components.ingressGateways[0].k8s.service.type=NodePort",
    ],
)
def test_open_maps_and_unvalidated_values_take_anything(setting: str) -> None:
    assert resolve(Request(sets=(setting,))).warnings == ()


def test_force_makes_warnings_of_all() -> None:
    (warning,) = resolve(Request(sets=("values.globl.hub=x",), force=True)).warnings
    assert "Did you mean global?" in warning


@pytest.mark.parametrize("profile", profile_names())
def test_profiles_have_nothing_unknown(profile: str) -> None:
    assert resolve(Request(sets=(f"profile={profile}",))).warnings == ()


@pytest.mark.parametrize("chart", ["base", "istiod", "cni"])
def test_what_a_chart_has_may_be_set(chart: str) -> None:
    spec: JsonObject = {"values": object_at(load_chart(CHARTS / chart).values)}
    assert values.check(spec, CHARTS) == []
