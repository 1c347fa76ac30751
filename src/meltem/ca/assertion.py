"""A workload's own word for who it is: a short-lived JWT signed with the key of its mesh certificate.

A machine outside Kubernetes has nobody who renews its service account token. It gets its first certificate with the
token that `istioctl x workload entry configure` wrote, and from then on proves its identity with the certificate: it
signs a JWT whose header carries the certificate chain (`x5c`, RFC 7515), which istiod accepts where it accepts tokens.
That way gRPC need not ask for client certificates (grpcio cannot ask for optional ones).

In: key and chain (`make`), a call's credentials (`AssertionAuthenticator`). Out: the JWT; the caller's identity, or
`Unauthenticated` saying why not. Bounded: token size, chain length, algorithms.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from meltem.ca import keys
from meltem.ca.identity import (
    MAX_TOKEN_BYTES,
    TOKEN_AUDIENCE,
    Authenticator,
    CallerIdentity,
    Credentials,
    Unauthenticated,
)
from meltem.clock import Clock
from meltem.errors import InvalidResource, MeltemError
from meltem.objects import Json, JsonObject, list_at, str_at

MAX_CHAIN = 6
CLOCK_SKEW = 120.0
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_ALGORITHMS = ("ES256", "ES384", "ES512", "RS256")


class WideRegistry(jws.JWSRegistry):
    """Headers as large as a certificate chain."""

    max_header_length = MAX_TOKEN_BYTES


def make(key_pem: bytes, chain_pem: bytes, *, now: float, audience: str = TOKEN_AUDIENCE) -> str:
    """The JWT, good from now until the certificate ends. Raises InvalidResource for unusable key or chain."""
    key = keys.load_key(key_pem, where="workload key")
    chain = keys.load_certificates(chain_pem, where="workload certificate")
    identity = _identity(chain[0])
    if identity is None:
        raise InvalidResource("names no workload identity", where="workload certificate")
    header = {
        "alg": _algorithm(key.public_key()),
        "typ": "JWT",
        "x5c": [base64.b64encode(c.public_bytes(serialization.Encoding.DER)).decode() for c in chain],
    }
    claims = {
        "iss": identity,
        "sub": identity,
        "aud": [audience],
        "iat": int(now),
        "exp": int(chain[0].not_valid_after_utc.timestamp()),
    }
    signer = _jwk(keys.key_pem(key), isinstance(key, ec.EllipticCurvePrivateKey))
    return jws.serialize_compact(header, json.dumps(claims), signer, registry=WideRegistry(algorithms=_ALGORITHMS))


class AssertionAuthenticator:
    """Assertions go by the roots of the mesh, all other credentials to `others`."""

    def __init__(
        self,
        others: Authenticator,
        clock: Clock,
        *,
        roots: Callable[[], bytes],
        trust_domains: Callable[[], Iterable[str]],
        audiences: Sequence[str] = (TOKEN_AUDIENCE,),
    ) -> None:
        """`roots`: the trusted root certificates in PEM; `trust_domains`: ours and its aliases. Both may change."""
        self._others = others
        self._clock = clock
        self._roots = roots
        self._trust_domains = trust_domains
        self._audiences = frozenset(audiences)

    async def authenticate(self, credentials: Credentials) -> CallerIdentity:
        token = credentials.token
        if len(token) > MAX_TOKEN_BYTES or "x5c" not in _header(token):
            return await self._others.authenticate(credentials)
        try:
            return self._verified(token)
        except _Refused as refused:
            raise Unauthenticated(f"the caller's certificate in its token is not accepted: {refused}") from None

    def _verified(self, token: str) -> CallerIdentity:
        chain = _chain(_header(token))
        now = self._clock.now()
        self._verify_chain(chain, now)
        public = chain[0].public_key()
        try:
            if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
                raise _Refused("its key is neither ECDSA nor RSA")
            pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            verifier = _jwk(pem, isinstance(public, ec.EllipticCurvePublicKey))
            registry = WideRegistry(algorithms=[_algorithm(public)])
            claims = cast(Json, json.loads(jws.deserialize_compact(token, verifier, registry=registry).payload))
        except (JoseError, ValueError, MeltemError) as error:
            raise _Refused(f"the token is not signed with its key ({error})") from None
        return self._identity_of(chain[0], claims, now)

    def _identity_of(self, leaf: x509.Certificate, claims: Json, now: float) -> CallerIdentity:
        times: list[float] = []
        for name in ("iat", "exp"):
            value = claims.get(name) if isinstance(claims, dict) else None
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise _Refused(f"the token has no {name}")
            times.append(float(value))
        if not times[0] - CLOCK_SKEW <= now < times[1] + CLOCK_SKEW:
            raise _Refused("the token is not valid now: has it expired, or does the machine's clock differ?")
        audiences = {a for a in list_at(claims, "aud") if isinstance(a, str)}
        if not audiences & self._audiences:
            raise _Refused(f"the token is not for {' or '.join(sorted(self._audiences))}")
        identity = _identity(leaf)
        if identity is None or str_at(claims, "sub") != identity:
            raise _Refused("the token's subject is not the identity of its certificate")
        domain, namespace, account = keys.parse_spiffe_id(identity)
        if domain not in set(self._trust_domains()):
            raise _Refused(f"the trust domain {domain!r} is not ours")
        return CallerIdentity(namespace, account, trust_domain=domain)

    def _verify_chain(self, chain: list[x509.Certificate], now: float) -> None:
        """Leaf first; each signed by the next, the last by a root that we trust."""
        moment = datetime.fromtimestamp(now, UTC)
        for certificate in chain:
            if not certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc:
                raise _Refused("the certificate has expired, or is not valid yet")
        for issuer, issued in zip(chain[1:], chain, strict=False):
            if not _may_sign(issuer) or not _signed(issued, issuer):
                raise _Refused("its chain does not hold together")
        roots = keys.load_certificates(self._roots(), where="root certificates")
        for root in roots:
            if root == chain[-1] or (root.not_valid_after_utc > moment and _signed(chain[-1], root)):
                return
        raise _Refused("no root certificate of this mesh has signed it")


class _Refused(Exception):
    """Why an assertion is not believed."""


def _header(token: str) -> JsonObject:
    encoded = token.partition(".")[0]
    try:
        value = cast(Json, json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))))
    except (ValueError, RecursionError, binascii.Error):
        return {}
    return value if isinstance(value, dict) else {}


def _chain(header: JsonObject) -> list[x509.Certificate]:
    encoded = list_at(header, "x5c")
    if not 0 < len(encoded) <= MAX_CHAIN:
        raise _Refused(f"it must come in a chain of 1 to {MAX_CHAIN} certificates")
    try:
        return [x509.load_der_x509_certificate(base64.b64decode(str(text), validate=True)) for text in encoded]
    except (ValueError, UnsupportedAlgorithm):
        raise _Refused("it cannot be read") from None


def _identity(leaf: x509.Certificate) -> str | None:
    """The one SPIFFE id of a workload that the certificate names."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        return None
    try:
        keys.parse_spiffe_id(uris[0])
    except ValueError:
        return None
    return uris[0]


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _algorithm(key: keys.PublicKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    found = _CURVES.get(key.curve.name)
    if found is None:
        raise InvalidResource(f"uses the curve {key.curve.name}, not P-256, P-384 or P-521", where="workload key")
    return found


def _jwk(pem: bytes, elliptic: bool) -> ECKey | RSAKey:
    return ECKey.import_key(pem) if elliptic else RSAKey.import_key(pem)
