"""CertificateSigningRequests for API clients, signed with the cluster's CA once a person approved them.

In: approved requests of signer `kubernetes.io/kube-apiserver-client`, `<home>/pki/ca.crt|ca.key`. Out:
`status.certificate`, or the condition Failed saying what is wrong with the request. Other signers are left alone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meltem.clock import rfc3339
from meltem.errors import UserError
from meltem.kube.resource_types import CERTIFICATE_SIGNING_REQUESTS
from meltem.kube.workqueue import WorkQueue
from meltem.local.controllers import pods as podlib
from meltem.local.controllers.runtime import Context, is_deleting
from meltem.objects import JsonObject, copy_object, int_at, name_of, object_at, str_at, strings_at

SIGNER = "kubernetes.io/kube-apiserver-client"
_LONGEST = 365 * 86400
_USAGES = {"client auth", "digital signature", "key encipherment"}


class CertificateController:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._requests = ctx.cache(CERTIFICATE_SIGNING_REQUESTS)
        self._queue: WorkQueue[str] = WorkQueue("certificate-requests")

    async def run(self) -> None:
        self._requests.on_change(lambda _old, new: self._queue.add(name_of(new)) if new else None)
        await self._queue.run(self._sync)

    async def _sync(self, name: str) -> None:
        request = self._requests.get(name)
        if request is None or is_deleting(request) or str_at(request, "spec", "signerName") != SIGNER:
            return
        approved = str_at(podlib.condition(request, "Approved"), "status") == "True"
        over = str_at(request, "status", "certificate") or podlib.condition(request, "Failed")
        if not approved or podlib.condition(request, "Denied") or over:
            return
        pki = self._ctx.config.pki
        if not (pki / "ca.key").exists():
            return
        status = copy_object(object_at(request, "status"))
        now = self._ctx.clock.now()
        try:
            pem = await asyncio.to_thread(sign, pki, request, now)
            status["certificate"] = base64.b64encode(pem).decode()
        except UserError as error:
            moment = rfc3339(now)
            failed: JsonObject = {
                "type": "Failed",
                "status": "True",
                "reason": "SignerValidationFailure",
                "message": str(error),
                "lastUpdateTime": moment,
                "lastTransitionTime": moment,
            }
            status["conditions"] = podlib.set_condition(podlib.list_conditions(request), failed)
        await self._ctx.update_status(CERTIFICATE_SIGNING_REQUESTS, request, status)


def sign(pki: Path, request: JsonObject, now: float) -> bytes:
    """The certificate in PEM; raises UserError for a request that must not be signed."""
    try:
        wanted = x509.load_pem_x509_csr(base64.b64decode(str_at(request, "spec", "request"), validate=True))
    except (binascii.Error, ValueError):
        raise UserError("spec.request is no PEM certificate request in base64") from None
    usages = set(strings_at(request, "spec", "usages"))
    if "client auth" not in usages or not usages <= _USAGES:
        raise UserError("spec.usages must have `client auth` and may have `digital signature` and `key encipherment`")
    if not wanted.is_signature_valid:
        raise UserError("the request is not signed by its own key")
    organizations = [str(a.value) for a in wanted.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if "system:masters" in organizations:
        raise UserError("certificates for group system:masters are not signed")
    key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise UserError("the cluster's CA key is neither RSA nor ECDSA")
    authority = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    start = datetime.fromtimestamp(now, UTC) - timedelta(minutes=5)
    seconds = min(int_at(request, "spec", "expirationSeconds", default=_LONGEST), _LONGEST)
    end = min(start + timedelta(seconds=seconds + 300), authority.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(wanted.subject)
        .issuer_name(authority.subject)
        .public_key(wanted.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
