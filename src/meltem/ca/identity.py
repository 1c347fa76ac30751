"""Who is calling: proof of identity in, `CallerIdentity` out.

`TokenAuthenticator` asks Kubernetes (TokenReview, audience `istio-ca`) and remembers the answer for a short while;
`PeerCertificateAuthenticator` reads the SPIFFE id of a client certificate that TLS has already verified;
`FirstOf` tries several. The xDS server uses the same classes for its streams.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from meltem.ca import keys
from meltem.clock import Clock
from meltem.errors import MeltemError
from meltem.objects import JsonObject, bool_at, str_at, strings_at

MAX_TOKEN_BYTES = 16 * 1024
TOKEN_AUDIENCE = "istio-ca"


class Unauthenticated(MeltemError):
    """The caller did not prove who it is."""


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """A workload: its service account and, where the token says so, its pod."""

    namespace: str
    service_account: str
    pod: str = ""
    pod_uid: str = ""
    trust_domain: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call carries. `peer_uris`: URI names of a client certificate that TLS verified."""

    token: str = ""
    peer_uris: tuple[str, ...] = ()

    @classmethod
    def of_call(cls, invocation_metadata: object, auth_context: object) -> Credentials:
        """From a gRPC call's `invocation_metadata()` and `auth_context()`."""
        token = ""
        for key, value in cast("Sequence[tuple[str, str | bytes]]", invocation_metadata or ()):
            if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
                token = value[7:].strip()
        peer = cast("Mapping[str, Sequence[bytes]]", auth_context or {})
        names = peer.get("peer_spiffe_id") or peer.get("x509_subject_alternative_name") or ()
        uris = tuple(n.decode("utf-8", "replace") for n in names)
        return cls(token, tuple(u for u in uris if u.startswith("spiffe://")))


class Authenticator(Protocol):
    async def authenticate(self, credentials: Credentials) -> CallerIdentity:
        """Raises Unauthenticated for a caller who is not known, another MeltemError where that cannot be found out."""
        ...


class TokenReviewer(Protocol):
    """The Kubernetes side: POST a TokenReview."""

    async def review_token(self, token: str, audiences: Sequence[str]) -> JsonObject:
        """The review's `status`."""
        ...


class TokenAuthenticator:
    """Service account tokens, by TokenReview. An answer is kept `keep` seconds, a refusal `keep_refused` seconds."""

    def __init__(
        self,
        reviewer: TokenReviewer,
        clock: Clock,
        *,
        audiences: Sequence[str] = (TOKEN_AUDIENCE,),
        keep: float = 60.0,
        keep_refused: float = 5.0,
        size: int = 8192,
    ) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._audiences = tuple(audiences)
        self._keep = keep
        self._keep_refused = keep_refused
        self._size = size
        self._known: OrderedDict[bytes, tuple[float, CallerIdentity | str]] = OrderedDict()

    async def authenticate(self, credentials: Credentials) -> CallerIdentity:
        token = credentials.token
        if not token:
            raise Unauthenticated("the call carries no bearer token")
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"the bearer token is longer than {MAX_TOKEN_BYTES} bytes")
        key = hashlib.sha256(token.encode()).digest()
        now = self._clock.monotonic()
        known = self._known.get(key)
        if known is not None and known[0] > now:
            answer = known[1]
        else:
            answer = identity_of_review(await self._reviewer.review_token(token, self._audiences), self._audiences)
            keep = self._keep_refused if isinstance(answer, str) else self._keep
            self._known[key] = (now + keep, answer)
            self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        if isinstance(answer, str):
            raise Unauthenticated(answer)
        return answer


def identity_of_review(status: JsonObject, audiences: Sequence[str]) -> CallerIdentity | str:
    """The identity that a TokenReview status proves, or why it proves none."""
    if not bool_at(status, "authenticated"):
        return f"the token was refused by the API server: {str_at(status, 'error') or 'not authenticated'}"
    granted = strings_at(status, "audiences")
    if audiences and not set(granted) & set(audiences):
        return f"the token is not for {' or '.join(audiences)} (its audiences: {', '.join(granted) or 'none'})"
    user = str_at(status, "user", "username")
    parts = user.split(":")
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:
        return f"{user[:120]!r} is no service account"
    pod = strings_at(status, "user", "extra", "authentication.kubernetes.io/pod-name")
    uid = strings_at(status, "user", "extra", "authentication.kubernetes.io/pod-uid")
    return CallerIdentity(parts[2], parts[3], pod[0] if pod else "", uid[0] if uid else "")


class PeerCertificateAuthenticator:
    """Client certificates with exactly one SPIFFE id, of our own trust domain or one of its aliases."""

    def __init__(self, trust_domains: Sequence[str]) -> None:
        self._trust_domains = frozenset(trust_domains)

    async def authenticate(self, credentials: Credentials) -> CallerIdentity:
        if len(credentials.peer_uris) != 1:
            raise Unauthenticated("the call carries no client certificate with one SPIFFE id")
        try:
            trust_domain, namespace, account = keys.parse_spiffe_id(credentials.peer_uris[0])
        except ValueError as error:
            raise Unauthenticated(str(error)) from None
        if trust_domain not in self._trust_domains:
            raise Unauthenticated(f"the trust domain {trust_domain!r} is not ours")
        return CallerIdentity(namespace, account, trust_domain=trust_domain)


class FirstOf:
    """The first authenticator that knows the caller; when none does, what each of them said."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def authenticate(self, credentials: Credentials) -> CallerIdentity:
        reasons: list[str] = []
        for authenticator in self._authenticators:
            try:
                return await authenticator.authenticate(credentials)
            except Unauthenticated as error:
                reasons.append(error.what)
        raise Unauthenticated("; ".join(reasons) or "nothing here can authenticate a caller")
