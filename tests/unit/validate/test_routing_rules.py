"""What admission refuses and warns of in VirtualService and DestinationRule: a spec, and what is said about it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from meltem.objects import JsonObject
from meltem.validate import Result

Check = Callable[..., Result]

GOOD = [
    ("VirtualService", "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}"),
    ("VirtualService", "{hosts: ['*'], gateways: [bookinfo], http: [{route: [{destination: {host: a}}]}]}"),
    ("VirtualService", "{hosts: [10.0.0.1], tcp: [{route: [{destination: {host: a, port: {number: 80}}}]}]}"),
    ("VirtualService", "{http: [{route: [{destination: {host: a}}]}]}"),  # delegated to: no hosts
    ("VirtualService", "{hosts: [a], http: [{delegate: {name: b, namespace: c}}]}"),
    ("VirtualService", "{hosts: [a], http: [{redirect: {uri: /x, redirectCode: 307}}]}"),
    ("VirtualService", "{hosts: [a], http: [{directResponse: {status: 503, body: {string: gone}}}]}"),
    (
        "VirtualService",
        "{hosts: ['*.a.com'], gateways: [ns/gw], tls: [{match: [{sniHosts: [x.a.com]}], "
        "route: [{destination: {host: b}}]}]}",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{retries: {attempts: 3, retryOn: '5xx,503', perTryTimeout: 1s}, timeout: 5s, "
        "fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 0.01}}}, route: [{destination: {host: a}}]}]}",
    ),
    (
        "VirtualService",
        "{hosts: [a], gateways: [g], http: [{match: [{headers: {'@request.auth.claims.group': {exact: x}}}], "
        "route: [{destination: {host: a}}]}]}",
    ),
    ("DestinationRule", "{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}"),
    ("DestinationRule", "{host: '*.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"),
    ("DestinationRule", "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: u, ttl: 0s}}}}}"),
    ("DestinationRule", "{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1, idleTimeout: 0s}}}}"),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_good_resources_pass_without_a_word(check: Check, kind: str, spec: str) -> None:
    assert check(kind, spec) == Result()


VS_ROUTE = "route: [{destination: {host: a}}]"


def with_header(value: str) -> JsonObject:
    rule: JsonObject = {
        "headers": {"request": {"set": {"x": value}}},
        "route": [{"destination": {"host": "a"}}],
    }
    return {"hosts": ["a"], "http": [rule]}


@pytest.mark.parametrize(
    "value",
    ["100%%", "%REQ(X-ID?:ID):5% and %HOSTNAME%", '%DYNAMIC_METADATA(["a", "b"])%', "%START_TIME%", "%START_TIME(%s)%"],
)
def test_headers_may_have_commands_of_envoy(check: Check, value: str) -> None:
    assert check("VirtualService", with_header(value)) == Result()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("100%", "the % at character 4 begins no command"),
        ("%REQ(X", "the % at character 1"),
        ("%START_TIME%%", "the % at character 13"),
        ("%start_time%", "begins no command"),
        ("%HOST_NAME%", "Did you mean %HOSTNAME%?"),
        ("%REQ%", "needs an argument"),
        ("%PROTOCOL(x)%", "takes no argument"),
    ],
)
def test_a_header_that_envoy_would_refuse_with_its_route(check: Check, value: str, said: str) -> None:
    (error,) = check("VirtualService", with_header(value)).errors
    assert error.path == "spec.http[0].headers.request.set['x']"
    assert said in str(error)


ERRORS = [
    # VirtualService: hosts, gateways, rules
    ("VirtualService", "{hosts: ['*'], http: [{%s}]}", "spec.hosts[0]", "not allowed for sidecars"),
    ("VirtualService", "{hosts: [a_b], http: [{%s}]}", "spec.hosts[0]", "no valid host name"),
    ("VirtualService", "{hosts: ['*.a.com', x.a.com], http: [{%s}]}", "spec.hosts[1]", "overlaps with '*.a.com'"),
    ("VirtualService", "{hosts: [a]}", "spec", "there are no rules"),
    ("VirtualService", "{gateways: [g], http: [{%s}]}", "spec.gateways", "delegated to"),
    ("VirtualService", "{hosts: [a], gateways: [ns/g/x], http: [{%s}]}", "spec.gateways[0]", "no gateway name"),
    ("VirtualService", "{hosts: [a], exportTo: ['*', b], http: [{%s}]}", "spec.exportTo", "beside other entries"),
    ("VirtualService", "{hosts: [a], exportTo: [., prod], http: [{%s}]}", "spec.exportTo[1]", "listed twice"),
    ("VirtualService", "{hosts: [a], exportTo: ['~'], http: [{%s}]}", "spec.exportTo[0]", "ServiceEntries only"),
    # VirtualService: actions
    ("VirtualService", "{hosts: [a], http: [{match: [{port: 80}]}]}", "spec.http[0]", "does nothing"),
    ("VirtualService", "{hosts: [a], http: [{redirect: {uri: /}, %s}]}", "spec.http[0]", "exclude each other"),
    (
        "VirtualService",
        "{hosts: [a], http: [{delegate: {name: b}, %s}]}",
        "spec.http[0].route",
        "no actions of its own",
    ),
    ("VirtualService", "{http: [{delegate: {name: b}, %s}]}", "spec.http[0].delegate", "cannot delegate further"),
    ("VirtualService", "{hosts: [a], http: [{redirect: {}}]}", "spec.http[0].redirect", "changes nothing"),
    ("VirtualService", "{hosts: [a], http: [{redirect: {uri: /, redirectCode: 200}}]}", "redirectCode", "no redirect"),
    ("VirtualService", "{hosts: [a], http: [{redirect: {scheme: ftp}}]}", "redirect.scheme", "http or https"),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{uri: {exact: /}}], redirect: {prefixRewrite: /b}}]}",
        "redirect.prefixRewrite",
        "to be a prefix",
    ),
    ("VirtualService", "{hosts: [a], http: [{directResponse: {status: 100}}]}", "directResponse.status", "200 to 599"),
    ("VirtualService", "{hosts: [a], http: [{rewrite: {}, %s}]}", "spec.http[0].rewrite", "nothing is rewritten"),
    (
        "VirtualService",
        "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '(', rewrite: a}}, %s}]}",
        "uriRegexRewrite.match",
        "not valid RE2",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{rewrite: {authority: b}, headers: {request: {set: {Host: c}}}, %s}]}",
        "spec.http[0]",
        "more than once",
    ),
    # VirtualService: matches
    ("VirtualService", "{hosts: [a], http: [{match: [{uri: {regex: '('}}], %s}]}", "uri.regex", "not valid RE2"),
    ("VirtualService", "{hosts: [a], http: [{match: [{uri: {regex: ''}}], %s}]}", "uri.regex", "empty"),
    ("VirtualService", "{hosts: [a], http: [{match: [{method: {prefix: ''}}], %s}]}", "method.prefix", "empty"),
    ("VirtualService", "{hosts: [a], http: [{match: [{headers: {'a b': {}}}], %s}]}", "headers['a b']", "header name"),
    ("VirtualService", "{hosts: [a], http: [{match: [{port: 70000}], %s}]}", "match[0].port", "out of range"),
    ("VirtualService", "{hosts: [a], http: [{match: [{sourceLabels: {'a b': c}}], %s}]}", "sourceLabels", "label name"),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{sourceNamespace: a.b}], %s}]}",
        "sourceNamespace",
        "no namespace",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{headers: {'@request.auth.claims.g': {exact: b}}}], %s}]}",
        "headers['@request.auth.claims.g']",
        "gateways only",
    ),
    # VirtualService: faults, retries, mirrors, CORS, headers, weights
    ("VirtualService", "{hosts: [a], http: [{fault: {}, %s}]}", "spec.http[0].fault", "nothing is injected"),
    (
        "VirtualService",
        "{hosts: [a], http: [{fault: {abort: {httpStatus: 99}}, %s}]}",
        "abort.httpStatus",
        "200 to 600",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{fault: {abort: {grpcStatus: BAD}}, %s}]}",
        "abort.grpcStatus",
        "no gRPC status",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{fault: {delay: {fixedDelay: 0.5ms}}, %s}]}",
        "delay.fixedDelay",
        "shorter than 1ms",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{fault: {delay: {fixedDelay: 1s, percentage: {value: 200}}}, %s}]}",
        "percentage.value",
        "from 0 to 100",
    ),
    ("VirtualService", "{hosts: [a], http: [{retries: {attempts: -1}, %s}]}", "retries.attempts", "from 0 to"),
    ("VirtualService", "{hosts: [a], http: [{retries: {retryOn: 5xx}, %s}]}", "retries.attempts", "turns retries off"),
    (
        "VirtualService",
        "{hosts: [a], http: [{retries: {attempts: 1, retryOn: '5xx, reset'}, %s}]}",
        "retries.retryOn",
        "without spaces",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{mirror: {host: b}, mirrors: [{destination: {host: c}}], %s}]}",
        "spec.http[0]",
        "mirror and mirrors",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{mirror: {host: b}, mirrorPercentage: {value: 101}, %s}]}",
        "mirrorPercentage.value",
        "from 0 to 100",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{corsPolicy: {allowMethods: [get]}, %s}]}",
        "allowMethods[0]",
        "upper case",
    ),
    ("VirtualService", "{hosts: [a], http: [{corsPolicy: {maxAge: 1.5s}, %s}]}", "maxAge", "whole seconds"),
    (
        "VirtualService",
        "{hosts: [a], http: [{headers: {request: {set: {':path': /}}}, %s}]}",
        "headers.request.set[':path']",
        "pseudo headers",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{headers: {response: {set: {host: b}}}, %s}]}",
        "headers.response.set['host']",
        "Host header",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}, weight: -5}]}]}",
        "route[0].weight",
        "from 0 to",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
        "spec.http[0].route",
        "all weights are 0",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: '*'}}]}]}",
        "destination.host",
        "no destination",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: 0}}}]}]}",
        "port.number",
        "out of range",
    ),
    # VirtualService: TLS and TCP
    (
        "VirtualService",
        "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], %s}]}",
        "tls[0].match[0].sniHosts[0]",
        "not among the hosts",
    ),
    (
        "VirtualService",
        "{hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}]}]}",
        "spec.tls[0].route",
        "no destination",
    ),
    (
        "VirtualService",
        "{hosts: [a], tcp: [{match: [{destinationSubnets: [10.0.0/8]}], %s}]}",
        "destinationSubnets[0]",
        "neither an IP address nor a range",
    ),
    # DestinationRule
    ("DestinationRule", "{host: ''}", "spec.host", "empty"),
    ("DestinationRule", "{host: a, subsets: [{name: v1}, {name: v1}]}", "spec.subsets", "'v1' is there twice"),
    ("DestinationRule", "{host: a, subsets: [{name: v_1}]}", "spec.subsets[0].name", "no subset name"),
    ("DestinationRule", "{host: a, trafficPolicy: {}}", "spec.trafficPolicy", "empty"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}}",
        "loadBalancer",
        "exclude each other",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: a, useSourceIp: true}}}}",
        "consistentHash",
        "exclude each other",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: a, maglev: {tableSize: 10}}}}}",
        "maglev.tableSize",
        "prime",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}}",
        "outlierDetection.maxEjectionPercent",
        "from 0 to 100",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 5}}}",
        "consecutiveLocalOriginFailures",
        "splitExternalLocalOriginErrors: true",
    ),
    ("DestinationRule", "{host: a, trafficPolicy: {connectionPool: {}}}", "connectionPool", "empty"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {connectionPool: {http: {maxRetries: -1}}}}",
        "http.maxRetries",
        "from 0 to",
    ),
    ("DestinationRule", "{host: a, trafficPolicy: {tls: {mode: MUTUAL}}}", "tls.clientCertificate", "credentialName"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c, caCertificates: /a}}}",
        "tls.caCertificates",
        "beside credentialName",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}}}",
        "tls.subjectAltNames",
        "insecureSkipVerify",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {portLevelSettings: [{tls: {}}]}}",
        "portLevelSettings[0].port",
        "missing",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r/*, "
        "to: {r/a: 60, r/b: 30}}]}}}}",
        "distribute[0].to",
        "add up to 90",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, "
        "to: {b: 50, b/c: 50}}]}}}}",
        "distribute[0].to",
        "overlaps",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {}, "
        "loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}}",
        "failover[0]",
        "itself",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {tunnel: {targetHost: b.com, targetPort: 0}}}",
        "tunnel.targetPort",
        "out of range",
    ),
    (
        "DestinationRule",
        "{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: ['*']}",
        "spec.exportTo",
        "own namespace",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "path", "what"), ERRORS)
def test_refused_with_path_and_remedy(check: Check, kind: str, spec: str, path: str, what: str) -> None:
    result = check(kind, spec.replace("%s", VS_ROUTE))
    assert any(e.path.endswith(path) and what in str(e) for e in result.errors), result.errors


WARNINGS = [
    (
        "VirtualService",
        "{hosts: [1.2.3.4], tls: [{match: [{sniHosts: [1.2.3.4]}], %s}]}",
        "tls[0].match[0].sniHosts[0]",
        "no IP addresses",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{uri: {prefix: /a}}, {uri: {prefix: /ab}}], %s}]}",
        "http[0].match[1]",
        "never used",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{%s}, {match: [{uri: {prefix: /a}}], %s}]}",
        "spec.http[1]",
        "never used: rule 0 before it matches everything",
    ),
    ("VirtualService", "{hosts: [a], http: [{name: x, %s}, {%s}]}", "spec.http[1]", "rule 'x' matches everything"),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{uri: {prefix: /a}}], %s}, {match: [{uri: {prefix: /a}}], %s}]}",
        "spec.http[1].match[0]",
        "rule 0 has the same match",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{name: x, uri: {prefix: /a}}], %s}, {match: [{uri: {prefix: /a}}], %s}]}",
        "spec.http[1].match[0]",
        "rule 0 has the same match",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{match: [{uri: {prefix: /a}}], %s}, {match: [{uri: {prefix: /a/b}}], %s}]}",
        "spec.http[1].match[0]",
        "shorter prefix",
    ),
    (
        "VirtualService",
        "{hosts: [a], http: [{mirror: {host: b}, mirrorPercent: 5, %s}]}",
        "mirrorPercent",
        "deprecated",
    ),
    ("VirtualService", "{hosts: [a], gateways: [gw.ns.svc], http: [{%s}]}", "spec.gateways[0]", "Write ns/gw"),
    ("VirtualService", "{hosts: [a], http: [{fault: {abort: {}}, %s}]}", "fault.abort", "nothing is aborted"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}",
        "localityLbSetting",
        "outlierDetection",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 1}}}",
        "consecutiveErrors",
        "depr",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "path", "what"), WARNINGS)
def test_warned_of_but_accepted(check: Check, kind: str, spec: str, path: str, what: str) -> None:
    result = check(kind, spec.replace("%s", VS_ROUTE))
    assert result.ok, result.errors
    assert any(w.path.endswith(path) and what in str(w) for w in result.warnings), result.warnings


def test_a_narrower_rule_under_a_broader_one_with_conditions_is_no_mistake(check: Check) -> None:
    spec = (
        "{hosts: [a], http: [{match: [{uri: {prefix: /a}, headers: {x: {exact: z}}}], %s}, "
        "{match: [{uri: {prefix: /a/b}}], %s}]}"
    )
    assert check("VirtualService", spec.replace("%s", VS_ROUTE)) == Result()


def test_a_hostile_resource_is_judged_in_time(check: Check) -> None:
    """Thousands of hosts, server names and rules: nothing compares every pair."""
    n = 5000
    route: JsonObject = {"route": [{"destination": {"host": "a"}}]}
    spec: JsonObject = {
        "hosts": [*(f"h{i}.example.com" for i in range(n)), *(f"*.w{i}.example.com" for i in range(n))],
        "gateways": ["g"],
        "tls": [{"match": [{"sniHosts": [f"x.w{i}.example.com" for i in range(n)]}], **route}],
        "http": [
            {"match": [{"uri": {"prefix": "/a"}, "headers": {f"x-{i}": {"exact": "y"}}}], **route} for i in range(n)
        ],
    }
    start = time.process_time()
    assert check("VirtualService", spec) == Result()
    assert time.process_time() - start < 5
