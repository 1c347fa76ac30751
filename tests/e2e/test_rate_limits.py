"""Rate limits by EnvoyFilter, counted: a proxy's own, one for a single route, and one that a service counts for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from mesh_rig import Mesh, eventually

pytestmark = pytest.mark.both_homes
MANAGER = "{filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}"
FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit}
spec:
  workloadSelector: {labels: {app: httpbin}}
  configPatches:
"""
ALWAYS = "{default_value: {numerator: 100, denominator: HUNDRED}}"
BUCKET = f"""
          token_bucket: {{max_tokens: 4, tokens_per_fill: 4, fill_interval: 3600s}}
          filter_enabled: {ALWAYS}
          filter_enforced: {ALWAYS}
          response_headers_to_add: [{{header: {{key: x-limited, value: "true"}}}}]
"""
TYPE = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
LOCAL = f"""
  - applyTo: HTTP_FILTER
    match: {{context: SIDECAR_INBOUND, listener: {MANAGER}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": {TYPE}
          stat_prefix: limiter
"""
OF_ROUTE = f"""
  - applyTo: HTTP_ROUTE
    match: {{context: SIDECAR_INBOUND, routeConfiguration: {{vhost: {{route: {{name: default}}}}}}}}
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
          envoy.filters.http.local_ratelimit:
            "@type": {TYPE}
            stat_prefix: limiter
""" + BUCKET.replace("\n  ", "\n    ")
GLOBAL = f"""
  - applyTo: HTTP_FILTER
    match: {{context: SIDECAR_INBOUND, listener: {MANAGER}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.ratelimit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
          domain: shop
          failure_mode_deny: true
          timeout: 10s
          rate_limit_service:
            transport_api_version: V3
            grpc_service:
              envoy_grpc:
                cluster_name: outbound|8081||ratelimit.NAMESPACE.svc.cluster.local
                authority: ratelimit.NAMESPACE.svc.cluster.local
  - applyTo: VIRTUAL_HOST
    match: {{context: SIDECAR_INBOUND}}
    patch:
      operation: MERGE
      value:
        rate_limits: [{{actions: [{{request_headers: {{header_name: ":path", descriptor_key: PATH}}}}]}}]
"""
ONE_REQUEST_A_CONNECTION = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin}
spec: {host: httpbin, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""
"""A connection that was there before a listener changed goes on with the filters that it began with."""
RULES = """
apiVersion: v1
kind: ConfigMap
metadata: {name: ratelimit-config}
data:
  config.yaml: |
    domain: shop
    descriptors:
    - key: PATH
      value: /status/200
      rate_limit: {unit: day, requests_per_unit: 3}
"""


def _counts(mesh: Mesh, space: str, path: str = "/status/200", times: int = 10) -> Counter[str]:
    script = f"for i in $(seq {times}); do curl -s -o /dev/null -w '%{{http_code}} ' http://httpbin:8000{path}; done"
    return Counter(mesh.execute("deploy/curl", "sh", "-c", script, namespace=space, container="curl").split())


def _in_force(mesh: Mesh, space: str, patches: str) -> None:
    mesh.create(FILTER + patches, namespace=space)
    mesh.istioctl("x", "wait", "envoyfilter", f"limit.{space}", "--timeout=90s")


def test_limits_are_kept_to_the_request(mesh: Mesh, new_namespace: Callable[..., str]) -> None:
    space = new_namespace("istio-injection=enabled")
    mesh.apply("httpbin/httpbin.yaml", "curl/curl.yaml", "ratelimit/rate-limit-service.yaml", namespace=space)
    mesh.create(RULES, namespace=space)
    mesh.rolled_out("httpbin", "curl", "ratelimit", namespace=space)
    mesh.create(ONE_REQUEST_A_CONNECTION, namespace=space)
    mesh.istioctl("x", "wait", "destinationrule", f"httpbin.{space}", "--timeout=90s")
    eventually(lambda: _expect(_counts(mesh, space, times=2), {"200": 2}))

    _in_force(mesh, space, LOCAL + BUCKET)
    _expect(_counts(mesh, space), {"200": 4, "429": 6})

    _in_force(mesh, space, LOCAL + OF_ROUTE)
    _expect(_counts(mesh, space), {"200": 4, "429": 6})

    _in_force(mesh, space, GLOBAL.replace("NAMESPACE", space))
    eventually(lambda: _expect(_counts(mesh, space, "/status/202", times=2), {"202": 2}))
    _expect(_counts(mesh, space), {"200": 3, "429": 7})


def _expect(found: Counter[str], wanted: dict[str, int]) -> None:
    assert found == wanted, found
