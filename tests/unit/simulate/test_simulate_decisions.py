"""What `istioctl simulate` says of each step: the resource, field and line that decided it, and how the call ends."""

from __future__ import annotations

import pytest

from meltem.simulate import imagined, origin, world
from meltem.simulate.calls import read_call
from meltem.simulate.explain import Explanation, Step, explain
from meltem.simulate.rbac import template_matches
from meltem.simulate.targets import find_proxy
from meltem.simulate.world import World

MESH = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  selector: {app: db}
  ports: [{name: tcp, port: 5432}, {name: tls, port: 8443}]
""" + "".join(
    f"""
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  template: {{metadata: {{labels: {{app: {app}, version: {version}}}}}, spec: {{containers: [{{name: app}}]}}}}
"""
    for name, app, version in (
        ("reviews-v1", "reviews", "v1"),
        ("reviews-v2", "reviews", "v2"),
        ("db", "db", "v1"),
        ("web", "web", "v1"),
    )
)
SUBSETS = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""
GATEWAY = "deploy/istio-ingressgateway.istio-system"


def rules(spec: str, *, name: str = "reviews", namespace: str = "default") -> str:
    """A VirtualService whose `spec` begins on line 4."""
    metadata = f"metadata: {{name: {name}, namespace: {namespace}}}"
    return f"apiVersion: networking.istio.io/v1\nkind: VirtualService\n{metadata}\nspec:\n{spec}"


def policy(spec: str, *, name: str = "guard", namespace: str = "default") -> str:
    metadata = f"metadata: {{name: {name}, namespace: {namespace}}}"
    return f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{metadata}\nspec:\n{spec}"


def build(*texts: str) -> World:
    placed = [p for i, t in enumerate((MESH, *texts)) for p in origin.read_text(t, f"{i}.yaml", "default")]
    made = world.build(imagined.complete(placed))
    assert not made.problems
    return made


def simulate(
    mesh: World, method: str, url: str, *, pod: str = "deploy/web", sni: str = "", claims: tuple[str, ...] = ()
) -> Explanation:
    return explain(mesh, find_proxy(mesh, pod, "default"), read_call(method, url, sni=sni, claims=claims))


def step(found: Explanation, name: str) -> Step:
    return next(s for s in found.steps if s.step == name)


def test_of_a_delegated_route_both_rules_are_named() -> None:
    root = rules(
        "  hosts: [reviews]\n  http:\n  - match: [{uri: {prefix: /a}}]\n    delegate: {name: child, namespace: other}\n"
    )
    child = rules(
        "  http:\n"
        "  - match:\n"
        "    - uri: {prefix: /a/b}\n"
        "    route: [{destination: {host: db.default.svc.cluster.local, port: {number: 5432}}}]\n"
        "  - route: [{destination: {host: reviews.default.svc.cluster.local}}]\n",
        name="child",
        namespace="other",
    )  # fmt: skip
    mesh = build(root, child)
    assert step(simulate(mesh, "GET", "http://reviews:9080/a/b"), "Route").by == (
        "VirtualService default/reviews spec.http[0].match[0] (1.yaml:7)",
        "VirtualService other/child spec.http[0].match[0] (2.yaml:7)",
    )
    assert step(simulate(mesh, "GET", "http://reviews:9080/a"), "Route").by == (
        "VirtualService default/reviews spec.http[0].match[0] (1.yaml:7)",
        "VirtualService other/child spec.http[1] (2.yaml:9)",
    )


def test_of_rules_that_differ_in_the_port_the_one_for_the_port_is_named() -> None:
    made = rules(
        "  hosts: [reviews]\n"
        "  http:\n"
        "  - match: [{uri: {prefix: /}, port: 1}]\n"
        "    route: [{destination: {host: db, port: {number: 5432}}}]\n"
        "  - match: [{uri: {prefix: /}, port: 9080}]\n"
        "    route: [{destination: {host: reviews}}]\n"
    )
    found = simulate(build(made), "GET", "http://reviews:9080/")
    assert step(found, "Route").by == ("VirtualService default/reviews spec.http[1].match[0] (1.yaml:9)",)


def test_the_rule_that_leads_a_tcp_connection_is_named() -> None:
    made = rules(
        "  hosts: [db]\n"
        "  tcp:\n"
        "  - match:\n"
        "    - sourceLabels: {app: nobody}\n"
        "    route: [{destination: {host: db}}]\n"
        "  - match:\n"
        "    - port: 5432\n"
        "    route: [{destination: {host: db}}]\n",
        name="db",
    )  # fmt: skip
    found = simulate(build(made), "TCP", "db:5432")
    assert step(found, "Filter chain").by == ("VirtualService default/db spec.tcp[1].match[0] (1.yaml:11)",)


def test_the_rule_that_leads_a_tls_connection_is_named() -> None:
    made = rules(
        "  hosts: [db, a.example.com]\n"
        "  tls:\n"
        "  - match:\n"
        "    - {port: 8443, sniHosts: [db]}\n"
        "    route: [{destination: {host: db, port: {number: 8443}}}]\n"
        "  - match:\n"
        "    - {port: 8443, sniHosts: [a.example.com]}\n"
        "    route: [{destination: {host: reviews, port: {number: 9080}}}]\n",
        name="db",
    )  # fmt: skip
    found = simulate(build(made), "TLS", "db:8443", sni="a.example.com")
    assert step(found, "Filter chain").by == ("VirtualService default/db spec.tls[1].match[0] (1.yaml:11)",)


def test_what_a_gateways_own_policy_denies_goes_no_further() -> None:
    edge = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""
    route = rules("  hosts: ['*']\n  gateways: [edge]\n  http: [{route: [{destination: {host: reviews}}]}]\n")
    guard = policy("  action: DENY\n  rules:\n  - to: [{operation: {paths: [/secret]}}]\n", namespace="istio-system")
    mesh = build(edge, route, guard)
    assert simulate(mesh, "GET", "http://shop/x", pod=GATEWAY).status == 0
    found = simulate(mesh, "GET", "http://shop/secret", pod=GATEWAY)
    assert (found.status, found.reaches) == (403, {})
    assert found.result.endswith("denies it: policy istio-system/guard rule 0")
    assert step(found, "Authorization").by == ("AuthorizationPolicy istio-system/guard spec.rules[0] (3.yaml:7)",)
    assert not [s for s in found.steps if s.step in ("Cluster", "At the server")]


def test_the_policies_that_do_not_allow_a_call_are_named() -> None:
    guard = policy("  action: ALLOW\n  rules:\n  - to: [{operation: {methods: [POST]}}]\n")
    found = simulate(build(guard), "GET", "http://reviews:9080/")
    assert found.status == 403
    assert step(found, "At the server").by == ("AuthorizationPolicy default/guard spec (1.yaml:4)",)


def test_a_server_that_wants_mutual_tls_and_gets_none_is_a_503() -> None:
    plain = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain}
spec: {host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}
"""
    strict = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
    found = simulate(build(plain, strict), "GET", "http://reviews:9080/")
    assert (found.status, found.result.partition(": ")[0]) == (503, "503")
    assert step(found, "At the server").by == ("PeerAuthentication istio-system/default spec.mtls (2.yaml:4)",)


def test_servers_that_decide_otherwise_are_told_apart() -> None:
    guard = policy("  selector: {matchLabels: {version: v2}}\n  action: DENY\n  rules: [{}]\n")
    found = simulate(build(guard), "GET", "http://reviews:9080/")
    assert found.status == 0
    assert found.result == (
        "reaches reviews.default.svc.cluster.local (2 endpoints); "
        "the proxy of reviews-v2-0.default denies it: policy default/guard rule 0"
    )


def test_policies_see_the_request_as_the_route_rewrites_it() -> None:
    route = rules(
        "  hosts: [reviews]\n"
        "  http:\n"
        "  - match: [{uri: {prefix: /api}}]\n"
        "    rewrite: {uri: /inner}\n"
        "    route: [{destination: {host: reviews}}]\n"
    )
    guard = policy("  action: DENY\n  rules:\n  - to: [{operation: {paths: [/inner/x]}}]\n")
    mesh = build(route, guard)
    assert simulate(mesh, "GET", "http://reviews:9080/api/x?q=1").status == 403
    assert simulate(mesh, "GET", "http://reviews:9080/api/y").status == 0


def test_claims_that_are_given_count_for_policies() -> None:
    guard = policy(
        "  rules:\n"
        "  - from: [{source: {requestPrincipals: ['me/*']}}]\n"
        "    when: [{key: 'request.auth.claims[group]', values: [admin]}]\n"
    )
    mesh = build(guard)
    claims = ("iss=me", "sub=jane", "group=admin")
    assert simulate(mesh, "GET", "http://reviews:9080/", claims=claims).status == 0
    assert simulate(mesh, "GET", "http://reviews:9080/", claims=("iss=me", "sub=jane", "group=x")).status == 403
    assert simulate(mesh, "GET", "http://reviews:9080/").status == 403


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [("/a/*/c", "/a/b/c", True), ("/a/*/c", "/a/b/b/c", False), ("/a/**", "/a/b/c", True), ("/a.b/*", "/axb/c", False)],
)
def test_path_templates_of_policies(template: str, path: str, *, expected: bool) -> None:
    assert template_matches(template, path) is expected


@pytest.mark.parametrize(
    ("abort", "status", "result"),
    [
        ("{httpStatus: 418, percentage: {value: 100}}", 418, "418: the route's fault aborts every call"),
        (
            "{httpStatus: 418, percentage: {value: 25}}",
            0,
            "reaches reviews.default.svc.cluster.local (2 endpoints); a fault aborts 25% of calls with 418",
        ),
        (
            "{grpcStatus: UNAVAILABLE, percentage: {value: 100}}",
            503,
            "503: the route's fault aborts every call (gRPC status 14)",
        ),
    ],
)
def test_a_fault_is_part_of_the_result(abort: str, status: int, result: str) -> None:
    made = rules(
        f"  hosts: [reviews]\n  http:\n  - fault: {{abort: {abort}}}\n    route: [{{destination: {{host: reviews}}}}]\n"
    )
    found = simulate(build(made), "GET", "http://reviews:9080/")
    assert (found.status, found.result) == (status, result)


def test_a_cluster_that_nobody_defines_is_a_503_for_its_share() -> None:
    half = (
        "  hosts: [reviews]\n"
        "  http:\n"
        "  - route:\n"
        "    - {destination: {host: reviews, subset: v1}, weight: 60}\n"
        "    - {destination: {host: reviews, subset: gone}, weight: 40}\n"
    )
    found = simulate(build(SUBSETS, rules(half)), "GET", "http://reviews:9080/")
    assert found.status == 0
    assert found.result == (
        "reaches 60% reviews.default.svc.cluster.local subset v1 (1 endpoint), "
        "40% reviews.default.svc.cluster.local subset gone (no such cluster)"
    )
    whole = "  hosts: [reviews]\n  http: [{route: [{destination: {host: reviews, subset: gone}}]}]\n"
    assert simulate(build(SUBSETS, rules(whole)), "GET", "http://reviews:9080/").status == 503


def test_a_mirror_has_its_share() -> None:
    made = rules(
        "  hosts: [reviews]\n"
        "  http:\n"
        "  - route: [{destination: {host: reviews, subset: v1}}]\n"
        "    mirrors: [{destination: {host: reviews, subset: v2}, percentage: {value: 10}}]\n"
    )
    found = simulate(build(SUBSETS, made), "GET", "http://reviews:9080/")
    assert step(found, "Mirror").what.startswith("10% outbound|9080|v2|reviews.")


def test_a_call_through_an_egress_gateway_is_followed_through_it() -> None:
    egress = """apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [ext.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: istio-system}
spec: {selector: {istio: egressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: out, namespace: istio-system}
spec:
  template:
    metadata: {labels: {istio: egressgateway}}
    spec: {containers: [{name: istio-proxy, args: [proxy, router]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [ext.example.com]}]
"""
    route = rules(
        "  hosts: [ext.example.com]\n"
        "  gateways: [mesh, out]\n"
        "  http:\n"
        "  - match: [{gateways: [mesh]}]\n"
        "    route: [{destination: {host: out.istio-system.svc.cluster.local}}]\n"
        "  - match: [{gateways: [out]}]\n"
        "    route: [{destination: {host: ext.example.com}}]\n",
        name="ext",
    )
    found = simulate(build(egress, route), "GET", "http://ext.example.com/")
    through = step(found, "At the gateway")
    assert through.what.endswith("→ outbound|80||ext.example.com")
    assert through.details[0] == "plain text from web-0.default"  # a gateway takes mutual TLS only when told to
    assert through.by == ("VirtualService default/ext spec.http[1].match[0] (2.yaml:10)",)


def test_of_a_gateways_route_from_an_ingress_the_path_is_named() -> None:
    ingress = """apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, annotations: {kubernetes.io/ingress.class: istio}}
spec:
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /other, pathType: Exact, backend: {service: {name: db, port: {number: 5432}}}}
      - {path: /shop, pathType: Prefix, backend: {service: {name: reviews, port: {number: 9080}}}}
"""
    gateway = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [other.example.com]}]
"""
    mesh = build(ingress, gateway)
    for path in ("/shop", "/shop/x"):
        found = simulate(mesh, "GET", f"http://shop.example.com{path}", pod=GATEWAY)
        assert step(found, "Route").by == ("Ingress default/shop spec.rules[0].http.paths[1] (1.yaml:10)",)
