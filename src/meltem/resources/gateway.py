"""Gateway: ports, protocols and certificates at the edge of the mesh.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import BoolValue, Message, Resource, Schema, UInt32
from meltem.resources.common import IstioStatus, TLSVersion


class ServerPort(Message, frozen=True, kw_only=True):
    """Gateway, servers.port: one part of it."""

    name: str
    number: UInt32
    protocol: str
    target_port: UInt32 = 0


class TLSCertificate(Message, frozen=True, kw_only=True):
    """Gateway, servers.tls.tlsCertificates: one part of it."""

    ca_certificates: str = ""
    private_key: str = ""
    server_certificate: str = ""


class ServerTLS(Message, frozen=True, kw_only=True):
    """Gateway, servers.tls: one part of it."""

    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "only one of credentialNames or tlsCertificates can be set",
            "(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
        ),
        (
            "only one of credentialName or credentialNames can be set",
            "(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
        ),
        (
            "only one of credentialName or tlsCertificates can be set",
            "(has(self.credentialNames) ? 1 : 0) + (has(self.tlsCertificates) ? 1 : 0) <= 1",
        ),
    )

    ca_cert_credential_name: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    cipher_suites: tuple[str, ...] = ()
    credential_name: str = ""
    credential_names: Annotated[tuple[str, ...], Schema(maxItems=2, minItems=1)] = ()
    ecdh_curves: tuple[str, ...] = ()
    https_redirect: bool = False
    insecure_skip_verify: BoolValue = None
    max_protocol_version: TLSVersion = "TLS_AUTO"
    min_protocol_version: TLSVersion = "TLS_AUTO"
    mode: Literal["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"] = (
        "PASSTHROUGH"
    )
    private_key: str = ""
    server_certificate: str = ""
    subject_alt_names: tuple[str, ...] = ()
    tls_certificates: Annotated[tuple[TLSCertificate, ...], Schema(maxItems=2, minItems=1)] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()


class Server(Message, frozen=True, kw_only=True):
    """Gateway, servers: one part of it."""

    bind: str = ""
    default_endpoint: str = ""
    hosts: tuple[str, ...]
    name: str = ""
    port: ServerPort
    tls: ServerTLS | None = None


class GatewaySpec(Message, frozen=True, kw_only=True):
    """Gateway: one part of it."""

    selector: dict[str, str] = {}
    servers: tuple[Server, ...] = ()


class Gateway(Resource, frozen=True, kw_only=True):
    """A Gateway."""

    spec: GatewaySpec = GatewaySpec()
    status: IstioStatus = IstioStatus()
