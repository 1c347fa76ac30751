"""The certificate authority: signs workload certificates with a self-signed or a plugged-in CA.

In: `SigningMaterial` (from the Secret `cacerts`, from `istio-ca-secret`, or newly made) and requests. Out: certificate
chains. The material is replaced as a whole (`Authority.adopt`) when a root is rotated or `cacerts` changes; a signature
never sees half of a change. Where the Secrets are kept is `meltem.ca.store`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meltem.ca import keys
from meltem.clock import Clock
from meltem.errors import InvalidResource

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class CertificateLimits:
    """Lifetimes in seconds, Istio's defaults (DEFAULT_WORKLOAD_CERT_TTL, MAX_WORKLOAD_CERT_TTL)."""

    default_ttl: float = DAY
    max_ttl: float = 90 * DAY


@dataclass(frozen=True, slots=True)
class SigningMaterial:
    """What signs. `intermediates_pem`: from the signing certificate upwards, without roots (self-signed: empty)."""

    certificate: x509.Certificate
    key: keys.PrivateKey
    intermediates_pem: bytes
    roots_pem: bytes
    """Every root that peers should trust; several while a root is being rotated."""

    @property
    def not_after(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def not_before(self) -> float:
        return self.certificate.not_valid_before_utc.timestamp()


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """`chain`: PEM texts as the certificate service returns them: leaf, then intermediates, then the roots."""

    leaf_pem: bytes
    chain: tuple[str, ...]
    not_after: float


class Authority:
    """Signs. Cheap to call: an ECDSA signature takes well under a millisecond."""

    def __init__(self, material: SigningMaterial, clock: Clock, limits: CertificateLimits | None = None) -> None:
        self._material = material
        self._clock = clock
        self._limits = limits or CertificateLimits()

    @property
    def material(self) -> SigningMaterial:
        return self._material

    @property
    def roots_pem(self) -> bytes:
        return self._material.roots_pem

    @property
    def limits(self) -> CertificateLimits:
        return self._limits

    def adopt(self, material: SigningMaterial) -> None:
        """From now on sign with `material`."""
        self._material = material

    def sign_workload(self, csr_pem: bytes, identity: str, ttl: float = 0.0) -> IssuedCertificate:
        """A certificate for `identity` (a SPIFFE id) over the key in the CSR; `ttl` in seconds, 0 for the default.

        Raises InvalidResource where the CSR cannot be used, asks for too long a life, or the CA itself has expired.
        """
        return self._sign(keys.requested_key(csr_pem), self._ttl(ttl), uris=(identity,))

    def serving_pair(self, dns_names: tuple[str, ...], *, ttl: float = 0.0, identity: str = "") -> keys.KeyPair:
        """A new key and a certificate for our own servers (istiod's gRPC and webhook ports)."""
        key = keys.new_key(keys.KeyKind.ECDSA_P256)
        uris = (identity,) if identity else ()
        issued = self._sign(key.public_key(), self._ttl(ttl), uris=uris, dns_names=dns_names)
        return keys.KeyPair(
            key_pem=keys.key_pem(key),
            chain_pem=issued.leaf_pem + self._material.intermediates_pem,
            root_pem=self._material.roots_pem,
            not_before=self._clock.now(),
            not_after=issued.not_after,
        )

    def _ttl(self, asked: float) -> float:
        if asked <= 0:
            return self._limits.default_ttl
        if asked > self._limits.max_ttl:
            raise InvalidResource(
                f"asks for {asked:.0f} s of validity; the limit is {self._limits.max_ttl:.0f} s",
                where="validityDuration",
                remedy="Lower SECRET_TTL of the workload, or raise MAX_WORKLOAD_CERT_TTL of istiod.",
            )
        return asked

    def _sign(
        self, key: keys.PublicKey, ttl: float, *, uris: tuple[str, ...] = (), dns_names: tuple[str, ...] = ()
    ) -> IssuedCertificate:
        material = self._material
        now = self._clock.now()
        if material.not_after <= now:
            raise InvalidResource(
                "has expired: no certificate can be issued",
                where="CA certificate",
                remedy="Replace the Secret `cacerts`, or delete `istio-ca-secret` and restart istiod.",
            )
        leaf = keys.issue(
            key,
            issuer=material.certificate,
            issuer_key=material.key,
            now=now,
            ttl=ttl,
            uris=uris,
            dns_names=dns_names,
        )
        leaf_pem = leaf.public_bytes(Encoding.PEM)
        parts = [leaf_pem.decode(), material.intermediates_pem.decode(), material.roots_pem.decode()]
        return IssuedCertificate(leaf_pem, tuple(p for p in parts if p), leaf.not_valid_after_utc.timestamp())


def self_signed_material(
    clock: Clock,
    *,
    organization: str,
    ttl: float = 3650 * DAY,
    kind: keys.KeyKind = keys.KeyKind.ECDSA_P256,
    key: keys.PrivateKey | None = None,
    older_roots_pem: bytes = b"",
) -> SigningMaterial:
    """A root CA of our own. With `key` and `older_roots_pem`: the next root over that key, trusted beside the old."""
    key = key or keys.new_key(kind)
    root = keys.self_signed_root(key, organization=organization, now=clock.now(), ttl=ttl)
    return SigningMaterial(root, key, b"", merge_roots(keys.certificates_pem([root]), older_roots_pem, now=clock.now()))


def material_from_secret(data: Mapping[str, bytes], *, where: str) -> SigningMaterial:
    """Reads `cacerts` (ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem), `istio-ca-secret`, or a
    `kubernetes.io/tls` Secret (tls.crt, tls.key, ca.crt). Checks that key and certificate belong together, that the
    certificate may sign, and that the chain ends at a root."""
    tls = "tls.crt" in data
    names = ("tls.crt", "tls.key", "ca.crt") if tls else ("ca-cert.pem", "ca-key.pem", "root-cert.pem")
    for name in names[:2]:
        if not data.get(name):
            raise InvalidResource(f"has no key {name}", where=where)
    bundle = keys.load_certificates(data[names[0]], where=f"{where} {names[0]}")
    certificate = bundle[0]
    key = keys.load_key(data[names[1]], where=f"{where} {names[1]}")
    if _public_bytes(certificate) != key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise InvalidResource(f"{names[1]} is not the key of {names[0]}", where=where)
    _require_ca(certificate, where=f"{where} {names[0]}")
    self_signed = certificate.issuer == certificate.subject
    roots = data.get(names[2]) or (keys.certificates_pem([certificate]) if self_signed else b"")
    if not roots:
        raise InvalidResource(f"has no key {names[2]}, and its CA certificate is not self-signed", where=where)
    root_certificates = keys.load_certificates(roots, where=f"{where} {names[2]}")
    chain_pem = (keys.certificates_pem(bundle) if tls else data.get("cert-chain.pem")) or b""
    chain = keys.load_certificates(chain_pem, where=f"{where} cert-chain.pem") if chain_pem.strip() else []
    intermediates = _path(certificate, chain, root_certificates, where=where)
    return SigningMaterial(
        certificate, key, keys.certificates_pem(intermediates), keys.certificates_pem(root_certificates)
    )


def merge_roots(first: bytes, second: bytes, *, now: float) -> bytes:
    """Both bundles, each certificate once, those that have expired left out."""
    found: dict[bytes, x509.Certificate] = {}
    for pem in (first, second):
        if pem.strip():
            for certificate in keys.load_certificates(pem, where="root certificates"):
                if certificate.not_valid_after_utc.timestamp() > now:
                    found.setdefault(certificate.public_bytes(Encoding.DER), certificate)
    return keys.certificates_pem(list(found.values()))


def usable_roots(pems: Iterable[str]) -> bytes:
    """One bundle of all of them that are certificates."""
    found: list[x509.Certificate] = []
    for pem in pems:
        try:
            found += keys.load_certificates(pem.encode(), where="root certificates")
        except InvalidResource:
            continue
    return keys.certificates_pem(found) if found else b""


def _path(
    certificate: x509.Certificate, chain: list[x509.Certificate], roots: list[x509.Certificate], *, where: str
) -> list[x509.Certificate]:
    """The signing certificate and what stands between it and a root."""
    root_bytes = {r.public_bytes(Encoding.DER) for r in roots}
    path: list[x509.Certificate] = []
    current = certificate
    while current.public_bytes(Encoding.DER) not in root_bytes:
        path.append(current)
        if any(_issued(root, current) for root in roots):
            return path
        above = next((c for c in chain if c not in path and _issued(c, current)), None)
        if above is None:
            raise InvalidResource(
                "does not lead from ca-cert.pem to root-cert.pem",
                where=f"{where} cert-chain.pem",
                remedy="Put every intermediate certificate between the two into cert-chain.pem.",
            )
        current = above
    return path


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _require_ca(certificate: x509.Certificate, *, where: str) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        raise InvalidResource("is no CA certificate (no basic constraints)", where=where) from None
    if not constraints.ca:
        raise InvalidResource("is no CA certificate (CA:FALSE)", where=where)
