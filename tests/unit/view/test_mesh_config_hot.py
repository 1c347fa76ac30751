"""MeshConfig is hot: each field that changes traffic changes what connected proxies have, and its end restores it."""

from __future__ import annotations

import json

import mesh_files as files
import pytest

from meltem import yamlio
from meltem.engine import Engine
from meltem.objects import Json

MESH = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.1.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: x, port: 90}]
---
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: other}
spec: {clusterIP: 10.1.0.2, ports: [{name: grpc, port: 4317}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [outside.test]
  resolution: DNS
  location: MESH_EXTERNAL
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: shop}
spec: {host: outside.test, trafficPolicy: {tls: {mode: SIMPLE, sni: outside.test}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: other}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: fair, namespace: other}
spec: {host: collector, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: pair}}
---
apiVersion: v1
kind: Secret
metadata: {name: pair, namespace: shop}
type: kubernetes.io/tls
data: {tls.crt: eA==, tls.key: eA==}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: who, namespace: shop}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/a]}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
"""
PROXIES = (
    files.sidecar("web-1", "shop", "10.0.0.1", {"app": "web"}),
    files.sidecar("far-1", "other", "10.0.0.2", {"app": "far"}),
    files.router("gw", "shop", "10.0.0.9", {"istio": "ingressgateway"}),
)
FIELDS = {
    "accessLogFile: /dev/stdout": "/dev/stdout",
    "{accessLogFile: /dev/stdout, accessLogFormat: 'so %PROTOCOL%'}": "so %PROTOCOL%",
    "{accessLogFile: /dev/stdout, accessLogEncoding: JSON}": "json_format",
    "{accessLogFile: /dev/stdout, disableEnvoyListenerLog: true}": "/dev/stdout",
    "enableEnvoyAccessLogService: true": "envoy_accesslog_service",
    "outboundTrafficPolicy: {mode: REGISTRY_ONLY}": "block_all",
    "inboundTrafficPolicy: {mode: LOCALHOST}": '"address": "127.0.0.1"',
    "enableAutoMtls: false": "",
    "enableTracing: false": "",
    "defaultConfig: {tracing: {sampling: 42}}": "",
    "trustDomainAliases: [old.test]": "old.test",
    "trustDomain: new.test": "new.test",
    "defaultServiceExportTo: ['.']": "",
    "defaultVirtualServiceExportTo: ['~']": "",
    "defaultDestinationRuleExportTo: ['.']": "",
    "localityLbSetting: {enabled: false}": None,
    "defaultHttpRetryPolicy: {attempts: 7}": '"num_retries": 7',
    "h2UpgradePolicy: UPGRADE": "",
    "tcpKeepalive: {probes: 9}": '"keepalive_probes": 9',
    "connectTimeout: 3s": '"connect_timeout": "3s"',
    "protocolDetectionTimeout: 4s": '"listener_filters_timeout": "4s"',
    "dnsRefreshRate: 17s": '"dns_refresh_rate": "17s"',
    "pathNormalization: {normalization: MERGE_SLASHES}": '"merge_slashes": true',
    "proxyListenPort: 15099": "15099",
    "proxyInboundListenPort: 15098": "15098",
    "meshMTLS: {minProtocolVersion: TLSV1_3}": '"tls_minimum_protocol_version": "TLSv1_3"',
    "meshMTLS: {cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384]}": "",
    "tlsDefaults: {minProtocolVersion: TLSV1_3}": '"tls_minimum_protocol_version": "TLSv1_3"',
    "tlsDefaults: {ecdhCurves: [P-521]}": "P-521",
    "inboundClusterStatName: 'in_%SERVICE%_%TARGET_PORT%'": "in_web.shop_8080",
    "outboundClusterStatName: '%SERVICE_FQDN%_%SERVICE_PORT%_%SERVICE_PORT_NAME%'": "outside.test_443_tls",
    "defaultTrafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 33}}}": '"max_pending_requests": 33',
    "{extensionProviders: [{name: t, opentelemetry: {service: collector.other.svc.cluster.local, port: 4317}}],"
    " defaultProviders: {tracing: [t]}}": "opentelemetry",
    "{extensionProviders: [{name: l, envoyFileAccessLog: {path: /dev/stderr}}],"
    " defaultProviders: {accessLogging: [l]}}": "/dev/stderr",
    "defaultProviders: {metrics: [prometheus]}": None,
    "rootNamespace: other": "",
    "caCertificates: [{pem: x, trustDomains: [far.test]}]": "spiffe://far.test/",
    "serviceEntryVisibility: {defaultVisibility: NONE, applyToSidecars: true}": "",
    "proxyHttpPort: 15002": "127.0.0.1_15002",
    "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}": "AllowAnyDynamicDNSCluster",
    "defaultConfig: {connectionSettings: {httpIdleTimeout: 77s}}": '"idle_timeout": "77s"',
}  # fmt: skip


Everything = dict[tuple[str, str, str], bytes]


def everything(engine: Engine) -> Everything:
    """(proxy, kind, name) → message"""
    return {
        (proxy.id, kind, name): body
        for proxy in PROXIES
        for kind, resources in files.generated(engine, proxy).items()
        for name, body in resources.items()
    }


@pytest.fixture(scope="module")
def mesh() -> tuple[Engine, Everything]:
    """A mesh with the default configuration, which each test leaves as it was."""
    engine = Engine()
    files.load(engine, MESH)
    return engine, everything(engine)


def text_of(found: Everything, keys: set[tuple[str, str, str]]) -> str:
    return json.dumps([files.readable(k[1], found[k]) for k in sorted(keys) if k in found])


@pytest.mark.parametrize("config", FIELDS)
def test_each_field_takes_effect_and_its_end_restores_what_was(mesh: tuple[Engine, Everything], config: str) -> None:
    engine, before = mesh
    parsed = yamlio.load(config)
    assert isinstance(parsed, dict)
    with engine.graph.transaction():
        files.put(engine, {"kind": "MeshConfig", **parsed})
    after = everything(engine)
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    shown = FIELDS[config]
    if shown is not None:
        assert changed
        if shown:
            assert text_of(before, changed).count(shown) < text_of(after, changed).count(shown)
    with engine.graph.transaction():
        files.put(engine, {"kind": "MeshConfig"})
    assert everything(engine) == before
    assert not list(engine.graph.failures)


def test_services_that_stay_in_their_cluster() -> None:
    engine = Engine()
    files.load(engine, MESH)
    service = ("shop", "web.shop.svc.cluster.local")
    with engine.graph.transaction():
        settings: Json = [{"settings": {"clusterLocal": True}, "hosts": ["*.shop.svc.cluster.local"]}]
        files.put(engine, {"kind": "MeshConfig", "serviceSettings": settings})
    found = engine.mesh.services.get(service)
    assert found is not None and found.cluster_local
    with engine.graph.transaction():
        files.put(engine, {"kind": "MeshConfig"})
    found = engine.mesh.services.get(service)
    assert found is not None and not found.cluster_local
