"""Gateway: ports, protocols and certificates at the edge of the mesh.

In: decoded by `meltem.resources.parse`. Out: frozen structs; the CRD schema is made from them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from meltem.resources.base import BoolValue, Message, PlainPort, Resource, Schema
from meltem.resources.common import IstioStatus, TLSVersion


class ServerPort(Message, frozen=True, kw_only=True):
    """A port of a gateway.

    name: Name of the port.
    number: Port number.
    protocol: HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS.
    target_port: Not used.
    """

    name: str
    number: PlainPort
    protocol: str
    target_port: PlainPort = 0


class TLSCertificate(Message, frozen=True, kw_only=True):
    """Files of a certificate.

    ca_certificates: File with the certificates that verify clients.
    private_key: File with the key.
    server_certificate: File with the certificate.
    """

    ca_certificates: str = ""
    private_key: str = ""
    server_certificate: str = ""


class ServerTLS(Message, frozen=True, kw_only=True):
    """TLS of a server.

    ca_cert_credential_name: Secret or ConfigMap with the certificates that verify clients.
    ca_certificates: File with the certificates that verify clients.
    ca_crl: File with revoked certificates.
    cipher_suites: Cipher suites to allow.
    credential_name: Secret with certificate and key.
    credential_names: Secrets with certificates and keys of different kinds.
    ecdh_curves: Curves to allow.
    https_redirect: Answer every HTTP request with a redirect to HTTPS.
    insecure_skip_verify: Accept clients whose certificate cannot be verified.
    max_protocol_version: Newest TLS version.
    min_protocol_version: Oldest TLS version.
    mode: Whether TLS ends here, and who shows a certificate.
    private_key: File with the key.
    server_certificate: File with the certificate.
    subject_alt_names: Names of which a client's certificate must have one.
    tls_certificates: Files of several certificates.
    verify_certificate_hash: SHA-256 hashes of client certificates to accept.
    verify_certificate_spki: SHA-256 hashes of client keys to accept.
    """

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
    """A port of the gateway, and the hosts that it serves.

    bind: Address or unix socket to listen on.
    default_endpoint: Not used by gateways.
    hosts: Hosts to serve, each with a namespace before it if wanted (`ns/host`, `./host`, `*/host`).
    name: Name of the server.
    port: The port.
    tls: TLS of the port.
    """

    bind: str = ""
    default_endpoint: str = ""
    hosts: tuple[str, ...]
    name: str = ""
    port: ServerPort
    tls: ServerTLS | None = None


class GatewaySpec(Message, frozen=True, kw_only=True):
    """Ports, protocols and certificates at the edge of the mesh.

    selector: Labels of the gateway's pods.
    servers: The ports.
    """

    selector: dict[str, str] = {}
    servers: tuple[Server, ...] = ()


class Gateway(Resource, frozen=True, kw_only=True):
    """A load balancer at the edge of the mesh."""

    spec: GatewaySpec = GatewaySpec()
    status: IstioStatus = IstioStatus()
