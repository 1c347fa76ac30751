"""What routes and destinations do about failure, on a cluster: timeouts, retries, faults, mirrors, limits, ejection."""

from __future__ import annotations

from collections import Counter

import pytest
from mesh_rig import eventually
from traffic_rig import Traffic, within

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

    eventually(logged, 30)
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

    eventually(lambda: _holds(load(1), "Code 200 : 30 (100.0 %)"), 40)
    assert "Code 503 : " in load(6)


def _holds(text: str, part: str) -> None:
    assert part in text, text
