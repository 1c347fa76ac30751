"""The certificate service on istiod's gRPC ports: `istio.v1.auth.IstioCertificateService/CreateCertificate`.

In: a CSR from a caller who proves who it is (service account token, or client certificate). Out: a certificate for
exactly that identity; names in the CSR are ignored. Bounds: CSR size, requests under way, requests a second for each
identity. One log line for what was refused, so that an operator finds why a proxy has no certificate.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from meltem.ca import keys, messages
from meltem.ca.authority import Authority, merge_roots
from meltem.ca.identity import Authenticator, CallerIdentity, Credentials, Unauthenticated
from meltem.clock import Clock
from meltem.errors import MeltemError

MAX_CSR_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """`per_identity_rate`: certificates a second for one identity in the long run, `per_identity_burst` at once."""

    under_way: int = 256
    per_identity_rate: float = 5.0
    per_identity_burst: float = 200.0


class RpcHandler(Protocol):
    """`grpc.GenericRpcHandler`, which has no complete types of its own."""

    def service(self, handler_call_details: object) -> object: ...


class CallContext(Protocol):
    """The part of `grpc.aio.ServicerContext` that is used."""

    def invocation_metadata(self) -> object: ...
    def auth_context(self) -> object: ...
    async def abort(self, code: grpc.StatusCode, details: str = ...) -> NoReturn: ...


class CertificateService:
    """Answers CreateCertificate. `trust_domain`: the mesh's, or what tells it (it may change while istiod runs); it
    stands in every identity that is issued."""

    def __init__(
        self,
        authority: Authority,
        authenticator: Authenticator,
        clock: Clock,
        *,
        trust_domain: str | Callable[[], str] = "cluster.local",
        limits: ServiceLimits | None = None,
        more_roots: Callable[[], bytes] = lambda: b"",
    ) -> None:
        """`more_roots`: in PEM, whom workloads are to trust beside this authority."""
        self._authority = authority
        self._authenticator = authenticator
        self._trust_domain = trust_domain
        self._more_roots = more_roots
        self._clock = clock
        self._limits = limits or ServiceLimits()
        self._rate = _IdentityRate(clock, self._limits)
        self._gate = asyncio.Semaphore(self._limits.under_way)
        self._log = structlog.get_logger("ca")

    def handler(self) -> RpcHandler:
        """To be added with `server.add_generic_rpc_handlers((service.handler(),))`; bytes in, bytes out."""
        method = cast("Callable[..., object]", grpc.unary_unary_rpc_method_handler)(self._create)
        generic = cast("Callable[..., RpcHandler]", grpc.method_handlers_generic_handler)
        return generic(messages.SERVICE, {messages.CREATE: method})

    async def create(self, request: bytes, credentials: Credentials) -> bytes:
        """The answer to one request; raises `Refused` with a gRPC status for what is refused."""
        if len(request) > 2 * MAX_CSR_BYTES:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"the request has {len(request)} bytes")
        try:
            wanted = messages.decode_request(request)
        except (DecodeError, UnicodeDecodeError):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the request is no IstioCertificateRequest") from None
        if len(wanted.csr_pem) > MAX_CSR_BYTES:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"the CSR is longer than {MAX_CSR_BYTES} bytes")
        if self._gate.locked():
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many certificate requests are under way; try again")
        async with self._gate:
            caller = await self._identify(credentials)
            if not self._rate.take(caller):
                raise Refused(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"service account {caller.namespace}/{caller.service_account} asks for certificates too often",
                )
            try:
                domain = self._trust_domain if isinstance(self._trust_domain, str) else self._trust_domain()
                identity = keys.spiffe_id(domain, caller.namespace, caller.service_account)
                issued = self._authority.sign_workload(wanted.csr_pem, identity, wanted.ttl)
            except MeltemError as error:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        *chain, roots = issued.chain
        more = self._more_roots()
        if more:
            roots = merge_roots(roots.encode(), more, now=self._clock.now()).decode()
        return messages.encode_response((*chain, roots))

    async def _identify(self, credentials: Credentials) -> CallerIdentity:
        try:
            return await self._authenticator.authenticate(credentials)
        except Unauthenticated as error:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        except MeltemError as error:  # the API server that reviews tokens is away: the caller should try again
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"the caller's token cannot be checked now: {error}") from None

    async def _create(self, request: bytes, context: CallContext) -> bytes:
        try:
            return await self.create(
                request, Credentials.of_call(context.invocation_metadata(), context.auth_context())
            )
        except Refused as refused:
            self._log.warning("certificate refused", code=refused.code.name, reason=refused.reason)
            await context.abort(refused.code, refused.reason)


class Refused(Exception):
    """A request that gets no certificate."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _IdentityRate:
    """A token bucket for each identity; those idle longest are forgotten first."""

    def __init__(self, clock: Clock, limits: ServiceLimits, size: int = 16_384) -> None:
        self._clock = clock
        self._limits = limits
        self._size = size
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, caller: CallerIdentity) -> bool:
        key = (caller.namespace, caller.service_account)
        now = self._clock.monotonic()
        left, at = self._buckets.pop(key, (self._limits.per_identity_burst, now))
        left = min(self._limits.per_identity_burst, left + (now - at) * self._limits.per_identity_rate)
        allowed = left >= 1.0
        self._buckets[key] = (left - 1.0 if allowed else left, now)
        while len(self._buckets) > self._size:
            self._buckets.popitem(last=False)
        return allowed
