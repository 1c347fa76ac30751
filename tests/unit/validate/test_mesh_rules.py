"""MeshConfig and MeshNetworks: the defaults are good; mistakes are found where they stand."""

from __future__ import annotations

import pytest

from meltem.errors import InvalidResource
from meltem.resources.mesh import parse_mesh_networks, parse_meshconfig
from meltem.validate import Result, validate_mesh_networks, validate_meshconfig


def test_the_defaults_are_good() -> None:
    assert validate_meshconfig(parse_meshconfig("")) == Result()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("proxyListenPort: 0", "proxyListenPort"),
        ("proxyHttpPort: 70000", "proxyHttpPort"),
        ("caCertificates: [{pem: nothing}]", "caCertificates[0].pem"),
        ("caCertificates: [{trustDomains: [a.b]}]", "caCertificates[0]"),
        (
            "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: MUTUAL}}",
            "outboundTrafficPolicy.tls.clientCertificate",
        ),
        ("connectTimeout: 60s", "connectTimeout"),
        ("trustDomain: ''", "trustDomain"),
        ("defaultConfig: {discoveryAddress: istiod}", "defaultConfig.discoveryAddress"),
        ("defaultConfig: {drainDuration: 0.5s}", "defaultConfig.drainDuration"),
        ("defaultConfig: {concurrency: -1}", "defaultConfig.concurrency"),
        ("defaultConfig: {tracing: {sampling: 101}}", "defaultConfig.tracing.sampling"),
        ("extensionProviders: [{name: a}]", "extensionProviders[0]"),
        ("extensionProviders: [{name: a, zipkin: {service: 'a b', port: 1}}]", "extensionProviders[0].zipkin.service"),
        ("extensionProviders: [{name: a, zipkin: {service: a.b, port: 0}}]", "extensionProviders[0].zipkin.port"),
        ("localityLbSetting: {failover: [{from: a, to: a}]}", "localityLbSetting.failover[0]"),
        ("serviceSettings: [{hosts: [a_b]}]", "serviceSettings[0].hosts[0]"),
        ("accessLogFormat: '%REQ(X)'", "accessLogFormat"),
        ("defaultConfig: {tracing: {datadog: {address: agent}}}", "defaultConfig.tracing.datadog.address"),
        (
            "extensionProviders: [{name: a, envoyFileAccessLog: {path: /a, logFormat: {labels: {b: '%FOO%'}}}}]",
            "extensionProviders[0].envoyFileAccessLog.logFormat.labels['b']",
        ),
        ("defaultConfig: {fileFlushInterval: 0.1ms}", "defaultConfig.fileFlushInterval"),
        (
            "defaultConfig: {connectionSettings: {http2InitialStreamWindowSize: 10}}",
            "defaultConfig.connectionSettings.http2InitialStreamWindowSize",
        ),
    ],
)
def test_mistakes_are_found(text: str, path: str) -> None:
    assert path in [e.path for e in validate_meshconfig(parse_meshconfig(text)).errors]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (
            "defaultConfig: {connectionSettings: {listenerConnectionLimit: 5}}",
            "defaultConfig.connectionSettings.listenerConnectionLimit",
        ),
        ("defaultConfig: {proxyBootstrapTemplatePath: /a}", "defaultConfig.proxyBootstrapTemplatePath"),
        ("configSources: [{address: 'fs:///etc/config'}]", "configSources[0]"),
        ("caCertificates: [{spiffeBundleUrl: 'https://a.test'}]", "caCertificates[0].spiffeBundleUrl"),
    ],
)
def test_a_field_without_effect_is_told(text: str, path: str) -> None:
    found = validate_meshconfig(parse_meshconfig(text))
    assert found.ok
    assert [w.path for w in found.warnings] == [path]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("networks: {a: {endpoints: [{}]}}", "networks['a'].endpoints[0]"),
        ("networks: {a: {endpoints: [{fromCidr: x}]}}", "networks['a'].endpoints[0].fromCidr"),
        ("networks: {a: {gateways: [{port: 1}]}}", "networks['a'].gateways[0]"),
        ("networks: {a: {gateways: [{address: b, port: 0}]}}", "networks['a'].gateways[0].port"),
    ],
)
def test_mistakes_in_networks_are_found(text: str, path: str) -> None:
    assert [e.path for e in validate_mesh_networks(parse_mesh_networks(text)).errors] == [path]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaultHttpRetryPolicy: {attempts: -2}", "defaultHttpRetryPolicy.attempts: -2 is out of range"),
        (
            "extensionProviders: [{name: a, envoyExtAuthzHttp: {service: a.b, port: 80, "
            "includeRequestBodyInCheck: {maxRequestBytes: -1}}}]",
            "maxRequestBytes: -1 is out of range",
        ),
        ("defaultConfig: {tracing: {maxPathTagLength: 4294967296}}", "maxPathTagLength: 4294967296 is out of range"),
        ("defaultConfig: {connectionSettings: {httpIdleTimeout: -1s}}", "httpIdleTimeout: '-1s' is less than nothing"),
    ],
)
def test_numbers_that_no_proxy_can_hold_are_not_read(text: str, said: str) -> None:
    with pytest.raises(InvalidResource, match=said):
        parse_meshconfig(text)
