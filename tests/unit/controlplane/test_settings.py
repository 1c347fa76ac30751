"""istiod's switches and flags: Istio's names and values, and plain words for what cannot be used."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from meltem.clock import ManualClock
from meltem.controlplane import logs
from meltem.controlplane.flags import Flags, address, parse_flags
from meltem.controlplane.run import ControlPlane
from meltem.errors import UserError
from meltem.kube.client import KubeClient
from meltem.settings import Settings, read_settings


def test_without_an_environment_istios_defaults_hold() -> None:
    settings, unused = read_settings({})
    assert settings == Settings()
    assert unused == ()
    assert (settings.cluster_id, settings.revision, settings.suffix) == ("Kubernetes", "default", "")


def test_switches_are_read_by_type() -> None:
    settings, _ = read_settings(
        {"REVISION": "canary", "XDS_AUTH": "FALSE", "DEFAULT_WORKLOAD_CERT_TTL": "1h30m", "CLUSTER_ID": ""}
    )
    assert settings.suffix == "-canary"
    assert settings.xds_auth is False
    assert settings.default_workload_cert_ttl == 5400.0
    assert settings.cluster_id == "Kubernetes"


@pytest.mark.parametrize(("text", "found"), [("true", "true"), ("0", "false"), ("auto", "auto"), ("unset", "auto")])
def test_native_sidecars_have_three_values(text: str, found: str) -> None:
    assert read_settings({"ENABLE_NATIVE_SIDECARS": text})[0].enable_native_sidecars == found


@pytest.mark.parametrize(
    ("name", "text"),
    [("XDS_AUTH", "maybe"), ("MAX_WORKLOAD_CERT_TTL", "5 days"), ("ENABLE_NATIVE_SIDECARS", "sometimes")],
)
def test_a_value_that_means_nothing_is_refused_by_the_variables_name(name: str, text: str) -> None:
    with pytest.raises(UserError, match=name):
        read_settings({name: text})


def test_switches_without_effect_are_named_and_service_links_are_not() -> None:
    _, unused = read_settings(
        {
            "PILOT_PUSH_THROTTLE": "10",
            "ISTIOD_PORT": "tcp://10.0.0.1:15010",
            "ISTIOD_PORT_15010_TCP_ADDR": "10.0.0.1",
            "ISTIOD_SERVICE_PORT_GRPC_XDS": "15010",
            "ISTIO_INGRESSGATEWAY_SERVICE_HOST": "10.0.0.2",
            "ISTIO_META_NETWORK": "n1",
            "PILOT_CERT_PROVIDER": "istiod",
            "PILOT_ENABLE_ANALYSIS": "true",
            "HOME": "/root",
        }
    )
    assert unused == ("PILOT_ENABLE_ANALYSIS", "PILOT_PUSH_THROTTLE")


def test_flags_of_istio_are_taken() -> None:
    flags = parse_flags(["discovery", "--grpcAddr=", "--keepaliveMaxServerConnectionAge", "1h", "--log_as_json"])
    assert (flags.grpc, flags.max_connection_age, flags.log_json) == ("", 3600.0, True)
    assert parse_flags([]).secure_grpc == ":15012"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "nonsense"),
        (["--keepaliveInterval", "soon"], "keepaliveInterval"),
        (["--tlsCertFile", "a.pem"], "--tlsKeyFile"),
        (["--tlsCertFile", "a.pem", "--tlsKeyFile", "b.pem"], "--caCertFile"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_flags(arguments)


def test_addresses() -> None:
    assert address("") is None
    assert address(":15012") == ("", 15012)
    assert address("[::1]:80") == ("::1", 80)
    with pytest.raises(UserError, match="no address"):
        address("nowhere")


@pytest.mark.parametrize(("text", "scoped"), [("true", True), ("", False)])
def test_gateways_are_kept_to_their_namespace_where_the_switch_says_so(text: str, scoped: bool) -> None:
    settings, unused = read_settings({"PILOT_SCOPE_GATEWAY_TO_NAMESPACE": text})
    istiod = ControlPlane(Mock(KubeClient), Flags(), settings, ManualClock())
    assert istiod.engine.views.scope_gateways is scoped and not unused


def test_log_levels_are_those_of_scopes() -> None:
    assert logs.parse("warn, ads:debug,all:error") == {"default": "error", "ads": "debug"}
    with pytest.raises(UserError, match="'loud' is no log level"):
        logs.parse("ads:loud")


async def test_log_levels_are_shown_and_changed_while_istiod_runs() -> None:
    """As Istio's `istioctl admin log` asks: 202 for a change."""
    application = web.Application()
    application.add_routes(logs.routes())
    before = logs.logger_of("ads").level
    try:
        async with TestClient(TestServer(application)) as client:
            assert (await client.put("/scopej/ads", json={"name": "ads", "output_level": "debug"})).status == 202
            shown = await (await client.get("/scopej")).json()
            assert {s["name"]: s["output_level"] for s in shown}["ads"] == "debug"
            assert (await client.put("/scopej/ads", json={"output_level": "loud"})).status == 400
            refused = await client.get("/scopej/nobody")
            assert refused.status == 404 and "scopes: ads" in await refused.text()
    finally:
        logs.logger_of("ads").setLevel(before)
