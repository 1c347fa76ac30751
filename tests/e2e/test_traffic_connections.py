"""Connections and endpoints that come and go, on a cluster: how long a connection lives, who stays where when endpoints
change, and how the new ones are treated. The servers say from which of the proxy's ports a request came."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from mesh_rig import eventually
from traffic_rig import Traffic, deployment

pytestmark = pytest.mark.local_home


@pytest.fixture(scope="module")
def bare(traffic: Traffic) -> Iterator[str]:
    """A server without a sidecar: what it sees are the connections of the caller's proxy."""
    text = deployment("bare", "bare", "v1", annotations='{sidecar.istio.io/inject: "false"}')
    traffic.mesh.create(text, traffic.namespace)
    traffic.mesh.rolled_out("bare", namespace=traffic.namespace)
    yield "bare"
    traffic.mesh.kubectl("delete", "deployment", "bare", "-n", traffic.namespace, "--wait=false")


def _services(traffic: Traffic, policies: dict[str, str], selector: str = "app: bare") -> None:
    """Makes services with their rules; returns once the caller's proxy has the last of them."""
    traffic.mesh.create(
        "---".join(
            f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec: {{host: {host}, trafficPolicy: {policy}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {host}}}
spec: {{selector: {{{selector}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"""
            for host, policy in policies.items()
        ),
        traffic.namespace,
    )

    def known() -> None:
        answers = traffic.ask(*({"url": f"http://{host}/"} for host in policies))
        assert {a.status for (a,) in answers} == {200}, answers

    eventually(known)


def _ports(traffic: Traffic, *hosts: str) -> list[list[int]]:
    """Of each host asked in turn, the port that the request came from; `wait=SECONDS` lets that time pass."""
    wants = [
        {"url": "http://paused/", "headers": {"x-do": f"delay={h.partition('=')[2]}"}} if "=" in h else
        {"url": f"http://{h}/", "count": 4} for h in hosts
    ]  # fmt: skip
    answers = traffic.ask(*wants)
    assert {a.status for batch in answers for a in batch} == {200}, answers
    return [[a.body["port"] for a in batch] for h, batch in zip(hosts, answers, strict=True) if "=" not in h]


@pytest.mark.usefixtures("bare")
def test_connections_live_as_long_as_the_pool_lets_them(traffic: Traffic) -> None:
    plain = "{loadBalancer: {simple: LEAST_REQUEST}}"
    one = "{connectionPool: {http: {maxRequestsPerConnection: 1}}}"
    two = "{connectionPool: {http: {maxRequestsPerConnection: 2}}}"
    idle = "{connectionPool: {http: {idleTimeout: 0.7s}}}"
    aged = "{connectionPool: {tcp: {maxConnectionDuration: 0.7s}}}"
    policies = {"kept": plain, "once": one, "twice": two, "idle": idle, "aged": aged, "paused": plain}
    _services(traffic, policies)
    kept, once, twice = _ports(traffic, "kept", "once", "twice")
    assert [max(Counter(ports).values()) for ports in (kept, once, twice)] == [4, 1, 2]
    before_kept, before_idle, before_aged, after_kept, after_idle, after_aged = _ports(
        traffic, "kept", "idle", "aged", "wait=1.5", "kept", "idle", "aged"
    )
    assert set(before_kept) == set(after_kept), "the default keeps a connection for an hour"
    assert set(before_idle).isdisjoint(after_idle)
    assert set(before_aged).isdisjoint(after_aged)


@pytest.mark.usefixtures("bare")
def test_the_kernel_probes_connections_that_are_quiet(traffic: Traffic) -> None:
    _services(traffic, {"probed": "{connectionPool: {tcp: {tcpKeepalive: {time: 77s, interval: 7s, probes: 3}}}}"})
    ((port, *_),) = _ports(traffic, "probed")
    sockets = traffic.mesh.execute(
        "deploy/client", "ss", "-tnoH", "sport", "=", f":{port}", namespace=traffic.namespace, container="client"
    )
    timer = re.search(r"timer:\(keepalive,(?:1min)?(\d+)(?:\.\d+)?sec", sockets)
    assert timer and (int(timer[1]) <= 17 if "1min" in timer[0] else int(timer[1]) >= 50), sockets


def test_the_original_address_is_called_where_the_rule_passes_it_through(traffic: Traffic) -> None:
    host = "through"
    _services(traffic, {host: "{loadBalancer: {simple: PASSTHROUGH}}"}, "app: echo")

    def passed() -> None:  # the cluster's own network chooses, once for each connection
        assert traffic.one(f"http://{host}/passed").status == 200
        log = traffic.mesh.kubectl("logs", "deploy/client", "-c", "istio-proxy", "-n", traffic.namespace, "--tail=60")
        service = traffic.mesh.json("get", "service", host, "-n", traffic.namespace)
        assert f'"{service["spec"]["clusterIP"]}:80" outbound|80||{host}.' in log, log

    eventually(passed)


# --- endpoints that come and go ---


def _member(traffic: Traffic, service: str, *versions: str) -> None:
    """These versions alone are behind the service that selects the label."""
    for version in ("v1", "v2", "v3"):
        change = f"{service}=in" if version in versions else f"{service}-"
        selector = f"app=echo,version={version}"
        traffic.mesh.kubectl("label", "pod", "-n", traffic.namespace, "-l", selector, change, "--overwrite")


@pytest.mark.parametrize(
    "kind", ["ringHash: {minimumRingSize: 1024}", "maglev: {tableSize: 1021}"], ids=["ring", "maglev"]
)
def test_most_users_stay_when_an_endpoint_comes_and_all_are_back_when_it_goes(traffic: Traffic, kind: str) -> None:
    host = f"moving-{kind.partition(':')[0].lower()}"
    _member(traffic, host, "v1", "v2")
    policy = f"{{loadBalancer: {{consistentHash: {{httpHeaderName: x-user, {kind}}}}}}}"
    _services(traffic, {host: policy}, f"{host}: in")

    def users() -> dict[int, str]:
        answers = traffic.ask({"url": f"http://{host}/", "count": 150, "headers": {"x-user": "user-{n}"}})[0]
        assert {a.status for a in answers} == {200}
        return {number: a.version for number, a in enumerate(answers)}

    def among(*versions: str) -> dict[int, str]:
        found = users()
        assert set(found.values()) == {*versions}, Counter(found.values())
        return found

    before = eventually(lambda: among("v1", "v2"))
    _member(traffic, host, "v1", "v2", "v3")
    grown = eventually(lambda: among("v1", "v2", "v3"))
    assert 25 <= sum(v == "v3" for v in grown.values()) <= 80, Counter(grown.values())
    strays = [user for user in before if grown[user] not in ("v3", before[user])]
    assert len(strays) <= 34, "a ninth moves for want of room on the ring; a third would, were there no ring"
    _member(traffic, host, "v1", "v2")
    assert eventually(lambda: among("v1", "v2")) == before


def test_a_new_endpoint_is_warmed_up(traffic: Traffic) -> None:
    """Two endpoints have served for as long as a warm-up lasts; then a third comes: it gets little, later its share."""
    seconds = 8
    _member(traffic, "warming", "v1", "v2")
    warmup = f"{{duration: {seconds}s, minimumPercent: 10, aggression: 1}}"
    policy = f"{{loadBalancer: {{simple: ROUND_ROBIN, warmup: {warmup}}}}}"
    host = "warming"
    _services(traffic, {host: policy}, "warming: in")
    time.sleep(seconds)  # what is shown is a length of time
    assert set(traffic.versions(f"http://{host}/", 20)) == {"v1", "v2"}
    _member(traffic, "warming", "v1", "v2", "v3")
    came = time.monotonic()
    early = Counter[str]()
    while time.monotonic() < came + seconds / 3:
        found = traffic.versions(f"http://{host}/", 60)
        early += found if "v3" in found or early else Counter()
    assert 0 < early["v3"] < early.total() * 0.22, early

    def grown() -> None:
        found = traffic.versions(f"http://{host}/", 60)
        assert set(found.values()) <= {19, 20, 21}, found

    eventually(grown, 4 * seconds)
