"""The authority: what it signs, what it refuses, where its material comes from and when it is renewed."""

import asyncio
import base64
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from meltem.ca import keys
from meltem.ca.authority import DAY, Authority, CertificateLimits, material_from_secret, self_signed_material
from meltem.ca.bundle import CONFIG_MAP, ensure
from meltem.ca.serving import ServingCertificate, serving_names
from meltem.ca.store import AuthorityStore, StoreSettings, secret_data
from meltem.clock import ManualClock
from meltem.controlplane.http import ServerTls
from meltem.errors import AlreadyExists, ApiError, Conflict, Forbidden, InvalidResource, NotFound
from meltem.objects import JsonObject, copy_object, object_at, str_at

IDENTITY = "spiffe://cluster.local/ns/shop/sa/cart"


def authority(clock: ManualClock | None = None, **limits: float) -> Authority:
    clock = clock or ManualClock()
    return Authority(self_signed_material(clock, organization="cluster.local"), clock, CertificateLimits(**limits))


def leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_a_workload_certificate_names_the_identity_and_nothing_else() -> None:
    csr = keys.signing_request(keys.new_key(), uris=("spiffe://evil/ns/a/sa/b",), dns_names=("bank.example",))
    issued = authority().sign_workload(csr, IDENTITY)
    certificate = leaf(issued.leaf_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [str(n.value) for n in names.value] == [IDENTITY]
    assert list(certificate.subject) == []
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("kind", [keys.KeyKind.ECDSA_P256, keys.KeyKind.ECDSA_P384, keys.KeyKind.RSA_2048])
def test_the_chain_ends_at_the_root_that_signed(kind: keys.KeyKind) -> None:
    signer = authority()
    issued = signer.sign_workload(keys.signing_request(keys.new_key(kind)), IDENTITY)
    root = leaf(issued.chain[-1].encode())
    leaf(issued.chain[0].encode()).verify_directly_issued_by(root)
    assert issued.chain[-1].encode() == signer.roots_pem


def test_life_is_the_default_or_what_was_asked_within_the_limit() -> None:
    clock = ManualClock()
    signer = authority(clock, default_ttl=DAY, max_ttl=2 * DAY)
    csr = keys.signing_request(keys.new_key())
    assert signer.sign_workload(csr, IDENTITY).not_after == clock.now() + DAY
    assert signer.sign_workload(csr, IDENTITY, 60).not_after == clock.now() + 60
    with pytest.raises(InvalidResource, match="the limit is"):
        signer.sign_workload(csr, IDENTITY, 3 * DAY)


async def test_no_certificate_outlives_its_ca_and_an_expired_ca_signs_nothing() -> None:
    clock = ManualClock()
    material = self_signed_material(clock, organization="o", ttl=3600)
    signer = Authority(material, clock)
    csr = keys.signing_request(keys.new_key())
    assert signer.sign_workload(csr, IDENTITY).not_after == material.not_after
    await clock.advance(3601)
    with pytest.raises(InvalidResource, match="expired"):
        signer.sign_workload(csr, IDENTITY)


EMPTY_CSR = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"


@pytest.mark.parametrize("csr", [b"", b"nonsense", EMPTY_CSR])
def test_what_is_no_csr_is_refused_in_words(csr: bytes) -> None:
    with pytest.raises(InvalidResource, match="cannot be read"):
        authority().sign_workload(csr, IDENTITY)


def test_a_csr_must_be_signed_by_its_own_key() -> None:
    der = bytearray(x509.load_pem_x509_csr(keys.signing_request(keys.new_key())).public_bytes(Encoding.DER))
    der[-1] ^= 1
    pem = EMPTY_CSR.replace(b"AAAA\n", base64.encodebytes(bytes(der)))
    with pytest.raises(InvalidResource):
        authority().sign_workload(pem, IDENTITY)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader_of_requests(data: bytes) -> None:
    with pytest.raises(InvalidResource):
        keys.requested_key(data)


@pytest.mark.parametrize(
    ("domain", "namespace", "account"),
    [
        ("td", "a/../b", "sa"),
        ("td", "ns", "sa/x"),
        ("t d", "ns", "sa"),
        ("td", "", "sa"),
        ("td", "ns", "a\n"),
        ("", "n", "s"),
    ],
)
def test_names_that_kubernetes_would_refuse_reach_no_certificate(domain: str, namespace: str, account: str) -> None:
    with pytest.raises(InvalidResource):
        keys.spiffe_id(domain, namespace, account)


def test_signing_takes_under_a_millisecond() -> None:
    signer = authority()
    csr = keys.signing_request(keys.new_key())
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        signer.sign_workload(csr, IDENTITY)
        best = min(best, time.perf_counter() - start)
    assert best < 0.001


class Cluster:
    """Secrets and config maps in memory, with resource versions."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], JsonObject] = {}
        self.refuse: ApiError | None = None

    def _get(self, namespace: str, name: str) -> JsonObject:
        if (namespace, name) not in self.stored:
            raise NotFound(f"{name} not found")
        return copy_object(self.stored[namespace, name])

    def _put(self, obj: JsonObject, *, new: bool) -> JsonObject:
        if self.refuse is not None:
            raise self.refuse
        key = (str_at(obj, "metadata", "namespace"), str_at(obj, "metadata", "name"))
        if new and key in self.stored:
            raise AlreadyExists("already there")
        if not new and object_at(obj, "metadata") != object_at(self.stored[key], "metadata"):
            raise Conflict("somebody was faster")
        self.stored[key] = copy_object(obj)
        version = len(self.stored) if new else int(str_at(obj, "metadata", "resourceVersion")) + 1
        object_at(self.stored[key], "metadata")["resourceVersion"] = str(version)
        return copy_object(self.stored[key])

    async def get_secret(self, namespace: str, name: str) -> JsonObject:
        return self._get(namespace, name)

    async def create_secret(self, secret: JsonObject) -> JsonObject:
        return self._put(secret, new=True)

    async def replace_secret(self, secret: JsonObject) -> JsonObject:
        return self._put(secret, new=False)

    get_config_map = get_secret
    create_config_map = create_secret
    replace_config_map = replace_secret


async def test_the_first_istiod_makes_the_ca_and_the_next_finds_it() -> None:
    cluster, clock = Cluster(), ManualClock()
    first = await AuthorityStore(cluster, clock).load()
    second = await AuthorityStore(cluster, clock).load()
    assert first.roots_pem == second.roots_pem
    assert str_at(cluster.stored["istio-system", "istio-ca-secret"], "type") == "istio.io/ca-root"


async def test_a_root_is_renewed_in_time_and_the_old_one_stays_trusted() -> None:
    cluster, clock = Cluster(), ManualClock()
    store = AuthorityStore(cluster, clock, StoreSettings(root_ttl=100 * DAY))
    signer = Authority(await store.load(), clock)
    old_leaf = signer.sign_workload(keys.signing_request(keys.new_key()), IDENTITY)
    assert not await store.check(signer)
    await clock.advance(81 * DAY)
    assert await store.check(signer)
    roots = keys.load_certificates(signer.roots_pem, where="test")
    assert len(roots) == 2
    leaf(old_leaf.leaf_pem).verify_directly_issued_by(roots[0])  # same key: what was issued before is still trusted
    assert signer.material.not_after > clock.now() + 90 * DAY


async def test_a_secret_that_was_seen_to_change_is_read_at_once() -> None:
    cluster, clock = Cluster(), ManualClock()
    store = AuthorityStore(cluster, clock)
    signer = Authority(await store.load(), clock)
    touched = asyncio.Event()
    running = asyncio.create_task(store.run(signer, touched))
    try:
        other = self_signed_material(clock, organization="new")
        cluster.stored["istio-system", "cacerts"] = {
            "metadata": {"namespace": "istio-system", "name": "cacerts"},
            "data": {
                "ca-cert.pem": base64.b64encode(keys.certificates_pem([other.certificate])).decode(),
                "ca-key.pem": base64.b64encode(keys.key_pem(other.key)).decode(),
            },
        }
        await clock.advance(60)
        assert signer.roots_pem != other.roots_pem
        touched.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert signer.roots_pem == other.roots_pem
    finally:
        running.cancel()


async def test_cacerts_wins_and_is_followed() -> None:
    cluster, clock = Cluster(), ManualClock()
    store = AuthorityStore(cluster, clock)
    signer = Authority(await store.load(), clock)
    root_key, ca_key = keys.new_key(), keys.new_key()
    root = keys.self_signed_root(root_key, organization="corp", now=clock.now(), ttl=1000 * DAY)
    builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mesh")]))
    intermediate = (
        builder.issuer_name(root.subject)
        .public_key(ca_key.public_key())
        .serial_number(5)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    files = {
        "ca-cert.pem": keys.certificates_pem([intermediate]),
        "ca-key.pem": keys.key_pem(ca_key),
        "root-cert.pem": keys.certificates_pem([root]),
        "cert-chain.pem": keys.certificates_pem([intermediate]),
    }
    secret: JsonObject = {
        "metadata": {"namespace": "istio-system", "name": "cacerts"},
        "data": {k: base64.b64encode(v).decode() for k, v in files.items()},
    }
    cluster.stored["istio-system", "cacerts"] = secret
    assert await store.check(signer)
    issued = signer.sign_workload(keys.signing_request(keys.new_key()), IDENTITY)
    assert len(issued.chain) == 3
    assert issued.chain[2].encode() == files["root-cert.pem"]
    assert str(leaf(issued.leaf_pem).issuer.rfc4514_string()) == "CN=mesh"


@pytest.mark.parametrize("broken", ["ca-key.pem", "ca-cert.pem"])
def test_a_plugged_in_ca_that_cannot_work_says_what_is_wrong(broken: str) -> None:
    clock = ManualClock()
    one, two = (self_signed_material(clock, organization=o) for o in ("one", "two"))
    data = {"ca-cert.pem": keys.certificates_pem([one.certificate]), "ca-key.pem": keys.key_pem(one.key)}
    material_from_secret(data, where="Secret x")
    other = {"ca-cert.pem": keys.certificates_pem([two.certificate]), "ca-key.pem": keys.key_pem(two.key)}
    with pytest.raises(InvalidResource, match="is not the key of"):
        material_from_secret({**data, broken: other[broken]}, where="Secret x")
    with pytest.raises(InvalidResource, match=broken):
        material_from_secret({**data, broken: b"garbage"}, where="Secret x")


def test_secret_values_that_are_no_base64_are_named() -> None:
    with pytest.raises(InvalidResource, match="not base64"):
        secret_data({"metadata": {"name": "cacerts"}, "data": {"ca-cert.pem": "***"}})


async def test_the_bundle_is_written_where_it_differs() -> None:
    cluster = Cluster()
    assert await ensure(cluster, "shop", b"roots")
    assert not await ensure(cluster, "shop", b"roots")
    assert await ensure(cluster, "shop", b"new roots")
    assert str_at(cluster.stored["shop", CONFIG_MAP], "data", "root-cert.pem") == "new roots"
    cluster.refuse = Forbidden("because it is being terminated")
    assert not await ensure(cluster, "going", b"roots")


async def test_istiods_own_certificate_is_renewed_halfway_and_with_the_roots() -> None:
    clock = ManualClock()
    signer = authority(clock)
    serving = ServingCertificate(signer, clock, serving_names(revision="canary", custom_host="mesh.example"))
    first = serving.current()
    assert serving.current() is first
    names = leaf(first.chain_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = names.get_values_for_type(x509.DNSName)
    assert {"istiod-canary.istio-system.svc", "istiod.istio-system.svc", "mesh.example"} <= set(dns)
    await clock.advance(DAY / 2 + 1)
    second = serving.current()
    assert second is not first
    signer.adopt(self_signed_material(clock, organization="new"))
    assert serving.current().root_pem == signer.roots_pem


async def test_webhooks_show_a_certificate_of_new_roots_after_both_were_published() -> None:
    """The API server knows the new roots by then: no admission is refused in between."""
    clock = ManualClock()
    signer = authority(clock)
    serving = ServingCertificate(signer, clock, serving_names())
    tls = ServerTls(serving.current())
    old = signer.roots_pem
    assert tls.roots(signer.roots_pem) == old
    following = asyncio.create_task(tls.follow(serving.current, clock))
    try:
        await clock.advance(2)
        signer.adopt(self_signed_material(clock, organization="new"))
        await clock.advance(2)
        both = keys.load_certificates(tls.roots(signer.roots_pem), where="test")
        assert [keys.certificates_pem([c]) for c in both] == [signer.roots_pem, old]
        await clock.advance(10)
        assert tls.roots(signer.roots_pem) == signer.roots_pem
    finally:
        following.cancel()
