"""Certificates and trusted CAs that resources name: from Secrets and ConfigMaps, in every form that Istio takes.

In: names as Envoy asks for them (`kubernetes://name`, `kubernetes://name-cacert`, `configmap://ns/name`), Secrets
and ConfigMaps. Out: a `Credential`, or None when it is missing or unusable.

Keys of a Secret: `kubernetes.io/tls` (`tls.crt`, `tls.key`, `ca.crt`, `ca.crl`, `tls.ocsp-staple`), generic (`cert`,
`key`, `cacert`). A name that ends in `-cacert` is the CA alone: of a Secret of that name, else of the one without it.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meltem.collections import Reader
from meltem.graph.inputs import Inputs
from meltem.resources import core, networking

SECRET = "kubernetes://"
CONFIG_MAP = "configmap://"
CA_SUFFIX = "-cacert"
_RSA_BITS = 2048
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})


class Credential(msgspec.Struct, frozen=True):
    """A key with its chain, or a trust bundle."""

    chain: bytes = b""
    key: bytes = b""
    ca: bytes = b""
    crl: bytes = b""
    staple: bytes = b""


def secret_name(credential: str) -> str:
    """As Envoy asks for it: `kubernetes://name` unless the credential names its source itself."""
    return credential if "://" in credential else SECRET + credential


def is_private(name: str) -> bool:
    """Whether what Envoy asks for so may have a private key in it."""
    return name.startswith(SECRET) and not name.endswith(CA_SUFFIX)


def server_names(settings: networking.ServerTLS) -> tuple[str, ...]:
    """What a server's TLS settings name: certificates, then what clients are verified by."""
    credentials = settings.credential_names or ((settings.credential_name,) if settings.credential_name else ())
    names = [secret_name(c) for c in credentials]
    if settings.mode in ("MUTUAL", "OPTIONAL_MUTUAL"):
        ca = settings.ca_cert_credential_name or (credentials[0] + CA_SUFFIX if credentials else "")
        names += [secret_name(ca)] if ca else []
    return tuple(n for n in names if n.startswith((SECRET, CONFIG_MAP)))


def client_names(settings: networking.ClientTLS) -> tuple[str, ...]:
    """What a destination rule's TLS settings name: the client's certificate (MUTUAL), the CA of the server."""
    credential = settings.credential_name
    if not credential or settings.mode not in ("SIMPLE", "MUTUAL"):
        return ()
    name = secret_name(credential)
    if name.startswith(CONFIG_MAP):
        return (name,)
    ca = () if settings.insecure_skip_verify else (name + CA_SUFFIX,)
    return ((name,) if settings.mode == "MUTUAL" else ()) + ca


def resolve(reader: Reader, inputs: Inputs, cluster: str, namespace: str, name: str) -> Credential | None:
    """`namespace`: of the proxy that asks; it reads no Secrets of others."""
    if name.startswith(CONFIG_MAP):
        where, _, short = name.removeprefix(CONFIG_MAP).rpartition("/")
        found = reader.get(inputs.config_maps, (cluster, where or namespace, short))
        text = found.data.get("ca.crt") or found.data.get("cacert") if found is not None else None
        return Credential(ca=text.encode()) if text and certificates(text.encode()) else None
    short = name.removeprefix(SECRET)
    if "/" in short:
        return None
    secret = reader.get(inputs.secrets, (cluster, namespace, short))
    if not short.endswith(CA_SUFFIX):
        made = _pair(secret) if secret is not None else None
        return made or (_ca(secret) if secret is not None else None)
    bare = reader.get(inputs.secrets, (cluster, namespace, short.removesuffix(CA_SUFFIX)))
    for candidate in (secret, bare):
        ca = _ca(candidate) if candidate is not None else None
        if ca is not None:
            return ca
    return None


def _pair(secret: core.Secret) -> Credential | None:
    for chain_key, key_key in (("tls.crt", "tls.key"), ("cert", "key")):
        chain, key = secret.value(chain_key), secret.value(key_key)
        if chain and key and usable(chain, key):
            return Credential(chain=chain, key=key, staple=secret.value("tls.ocsp-staple") or b"")
    return None


def _ca(secret: core.Secret) -> Credential | None:
    ca = secret.value("ca.crt") or secret.value("cacert")
    if not ca or not certificates(ca):
        return None
    return Credential(ca=ca, crl=secret.value("ca.crl") or secret.value("crl") or b"")


@lru_cache(maxsize=4096)
def certificates(bundle: bytes) -> bool:
    """Whether there are certificates in it, all of them readable."""
    try:
        return bool(x509.load_pem_x509_certificates(bundle))
    except ValueError:
        return False


@lru_cache(maxsize=4096)
def usable(chain: bytes, key: bytes) -> bool:
    """Whether they are a certificate and its key, of a kind that Envoy takes (RSA of 2048 bits or more, P-256, P-384,
    P-521, Ed25519)."""
    try:
        public = x509.load_pem_x509_certificates(chain)[0].public_key()
        own = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < _RSA_BITS:
        return False
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name not in _CURVES:
        return False
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.DER, form) == own.public_bytes(serialization.Encoding.DER, form)
