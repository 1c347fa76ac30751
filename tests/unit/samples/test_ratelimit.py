"""The rate limit service: rules in the form of envoyproxy/ratelimit, counting, and answers to Envoy's messages."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import grpc
import pytest
import yaml
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "samples/ratelimit/src"))

import limits

RULES = """
domain: shop
descriptors:
- key: PATH
  value: /once
  rate_limit: {unit: minute, requests_per_unit: 1}
- key: PATH
  value: /api/*
  share_threshold: true
  rate_limit: {unit: minute, requests_per_unit: 2}
- key: PATH
  rate_limit: {unit: minute, requests_per_unit: 3}
- key: kind
  value: mail
  descriptors:
  - key: to
    rate_limit: {name: mail, unit: day, requests_per_unit: 2}
- key: to
  rate_limit: {unit: day, requests_per_unit: 5, replaces: [{name: mail}]}
- key: free
  rate_limit: {unlimited: true}
- key: dark
  shadow_mode: true
  rate_limit: {unit: hour, requests_per_unit: 0}
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_020.0  # a whole minute

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, rules: str = RULES) -> limits.Limiter:
    made = limits.Limiter(clock)
    made.use([limits.read(yaml.safe_load(rules), "rules.yaml")])
    return made


def over(made: limits.Limiter, *descriptors: dict[str, str], hits: int = 1) -> list[bool]:
    return [v.over for v in made.check("shop", [tuple(d.items()) for d in descriptors], hits)]


def test_a_value_comes_before_a_wildcard_and_that_before_any() -> None:
    made = limiter(Clock())
    assert [over(made, {"PATH": "/once"})[0] for _ in range(3)] == [False, True, True]
    # all that a shared wildcard fits count together
    assert [over(made, {"PATH": f"/api/{i}"})[0] for i in range(3)] == [False, False, True]
    # each other value by itself
    assert [over(made, {"PATH": "/x"})[0] for _ in range(4)] == [False, False, False, True]
    assert over(made, {"PATH": "/y"}) == [False]


def test_a_window_ends_with_its_unit() -> None:
    clock = Clock()
    made = limiter(clock)
    assert [over(made, {"PATH": "/once"})[0] for _ in range(2)] == [False, True]
    (verdict,) = made.check("shop", [(("PATH", "/once"),)])
    assert (verdict.left, verdict.seconds) == (0, 60)
    clock.now += 60
    assert over(made, {"PATH": "/once"}) == [False]


def test_rules_count_at_their_depth_only() -> None:
    made = limiter(Clock())
    assert over(made, {"kind": "mail"}) == [False]
    assert [over(made, {"kind": "mail", "to": "a"})[0] for _ in range(3)] == [False, False, True]
    assert over(made, {"kind": "other", "to": "a"}) == [False]
    assert made.check("nobody", [(("PATH", "/once"),)]) == [limits.Verdict(None)]


def test_a_rule_replaces_another_for_the_same_request() -> None:
    made = limiter(Clock())
    verdicts = [over(made, {"kind": "mail", "to": "a"}, {"to": "a"}) for _ in range(6)]
    assert verdicts == [[False, False]] * 5 + [[False, True]]


def test_unlimited_and_shadow_never_refuse_and_hits_may_be_many() -> None:
    made = limiter(Clock())
    assert over(made, {"free": "x"}, {"dark": "x"}, hits=1000) == [False, False]
    assert over(made, {"PATH": "/z"}, hits=4) == [True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("descriptors: []", "has no domain"),
        ("{domain: a, descriptors: [{value: x}]}", "descriptors[0]: has no key"),
        ("{domain: a, descriptors: [{key: x, rate_limit: {unit: week}}]}", "descriptors[0].rate_limit.unit: 'week'"),
        ("{domain: a, descriptors: [{key: x, rate_limit: {unit: day}}]}", "rate_limit.requests_per_unit: is no number"),
    ],
)
def test_rules_that_cannot_be_used_are_told_by_their_place(text: str, words: str) -> None:
    with pytest.raises(limits.BadConfiguration) as caught:
        limits.read(yaml.safe_load(text), "rules.yaml")
    assert words in str(caught.value)


def test_it_speaks_envoys_protocol_and_reads_rules_again(start, tmp_path: Path) -> None:
    rules = tmp_path / "ratelimit/config/rules.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text("{domain: shop, descriptors: [{key: PATH, rate_limit: {unit: hour, requests_per_unit: 0}}]}")
    server = start("ratelimit/src/ratelimit.py", count=2, RUNTIME_ROOT=str(tmp_path), GRPC_PORT="0", PORT="0")
    entry = ratelimit_pb2.RateLimitDescriptor.Entry(key="PATH", value="/x")
    request = rls_pb2.RateLimitRequest(
        domain="shop", descriptors=[ratelimit_pb2.RateLimitDescriptor(entries=[entry])], hits_addend=1
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            rls_pb2.RateLimitRequest.SerializeToString,
            rls_pb2.RateLimitResponse.FromString,
        )
        answer = ask(request, timeout=10)
        assert answer.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT
        assert answer.statuses[0].current_limit.unit == rls_pb2.RateLimitResponse.RateLimit.HOUR
        assert 0 < answer.statuses[0].duration_until_reset.seconds <= 3600
        rules.write_text("domain: [")
        rules.with_name("more.yaml").write_text("{domain: shop, descriptors: []}")
        rules.write_text("{domain: shop, descriptors: [{key: PATH, rate_limit: {unlimited: true}}]}")
        end = time.monotonic() + 30
        while ask(request, timeout=10).overall_code != rls_pb2.RateLimitResponse.OK:
            assert time.monotonic() < end, "the rules were not read again"
            time.sleep(0.1)
