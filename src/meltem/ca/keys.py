"""Private keys, signing requests and certificates, as PEM bytes in and out.

In: key kinds, SPIFFE identities, DNS names, PEM. Out: PEM, or `InvalidResource` saying which file or field is no good.
Nothing here decides who may have a certificate; `meltem.ca.authority` and `meltem.ca.service` do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meltem.errors import InvalidResource

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
CLOCK_SKEW = timedelta(minutes=2)
"""Certificates are valid from a little before now, for peers whose clocks run behind."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_KUBE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_TRUST_DOMAIN = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]{0,253}[A-Za-z0-9])?", re.ASCII)


class KeyKind(StrEnum):
    """What key to make."""

    ECDSA_P256 = "P256"
    ECDSA_P384 = "P384"
    RSA_2048 = "RSA2048"
    RSA_4096 = "RSA4096"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its private key. `chain_pem`: leaf first, then every intermediate; no root."""

    key_pem: bytes
    chain_pem: bytes
    root_pem: bytes
    not_before: float
    not_after: float


def new_key(kind: KeyKind = KeyKind.ECDSA_P256) -> PrivateKey:
    match kind:
        case KeyKind.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.ECDSA_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyKind.RSA_2048:
            return rsa.generate_private_key(65537, 2048)
        case KeyKind.RSA_4096:
            return rsa.generate_private_key(65537, 4096)


def key_pem(key: PrivateKey, *, pkcs8: bool = True) -> bytes:
    """The unencrypted key: PKCS #8, or the older form of its kind (`EC PRIVATE KEY`, `RSA PRIVATE KEY`)."""
    form = serialization.PrivateFormat.PKCS8 if pkcs8 else serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def load_key(pem: bytes, *, where: str) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidResource(f"is no usable private key in PEM: {error}", where=where) from None
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    raise InvalidResource("is neither an ECDSA nor an RSA private key", where=where)


def load_certificates(pem: bytes, *, where: str) -> list[x509.Certificate]:
    """Every certificate of a PEM bundle; at least one."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidResource(f"has no usable certificate in PEM: {error}", where=where) from None


def certificates_pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; refuses names that Kubernetes would refuse."""
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise InvalidResource(f"{trust_domain[:80]!r} is no trust domain", where="trustDomain")
    if not _DNS_LABEL.fullmatch(namespace):
        raise InvalidResource(f"{namespace[:80]!r} is no namespace name", where="namespace")
    if not _KUBE_NAME.fullmatch(service_account):
        raise InvalidResource(f"{service_account[:80]!r} is no service account name", where="serviceAccountName")
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def parse_spiffe_id(uri: str) -> tuple[str, str, str]:
    """(trust domain, namespace, service account); ValueError for any other shape."""
    match = re.fullmatch(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)", uri)
    if match is None:
        raise ValueError(f"{uri[:120]!r} is no workload identity")
    return match[1], match[2], match[3]


def signing_request(key: PrivateKey, *, uris: tuple[str, ...] = (), dns_names: tuple[str, ...] = ()) -> bytes:
    """A CSR in PEM with the given subject alternative names and an empty subject."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = [*(x509.UniformResourceIdentifier(u) for u in uris), *(x509.DNSName(d) for d in dns_names)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(csr_pem: bytes) -> PublicKey:
    """The key that a CSR asks to certify, its self-signature checked and its strength sufficient.

    Names in the request are not read: what a certificate says comes from who asked, never from what was asked.
    """
    where = "certificate signing request"
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        key = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidResource(f"cannot be read: {error}", where=where) from None
    if not signed:
        raise InvalidResource("is not signed by the key that it names", where=where)
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise InvalidResource(
                f"has an RSA key of {key.key_size} bits, not {MIN_RSA_BITS}-{MAX_RSA_BITS}", where=where
            )
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
            raise InvalidResource(f"uses the curve {key.curve.name}, not P-256, P-384 or P-521", where=where)
        return key
    raise InvalidResource("has a key that is neither ECDSA nor RSA", where=where)


def issue(
    public_key: PublicKey,
    *,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    now: float,
    ttl: float,
    uris: tuple[str, ...] = (),
    dns_names: tuple[str, ...] = (),
) -> x509.Certificate:
    """A leaf certificate for servers and clients, valid for `ttl` seconds and never longer than its issuer."""
    start = datetime.fromtimestamp(now, UTC)
    end = min(start + timedelta(seconds=ttl), issuer.not_valid_after_utc)
    names = [*(x509.UniformResourceIdentifier(u) for u in uris), *(x509.DNSName(d) for d in dns_names)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(start - CLOCK_SKEW, issuer.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(_LEAF_EXTENDED_USAGE, critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())


def self_signed_root(
    key: PrivateKey, *, organization: str, now: float, ttl: float, path_length: int | None = None
) -> x509.Certificate:
    """A root certificate over `key`, valid for `ttl` seconds."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
    start = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_SKEW)
        .not_valid_after(start + timedelta(seconds=ttl))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _usage(*, leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=False,
        key_encipherment=leaf,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


_LEAF_USAGE = _usage(leaf=True)
_CA_USAGE = _usage(leaf=False)
_LEAF_EXTENDED_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
        raise InvalidResource("has neither an ECDSA nor an RSA key", where="CA certificate") from None
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)
