"""Authorization, tokens and EnvoyFilters on a real Envoy: requests pass or are refused as the policies say."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import mesh_files
from envoys import Backend, Rig, Running
from joserfc import jwt
from joserfc.jwk import RSAKey

from meltem.ca import keys
from meltem.ca.authority import Authority, self_signed_material
from meltem.clock import SystemClock
from meltem.objects import JsonObject

pytestmark = pytest.mark.envoy

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: httpbin, namespace: bar}
spec:
  clusterIP: 10.96.0.7
  selector: {app: httpbin}
  ports: [{name: http, port: 8000, targetPort: 8080}, {name: tcp, port: 9000, targetPort: 9090}]
"""


def authorization(name: str, spec: str) -> str:
    kind = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy"
    return f"{kind}\nmetadata: {{name: {name}, namespace: bar}}\nspec: {spec}\n"


async def server(rig: Rig, *resources: str) -> tuple[Running, Backend]:
    """The sidecar of httpbin, its application behind it."""
    app = await rig.backend("127.0.0.1", 8080)
    proxy = mesh_files.sidecar("httpbin-1", "bar", "10.0.0.7", {"app": "httpbin"}, interception="NONE")
    return await rig.envoy(rig.engine(SERVICE, *resources), proxy), app


async def status(rig: Rig, envoy: Running, path: str, **headers: str) -> int:
    answer = await rig.get(envoy, 8080, "httpbin", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    return answer.status


async def test_deny_goes_before_allow(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        allow = authorization("some", '{rules: [{to: [{operation: {methods: [GET], paths: ["/a*", "/t/{*}/x"]}}]}]}')
        deny = authorization("not", "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}")
        envoy, app = await server(rig, allow, deny)
        expected = {"/a": 200, "/abc": 200, "/admin": 403, "/b": 403, "/t/1/x": 200, "/t/1/2/x": 403}
        assert {path: await status(rig, envoy, path) for path in expected} == expected
        assert [s.path for s in app.seen] == [p for p, code in expected.items() if code == 200]


async def test_a_path_cannot_be_written_around_a_policy(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        envoy, app = await server(
            rig, authorization("not", "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}")
        )
        for path in ("/x/../admin", "/./admin", "/x/%2e%2e/admin"):
            reader, writer = await asyncio.open_connection("127.0.0.1", envoy.ports[8080])
            writer.write(f"GET {path} HTTP/1.1\r\nhost: httpbin\r\n\r\n".encode())
            assert b" 403 " in await reader.readline(), path
            writer.close()
        assert app.seen == []


async def test_an_empty_policy_allows_nothing_and_headers_and_addresses_count(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        nothing = authorization("nothing", "{}")
        when = '{rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}], when: [{key: "request.headers[x-team]", '
        envoy, _ = await server(rig, nothing, authorization("some", when + 'values: ["a*"], notValues: [ab]}]}]}'))
        assert await status(rig, envoy, "/") == 403
        assert await status(rig, envoy, "/", x_team="a1") == 200
        assert await status(rig, envoy, "/", x_team="ab") == 403


async def test_who_has_no_certificate_has_no_identity(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        envoy, _ = await server(rig, authorization("any", '{rules: [{from: [{source: {principals: ["*"]}}]}]}'))
        assert await status(rig, envoy, "/") == 403


async def call_tcp(rig: Rig, *resources: str) -> bytes:
    """What a TCP server behind the sidecar answers; empty where the connection is refused."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"seen " + await reader.read(5))
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        rig.stands_for("127.0.0.1", 9090, listening.sockets[0].getsockname()[1])
        envoy, _ = await server(rig, *resources)
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.ports[9090])
        try:
            writer.write(b"hello")
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


async def test_tcp_is_closed_where_only_requests_are_allowed(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        assert await call_tcp(rig) == b"seen hello"
        only_http = "{rules: [{to: [{operation: {methods: [GET]}}]}]}"
        assert await call_tcp(rig, authorization("get", only_http)) == b""
        local = "{rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}"
        assert await call_tcp(rig, authorization("local", local)) == b"seen hello"


async def test_tokens(tmp_path: Path) -> None:
    key = RSAKey.generate_key(2048, {"kid": "k"})
    keys = str({"keys": [key.as_dict(private=False)]}).replace("'", '"')
    rules = (
        f"jwtRules: [{{issuer: https://issuer, jwks: '{keys}', outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}]"
    )
    head = (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: bar}\nspec:\n  "
    )
    must = authorization(
        "must",
        '{rules: [{from: [{source: {requestPrincipals: ["https://issuer/me"]}}], '
        'when: [{key: "request.auth.claims[groups]", values: [admins]}]}]}',
    )

    def token(**claims: object) -> str:
        return "Bearer " + jwt.encode(
            {"alg": "RS256", "kid": "k"}, {"iss": "https://issuer", "sub": "me", **claims}, key
        )

    async with Rig(tmp_path) as rig:
        envoy, app = await server(rig, head + rules, must)
        assert await status(rig, envoy, "/") == 403, (
            "without a token: authentication lets it pass, authorization does not"
        )
        assert await status(rig, envoy, "/", authorization="Bearer rubbish") == 401
        assert await status(rig, envoy, "/", authorization=token(groups=["users"])) == 403
        assert await status(rig, envoy, "/", authorization=token(groups=["users", "admins"])) == 200
        assert await status(rig, envoy, "/", authorization=token(sub="other", groups=["admins"])) == 403
        assert app.seen[-1].headers["x-sub"] == "me"
        assert "authorization" not in app.seen[-1].headers


RATE_LIMIT = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit, namespace: bar}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: limited
          token_bucket: {max_tokens: 2, tokens_per_fill: 2, fill_interval: 600s}
          filter_enabled: {default_value: {numerator: 100}}
          filter_enforced: {default_value: {numerator: 100}}
"""


async def test_an_envoy_filter_limits_the_rate(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        envoy, _ = await server(rig, RATE_LIMIT)
        assert [await status(rig, envoy, "/") for _ in range(4)] == [200, 200, 429, 429]


async def test_an_external_authorizer_is_asked_for_what_its_policy_names(tmp_path: Path) -> None:
    from aiohttp import web

    async def decide(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers.get("x-let-me") == "in" else 403)

    mesh: JsonObject = {
        "kind": "MeshConfig",
        "extensionProviders": [
            {
                "name": "ask",
                "envoyExtAuthzHttp": {
                    "service": "httpbin.bar.svc.cluster.local",
                    "port": 8000,
                    "includeRequestHeadersInCheck": ["x-let-me"],
                },
            }
        ],
    }
    policy = authorization(
        "ask", "{action: CUSTOM, provider: {name: ask}, rules: [{to: [{operation: {paths: [/p]}}]}]}"
    )
    slices = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: httpbin-1, namespace: bar, labels: {kubernetes.io/service-name: httpbin}}
addressType: IPv4
ports: [{name: http, port: 8888, protocol: TCP}]
endpoints: [{addresses: [10.0.0.9]}]
"""
    async with Rig(tmp_path) as rig:
        authorizer = await rig.backend("10.0.0.9", 8888, decide)
        from meltem import yamlio

        envoy, app = await server(rig, yamlio.dump(mesh), policy, slices)
        assert await status(rig, envoy, "/free") == 200
        assert await status(rig, envoy, "/p") == 403
        assert await status(rig, envoy, "/p", x_let_me="in") == 200
        assert len(authorizer.seen) == 2
        assert [s.path for s in app.seen] == ["/free", "/p"]


async def test_mutual_tls_is_taken_from_the_mesh_s_own_trust_domains_only(tmp_path: Path) -> None:
    """Several meshes may have one root: that a certificate is of that root does not make its bearer one of ours."""
    clock = SystemClock()
    authority = Authority(self_signed_material(clock, organization="all"), clock)

    def issued(domain: str) -> tuple[bytes, bytes]:
        key = keys.new_key()
        identity = keys.spiffe_id(domain, "bar", "caller")
        chain = authority.sign_workload(keys.signing_request(key), identity, 600.0).chain
        return keys.key_pem(key), "".join(chain[:-1]).encode()

    async def call(envoy: Running, domain: str) -> bytes:
        key, chain = issued(domain)
        (tmp_path / f"{domain}.key").write_bytes(key)
        (tmp_path / f"{domain}.pem").write_bytes(chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["istio-http/1.1"])
        context.load_cert_chain(tmp_path / f"{domain}.pem", tmp_path / f"{domain}.key")
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", envoy.ports[8080], ssl=context)
            writer.write(b"GET / HTTP/1.1\r\nhost: httpbin\r\nconnection: close\r\n\r\n")
            try:
                return await reader.readline()
            finally:
                writer.close()

    strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: bar}\n"
    mesh = "kind: MeshConfig\ntrustDomainAliases: [old.test]\n"
    async with Rig(tmp_path) as rig:
        await rig.backend("127.0.0.1", 8080)
        proxy = mesh_files.sidecar("httpbin-1", "bar", "10.0.0.7", {"app": "httpbin"}, interception="NONE")
        key, chain = issued("cluster.local")
        own: JsonObject = {
            "certificate_chain": {"inline_string": chain.decode()}, "private_key": {"inline_string": key.decode()}
        }  # fmt: skip
        roots: JsonObject = {"trusted_ca": {"inline_string": authority.roots_pem.decode()}}
        envoy = await rig.envoy(
            rig.engine(mesh, SERVICE, strict + "spec: {mtls: {mode: STRICT}}\n"),
            proxy,
            secrets={"default": {"tls_certificate": own}, "ROOTCA": {"validation_context": roots}},
        )
        assert await call(envoy, "cluster.local") == b"HTTP/1.1 200 OK\r\n"
        assert await call(envoy, "old.test") == b"HTTP/1.1 200 OK\r\n"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await call(envoy, "other.test")
