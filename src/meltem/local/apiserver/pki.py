"""Keys and certificates of one local cluster: made once, found again afterwards.

In: `ClusterConfig`. Out: files under `config.pki` (0600 for keys): `ca`, `apiserver`, `sa`, and client pairs `admin`,
`node`, `controllers`; and kubeconfigs that use them. A certificate that lacks a needed name or ends within a month is
made anew; the CA and the service-account key never are, as others hold what they signed.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meltem import yamlio
from meltem.errors import UserError
from meltem.local.config import CLUSTER_DOMAIN, NODE_NAME, ClusterConfig
from meltem.objects import Json

_YEARS = datetime.timedelta(days=3650)
_RENEW = datetime.timedelta(days=30)

CLIENTS = {
    "admin": ("kubernetes-admin", ("system:masters",)),
    "node": (f"system:node:{NODE_NAME}", ("system:nodes", "system:masters")),
    "controllers": ("system:kube-controller-manager", ("system:masters",)),
}
"""Client certificates: file stem -> user name and groups. Node and controllers run as root beside the database."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def ensure_pki(config: ClusterConfig) -> None:
    """Makes whatever is missing or about to expire; cheap when all is there."""
    config.pki.mkdir(parents=True, exist_ok=True)
    config.pki.chmod(0o700)
    if not (config.pki / "ca.crt").exists():
        _make_ca(config)
    if not (config.pki / "sa.pub").exists():
        _make_service_account_key(config)
    _ensure(config, "apiserver", "kube-apiserver", (), serving_names(config))
    for stem, (user, groups) in CLIENTS.items():
        _ensure(config, stem, user, groups, ())


def serving_names(config: ClusterConfig) -> tuple[str, ...]:
    """Names and addresses under which the API server is reached."""
    return (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "localhost",
        "127.0.0.1",
        *config.host_ips,
        *config.node_ips,
        config.kubernetes_ip,
    )


def _write(path: Path, data: bytes, *, secret: bool) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)


def _key_bytes(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _make_ca(config: ClusterConfig) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"meltem-{config.name}", ())
    builder = _builder(name, name, key.public_key())
    usage = x509.KeyUsage(True, False, True, False, False, True, True, False, False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(config.pki / "ca.key", _key_bytes(key), secret=True)
    _write(config.pki / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), secret=False)


def _make_service_account_key(config: ClusterConfig) -> None:
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write(config.pki / "sa.key", _key_bytes(key), secret=True)
    _write(config.pki / "sa.pub", public, secret=False)


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _YEARS)
    )


def _ensure(config: ClusterConfig, stem: str, user: str, groups: Sequence[str], names: Sequence[str]) -> None:
    if _usable(config.pki / f"{stem}.crt", names) and (config.pki / f"{stem}.key").exists():
        return
    ca = x509.load_pem_x509_certificate((config.pki / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((config.pki / "ca.key").read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise UserError("must hold an elliptic-curve key", where=str(config.pki / "ca.key"))
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(_name(user, groups), ca.subject, key.public_key())
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(
        x509.KeyUsage(True, False, True, False, False, False, False, False, False), critical=True
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    _write(config.pki / f"{stem}.key", _key_bytes(key), secret=True)
    _write(config.pki / f"{stem}.crt", certificate.public_bytes(serialization.Encoding.PEM), secret=False)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usable(path: Path, names: Sequence[str]) -> bool:
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc - _RENEW < datetime.datetime.now(datetime.UTC):
        return False
    if not names:
        return True
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return all(_general_name(n) in found for n in names)


def write_kubeconfig(config: ClusterConfig, path: Path, user: str = "admin", *, server: str = "") -> None:
    """A kubeconfig (0600) with the client certificate `<user>.crt`; context, cluster: `meltem-<name>`."""
    context = f"meltem-{config.name}"

    def embedded(name: str) -> str:
        return base64.b64encode((config.pki / name).read_bytes()).decode()

    cluster: Json = {"server": server or config.api_url, "certificate-authority-data": embedded("ca.crt")}
    credentials: Json = {
        "client-certificate-data": embedded(f"{user}.crt"),
        "client-key-data": embedded(f"{user}.key"),
    }
    who = f"{context}-{user}"
    document: Json = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": cluster}],
        "users": [{"name": who, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": who}}],
        "current-context": context,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, yamlio.dump(document).encode(), secret=True)
