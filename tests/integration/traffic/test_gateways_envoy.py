"""Gateways, seen to happen: hosts, redirects, TLS of several kinds by SNI, a missing secret, an egress gateway."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from pathlib import Path

import mesh_files
import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoys import Rig, Running
from mesh_yaml import istio, service

from meltem.objects import JsonObject

pytestmark = pytest.mark.envoy

ROUTER = mesh_files.router("gw-1", "istio-system", "10.0.0.9", {"istio": "ingressgateway"})
WEB = service("web", {"http": 80}, [("10.8.0.1", "v1")])


def certificate(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return made.public_bytes(pem), key.private_bytes(pem, form, serialization.NoEncryption())


def secret(name: str, pair: tuple[bytes, bytes], ca: bytes = b"") -> str:
    chain, key, trusted = (base64.b64encode(p).decode() for p in (*pair, ca or pair[0]))
    return (
        f"\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\n"
        f"data: {{tls.crt: {chain}, tls.key: {key}, ca.crt: {trusted}}}\n"
    )


def inline(pair: tuple[bytes, bytes]) -> JsonObject:
    return {
        "tls_certificate": {
            "certificate_chain": {"inline_string": pair[0].decode()},
            "private_key": {"inline_string": pair[1].decode()},
        }
    }


async def over_tls(envoy: Running, port: int, name: str, ca: bytes, own: tuple[Path, Path] | None = None) -> str:
    """The first line and body of an answer over TLS to that server name."""
    context = ssl.create_default_context(cadata=ca.decode())
    if own is not None:
        context.load_cert_chain(*own)
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", envoy.ports[port], ssl=context, server_hostname=name
        )
        writer.write(f"GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    return answer.decode()


def gateway(servers: str) -> str:
    return istio("Gateway", "edge", "selector: {istio: ingressgateway}\nservers:\n" + servers)


async def test_hosts_are_told_apart_and_unknown_ones_get_404(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        backend = await rig.backend("10.8.0.1", 8080)
        parts = (
            WEB,
            gateway(
                "- {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com, '*.b.example.com']}\n"
                "- {port: {number: 80, name: r, protocol: HTTP}, hosts: [r.example.com], tls: {httpsRedirect: true}}"
            ),
            istio(
                "VirtualService",
                "web",
                "hosts: ['*.example.com']\ngateways: [edge]\n"
                "http: [{match: [{uri: {prefix: /in}}], route: [{destination: {host: web}}]}]",
            ),
        )
        envoy = await rig.envoy(rig.engine("---".join(parts)), ROUTER)
        for host, path, status in (
            ("a.example.com", "/in", 200),
            ("a.example.com:80", "/in", 200),
            ("x.b.example.com", "/in", 200),
            ("a.example.com", "/out", 404),
            ("c.example.com", "/in", 404),
            ("r.example.com", "/in", 301),
        ):
            assert (host, path, (await rig.get(envoy, 80, host, path)).status) == (host, path, status)
        moved = await rig.get(envoy, 80, "r.example.com", "/in?q=1")
        assert moved.headers["location"] == "https://r.example.com/in?q=1"
        assert len(backend.seen) == 3


async def test_servers_of_one_port_are_chosen_by_sni_and_one_without_its_secret_costs_only_itself(
    tmp_path: Path,
) -> None:
    simple, mutual = certificate("simple.example.com"), certificate("mutual.example.com")
    async with Rig(tmp_path) as rig:
        backend = await rig.backend("10.8.0.1", 8080)
        port = "port: {number: 443, name: %s, protocol: HTTPS}"
        servers = "\n".join(
            f"- {{{port % name}, hosts: [{name}.example.com], tls: {{mode: {mode}, credentialName: {name}}}}}"
            for name, mode in (("simple", "SIMPLE"), ("mutual", "MUTUAL"), ("missing", "SIMPLE"))
        )
        route = "http: [{route: [{destination: {host: web}}]}]"
        parts = (
            WEB,
            gateway(servers),
            secret("simple", simple),
            secret("mutual", mutual),
            istio("VirtualService", "web", "hosts: ['*.example.com']\ngateways: [edge]\n" + route),
        )
        given = {
            "kubernetes://simple": inline(simple),
            "kubernetes://mutual": inline(mutual),
            "kubernetes://mutual-cacert": {"validation_context": {"trusted_ca": {"inline_string": mutual[0].decode()}}},
        }
        envoy = await rig.envoy(rig.engine("---".join(parts)), ROUTER, secrets=given)
        answer = await over_tls(envoy, 443, "simple.example.com", simple[0])
        assert answer.startswith("HTTP/1.1 200") and backend.name in answer
        own = (tmp_path / "own.crt", tmp_path / "own.key")
        for path, text in zip(own, mutual, strict=True):
            path.write_bytes(text)
        assert (await over_tls(envoy, 443, "mutual.example.com", mutual[0], own)).startswith("HTTP/1.1 200")
        for name in ("mutual.example.com", "missing.example.com"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                answer = await over_tls(envoy, 443, name, mutual[0])
                if not answer:
                    raise ConnectionError("closed")
        assert len(backend.seen) == 2


async def test_an_egress_gateway_speaks_mutual_tls_with_a_client_certificate_from_a_secret(tmp_path: Path) -> None:
    outside, mine = certificate("out.example.com"), certificate("client.example.com")
    files = [tmp_path / n for n in ("out.crt", "out.key", "client.crt")]
    for path, text in zip(files, (*outside, mine[0]), strict=True):
        path.write_bytes(text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files[2]))
    context.load_cert_chain(files[0], files[1])
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfar\n")
        writer.close()

    async with Rig(tmp_path) as rig:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        rig.stands_for("10.3.0.1", 443, server.sockets[0].getsockname()[1])
        out = "hosts: [out.example.com]\nresolution: STATIC\nendpoints: [{address: 10.3.0.1}]\n"
        tls = "tls: {mode: MUTUAL, credentialName: client, sni: out.example.com}"
        parts = (
            istio("ServiceEntry", "out", out + "ports: [{number: 443, name: https, protocol: HTTPS}]"),
            istio(
                "DestinationRule",
                "out",
                "host: out.example.com\ntrafficPolicy: {portLevelSettings: [{port: {number: 443}, " + tls + "}]}",
            ),
            secret("client", mine, outside[0]),
            gateway("- {port: {number: 80, name: http, protocol: HTTP}, hosts: [out.example.com]}"),
            istio(
                "VirtualService",
                "out",
                "hosts: [out.example.com]\ngateways: [edge]\n"
                "http: [{route: [{destination: {host: out.example.com, port: {number: 443}}}]}]",
            ),
        )
        given = {
            "kubernetes://client": inline(mine),
            "kubernetes://client-cacert": {
                "validation_context": {"trusted_ca": {"inline_string": outside[0].decode()}}
            },
        }
        engine = rig.engine("---".join(parts))
        made = mesh_files.generated(engine, ROUTER)["secrets"]
        assert {"kubernetes://client", "kubernetes://client-cacert"} <= set(made)
        envoy = await rig.envoy(engine, ROUTER, secrets=given)
        answer = await rig.get(envoy, 80, "out.example.com")
        assert (answer.status, answer.body) == (200, "far\n")
        assert b"host: out.example.com" in seen[0]
        server.close()


async def test_a_proxy_s_own_settings_of_headers_and_connections_hold_on_real_requests(tmp_path: Path) -> None:
    """`proxyHeaders`: capitals stay, a rewritten host is told. `connectionSettings`: what profile EDGE refuses."""
    seen: list[tuple[bytes, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.extend(request.raw_headers)
        return web.Response(headers={"X-BaCk": "1"})

    settings: JsonObject = {
        "proxyHeaders": {"preserveHttp1HeaderCase": True, "xForwardedHost": {"enabled": True}},
        "connectionSettings": {"profile": "EDGE"},
    }
    proxy = msgspec.structs.replace(ROUTER, proxy_config=msgspec.json.encode(settings).decode())
    async with Rig(tmp_path) as rig:
        await rig.backend("10.8.0.1", 8080, answer)
        parts = (
            WEB,
            gateway("- {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}"),
            istio(
                "VirtualService",
                "web",
                "hosts: [a.example.com]\ngateways: [edge]\n"
                "http: [{rewrite: {authority: web.internal}, route: [{destination: {host: web}}]}]",
            ),
        )
        envoy = await rig.envoy(rig.engine("---".join(parts)), proxy)

        async def ask(path: str, header: str) -> bytes:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", envoy.ports[80])
                lines = (f"GET {path} HTTP/1.1", "Host: a.example.com", header, "Connection: close", "", "")
                writer.write("\r\n".join(lines).encode())
                found = await reader.read()
                writer.close()
            return found

        answered = await ask("/", "X-MiXed: a")
        assert answered.startswith(b"HTTP/1.1 200") and b"\r\nX-BaCk: 1\r\n" in answered
        assert (b"X-MiXed", b"a") in seen
        assert {k.lower(): v for k, v in seen}[b"x-forwarded-host"] == b"a.example.com"
        assert (await ask("/", "x_under: a")).startswith(b"HTTP/1.1 400")
        assert (await ask("/a%2Fb", "x-more: a")).startswith(b"HTTP/1.1 307")
