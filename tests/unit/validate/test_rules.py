"""What admission refuses and warns of in all other kinds: a spec, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meltem.validate import Result

Check = Callable[..., Result]

GOOD = [
    ("Gateway", "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}"),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: [./a.com], "
        "tls: {mode: SIMPLE, credentialName: c}}]}",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}}]}",
    ),
    ("ServiceEntry", "{hosts: [a.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}"),
    (
        "ServiceEntry",
        "{hosts: [a.x], addresses: [10.0.0.0/8], resolution: STATIC, "
        "ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 1.1.1.1, ports: {http: 8080}}]}",
    ),
    ("ServiceEntry", "{hosts: ['*.a.com'], resolution: DYNAMIC_DNS, ports: [{number: 443, name: t, protocol: TLS}]}"),
    ("ServiceEntry", "{hosts: [a.com], ports: [{number: 80, name: h, protocol: HTTP}], exportTo: ['~']}"),
    ("Sidecar", "{egress: [{hosts: ['./*', 'istio-system/*']}]}"),
    ("Sidecar", "{egress: [{hosts: ['~/*']}]}"),
    ("Gateway", "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['~/a.com']}]}"),
    (
        "Sidecar",
        "{ingress: [{port: {number: 80, protocol: HTTP, name: h}, defaultEndpoint: '[::1]:8080'}], "
        "egress: [{port: {number: 9080, protocol: HTTP, name: e}, bind: 127.0.0.1, hosts: ['*/*']}]}",
    ),
    ("WorkloadEntry", "{address: 10.0.0.1, ports: {http: 8080}, labels: {app: a}}"),
    ("WorkloadEntry", "{address: unix:///var/run/x.sock}"),
    ("WorkloadGroup", "{template: {ports: {http: 80}}, probe: {httpGet: {port: 80, path: /}}}"),
    ("PeerAuthentication", "{mtls: {mode: STRICT}}"),
    ("PeerAuthentication", "{selector: {matchLabels: {app: a}}, portLevelMtls: {'80': {mode: DISABLE}}}"),
    ("RequestAuthentication", "{jwtRules: [{issuer: i, jwksUri: 'https://a/keys'}]}"),
    ("RequestAuthentication", '{jwtRules: [{issuer: i, jwks: \'{"keys":[{"kty":"RSA","n":"x","e":"AQAB"}]}\'}]}'),
    ("AuthorizationPolicy", "{}"),
    ("AuthorizationPolicy", "{rules: [{}]}"),
    ("AuthorizationPolicy", "{action: DENY, rules: [{to: [{operation: {ports: ['80'], paths: ['/a/{*}/b/{**}']}}]}]}"),
    ("AuthorizationPolicy", "{action: CUSTOM, provider: {name: p}, rules: [{}]}"),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {namespaces: [a], ipBlocks: [10.0.0.0/8, '::1']}}], "
        "when: [{key: 'request.headers[x]', values: [a]}, {key: source.ip, notValues: [1.1.1.1]}]}]}",
    ),
    ("Telemetry", "{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 10}]}"),
    ("WasmPlugin", "{url: 'oci://registry.example.com/filter:v1', phase: AUTHN}"),
    ("WasmPlugin", "{url: 'registry.example.com/filter:v1'}"),
    ("TrafficExtension", "{lua: {inlineCode: 'x = 1'}}"),
    ("ProxyConfig", "{concurrency: 0, environmentVariables: {A: b}}"),
    ("Telemetry", "{accessLogging: [{filter: {expression: \"response.code >= 400 && !('x' in request.headers)\"}}]}"),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], "
        "tls: {mode: SIMPLE, credentialName: c, cipherSuites: ['ALL', '-RSA']}}]}",
    ),
    ("WorkloadEntry", f"{{address: 10.0.0.1, labels: {{app: {'a' * 64}}}}}"),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_good_resources_pass_without_a_word(check: Check, kind: str, spec: str) -> None:
    assert check(kind, spec) == Result()


ERRORS = [
    # Gateway
    ("Gateway", "{}", "spec.servers", "no servers"),
    ("Gateway", "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: []}]}", "hosts", "no hosts"),
    (
        "Gateway",
        "{servers: [{port: {number: 80, name: h, protocol: FTP}, hosts: ['*']}]}",
        "port.protocol",
        "no protocol",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 0, name: h, protocol: HTTP}, hosts: ['*']}]}",
        "port.number",
        "out of range",
    ),
    ("Gateway", "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: [short]}]}", "hosts[0]", "short name"),
    (
        "Gateway",
        "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['a*.b.c']}]}",
        "hosts[0]",
        "no valid host",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*']}]}",
        "servers[0].tls",
        "needs TLS",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], tls: {mode: SIMPLE, "
        "credentialName: c}}]}",
        "servers[0].tls",
        "plain text",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE}}]}",
        "tls.serverCertificate",
        "credentialName",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], "
        "tls: {mode: MUTUAL, serverCertificate: a, privateKey: b}}]}",
        "tls.caCertificates",
        "verify clients",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], "
        "tls: {mode: ISTIO_MUTUAL, credentialName: c}}]}",
        "tls.credentialName",
        "own certificates",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}, "
        "{port: {number: 81, name: h, protocol: HTTP}, hosts: ['*']}]}",
        "spec.servers",
        "'h' is there twice",
    ),
    # ServiceEntry and workloads
    ("ServiceEntry", "{hosts: []}", "spec.hosts", "no hosts"),
    ("ServiceEntry", "{hosts: ['*']}", "spec.hosts[0]", "'*' is no host"),
    ("ServiceEntry", "{hosts: [a.b], addresses: [x]}", "spec.addresses[0]", "neither an IP address"),
    ("ServiceEntry", "{hosts: [a.b], addresses: [10.0.0.0/8], resolution: DNS}", "spec.addresses[0]", "address ranges"),
    ("ServiceEntry", "{hosts: [a.b], endpoints: [{address: 1.1.1.1}]}", "spec.endpoints", "resolution NONE"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, endpoints: [{address: b.c}]}", "address", "no IP address"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{number: 80, name: http}], "
        "endpoints: [{address: 1.1.1.1, ports: {https: 1}}]}",
        "ports['https']",
        "Its ports: http",
    ),
    ("ServiceEntry", "{hosts: ['*.b'], resolution: DNS}", "spec.hosts[0]", "cannot be looked up"),
    ("ServiceEntry", "{hosts: [a.b], ports: [{number: 1, name: a}, {number: 1, name: b}]}", "spec.ports", "twice"),
    ("ServiceEntry", "{hosts: [a.b], ports: [{number: 1, name: a, protocol: X}]}", "ports[0].protocol", "unsupported"),
    ("ServiceEntry", "{hosts: [a.b], resolution: DYNAMIC_DNS}", "spec.hosts[0]", "wildcard hosts"),
    (
        "ServiceEntry",
        "{hosts: [a.b, c.d], resolution: DNS, ports: [{number: 1, name: a, protocol: TCP}]}",
        "spec.ports[0]",
        "cannot be told apart",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: b}}, endpoints: [{address: 1.1.1.1}]}",
        "spec",
        "exclude each other",
    ),
    ("WorkloadEntry", "{}", "spec.address", "missing"),
    ("WorkloadEntry", "{address: 'unix://rel'}", "spec.address", "absolute path"),
    ("WorkloadEntry", "{address: 'unix:///a', ports: {a: 1}}", "spec.ports", "no ports"),
    ("WorkloadEntry", "{address: 'a b'}", "spec.address", "neither a host name"),
    ("WorkloadGroup", "{template: {}, probe: {}}", "spec.probe", "exactly one way"),
    ("WorkloadGroup", "{template: {}, probe: {tcpSocket: {port: 0}}}", "spec.probe.tcpSocket.port", "out of range"),
    ("WorkloadGroup", "{}", "spec.template", "required"),
    # Sidecar
    ("Sidecar", "{}", "spec", "says nothing"),
    ("Sidecar", "{egress: [{hosts: [a.b]}]}", "egress[0].hosts[0]", "no namespace"),
    ("Sidecar", "{egress: [{hosts: ['./*']}, {port: {number: 1}, hosts: ['./*']}]}", "egress[0]", "the last one"),
    ("Sidecar", "{egress: [{port: {number: 0}, hosts: ['./*']}]}", "port.number", "unix sockets"),
    (
        "Sidecar",
        "{ingress: [{port: {number: 80}, defaultEndpoint: '10.0.0.1:80'}]}",
        "defaultEndpoint",
        "local endpoint",
    ),
    ("Sidecar", "{ingress: [{port: {number: 80}}, {port: {number: 80}}]}", "spec.ingress", "twice"),
    (
        "Sidecar",
        "{ingress: [{port: {number: 443, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c}}]}",
        "tls.credentialName",
        "not supported in a Sidecar",
    ),
    (
        "Sidecar",
        "{outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a.b, port: {number: 1}}}}",
        "egressProxy",
        "needs mode ALLOW_ANY",
    ),
    # EnvoyFilter
    ("EnvoyFilter", "{configPatches: [{patch: {operation: ADD}}]}", "configPatches[0].applyTo", "missing"),
    ("EnvoyFilter", "{configPatches: [{applyTo: CLUSTER}]}", "configPatches[0].patch", "missing"),
    ("EnvoyFilter", "{configPatches: [{applyTo: CLUSTER, patch: {operation: ADD}}]}", "patch.value", "needs a value"),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: CLUSTER, match: {listener: {}}, patch: {operation: REMOVE}}]}",
        "match.listener",
        "match.cluster",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: NETWORK_FILTER, match: {listener: {filterChain: {filter: {name: a, "
        "subFilter: {name: b}}}}}, patch: {operation: REMOVE}}]}",
        "filter.subFilter",
        "HTTP_FILTER only",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: CLUSTER, match: {proxy: {proxyVersion: '('}}, patch: {operation: REMOVE}}]}",
        "proxy.proxyVersion",
        "not valid RE2",
    ),
    # security
    ("PeerAuthentication", "{portLevelMtls: {'80': {mode: DISABLE}}}", "spec.portLevelMtls", "selected workloads"),
    (
        "PeerAuthentication",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
        "portLevelMtls['http']",
        "no port",
    ),
    ("PeerAuthentication", "{selector: {matchLabels: {a: '*'}}}", "selector.matchLabels", "wildcards"),
    ("RequestAuthentication", "{jwtRules: [{}]}", "jwtRules[0]", "neither issuer nor jwksUri"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwksUri: 'ftp://a'}]}", "jwksUri", "https://host/path"),
    ("RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{'}]}", "jwks", "no JSON"),
    (
        "RequestAuthentication",
        "{jwtRules: [{issuer: a, outputClaimToHeaders: [{header: 'a b', claim: c}]}]}",
        "outputClaimToHeaders[0].header",
        "header name",
    ),
    (
        "RequestAuthentication",
        "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}",
        "spec",
        "only one of selector and targetRefs",
    ),
    ("RequestAuthentication", "{targetRefs: [{kind: Pod, name: a}]}", "targetRefs[0]", "cannot attach to core/Pod"),
    ("AuthorizationPolicy", "{action: DENY}", "spec.rules", "denies nothing"),
    ("AuthorizationPolicy", "{action: CUSTOM, rules: [{}]}", "provider.name", "extensionProviders"),
    ("AuthorizationPolicy", "{action: CUSTOM, provider: {name: p}}", "spec.rules", "never asked"),
    ("AuthorizationPolicy", "{provider: {name: p}, rules: [{}]}", "spec.provider", "no effect with action ALLOW"),
    (
        "AuthorizationPolicy",
        "{action: CUSTOM, provider: {name: p}, rules: [{from: [{source: {principals: [a]}}]}]}",
        "source.principals",
        "not supported with action CUSTOM",
    ),
    ("AuthorizationPolicy", "{rules: [{from: [{}]}]}", "from[0].source", "missing"),
    ("AuthorizationPolicy", "{rules: [{from: [{source: {}}]}]}", "from[0].source", "says nothing"),
    ("AuthorizationPolicy", "{rules: [{from: [{source: {ipBlocks: [x]}}]}]}", "ipBlocks[0]", "neither an IP address"),
    ("AuthorizationPolicy", "{rules: [{from: [{source: {principals: ['']}}]}]}", "principals[0]", "empty"),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}",
        "serviceAccounts[0]",
        "name or",
    ),
    ("AuthorizationPolicy", "{rules: [{to: [{operation: {ports: [http]}}]}]}", "ports[0]", "no port"),
    ("AuthorizationPolicy", "{rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]}", "paths[0]", "{**}"),
    ("AuthorizationPolicy", "{rules: [{to: [{operation: {paths: ['/a{x}']}}]}]}", "paths[0]", "braces"),
    ("AuthorizationPolicy", "{rules: [{when: [{key: a.b, values: [c]}]}]}", "when[0].key", "unknown attribute"),
    (
        "AuthorizationPolicy",
        "{rules: [{when: [{key: request.headers, values: [c]}]}]}",
        "when[0].key",
        "request.headers[name]",
    ),
    ("AuthorizationPolicy", "{rules: [{when: [{key: source.ip}]}]}", "when[0]", "no values"),
    ("AuthorizationPolicy", "{rules: [{when: [{key: source.ip, values: [x]}]}]}", "values[0]", "neither an IP address"),
    ("AuthorizationPolicy", "{rules: [{when: [{key: destination.namespace, values: [x]}]}]}", "key", "that namespace"),
    # telemetry and extensions
    ("Telemetry", "{tracing: [{randomSamplingPercentage: 101}]}", "randomSamplingPercentage", "from 0 to 100"),
    ("Telemetry", "{tracing: [{customTags: {a: {literal: {value: ''}}}}]}", "customTags['a'].literal", "empty"),
    ("Telemetry", "{metrics: [{overrides: [{tagOverrides: {a: {}}}]}]}", "tagOverrides['a'].value", "UPSERT needs"),
    ("Telemetry", "{accessLogging: [{filter: {expression: 'a(b'}}]}", "filter.expression", "no CEL expression"),
    ("Telemetry", "{accessLogging: [{filter: {expression: 'a b'}}]}", "filter.expression", "at character 3"),
    *(
        ("Telemetry", f"{{accessLogging: [{{filter: {{expression: '{expression}'}}}}]}}", "filter.expression", said)
        for expression, said in (
            ("foo(1)", "knows no function foo()"),
            ('string(response.code) == "200"', "knows no function string()"),
            ('request.path.split("/")[0] == "a"', "knows no function split()"),
            ('["a", "b"].exists(x, x == request.path)', "goes through lists"),
            ('request.path.matches("(")', "not valid RE2"),
            ('size("a", "b") == 1', "not so many operands"),
            ("has(response)", "needs a field"),
            ("a.?b == 1", "optional fields"),
        )
    ),
    ("Telemetry", "{accessLogging: [{filter: {}}]}", "filter.expression", "no CEL expression"),
    ("Telemetry", "{metrics: [{overrides: [{tagOverrides: {a: {value: 'x ='}}}]}]}", "value", "no CEL expression"),
    ("RequestAuthentication", "{jwtRules: [{issuer: i, jwksUri: 'http://a b'}]}", "jwksUri", "no URL"),
    ("WasmPlugin", "{url: '{x}'}", "spec.url", "no URL"),
    # limits of the schema, told of files as the API server tells them
    ("PeerAuthentication", "{selector: {matchLabels: {app: a}}, portLevelMtls: {}}", "portLevelMtls", "is empty"),
    ("WorkloadEntry", "{address: 10.0.0.1, weight: -1}", "spec.weight", "from 0 to"),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {consecutive5xxErrors: -1}}}",
        "consecutive5xxErrors",
        "from 0 to 4294967295",
    ),
    (
        "DestinationRule",
        "{host: a, trafficPolicy: {outlierDetection: {outlierDetectionHttpErrorCodes: [500, 42]}}}",
        "outlierDetectionHttpErrorCodes[1]",
        "from 100 to 599",
    ),
    ("WasmPlugin", "{url: a, pluginName: ''}", "spec.pluginName", "is empty"),
    ("TrafficExtension", "{lua: {inlineCode: ''}}", "lua.inlineCode", "is empty"),
    # values of patches, as messages of Envoy
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: soon}}}]}",
        "configPatches[0].patch.value",
        "no Cluster of Envoy",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {lb_policy: BEST}}}]}",
        "configPatches[0].patch.value",
        "BEST",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, "
        "value: {name: a, typed_config: {'@type': type.googleapis.com/envoy.nothing.v3.Nothing}}}}]}",
        "configPatches[0].patch.value",
        "no message type 'envoy.nothing.v3.Nothing'",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {name: a, typed_config: {}}}}]}",
        "configPatches[0].patch.value",
        "@type",
    ),
    ("WasmPlugin", "{url: 'ftp://a/b'}", "spec.url", "not supported"),
    ("WasmPlugin", "{url: 'a.com:5000/b:v1'}", "spec.url", "Write oci://a.com:5000/b:v1"),
    ("WasmPlugin", "{url: 'oci://a/b', sha256: abc}", "spec.sha256", "64"),
    (
        "WasmPlugin",
        "{url: 'oci://a/b', vmConfig: {env: [{name: a, value: b, valueFrom: HOST}]}}",
        "env[0].value",
        "INLINE",
    ),
    ("WasmPlugin", "{url: 'oci://a/b', match: [{ports: [{number: 0}]}]}", "ports[0].number", "out of range"),
    ("TrafficExtension", "{}", "spec", "exactly one of wasm and lua"),
    ("ProxyConfig", "{concurrency: -1}", "spec.concurrency", "from 0 to"),
]


@pytest.mark.parametrize(("kind", "spec", "path", "what"), ERRORS)
def test_refused_with_path_and_remedy(check: Check, kind: str, spec: str, path: str, what: str) -> None:
    result = check(kind, spec)
    assert any(e.path.endswith(path) and what in str(e) for e in result.errors), result.errors


WARNINGS = [
    ("WasmPlugin", "{url: oci://a/b, verificationKey: k}", "spec.verificationKey", "not checked"),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: BOOTSTRAP, patch: {operation: MERGE, value: {stats_flush_interval: 1s}}}]}",
        "configPatches[0].applyTo",
        "without effect",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: TLS}, hosts: ['*'], "
        "tls: {mode: PASSTHROUGH, credentialName: c}}]}",
        "tls",
        "ignored",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], "
        "tls: {mode: MUTUAL, credentialName: c, caCrl: /crl.pem}}]}",
        "tls.caCrl",
        "no effect beside credentialName",
    ),
    (
        "Gateway",
        "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], "
        "tls: {mode: SIMPLE, credentialName: c, cipherSuites: [FOO]}}]}",
        "cipherSuites[0]",
        "no known cipher suite",
    ),
    ("Sidecar", "{workloadSelector: {}, egress: [{hosts: ['./*']}]}", "workloadSelector.labels", "every workload"),
    ("Sidecar", "{egress: [{hosts: ['./*', './a.b']}]}", "hosts[1]", "covered twice"),
    (
        "ServiceEntry",
        "{hosts: ['*-a.b.c'], ports: [{number: 80, name: h, protocol: HTTP}]}",
        "spec.hosts[0]",
        "stand alone",
    ),
    ("WorkloadEntry", "{network: far}", "spec.address", "through the gateways"),
    (
        "ServiceEntry",
        "{hosts: [a.com], ports: [{number: 5432, name: t, protocol: TCP}], resolution: NONE}",
        "ports[0]",
        "takes every connection to this port",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {conect_timeout: 1s}}}]}",
        "configPatches[0].patch.value",
        "conect_timeout is no field",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, "
        "value: {name: a, typed_config: {'@type': type.googleapis.com/stats.PluginConfig}}}}]}",
        "configPatches[0].patch.value",
        "not in stock Envoy",
    ),
    (
        "EnvoyFilter",
        "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: INSERT_FIRST, value: {name: a}}}]}",
        "configPatches[0].patch.value",
        "no typed_config",
    ),
    (
        "EnvoyFilter",
        "{targetRefs: [{kind: Pod, name: a}]}",
        "targetRefs[0]",
        "selects nobody",
    ),
    ("EnvoyFilter", "{}", "spec", "may differ in the next version"),
    (
        "AuthorizationPolicy",
        "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
        "rules[0]",
        "all connections to TCP ports",
    ),
    (
        "RequestAuthentication",
        '{jwtRules: [{issuer: i, jwks: \'{"keys":[{"kty":"RSA","d":"x"}]}\'}]}',
        "jwks",
        "private",
    ),
    ("Telemetry", "{tracing: [{}, {}]}", "spec.tracing", "only the first"),
]


@pytest.mark.parametrize(("kind", "spec", "path", "what"), WARNINGS)
def test_warned_of_but_accepted(check: Check, kind: str, spec: str, path: str, what: str) -> None:
    result = check(kind, spec)
    assert result.ok, result.errors
    assert any(w.path.endswith(path) and what in str(w) for w in result.warnings), result.warnings


@pytest.mark.parametrize(
    ("action", "value", "ok"), [("ALLOW", "true", True), ("DENY", "maybe", False), ("AUDIT", "true", False)]
)
def test_dry_run_works_for_allow_and_deny(check: Check, action: str, value: str, ok: bool) -> None:
    spec = f"{{action: {action}, rules: [{{}}]}}"
    assert check("AuthorizationPolicy", spec, annotations={"istio.io/dry-run": value}).ok is ok


def test_dry_run_is_for_authorization_policies(check: Check) -> None:
    result = check("PeerAuthentication", "{}", annotations={"istio.io/dry-run": "true"})
    assert [e.path for e in result.errors] == ["metadata.annotations"]


def test_what_a_rule_says_the_schema_does_not_say_again(check: Check) -> None:
    spec = "{host: a, trafficPolicy: {loadBalancer: {warmup: {duration: 10s, minimumPercent: 101}}}}"
    result = check("DestinationRule", spec)
    assert [e.path for e in result.errors] == ["spec.trafficPolicy.loadBalancer.warmup.minimumPercent"]


def test_a_gateways_own_name_is_checked(check: Check) -> None:
    spec = "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}"
    assert not check("Gateway", spec, name="a.b").ok
