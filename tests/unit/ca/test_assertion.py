"""Machines outside Kubernetes prove who they are with a JWT that their certificate's key has signed."""

from __future__ import annotations

import base64
import json

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from meltem.ca import assertion, keys
from meltem.ca.authority import Authority, self_signed_material
from meltem.ca.identity import CallerIdentity, Credentials, Unauthenticated
from meltem.clock import ManualClock

IDENTITY = "spiffe://cluster.local/ns/vms/sa/legacy"


class Others:
    """What answers for every other credential."""

    async def authenticate(self, credentials: Credentials) -> CallerIdentity:
        return CallerIdentity("by", "token")


class Mesh:
    def __init__(self, kind: keys.KeyKind = keys.KeyKind.ECDSA_P256) -> None:
        self.clock = ManualClock()
        self.authority = Authority(self_signed_material(self.clock, organization="cluster.local"), self.clock)
        self.key, self.chain = self.certificate(kind=kind)
        self.authenticator = assertion.AssertionAuthenticator(
            Others(), self.clock, roots=lambda: self.authority.roots_pem, trust_domains=lambda: ("cluster.local",)
        )

    def certificate(
        self, identity: str = IDENTITY, kind: keys.KeyKind = keys.KeyKind.ECDSA_P256
    ) -> tuple[bytes, bytes]:
        key = keys.new_key(kind)
        issued = self.authority.sign_workload(keys.signing_request(key), identity, 3600)
        return keys.key_pem(key), issued.leaf_pem

    def token(self) -> str:
        return assertion.make(self.key, self.chain, now=self.clock.now())

    async def who(self, token: str) -> CallerIdentity:
        return await self.authenticator.authenticate(Credentials(token))

    async def refused(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as error:
            await self.who(token)
        return str(error.value)


@pytest.mark.parametrize("kind", [keys.KeyKind.ECDSA_P256, keys.KeyKind.ECDSA_P384, keys.KeyKind.RSA_2048])
async def test_a_certificate_of_the_mesh_proves_the_identity_that_it_names(kind: keys.KeyKind) -> None:
    mesh = Mesh(kind)
    assert await mesh.who(mesh.token()) == CallerIdentity("vms", "legacy", trust_domain="cluster.local")


async def test_other_credentials_are_left_to_others() -> None:
    mesh = Mesh()
    for token in ("", "opaque", "a.b.c", "x" * 20_000):
        assert await mesh.who(token) == CallerIdentity("by", "token")


async def test_it_ends_with_the_certificate() -> None:
    mesh = Mesh()
    token = mesh.token()
    await mesh.clock.advance(3500)
    assert (await mesh.who(token)).namespace == "vms"
    await mesh.clock.advance(200)
    assert "expired" in await mesh.refused(token)


async def test_a_certificate_of_another_mesh_proves_nothing() -> None:
    mesh, other = Mesh(), Mesh()
    assert "no root certificate of this mesh" in await mesh.refused(other.token())


async def test_a_key_that_is_not_the_certificates_own_proves_nothing() -> None:
    mesh = Mesh()
    stolen, _ = mesh.certificate()
    token = assertion.make(stolen, mesh.chain, now=mesh.clock.now())
    assert "not signed with its key" in await mesh.refused(token)


async def test_a_workload_cannot_sign_certificates_for_others() -> None:
    """The leaf of one workload as the issuer of a certificate that says it is another."""
    mesh = Mesh()
    leaf = keys.load_certificates(mesh.chain, where="")[0]
    key = keys.new_key()
    forged = keys.issue(
        key.public_key(), issuer=leaf, issuer_key=keys.load_key(mesh.key, where=""), now=mesh.clock.now(), ttl=600,
        uris=("spiffe://cluster.local/ns/istio-system/sa/istiod",),
    )  # fmt: skip
    chain = keys.certificates_pem([forged]) + mesh.chain
    token = assertion.make(keys.key_pem(key), chain, now=mesh.clock.now())
    assert "does not hold together" in await mesh.refused(token)


async def test_another_trust_domain_is_refused() -> None:
    mesh = Mesh()
    key, chain = mesh.certificate("spiffe://elsewhere/ns/vms/sa/legacy")
    token = assertion.make(key, chain, now=mesh.clock.now())
    assert "trust domain 'elsewhere' is not ours" in await mesh.refused(token)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sub": "spiffe://cluster.local/ns/istio-system/sa/istiod"}, "subject"),
        ({"aud": ["somebody-else"]}, "not for istio-ca"),
        ({"exp": "soon"}, "no exp"),
        ({"iat": 4_000_000_000}, "not valid now"),
    ],
)
async def test_what_it_claims_must_fit_its_certificate(change: dict[str, object], reason: str) -> None:
    mesh = Mesh()
    header, payload, _ = mesh.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    signed = jws.serialize_compact(
        json.loads(base64.urlsafe_b64decode(header + "==")),
        json.dumps(claims | change),
        ECKey.import_key(mesh.key),
        registry=assertion.WideRegistry(algorithms=["ES256"]),
    )
    assert reason in await mesh.refused(signed)


async def test_the_algorithm_is_the_keys_own_and_garbage_is_refused() -> None:
    mesh = Mesh()
    _, payload, signature = mesh.token().split(".")
    bad: tuple[dict[str, object], ...] = (
        {"alg": "none", "x5c": ["AAAA"]},
        {"alg": "HS256", "x5c": []},
        {"x5c": 7},
        {"x5c": ["!"] * 3},
    )
    for header in bad:
        encoded = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
        assert "not accepted" in await mesh.refused(f"{encoded}.{payload}.{signature}")
    good = json.loads(base64.urlsafe_b64decode(mesh.token().split(".")[0] + "=="))
    for algorithm in ("none", "HS256", "RS256"):
        encoded = base64.urlsafe_b64encode(json.dumps(good | {"alg": algorithm}).encode()).decode().rstrip("=")
        assert "not signed with its key" in await mesh.refused(f"{encoded}.{payload}.{signature}")
