"""One resource, however odd, never costs more than itself: nothing else fails, and its end restores all there was."""

from __future__ import annotations

import mesh_files as files
import pytest
from odd_resources import Odd

from meltem import envoyapi as api
from meltem.engine import Engine
from meltem.errors import InvalidResource
from meltem.resources.parse import read_as
from meltem.view.proxy import Proxy

MESH = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: None, selector: {app: api}, ports: [{name: auto, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, version: v1}}
spec: {serviceAccountName: web, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1, namespace: shop}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: who, namespace: shop}
spec: {rules: [{from: [{source: {principals: ["*"]}}]}]}
"""  # noqa: E501
PROXIES = (
    files.sidecar("web-1", "shop", "10.0.0.1", {"app": "web", "version": "v1"}),
    files.sidecar("far-1", "other", "10.0.0.2", {"app": "far"}, virtual_hosts_by_delta=False, dns_capture=True),
    files.router("gw", "shop", "10.0.0.9", {"istio": "ingressgateway"}),
)
MAY_TAKE_AWAY = frozenset(("Sidecar", "EnvoyFilter", "ServiceEntry"))
"""Kinds by which people mean to hide or replace what is there."""

Everything = dict[tuple[str, str, str], str]


def everything(engine: Engine) -> Everything:
    found: Everything = {}
    for proxy in PROXIES:
        attachment = engine.bundles.attach(proxy.id, lambda _notice: None)
        for url in files.TYPES.values():
            found.update({(proxy.id, url, r.name): r.version for r in attachment.all(url)})
        attachment.close()
    return found


def _kept(proxy: Proxy, url: str, name: str) -> bool:
    """What no other resource may cost."""
    return url == api.CLUSTER or name.startswith("virtual") or (url == api.LISTENER and proxy.kind.value == "router")


@pytest.mark.parametrize("density", [0.1, 0.25, 0.5])
def test_an_odd_resource_costs_no_other(density: float) -> None:
    engine = Engine()
    files.load(engine, MESH)
    for proxy in PROXIES:
        engine.connect(proxy)
    before = everything(engine)
    inputs = engine.inputs.by_kind
    for seed in range(120):
        odd = Odd(seed + int(density * 100_000), density)
        info = odd.any_kind()
        if info.kind not in inputs:
            continue
        obj = odd.resource(info, "odd", odd.random.choice(("shop", "other", "istio-system")))
        try:
            resource = read_as(obj, info)
        except InvalidResource:  # a number that nothing can hold: it costs itself
            continue
        key = (files.CLUSTER, resource.namespace, resource.name)
        with engine.graph.transaction():
            inputs[info.kind].set(key, resource)
        assert not list(engine.graph.failures), (seed, info.kind, obj)
        if info.kind not in MAY_TAKE_AWAY:
            now = everything(engine)
            by_id = {p.id: p for p in PROXIES}
            lost = [k for k in before if k not in now and _kept(by_id[k[0]], k[1], k[2])]
            assert not lost, (seed, info.kind, obj)
        with engine.graph.transaction():
            inputs[info.kind].delete(key)
        assert not list(engine.graph.failures), (seed, info.kind, obj)
    assert everything(engine) == before
