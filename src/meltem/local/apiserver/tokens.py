"""Service-account tokens: RS256 JWTs bound to a service account, and perhaps to a pod, secret or node.

In: the key pair of the cluster and the store. Out: signed tokens; for a presented token the user that it stands for,
when its signature, time and audience are right and everything that it is bound to still exists under the same uid.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from meltem.clock import Clock
from meltem.errors import Unauthorized, UserError
from meltem.local.apiserver.core import User
from meltem.local.apiserver.storage import Key, Store
from meltem.local.config import CLUSTER_DOMAIN
from meltem.objects import Json, JsonObject, name_of, namespace_of, object_at, str_at, uid_of

ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
_LEEWAY = 10


class BoundTo(msgspec.Struct, frozen=True):
    """An object without which the token is worth nothing."""

    kind: str
    name: str
    uid: str


class Verified(msgspec.Struct, frozen=True):
    user: User
    audiences: tuple[str, ...]


class TokenAuthority:
    """Signs and verifies. `load` reads `sa.key` and `sa.pub`."""

    def __init__(self, private: RSAKey, key_id: str, store: Store, clock: Clock) -> None:
        self._private = private
        self._key_id = key_id
        self._store = store
        self._clock = clock

    @classmethod
    def load(cls, pki: Path, store: Store, clock: Clock) -> TokenAuthority:
        pem = (pki / "sa.key").read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise UserError("must hold an RSA key", where=str(pki / "sa.key"))
        der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        key_id = hashlib.sha256(der).hexdigest()[:40]
        return cls(RSAKey.import_key(pem), key_id, store, clock)

    def sign(
        self, account: JsonObject, audiences: Sequence[str], seconds: int, bound: Sequence[BoundTo]
    ) -> tuple[str, float]:
        """A token for a ServiceAccount; (token, when it expires)."""
        now = int(self._clock.now())
        kubernetes: JsonObject = {
            "namespace": namespace_of(account),
            "serviceaccount": {"name": name_of(account), "uid": uid_of(account)},
        }
        for item in bound:
            kubernetes[item.kind.lower()] = {"name": item.name, "uid": item.uid} if item.uid else {"name": item.name}
        wanted: list[Json] = list(audiences) or [ISSUER]
        claims: dict[str, Json] = {
            "aud": wanted,
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": kubernetes,
            "sub": f"system:serviceaccount:{namespace_of(account)}:{name_of(account)}",
        }
        token = jwt.encode({"alg": "RS256", "kid": self._key_id}, cast("dict[str, object]", claims), self._private)
        return token, float(now + seconds)

    def verify(self, token: str, audiences: Sequence[str]) -> Verified:
        """Whom the token stands for, for any of `audiences` (empty: the API server's); raises Unauthorized."""
        if len(token) > 16384:
            raise Unauthorized("the token is too long")
        try:
            claims = cast(JsonObject, jwt.decode(token, self._private, algorithms=["RS256"]).claims)
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthorized(f"the token is not valid: {error}") from None
        self._check_times(claims)
        if claims.get("iss") != ISSUER:
            raise Unauthorized("the token was issued by somebody else")
        wanted = tuple(audiences) or (ISSUER,)
        given = claims.get("aud")
        matching = tuple(a for a in wanted if a == given or (isinstance(given, list) and a in given))
        if not matching:
            raise Unauthorized(f"token audiences {given} is invalid for the target audiences {list(wanted)}")
        return Verified(self._user(claims), matching)

    def _check_times(self, claims: JsonObject) -> None:
        now = self._clock.now()
        expires, starts = claims.get("exp"), claims.get("nbf", 0)
        if not isinstance(expires, int | float) or now > expires + _LEEWAY:
            raise Unauthorized("service account token has expired")
        if not isinstance(starts, int | float) or now + _LEEWAY < starts:
            raise Unauthorized("service account token is not valid yet")

    def _user(self, claims: JsonObject) -> User:
        own = object_at(claims, "kubernetes.io")
        namespace = str_at(own, "namespace")
        name, uid = str_at(own, "serviceaccount", "name"), str_at(own, "serviceaccount", "uid")
        self._must_exist("serviceaccounts", namespace, name, uid, "service account")
        extra: dict[str, tuple[str, ...]] = {}
        if jti := str_at(claims, "jti"):
            extra["authentication.kubernetes.io/credential-id"] = (f"JTI={jti}",)
        if pod := str_at(own, "pod", "name"):
            pod_uid = str_at(own, "pod", "uid")
            self._must_exist("pods", namespace, pod, pod_uid, "pod")
            extra["authentication.kubernetes.io/pod-name"] = (pod,)
            extra["authentication.kubernetes.io/pod-uid"] = (pod_uid,)
        if secret := str_at(own, "secret", "name"):
            self._must_exist("secrets", namespace, secret, str_at(own, "secret", "uid"), "secret")
        if node := str_at(own, "node", "name"):
            extra["authentication.kubernetes.io/node-name"] = (node,)
            if node_uid := str_at(own, "node", "uid"):
                extra["authentication.kubernetes.io/node-uid"] = (node_uid,)
        return service_account_user(namespace, name, uid, extra)

    def _must_exist(self, resource: str, namespace: str, name: str, uid: str, what: str) -> None:
        entry = self._store.get(Key(resource, namespace, name))
        if entry is None:
            raise Unauthorized(f"the token's {what} {namespace}/{name} has been deleted")
        if uid_of(entry.object) != uid:
            raise Unauthorized(f"the token's {what} {namespace}/{name} has been replaced by another of that name")

    def public_keys(self) -> JsonObject:
        """The JSON Web Key Set."""
        public = cast(JsonObject, self._private.as_dict(private=False))
        key: JsonObject = {k: public[k] for k in ("kty", "n", "e")}
        return {"keys": [{"use": "sig", "kid": self._key_id, "alg": "RS256", **key}]}


def service_account_user(namespace: str, name: str, uid: str, extra: dict[str, tuple[str, ...]]) -> User:
    return User(
        f"system:serviceaccount:{namespace}:{name}",
        ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"),
        uid,
        extra,
    )


def openid_configuration(jwks_uri: str) -> JsonObject:
    return {
        "issuer": ISSUER,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }
