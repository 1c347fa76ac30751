"""The certificate service and the agent's helper, over real TLS on loopback."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from meltem.agent.certificate import Order
from meltem.ca.authority import Authority, self_signed_material
from meltem.ca.identity import TokenAuthenticator
from meltem.ca.service import CertificateService
from meltem.ca.serving import ServingCertificate, serving_names
from meltem.clock import SystemClock
from meltem.objects import JsonObject


class OneToken:
    async def review_token(self, token: str, audiences: Sequence[str]) -> JsonObject:
        if token != "good":
            return {"authenticated": False, "error": "unknown token"}
        return {
            "authenticated": True,
            "audiences": list(audiences),
            "user": {"username": "system:serviceaccount:shop:cart"},
        }


@asynccontextmanager
async def istiod() -> AsyncIterator[tuple[int, Authority]]:
    clock = SystemClock()
    authority = Authority(self_signed_material(clock, organization="cluster.local"), clock)
    pair = ServingCertificate(authority, clock, serving_names()).current()
    service = CertificateService(authority, TokenAuthenticator(OneToken(), clock), clock)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service.handler(),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key_pem, pair.chain_pem)]))
    await server.start()
    try:
        yield port, authority
    finally:
        await server.stop(None)


async def helper(order: Order) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meltem.agent.certificate",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(order.to_json().encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "istio-token"
    path.write_text("good\n")
    return path


async def test_helper_gets_the_certificate_of_its_service_account(tmp_path: Path, token: Path) -> None:
    async with istiod() as (port, authority):
        (tmp_path / "roots.pem").write_bytes(authority.roots_pem)
        order = Order(
            directory=str(tmp_path / "proxy"),
            ca_address=f"localhost:{port}",
            ca_root=str(tmp_path / "roots.pem"),
            token_path=str(token),
            identity="spiffe://cluster.local/ns/other/sa/admin",  # the request's own names give it nothing
            target_name="istiod.istio-system.svc",
        )
        status, out, err = await helper(order)
    assert (status, err) == (0, "")
    life = json.loads(out)
    assert 23 * 3600 < life["not_after"] - life["not_before"] < 25 * 3600
    leaf = x509.load_pem_x509_certificates((tmp_path / "proxy/cert-chain.pem").read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://cluster.local/ns/shop/sa/cart"]
    assert (tmp_path / "proxy/root-cert.pem").read_bytes() == authority.roots_pem
    secret = json.loads((tmp_path / "proxy/sds-default.json").read_text())["resources"][0]
    assert secret["name"] == "default"
    assert "PRIVATE KEY" in secret["tls_certificate"]["private_key"]["inline_string"]
    assert (tmp_path / "proxy/sds-default.json").stat().st_mode & 0o777 == 0o600


async def test_helper_says_why_it_was_refused_and_keeps_the_old_files(tmp_path: Path, token: Path) -> None:
    token.write_text("bad")
    old = tmp_path / "proxy/key.pem"
    old.parent.mkdir()
    old.write_text("old key")
    async with istiod() as (port, authority):
        (tmp_path / "roots.pem").write_bytes(authority.roots_pem)
        order = Order(
            directory=str(tmp_path / "proxy"),
            ca_address=f"localhost:{port}",
            ca_root=str(tmp_path / "roots.pem"),
            token_path=str(token),
            target_name="istiod.istio-system.svc",
        )
        status, _, err = await helper(order)
    assert status == 1
    assert "UNAUTHENTICATED" in err
    assert "unknown token" in err
    assert "Traceback" not in err
    assert old.read_text() == "old key"


async def test_helper_does_not_talk_to_an_istiod_of_another_mesh(tmp_path: Path, token: Path) -> None:
    clock = SystemClock()
    other = self_signed_material(clock, organization="other")
    (tmp_path / "roots.pem").write_bytes(other.roots_pem)
    async with istiod() as (port, _):
        order = Order(
            directory=str(tmp_path / "proxy"),
            ca_address=f"localhost:{port}",
            ca_root=str(tmp_path / "roots.pem"),
            token_path=str(token),
            target_name="istiod.istio-system.svc",
        )
        status, _, err = await helper(order)
    assert status == 1
    assert "UNAVAILABLE" in err
