"""Where the CA's Secret lives, and when its root is renewed.

In: a Kubernetes client (`SecretClient`) and the clock. Out: `SigningMaterial`. Order, as Istio has it: the Secret
`cacerts` when the operator has put one there, else `istio-ca-secret`, else a new self-signed CA that is written to
`istio-ca-secret`. Several istiods may start at once: whoever creates the Secret first wins, the others read it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Protocol

import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from meltem.ca import keys
from meltem.ca.authority import DAY, Authority, SigningMaterial, material_from_secret, self_signed_material
from meltem.clock import Clock
from meltem.errors import ApiError, Conflict, InvalidResource, MeltemError, NotFound
from meltem.objects import Json, JsonObject, object_at, str_at

PLUGGED_IN = "cacerts"
SELF_SIGNED = "istio-ca-secret"
SELF_SIGNED_TYPE = "istio.io/ca-root"


class SecretClient(Protocol):
    """The three requests that are made. Errors are `meltem.errors.ApiError`s: NotFound, AlreadyExists, Conflict."""

    async def get_secret(self, namespace: str, name: str) -> JsonObject: ...
    async def create_secret(self, secret: JsonObject) -> JsonObject: ...
    async def replace_secret(self, secret: JsonObject) -> JsonObject: ...


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`root_ttl`, `check_interval` in seconds; `grace`: the part of the root's life at whose start it is renewed."""

    namespace: str = "istio-system"
    organization: str = "cluster.local"
    root_ttl: float = 3650 * DAY
    check_interval: float = 3600.0
    grace: float = 0.2
    kind: keys.KeyKind = keys.KeyKind.ECDSA_P256


class AuthorityStore:
    """Loads the signing material, keeps it in the cluster, renews a self-signed root in time."""

    def __init__(self, client: SecretClient, clock: Clock, settings: StoreSettings | None = None) -> None:
        self._client = client
        self._clock = clock
        self._settings = settings or StoreSettings()
        self._log = structlog.get_logger("ca")

    async def load(self) -> SigningMaterial:
        """The material to sign with now; made and written when there is none. Raises InvalidResource or ApiError."""
        namespace = self._settings.namespace
        plugged_in = await self._secret(PLUGGED_IN)
        if plugged_in is not None:
            return material_from_secret(secret_data(plugged_in), where=f"Secret {namespace}/{PLUGGED_IN}")
        existing = await self._secret(SELF_SIGNED)
        if existing is None:
            existing = await self._create()
        return material_from_secret(secret_data(existing), where=f"Secret {namespace}/{SELF_SIGNED}")

    async def run(self, authority: Authority, touched: asyncio.Event) -> None:
        """Follows the Secrets for ever: adopts a changed `cacerts`, renews a self-signed root before it expires.
        `touched` is set by who has seen one of them change; without it they are looked at every `check_interval`."""
        while True:
            await self._interval(touched)
            try:
                await self.check(authority)
            except MeltemError as error:
                self._log.error("the CA keeps its present certificate", reason=str(error))

    async def _interval(self, touched: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(w) for w in (self._clock.sleep(self._settings.check_interval), touched.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        touched.clear()

    async def check(self, authority: Authority) -> bool:
        """One look at the Secrets; True where `authority` signs with something else from now on."""
        if await self._secret(PLUGGED_IN) is None:
            await self._renew_root_if_due()
        material = await self.load()
        if _fingerprint(material) == _fingerprint(authority.material):
            return False
        authority.adopt(material)
        self._log.info(
            "the CA signs with a new certificate", expires=material.certificate.not_valid_after_utc.isoformat()
        )
        return True

    async def _renew_root_if_due(self) -> None:
        secret = await self._secret(SELF_SIGNED)
        if secret is None:
            return
        where = f"Secret {self._settings.namespace}/{SELF_SIGNED}"
        old = material_from_secret(secret_data(secret), where=where)
        life = old.not_after - old.not_before
        if self._clock.now() < old.not_after - life * self._settings.grace:
            return
        new = self_signed_material(
            self._clock,
            organization=self._settings.organization,
            ttl=self._settings.root_ttl,
            key=old.key,
            older_roots_pem=old.roots_pem,
        )
        renewed: JsonObject = {**secret, "data": _encoded(new)}
        try:
            await self._client.replace_secret(renewed)
        except Conflict:
            self._log.info("another istiod has renewed the root certificate")

    async def _create(self) -> JsonObject:
        material = self_signed_material(
            self._clock,
            organization=self._settings.organization,
            ttl=self._settings.root_ttl,
            kind=self._settings.kind,
        )
        secret: JsonObject = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SELF_SIGNED, "namespace": self._settings.namespace},
            "type": SELF_SIGNED_TYPE,
            "data": _encoded(material),
        }
        try:
            return await self._client.create_secret(secret)
        except ApiError as error:
            if error.status_reason != "AlreadyExists":
                raise
            return await self._client.get_secret(self._settings.namespace, SELF_SIGNED)

    async def _secret(self, name: str) -> JsonObject | None:
        try:
            return await self._client.get_secret(self._settings.namespace, name)
        except NotFound:
            return None


def secret_data(secret: JsonObject) -> dict[str, bytes]:
    """The decoded `data` of a Secret; raises InvalidResource where a value is no base64."""
    found: dict[str, bytes] = {}
    for name, value in object_at(secret, "data").items():
        try:
            found[name] = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        except (binascii.Error, ValueError):
            where = f"Secret {str_at(secret, 'metadata', 'namespace')}/{str_at(secret, 'metadata', 'name')} data.{name}"
            raise InvalidResource("is not base64", where=where) from None
    return found


def _encoded(material: SigningMaterial) -> dict[str, Json]:
    parts = {
        "ca-cert.pem": keys.certificates_pem([material.certificate]),
        "ca-key.pem": keys.key_pem(material.key),
        "root-cert.pem": material.roots_pem,
        "cert-chain.pem": material.intermediates_pem,
    }
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


def _fingerprint(material: SigningMaterial) -> tuple[bytes, bytes, bytes]:
    own = material.certificate.public_bytes(Encoding.DER)
    return own, material.intermediates_pem, material.roots_pem
