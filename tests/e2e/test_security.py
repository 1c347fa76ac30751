"""Who may talk to whom: modes of mutual TLS, who is allowed and who denied, tokens, certificates that are replaced.

`curl` and `sleep` are callers of the mesh, each with a service account of its own; `plain` is one without a sidecar.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from mesh_rig import Mesh, eventually, namespace
from outside_rig import Caller, applied

pytestmark = pytest.mark.both_homes
ISSUER = "https://issuer.example.com"
SHORT = (
    '{"spec":{"template":{"metadata":{"annotations":{"proxy.istio.io/config":"proxyMetadata: {SECRET_TTL: 30s}"}}}}}'
)
KEYS = """
apiVersion: v1
kind: ConfigMap
metadata: {{name: keys}}
data:
  jwks.json: '{keys}'
---
apiVersion: v1
kind: Service
metadata: {{name: keys}}
spec: {{selector: {{app: keys}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: keys}}
spec:
  selector: {{matchLabels: {{app: keys}}}}
  template:
    metadata: {{labels: {{app: keys, sidecar.istio.io/inject: "false"}}}}
    spec:
      containers:
      - name: server
        image: docker.io/curlimages/curl:8.16.0
        imagePullPolicy: IfNotPresent
        command: ["{python}", "-m", "http.server", "80", "--directory", "/keys"]
        volumeMounts: [{{name: keys, mountPath: /keys}}]
      volumes: [{{name: keys, configMap: {{name: keys}}}}]
"""


class Callers:
    """`curl`, `sleep` (both of the mesh) and `plain`, all asking httpbin of one namespace."""

    def __init__(self, mesh: Mesh, ns: str, plain: str, key: RSAKey) -> None:
        self.mesh, self.ns, self.key = mesh, ns, key
        self._where = {"curl": ("curl", ns), "sleep": ("sleep", ns), "plain": ("curl", plain)}

    def ask(self, who: str, path: str, *options: str) -> str:
        """The status; 000 where there was no answer."""
        app, where = self._where[who]
        command = ("curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *options)
        url = f"http://httpbin.{self.ns}:8000{path}"
        pod = ("kubectl", "exec", "-n", where, f"deploy/{app}", "-c", app, "--")
        return self.mesh.run([*pod, *command, url]).stdout

    def until(self, wanted: dict[tuple[str, ...], str]) -> None:
        """Until every call (who, path, curl's options) has the wanted status. One look is never enough: a caller's
        connections from before a change end some time after it, one after the other."""

        def check() -> None:
            assert {call: self.ask(*call) for call in wanted} == wanted

        eventually(check)

    def line(self, who: str) -> str:
        """What tcp-echo answers to `ahoy`; nothing where it does not take the connection."""
        app, where = self._where[who]
        talk = f"printf 'ahoy\\n' | curl -s -m 2 telnet://tcp-echo.{self.ns}:9000 || true"
        return self.mesh.execute(f"deploy/{app}", "sh", "-c", talk, namespace=where, container=app).strip()

    def until_lines(self, **wanted: bool) -> None:
        """Until tcp-echo takes the connections of exactly those."""

        def check() -> None:
            assert {who: self.line(who) for who in wanted} == {w: "hello ahoy" * yes for w, yes in wanted.items()}

        eventually(check)

    def token(self, **claims: object) -> tuple[str, str]:
        """curl's options for a request with a token."""
        told = {"iss": ISSUER, "sub": "me", "exp": int(time.time()) + 600, **claims}
        return "-H", f"Authorization: Bearer {jwt.encode({'alg': 'RS256', 'kid': 'k'}, told, self.key)}"


@pytest.fixture(scope="module")
def callers(mesh: Mesh) -> Iterator[Callers]:
    key = RSAKey.generate_key(2048, {"kid": "k"})
    keys = json.dumps({"keys": [key.as_dict(private=False)]})
    with namespace(mesh, "security", "istio-injection=enabled") as ns, namespace(mesh, "security-plain") as plain:
        mesh.create(KEYS.format(keys=keys, python=mesh.interpreter), ns)
        mesh.apply("curl/curl.yaml", "sleep/sleep.yaml", "httpbin/httpbin.yaml", "tcp-echo/tcp-echo.yaml", namespace=ns)
        mesh.apply("curl/curl.yaml", namespace=plain)
        for name in ("curl", "httpbin"):
            mesh.kubectl("patch", "deployment", name, "-n", ns, "-p", SHORT)
        mesh.rolled_out("curl", "sleep", "httpbin", "tcp-echo", "keys", namespace=ns)
        mesh.rolled_out("curl", namespace=plain)
        yield Callers(mesh, ns, plain, key)


def policy(kind: str, name: str, spec: str) -> str:
    return f"---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


# --- mutual TLS ---


def test_modes_of_mutual_tls(mesh: Mesh, callers: Callers) -> None:
    """STRICT refuses plain text; a port may differ; DISABLE turns the mesh's own calls into plain text as well."""
    both = {("curl", "/get"): "200", ("plain", "/get"): "200"}
    callers.until(both)
    with applied(mesh, policy("PeerAuthentication", "default", "{mtls: {mode: STRICT}}"), callers.ns):
        callers.until({("curl", "/get"): "200", ("plain", "/get"): "000"})
        callers.until_lines(curl=True, plain=False)
        httpbin = "selector: {matchLabels: {app: httpbin}}, mtls: {mode: STRICT}"
        port = f"{{{httpbin}, portLevelMtls: {{8080: {{mode: PERMISSIVE}}}}}}"
        with applied(mesh, policy("PeerAuthentication", "port", port), callers.ns):
            callers.until(both)
            assert callers.line("plain") == "", "the port's exception is the port's alone"
    disabled = "{selector: {matchLabels: {app: httpbin}}, mtls: {mode: DISABLE}}"
    curl = Caller(mesh, callers.ns)

    def known(wanted: bool) -> None:
        seen = curl.ask("http://httpbin:8000/headers")
        assert seen.status == "200" and ("spiffe://" in seen.headers) == wanted, seen

    eventually(lambda: known(True))
    with applied(mesh, policy("PeerAuthentication", "none", disabled), callers.ns):
        eventually(lambda: known(False))
        callers.until(both)
    eventually(lambda: known(True))


# --- authorization ---


def test_who_may_call_what(mesh: Mesh, callers: Callers) -> None:
    """Nobody; then by principal and path; a denial goes before; whoever shows no certificate is nobody."""
    ns = callers.ns
    curl = f'principals: ["cluster.local/ns/{ns}/sa/curl"]'
    allow = (
        f"{{selector: {{matchLabels: {{app: httpbin}}}}, rules: [{{from: [{{source: {{{curl}}}}}], "
        'to: [{operation: {methods: [GET], paths: [/get, "/status/*"]}}]}]}'
    )
    deny = (
        "{selector: {matchLabels: {app: httpbin}}, action: DENY, "
        f"rules: [{{from: [{{source: {{namespaces: [{ns}]}}}}], to: [{{operation: {{paths: [/status/418]}}}}]}}]}}"
    )
    with applied(mesh, policy("AuthorizationPolicy", "nothing", "{}"), ns):
        callers.until({(who, "/get"): "403" for who in ("curl", "sleep", "plain")})
        callers.until_lines(curl=False)
        with applied(mesh, policy("AuthorizationPolicy", "some", allow), ns):
            refused = {("curl", "/headers"): "403", ("sleep", "/get"): "403", ("plain", "/get"): "403"}
            callers.until({("curl", "/get"): "200", ("curl", "/status/418"): "418", **refused})
            callers.until({("curl", "/get", "-X", "POST"): "403"})
            with applied(mesh, policy("AuthorizationPolicy", "less", deny), ns):
                callers.until({("curl", "/status/418"): "403", ("curl", "/status/201"): "201"})
        tcp = f"{{selector: {{matchLabels: {{app: tcp-echo}}}}, rules: [{{from: [{{source: {{{curl}}}}}]}}]}}"
        with applied(mesh, policy("AuthorizationPolicy", "tcp", tcp), ns):
            callers.until_lines(curl=True, sleep=False, plain=False)
    callers.until({(who, "/get"): "200" for who in ("curl", "sleep", "plain")})


# --- tokens ---


def test_a_token_is_required_and_its_claims_count(mesh: Mesh, callers: Callers) -> None:
    """Keys come from a server of the cluster, which the proxy asks."""
    selector = "selector: {matchLabels: {app: httpbin}}"
    uri = f"http://keys.{callers.ns}.svc.cluster.local/jwks.json"
    tokens = policy(
        "RequestAuthentication", "tokens", f"{{{selector}, jwtRules: [{{issuer: {ISSUER}, jwksUri: {uri}}}]}}"
    )
    required = (
        f"{{{selector}, action: DENY, rules: [{{from: [{{source: {{notRequestPrincipals: ['*']}}}}], "
        "to: [{operation: {notPaths: [/status/200]}}]}, "
        "{to: [{operation: {paths: [/headers]}}], when: [{key: 'request.auth.claims[groups]', notValues: [admins]}]}]}"
    )
    good, rubbish = callers.token(), ("-H", "Authorization: Bearer rubbish")
    with applied(mesh, tokens, callers.ns):
        callers.until({("sleep", "/get"): "200", ("sleep", "/get", *rubbish): "401", ("sleep", "/get", *good): "200"})
        old, strange = callers.token(exp=int(time.time()) - 3600), callers.token(iss="https://stranger.example.com")
        callers.until({("sleep", "/get", *t): "401" for t in (old, strange)})
        with applied(mesh, policy("AuthorizationPolicy", "required", required), callers.ns):
            callers.until({
                ("sleep", "/get"): "403", ("sleep", "/get", *good): "200", ("sleep", "/status/200"): "200",
                ("plain", "/get"): "403", ("plain", "/get", *good): "200",
                ("sleep", "/headers", *callers.token(groups=["users"])): "403",
                ("sleep", "/headers", *callers.token(groups=["users", "admins"])): "200",
            })  # fmt: skip
    callers.until({("sleep", "/get"): "200"})


# --- certificates ---


def test_certificates_are_replaced_and_no_request_is_lost(mesh: Mesh, callers: Callers) -> None:
    """`curl` and httpbin have certificates of thirty seconds, and each request is a handshake of its own."""
    once = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: once}
spec: {host: httpbin, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""
    names = ("curl", "httpbin")

    def serials() -> dict[str, str]:
        told = {n: mesh.istioctl("proxy-config", "secret", f"deploy/{n}", "-n", callers.ns) for n in names}
        found = {n: re.search(r"^default .*?\btrue\s+([0-9a-f]{8,})", text, re.MULTILINE) for n, text in told.items()}
        assert all(found.values()), told
        return {n: m[1] for n, m in found.items() if m}

    strict = policy("PeerAuthentication", "default", "{mtls: {mode: STRICT}}")
    with applied(mesh, once + strict, callers.ns):
        callers.until({("curl", "/get"): "200", ("plain", "/get"): "000"})
        first = eventually(serials)
        answered: list[str] = []

        def replaced() -> None:
            loop = "for i in $(seq 20); do curl -s -m 10 -o /dev/null -w '%{http_code} ' http://httpbin:8000/get; done"
            answered.extend(
                mesh.execute("deploy/curl", "sh", "-c", loop, namespace=callers.ns, container="curl").split()
            )
            now = serials()
            assert all(now[n] != first[n] for n in names), (first, now)

        eventually(replaced)
    assert len(answered) >= 20
    assert set(answered) == {"200"}, answered
