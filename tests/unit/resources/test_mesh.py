"""MeshConfig has Istio's defaults where nothing is said, and says what it did not understand."""

from __future__ import annotations

import pytest

from meltem.errors import InvalidResource, UserError
from meltem.resources.base import Duration
from meltem.resources.mesh import merge_proxy_config, parse_mesh_networks, parse_meshconfig, read_meshconfig
from meltem.resources.mesh_proxy import MeshProxyConfig


def test_defaults_are_istios() -> None:
    mesh = parse_meshconfig("")
    assert (mesh.proxy_listen_port, mesh.proxy_inbound_listen_port) == (15001, 15006)
    assert mesh.outbound_traffic_policy.mode == "ALLOW_ANY"
    assert mesh.enable_auto_mtls and mesh.enable_prometheus_merge
    assert (mesh.trust_domain, mesh.root_namespace) == ("cluster.local", "istio-system")
    assert mesh.connect_timeout == Duration(10)
    proxy = mesh.default_config
    assert proxy.discovery_address == "istiod.istio-system.svc:15012"
    assert (proxy.status_port, proxy.proxy_admin_port, proxy.drain_duration) == (15020, 15000, Duration(45))
    assert [p.name for p in mesh.extension_providers] == ["prometheus", "stackdriver", "envoy"]


def test_what_is_said_wins_and_the_rest_keeps_its_default() -> None:
    mesh = parse_meshconfig(
        """
        accessLogFile: /dev/stdout
        outboundTrafficPolicy: {mode: REGISTRY_ONLY}
        enableAutoMtls: false
        defaultConfig: {discoveryAddress: "istiod.x:15012", proxyMetadata: {A: b}}
        meshMTLS: {minProtocolVersion: TLSV1_3}
        extensionProviders:
        - {name: envoy, envoyFileAccessLog: {path: /tmp/log}}
        - {name: zipkin, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411, enable64bitTraceId: true}}
        """
    )
    assert mesh.outbound_traffic_policy.mode == "REGISTRY_ONLY" and not mesh.enable_auto_mtls
    assert mesh.default_config.status_port == 15020
    assert mesh.mesh_mtls is not None and mesh.mesh_mtls.min_protocol_version == "TLSV1_3"
    assert [p.name for p in mesh.extension_providers] == ["envoy", "zipkin", "prometheus", "stackdriver"]
    assert mesh.extension_providers[1].zipkin is not None and mesh.extension_providers[1].zipkin.enable_64bit_trace_id


def test_unknown_fields_are_reported_and_change_nothing() -> None:
    mesh, unknown = read_meshconfig("trustDomian: a\nmixerCheckServer: b")
    assert mesh.trust_domain == "cluster.local"
    assert next((p.path, p.remedy) for p in unknown) == ("trustDomian", "Did you mean 'trustDomain'?")


@pytest.mark.parametrize(
    ("text", "where"),
    [("trustDomain: 5", "trustDomain"), ("outboundTrafficPolicy: {mode: SOME}", "outboundTrafficPolicy.mode")],
)
def test_wrong_values_are_refused_with_their_path(text: str, where: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        parse_meshconfig(text)
    assert caught.value.where == f"MeshConfig {where}"


def test_what_is_no_yaml_is_a_user_error() -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        parse_meshconfig("a: [")


def test_a_pods_annotation_merges_over_the_meshs_settings() -> None:
    base = parse_meshconfig("defaultConfig: {proxyMetadata: {A: a, B: b}, concurrency: 4}").default_config
    merged = merge_proxy_config(base, "concurrency: 2\nproxyMetadata: {B: c}\nterminationDrainDuration: 30s")
    assert merged.concurrency == 2
    assert merged.proxy_metadata == {"A": "a", "B": "c"}
    assert merged.termination_drain_duration == Duration(30)
    assert merged.status_port == 15020
    assert merge_proxy_config(base, "") == base


def test_a_tracing_name_replaces_the_service_cluster() -> None:
    merged = merge_proxy_config(MeshProxyConfig(), "tracingServiceName: CANONICAL_NAME_ONLY")
    assert merged.tracing_service_name == "CANONICAL_NAME_ONLY"


def test_networks() -> None:
    networks = parse_mesh_networks(
        "networks: {n1: {endpoints: [{fromRegistry: c1}], gateways: [{address: 1.1.1.1, port: 15443}]}}"
    )
    assert networks.networks["n1"].endpoints[0].from_registry == "c1"
    assert networks.networks["n1"].gateways[0].port == 15443
