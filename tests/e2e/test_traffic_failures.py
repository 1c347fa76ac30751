"""What routes and destinations do about failure, on a cluster: timeouts, retries, faults, mirrors, limits, ejection."""

from __future__ import annotations

from collections import Counter

import pytest
from mesh_rig import eventually
from traffic_rig import Traffic, deployment, within

pytestmark = pytest.mark.both_homes


def test_a_slow_answer_is_cut_off(traffic: Traffic) -> None:
    host = traffic.service(
        "timed",
        """
        - match: [{uri: {prefix: /short}}]
          timeout: 0.5s
          route: [{destination: {host: timed, subset: v1}}]
        - route: [{destination: {host: timed, subset: v1}}]
        """,
    )
    slow = {"x-do": "delay=1.5"}
    cut, waited = traffic.each(host, {"path": "/short", "headers": slow}, {"path": "/", "headers": slow})
    assert cut.status == 504
    assert 0.49 <= cut.seconds < 1.45
    assert waited.status == 200
    assert waited.seconds >= 1.49


def test_failures_are_tried_again_as_often_as_the_rule_says(traffic: Traffic) -> None:
    host = traffic.service(
        "retried",
        """
        - match: [{uri: {prefix: /three}}]
          retries: {attempts: 3, retryOn: gateway-error, backoff: 10ms}
          route: [{destination: {host: retried, subset: v1}}]
        - match: [{uri: {prefix: /code}}]
          retries: {attempts: 1, retryOn: "418", backoff: 10ms}
          route: [{destination: {host: retried, subset: v1}}]
        - match: [{uri: {prefix: /per-try}}]
          retries: {attempts: 2, perTryTimeout: 0.3s, retryOn: "5xx", backoff: 10ms}
          route: [{destination: {host: retried, subset: v1}}]
        - match: [{uri: {prefix: /never}}]
          retries: {attempts: 0}
          route: [{destination: {host: retried, subset: v1}}]
        - route: [{destination: {host: retried, subset: v1}}]
        """,
    )
    cases = {
        # path: what the server does, the answer, how often the server sees the request
        "/three": ("status=503", 503, 4),
        "/three/500": ("status=500", 500, 1),
        "/code": ("status=418", 418, 2),
        "/per-try": ("delay=2", 504, 3),
        "/never": ("grpc=14", 200, 1),
        "/default": ("status=503", 503, 1),
        # unavailable, cancelled: gRPC's own words for a call that may be sent again
        "/default/grpc": ("grpc=14", 200, 3),
        "/default/internal": ("grpc=13", 200, 1),
    }
    answers = traffic.each(host, *({"path": p, "headers": {"x-do": do, "x-id": p}} for p, (do, _, _) in cases.items()))
    assert [a.status for a in answers] == [status for _, status, _ in cases.values()]
    found = {path: traffic.seen(path)["v1"] for path in cases}
    assert found == {path: count for path, (_, _, count) in cases.items()}


def test_a_retry_goes_to_another_endpoint(traffic: Traffic) -> None:
    """One of three versions fails always; no caller sees it."""
    host = traffic.service(
        "evaded",
        "- {retries: {attempts: 3, retryOn: 5xx, backoff: 10ms}, route: [{destination: {host: evaded}}]}",
    )
    want = {"count": 60, "headers": {"x-do": "at=v1,status=503", "x-id": "evaded"}}
    seen = traffic.versions(f"http://{host}/", **want)
    assert set(seen) == {"v2", "v3"}
    counted = traffic.seen("evaded")
    assert counted["v1"] > 0
    assert sum(counted.values()) == 60 + counted["v1"]


@pytest.mark.local_home
def test_a_retry_may_go_to_the_endpoint_that_failed(traffic: Traffic) -> None:
    """`retryIgnorePreviousHosts: false`: one of three fails always, so a ninth of the calls fails twice."""
    retries = "{attempts: 1, retryOn: 5xx, backoff: 10ms, retryIgnorePreviousHosts: false}"
    host = traffic.service(
        "insisted",
        f"- {{retries: {retries}, route: [{{destination: {{host: insisted}}}}]}}",
        policy="{loadBalancer: {simple: RANDOM}}",
    )
    want = {"url": f"http://{host}/", "count": 180, "headers": {"x-do": "at=v1,status=503", "x-id": "insisted"}}
    statuses = Counter(a.status for a in traffic.ask(want)[0])
    assert within(statuses[503], 180, 1 / 9) and statuses[503] > 0, statuses
    assert traffic.seen("insisted")["v1"] > statuses[503]


@pytest.mark.local_home
def test_a_budget_keeps_retries_few(traffic: Traffic) -> None:
    """Of thirty calls that fail at once every one is sent again, where no budget forbids it."""
    retries = "{attempts: 1, retryOn: 5xx, backoff: 10ms}"
    budget = "{retryBudget: {percent: 10, minRetryConcurrency: 2}}"
    for host, policy in (("unbudgeted", ""), ("budgeted", budget)):
        route = f"- {{retries: {retries}, route: [{{destination: {{host: {host}, subset: v1}}}}]}}"
        traffic.service(host, route, policy=policy)
        headers = {"x-do": "delay=0.4,status=503", "x-id": host}
        answers = traffic.ask({"url": f"http://{host}/", "count": 30, "parallel": 30, "headers": headers})[0]
        assert {a.status for a in answers} == {503}
    assert traffic.seen("unbudgeted")["v1"] == 60
    assert 30 <= traffic.seen("budgeted")["v1"] < 45


@pytest.mark.local_home
def test_a_retry_leaves_the_locality_where_the_rule_says_so(traffic: Traffic) -> None:
    """The near endpoint fails, the far one would not. Retries stay near, unless they may go far."""
    near, far = (traffic.addresses[v] for v in ("v1", "v2"))
    for host, more in (("stays", ""), ("leaves", ", retryRemoteLocalities: true")):
        traffic.mesh.create(
            f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}}}
spec:
  hosts: [{host}.example.com]
  addresses: [192.0.2.{len(host)}]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{{address: {near}, locality: region1/zone1}}, {{address: {far}, locality: region2/zone1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec:
  host: {host}.example.com
  trafficPolicy:
    loadBalancer: {{localityLbSetting: {{enabled: true}}}}
    outlierDetection: {{consecutive5xxErrors: 0, consecutiveGatewayErrors: 0}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}}}
spec:
  hosts: [{host}.example.com]
  http:
  - retries: {{attempts: 4, retryOn: 5xx, backoff: 10ms{more}}}
    route: [{{destination: {{host: {host}.example.com}}}}]
""",
            traffic.namespace,
        )

    def statuses(host: str) -> Counter[int]:
        headers = {"Host": f"{host}.example.com", "x-do": "at=v1,status=503", "x-id": host}
        want = {"url": f"http://192.0.2.{len(host)}/", "count": 10, "headers": headers}
        return Counter(a.status for a in traffic.ask(want, client="placed")[0])

    text = deployment("placed", "client", "placed").replace("team: blue", "istio-locality: region1.zone1")
    traffic.mesh.create(text, traffic.namespace)
    traffic.mesh.rolled_out("placed", namespace=traffic.namespace)
    try:
        eventually(lambda: _equal(statuses("stays"), Counter({503: 10})))
        assert traffic.seen("stays")["v2"] == 0
        eventually(lambda: _equal(statuses("leaves"), Counter({200: 10})))
    finally:
        traffic.mesh.kubectl("delete", "deployment", "placed", "-n", traffic.namespace, "--wait=false")


def _equal(found: Counter[int], wanted: Counter[int]) -> None:
    assert found == wanted


def test_faults_are_injected_as_often_and_as_long_as_the_rule_says(traffic: Traffic) -> None:
    host = traffic.service(
        "faulty",
        """
        - match: [{headers: {end-user: {exact: jason}}}]
          fault: {delay: {fixedDelay: 1s, percentage: {value: 100}}}
          route: [{destination: {host: faulty, subset: v1}}]
        - match: [{uri: {prefix: /half}}]
          fault: {abort: {httpStatus: 555, percentage: {value: 50}}}
          route: [{destination: {host: faulty, subset: v1}}]
        - match: [{uri: {prefix: /grpc}}]
          fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}}
          route: [{destination: {host: faulty, subset: v1}}]
        - match: [{uri: {prefix: /both}}]
          fault:
            delay: {fixedDelay: 0.5s, percentage: {value: 100}}
            abort: {httpStatus: 500, percentage: {value: 100}}
          route: [{destination: {host: faulty, subset: v1}}]
        - route: [{destination: {host: faulty, subset: v1}}]
        """,
    )
    delayed, both, grpc = traffic.each(
        host,
        {"headers": {"end-user": "jason"}},
        {"path": "/both", "headers": {"x-id": "both"}},
        {"path": "/grpc", "method": "POST", "headers": {"content-type": "application/grpc"}},
    )
    assert (delayed.status, delayed.version) == (200, "v1")
    assert delayed.seconds >= 0.99
    assert (both.status, both.version) == (500, "")
    assert both.seconds >= 0.49
    assert (grpc.status, grpc.headers["grpc-status"]) == (200, "5")
    statuses = Counter(a.status for a in traffic.ask({"url": f"http://{host}/half", "count": 200})[0])
    assert within(statuses[555], 200, 0.5), statuses
    assert statuses[200] == 200 - statuses[555]
    assert traffic.seen("both")["v1"] == 0


def test_mirrors_get_copies_and_their_answers_get_lost(traffic: Traffic) -> None:
    host = traffic.service(
        "mirrored",
        """
        - route: [{destination: {host: mirrored, subset: v1}}]
          mirrors:
          - {destination: {host: mirrored, subset: v2}}
          - {destination: {host: mirrored, subset: v3}, percentage: {value: 30}}
        """,
    )
    want = {"count": 100, "headers": {"x-id": "copy", "x-do": "at=v2,status=500"}}
    assert traffic.versions(f"http://{host}/", **want) == {"v1": 100}
    found = traffic.until_seen("copy", lambda seen: seen["v2"] == 100)
    assert found["v1"] == 100
    assert within(found["v3"], 100, 0.3), found


def test_a_full_connection_pool_refuses_at_once(traffic: Traffic) -> None:
    pool = "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}"
    host = traffic.service("narrowed", "- route: [{destination: {host: narrowed, subset: v1}}]", policy=pool)
    want = {"url": f"http://{host}/full", "count": 12, "parallel": 6, "headers": {"x-do": "delay=0.5", "x-id": "full"}}
    answers = traffic.ask(want)[0]
    refused = [a for a in answers if a.status == 503]
    assert refused
    assert all(a.headers["x-envoy-overloaded"] == "true" for a in refused)
    assert all(a.seconds < 0.45 for a in refused)
    assert traffic.seen("full")["v1"] == len(answers) - len(refused) > 0

    def logged() -> None:
        log = traffic.mesh.kubectl("logs", "deploy/client", "-c", "istio-proxy", "-n", traffic.namespace, "--tail=200")
        lines = [line for line in log.splitlines() if '"GET /full' in line and " 503 UO " in line]
        assert len(lines) == len(refused)

    eventually(logged)
    relaxed = traffic.ask({**want, "parallel": 1, "count": 3})[0]
    assert {a.status for a in relaxed} == {200}


def test_an_endpoint_that_fails_is_ejected_and_stays_silent(traffic: Traffic) -> None:
    ejection = "{consecutive5xxErrors: 3, interval: 0.5s, baseEjectionTime: 120s, maxEjectionPercent: 100}"
    host = traffic.service(
        "ejected",
        "- {retries: {attempts: 0}, route: [{destination: {host: ejected}}]}",
        policy=f"{{outlierDetection: {ejection}}}",
    )
    want = {"url": f"http://{host}/", "count": 60, "headers": {"x-do": "at=v1,status=500", "x-id": "ejected"}}
    first, second = traffic.ask(want, want)
    assert Counter(a.status for a in first) == {500: 3, 200: 57}
    assert Counter(a.status for a in second) == {200: 60}
    found = traffic.seen("ejected")
    assert found["v1"] == 3
    assert found["v2"] > 0
    assert found["v3"] > 0


@pytest.mark.local_home
def test_what_counts_as_a_failure_and_how_long_it_is_held_against_an_endpoint(traffic: Traffic) -> None:
    """Gateway errors alone; an ejection that ends; and no ejections where too few endpoints would be left."""
    base = "interval: 0.3s, maxEjectionPercent: 100"
    policies = {
        "gateway-errors": f"{{consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, {base}, baseEjectionTime: 120s}}",
        "forgiven": f"{{consecutive5xxErrors: 3, {base}, baseEjectionTime: 1s}}",
        "panicking": f"{{consecutive5xxErrors: 1, {base}, baseEjectionTime: 120s, minHealthPercent: 70}}",
    }
    for host, policy in policies.items():
        route = f"- {{retries: {{attempts: 0}}, route: [{{destination: {{host: {host}}}}}]}}"
        traffic.service(host, route, policy=f"{{loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {policy}}}")

    def ask(host: str, do: str, count: int = 60) -> Counter[int]:
        want = {"url": f"http://{host}/", "count": count, "headers": {"x-do": f"at=v1,{do}"}}
        return Counter(a.status for a in traffic.ask(want)[0])

    assert ask("gateway-errors", "status=500") == {500: 20, 200: 40}, "a 500 is the application's"
    assert ask("gateway-errors", "status=503") == {503: 3, 200: 57}
    assert ask("forgiven", "status=500")[500] == 3
    eventually(lambda: _at_least(ask("forgiven", "status=500", 12)[500], 1))
    assert ask("panicking", "status=500", 6)[500] >= 1
    eventually(lambda: _at_least(ask("panicking", "status=500")[500], 15))


def _at_least(found: int, wanted: int) -> None:
    assert found >= wanted


@pytest.mark.local_home
def test_an_endpoint_that_refuses_connections_is_ejected_for_that_alone(traffic: Traffic) -> None:
    """`splitExternalLocalOriginErrors`: what happens before an answer is counted by itself."""
    traffic.mesh.create(
        f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: refusing}}
spec:
  hosts: [refusing.example.com]
  addresses: [192.0.2.77]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {{address: {traffic.addresses["v1"]}, ports: {{http: 8080}}}}
  - {{address: {traffic.mesh.node_address}, ports: {{http: 9}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: refusing}}
spec:
  host: refusing.example.com
  trafficPolicy:
    loadBalancer: {{simple: ROUND_ROBIN}}
    outlierDetection:
      splitExternalLocalOriginErrors: true
      consecutiveLocalOriginFailures: 2
      consecutive5xxErrors: 0
      interval: 0.3s
      baseEjectionTime: 120s
      maxEjectionPercent: 100
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: refusing}}
spec:
  hosts: [refusing.example.com]
  http: [{{retries: {{attempts: 0}}, route: [{{destination: {{host: refusing.example.com}}}}]}}]
""",
        traffic.namespace,
    )
    want = {"url": "http://192.0.2.77/", "headers": {"Host": "refusing.example.com"}, "count": 20}

    def first() -> Counter[int]:
        found = Counter(a.status for a in traffic.ask(want)[0])
        assert found[503] == 2, found
        return found

    assert eventually(first) == {503: 2, 200: 18}
    assert Counter(a.status for a in traffic.ask(want)[0]) == {200: 20}


def test_the_sample_that_sends_load_counts_what_is_refused(traffic: Traffic) -> None:
    """As the circuit-breaking tasks use it, Istio's own included."""
    pool = "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}"
    host = traffic.service("loaded", "- route: [{destination: {host: loaded, subset: v1}}]", policy=pool)
    traffic.mesh.apply("httpbin/sample-client/fortio-deploy.yaml", namespace=traffic.namespace)
    traffic.mesh.rolled_out("fortio-deploy", namespace=traffic.namespace)

    def load(connections: int) -> str:
        words = ("load", "-c", str(connections), "-qps", "0", "-n", "30", "-H", "x-do: delay=0.1", f"http://{host}/")
        return traffic.mesh.execute(
            "deploy/fortio-deploy", "/usr/bin/fortio", *words, namespace=traffic.namespace, container="fortio"
        )

    eventually(lambda: _holds(load(1), "Code 200 : 30 (100.0 %)"))
    assert "Code 503 : " in load(6)


def _holds(text: str, part: str) -> None:
    assert part in text, text
