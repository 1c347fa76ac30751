"""The certificate service without a network: who is let in, who is refused and with which status."""

from collections.abc import Sequence

import grpc
import pytest

from meltem.ca import keys, messages
from meltem.ca.authority import Authority, self_signed_material, usable_roots
from meltem.ca.identity import (
    CallerIdentity,
    Credentials,
    FirstOf,
    PeerCertificateAuthenticator,
    TokenAuthenticator,
    Unauthenticated,
)
from meltem.ca.service import CertificateService, Refused, ServiceLimits
from meltem.clock import ManualClock
from meltem.errors import ServerError
from meltem.objects import JsonObject


class Reviewer:
    def __init__(self, **status: JsonObject) -> None:
        self.calls = 0
        self.answer: JsonObject = {
            "authenticated": True,
            "audiences": ["istio-ca"],
            "user": {
                "username": "system:serviceaccount:shop:cart",
                "extra": {"authentication.kubernetes.io/pod-name": ["cart-1"]},
            },
        }
        self.away = False

    async def review_token(self, token: str, audiences: Sequence[str]) -> JsonObject:
        self.calls += 1
        if self.away:
            raise ServerError("etcd is away")
        return self.answer


def service(reviewer: Reviewer, clock: ManualClock, **limits: float) -> CertificateService:
    authority = Authority(self_signed_material(clock, organization="o"), clock)
    return CertificateService(
        authority,
        TokenAuthenticator(reviewer, clock),
        clock,
        limits=ServiceLimits(**limits),  # type: ignore[arg-type]
    )


def request(csr: bytes | None = None, ttl: float = 0) -> bytes:
    csr = keys.signing_request(keys.new_key()) if csr is None else csr
    return messages.encode_request(messages.CertificateRequest(csr, ttl, (("CertSigner", "x"),)))


TOKEN = Credentials(token="t")


def test_messages_survive_the_wire() -> None:
    sent = messages.CertificateRequest(b"csr", 60.0, (("a", "b"),))
    assert messages.decode_request(messages.encode_request(sent)) == sent
    assert messages.decode_response(messages.encode_response(("leaf", "root"))) == ("leaf", "root")


async def test_a_known_caller_gets_a_certificate_and_is_looked_up_once() -> None:
    reviewer, clock = Reviewer(), ManualClock()
    ca = service(reviewer, clock)
    for _ in range(3):
        chain = messages.decode_response(await ca.create(request(), TOKEN))
        assert len(chain) == 2
    assert reviewer.calls == 1
    await clock.advance(61)
    await ca.create(request(), TOKEN)
    assert reviewer.calls == 2


async def test_further_roots_come_with_every_certificate() -> None:
    clock = ManualClock()
    own, other = (Authority(self_signed_material(clock, organization=o), clock) for o in ("own", "other"))
    authenticator = TokenAuthenticator(Reviewer(), clock)
    more = usable_roots(("no certificate", other.roots_pem.decode()))
    ca = CertificateService(own, authenticator, clock, more_roots=lambda: more)
    *_, roots = messages.decode_response(await ca.create(request(), TOKEN))
    found = keys.load_certificates(roots.encode(), where="")
    assert [keys.certificates_pem([c]) for c in found] == [own.roots_pem, other.roots_pem]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"authenticated": False, "error": "expired"}, "expired"),
        ({"authenticated": True, "audiences": ["api"], "user": {"username": "system:serviceaccount:a:b"}}, "istio-ca"),
        ({"authenticated": True, "audiences": ["istio-ca"], "user": {"username": "admin"}}, "no service account"),
    ],
)
async def test_others_are_refused_with_the_reason(answer: JsonObject, said: str) -> None:
    reviewer = Reviewer()
    reviewer.answer = answer
    with pytest.raises(Refused, match=said) as refused:
        await service(reviewer, ManualClock()).create(request(), TOKEN)
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED


async def test_without_a_token_nobody_is_asked() -> None:
    reviewer = Reviewer()
    with pytest.raises(Refused, match="no bearer token"):
        await service(reviewer, ManualClock()).create(request(), Credentials())
    assert reviewer.calls == 0


async def test_an_api_server_that_is_away_is_no_refusal() -> None:
    reviewer = Reviewer()
    reviewer.away = True
    with pytest.raises(Refused) as refused:
        await service(reviewer, ManualClock()).create(request(), TOKEN)
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("body", [b"\xff\xff", request(b"nonsense"), request(b"x" * 20_000), b"x" * 100_000])
async def test_garbage_is_an_invalid_argument(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        await service(Reviewer(), ManualClock()).create(body, TOKEN)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_one_identity_cannot_have_certificates_without_end() -> None:
    clock = ManualClock()
    ca = service(Reviewer(), clock, per_identity_burst=2, per_identity_rate=1)
    for _ in range(2):
        await ca.create(request(), TOKEN)
    with pytest.raises(Refused, match="too often"):
        await ca.create(request(), TOKEN)
    await clock.advance(1)
    await ca.create(request(), TOKEN)


async def test_client_certificates_prove_an_identity_of_our_trust_domain_only() -> None:
    peers = PeerCertificateAuthenticator(["cluster.local"])
    known = await peers.authenticate(Credentials(peer_uris=("spiffe://cluster.local/ns/a/sa/b",)))
    assert known == CallerIdentity("a", "b", trust_domain="cluster.local")
    for uris in ((), ("spiffe://other/ns/a/sa/b",), ("spiffe://cluster.local/x",), ("spiffe://c/ns/a/sa/b",) * 2):
        with pytest.raises(Unauthenticated):
            await peers.authenticate(Credentials(peer_uris=uris))


async def test_first_of_tells_what_each_said() -> None:
    both = FirstOf([PeerCertificateAuthenticator(["cluster.local"]), TokenAuthenticator(Reviewer(), ManualClock())])
    assert (await both.authenticate(TOKEN)).service_account == "cart"
    with pytest.raises(Unauthenticated, match=r"client certificate.*bearer token"):
        await both.authenticate(Credentials())


def test_credentials_of_a_call() -> None:
    peer = {"x509_subject_alternative_name": [b"spiffe://td/ns/a/sa/b", b"dns"]}
    found = Credentials.of_call((("x", "y"), ("authorization", "Bearer abc")), peer)
    assert found == Credentials("abc", ("spiffe://td/ns/a/sa/b",))
