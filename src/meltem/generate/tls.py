"""TLS contexts: certificates by SDS files of the agent, SPIFFE validation, ALPN sets.

In: what a destination rule, a Gateway server or mutual TLS by itself asks for. Out: UpstreamTlsContext and
DownstreamTlsContext, packed as transport sockets.

The agent keeps `default` (key and chain) and `ROOTCA` (trust bundle) as SDS files which Envoy watches; gateway secrets
come over ADS under `kubernetes://<namespace>/<name>`.
"""

from __future__ import annotations

from collections.abc import Iterable

from meltem import envoyapi as api
from meltem.graph.credentials import CA_SUFFIX, CONFIG_MAP, secret_name
from meltem.resources import meshconfig, networking
from meltem.resources.tls_names import CIPHERS, CURVES

SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
SDS_DIRECTORY = "/etc/istio/proxy"
WORKLOAD_CERTIFICATE = "default"
ROOT_CERTIFICATE = "ROOTCA"

ALPN_TCP = ("istio",)
ALPN_HTTP_ISTIO = ("istio-http/1.1", "istio-http/1.0", "istio")
ALPN_H2_ISTIO = ("istio-h2", "istio", "h2")
ALPN_INBOUND_HTTP = ("h2", "http/1.1")
ALPN_MTLS_HTTP = ("istio-http/1.0", "istio-http/1.1", "istio-h2")

_VERSIONS = {
    "TLS_AUTO": api.tls_common.TlsParameters.TLS_AUTO,
    "TLSV1_0": api.tls_common.TlsParameters.TLSv1_0,
    "TLSV1_1": api.tls_common.TlsParameters.TLSv1_1,
    "TLSV1_2": api.tls_common.TlsParameters.TLSv1_2,
    "TLSV1_3": api.tls_common.TlsParameters.TLSv1_3,
}
_MESH_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)


def plain_http(*, http10: bool) -> tuple[str, ...]:
    """What the HTTP inspector calls the plain HTTP that the proxy speaks."""
    return ("http/1.0", "http/1.1", "h2c") if http10 else ("http/1.1", "h2c")


def socket(context: api.tls.UpstreamTlsContext | api.tls.DownstreamTlsContext) -> api.base.TransportSocket:
    return api.base.TransportSocket(name="envoy.transport_sockets.tls", typed_config=api.pack(context))


def raw_socket() -> api.base.TransportSocket:
    return api.base.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=api.pack(api.raw_buffer.RawBuffer())
    )


_FILES = {WORKLOAD_CERTIFICATE: "sds-default.json", ROOT_CERTIFICATE: "sds-rootca.json"}


def file_secret(name: str) -> api.tls_secret.SdsSecretConfig:
    """A secret that the agent keeps in a file (it replaces the file atomically, Envoy watches its directory)."""
    return api.tls_secret.SdsSecretConfig(
        name=name,
        sds_config={
            "path_config_source": {
                "path": f"{SDS_DIRECTORY}/{_FILES[name]}",
                "watched_directory": {"path": SDS_DIRECTORY},
            },
            "resource_api_version": "V3",
        },
    )


def ads_secret(name: str, wait: int = 0) -> api.tls_secret.SdsSecretConfig:
    """A secret that the control plane sends. `wait`: seconds after which its user starts without it (and refuses
    connections until it comes); 0: never."""
    return api.tls_secret.SdsSecretConfig(
        name=name, sds_config={"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": {"seconds": wait}}
    )


CLIENT_WAIT = 5
"""A cluster whose secret is missing must not hold up the start of a whole gateway."""
SERVER_WAIT = 15
"""Nor must a server: istiod says at once that there is no such secret, except to state-of-the-world clients."""


def _san_matchers(sans: Iterable[str]) -> list[api.tls_common.SubjectAltNameMatcher]:
    """URI and DNS SANs by exact value, a leading `*` by suffix."""
    out: list[api.tls_common.SubjectAltNameMatcher] = []
    for san in sans:
        matcher = api.string_matcher.StringMatcher(suffix=san[1:]) if san.startswith("*") else (
            api.string_matcher.StringMatcher(exact=san)
        )  # fmt: skip
        kinds = (
            (api.tls_common.SubjectAltNameMatcher.URI,)
            if "://" in san
            else (api.tls_common.SubjectAltNameMatcher.DNS, api.tls_common.SubjectAltNameMatcher.URI)
        )
        out.extend(api.tls_common.SubjectAltNameMatcher(san_type=k, matcher=matcher) for k in kinds)
    return out


def mesh_client(sans: tuple[str, ...], sni: str, alpn: tuple[str, ...]) -> api.tls.UpstreamTlsContext:
    """Istio mutual TLS to a peer of the mesh, which must have one of the SANs (any of the trust bundle when none)."""
    return api.tls.UpstreamTlsContext(
        sni=sni,
        common_tls_context={
            "alpn_protocols": list(alpn),
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificate_sds_secret_configs": [file_secret(WORKLOAD_CERTIFICATE)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": _san_matchers(sans)},
                "validation_context_sds_secret_config": file_secret(ROOT_CERTIFICATE),
            },
        },
    )


def mesh_server(
    alpn: tuple[str, ...], mesh: meshconfig.MeshTLS | None = None, *, trust_domains: tuple[str, ...] = ()
) -> api.tls.DownstreamTlsContext:
    """Istio mutual TLS, the client's certificate required and of the trust bundle. `mesh`: MeshConfig's meshMTLS.
    `trust_domains`: of which the client must be, since several meshes may have one root; empty: of any, as at gateways.
    """
    peers = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{d}/"}} for d in trust_domains]
    minimum = mesh.min_protocol_version if mesh is not None else "TLS_AUTO"
    ciphers = [s for s in dict.fromkeys(mesh.cipher_suites) if s in CIPHERS] if mesh is not None else []
    return api.tls.DownstreamTlsContext(
        require_client_certificate={"value": True},
        common_tls_context={
            "alpn_protocols": list(alpn),
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3" if minimum == "TLSV1_3" else "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
                "cipher_suites": ciphers or list(_MESH_CIPHERS),
            },
            "tls_certificate_sds_secret_configs": [file_secret(WORKLOAD_CERTIFICATE)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": peers},
                "validation_context_sds_secret_config": file_secret(ROOT_CERTIFICATE),
            },
        },
    )


def client(
    settings: networking.ClientTLS, *, sni: str, alpn: tuple[str, ...], default_sans: tuple[str, ...]
) -> api.tls.UpstreamTlsContext:
    """SIMPLE and MUTUAL to servers outside the mesh: certificates from files, or from a secret (gateways only)."""
    common = api.tls.CommonTlsContext(alpn_protocols=list(alpn))
    common.tls_params.tls_minimum_protocol_version = _VERSIONS["TLSV1_2"]
    common.tls_params.tls_maximum_protocol_version = _VERSIONS["TLSV1_3"]
    sans = settings.subject_alt_names or default_sans
    validation = api.tls_common.CertificateValidationContext(match_typed_subject_alt_names=_san_matchers(sans))
    if settings.ca_crl:
        validation.crl.filename = settings.ca_crl
    if settings.credential_name:
        name = secret_name(settings.credential_name)
        if settings.mode == "MUTUAL":
            common.tls_certificate_sds_secret_configs.append(ads_secret(name, CLIENT_WAIT))
        if not settings.insecure_skip_verify:
            ca = name if name.startswith(CONFIG_MAP) else name + CA_SUFFIX
            common.combined_validation_context.default_validation_context.CopyFrom(validation)
            common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(
                ads_secret(ca, CLIENT_WAIT)
            )
    else:
        if settings.mode == "MUTUAL":
            common.tls_certificates.add(
                certificate_chain={"filename": settings.client_certificate},
                private_key={"filename": settings.private_key},
            )
        if not settings.insecure_skip_verify:
            if settings.ca_certificates == "system" or not settings.ca_certificates:
                validation.trusted_ca.filename = SYSTEM_ROOTS  # Envoy takes no notice of `system_root_certs`
            else:
                validation.trusted_ca.filename = settings.ca_certificates
            common.validation_context.CopyFrom(validation)
    return api.tls.UpstreamTlsContext(sni=sni, common_tls_context=common)


def server(
    settings: networking.ServerTLS, alpn: tuple[str, ...], defaults: meshconfig.MeshTLS | None = None
) -> api.tls.DownstreamTlsContext:
    """What a Gateway server (or a Sidecar ingress listener) decrypts with. `defaults`: MeshConfig's tlsDefaults."""
    if settings.mode == "ISTIO_MUTUAL":
        context = mesh_server(alpn)
        _parameters(context.common_tls_context, settings)
        return context
    context = api.tls.DownstreamTlsContext(common_tls_context={"alpn_protocols": list(alpn)})
    common = context.common_tls_context
    names = settings.credential_names or ((settings.credential_name,) if settings.credential_name else ())
    for name in names:
        common.tls_certificate_sds_secret_configs.append(ads_secret(secret_name(name), SERVER_WAIT))
    if not names and settings.server_certificate:
        common.tls_certificates.add(
            certificate_chain={"filename": settings.server_certificate},
            private_key={"filename": settings.private_key},
        )
    for pair in settings.tls_certificates:
        common.tls_certificates.add(
            certificate_chain={"filename": pair.server_certificate}, private_key={"filename": pair.private_key}
        )
    if settings.mode in ("MUTUAL", "OPTIONAL_MUTUAL"):
        context.require_client_certificate.value = settings.mode == "MUTUAL"
        _client_validation(common, settings, names[0] if names else "")
    if defaults is not None:
        with_defaults(common, defaults)
        if defaults.min_protocol_version != "TLS_AUTO":
            common.tls_params.tls_minimum_protocol_version = _VERSIONS[defaults.min_protocol_version]
    _parameters(common, settings)
    return context


def with_defaults(common: api.tls.CommonTlsContext, defaults: meshconfig.MeshTLS | None) -> None:
    """Ciphers and curves of MeshConfig's tlsDefaults; those that Envoy does not have are passed over."""
    if defaults is None:
        return
    if suites := [s for s in dict.fromkeys(defaults.cipher_suites) if s in CIPHERS]:
        common.tls_params.cipher_suites[:] = suites
    if curves := [c for c in dict.fromkeys(defaults.ecdh_curves) if c in CURVES]:
        common.tls_params.ecdh_curves[:] = curves


def _client_validation(common: api.tls.CommonTlsContext, settings: networking.ServerTLS, credential: str) -> None:
    validation = api.tls_common.CertificateValidationContext(
        match_typed_subject_alt_names=_san_matchers(settings.subject_alt_names),
        verify_certificate_hash=list(settings.verify_certificate_hash),
        verify_certificate_spki=list(settings.verify_certificate_spki),
    )
    if settings.ca_crl and not credential:  # a secret has its own list
        validation.crl.filename = settings.ca_crl
    if settings.insecure_skip_verify:  # asked for and looked at, but passed on whatever it says
        validation.trust_chain_verification = api.tls_common.CertificateValidationContext.ACCEPT_UNTRUSTED
    ca = settings.ca_cert_credential_name or (f"{credential}-cacert" if credential else "")
    if ca:
        common.combined_validation_context.default_validation_context.CopyFrom(validation)
        common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(
            ads_secret(secret_name(ca), SERVER_WAIT)
        )
    else:
        validation.trusted_ca.filename = settings.ca_certificates
        common.validation_context.CopyFrom(validation)


def _parameters(common: api.tls.CommonTlsContext, settings: networking.ServerTLS) -> None:
    parameters = common.tls_params
    if settings.min_protocol_version != "TLS_AUTO":
        parameters.tls_minimum_protocol_version = _VERSIONS[settings.min_protocol_version]
    elif not parameters.tls_minimum_protocol_version:
        parameters.tls_minimum_protocol_version = _VERSIONS["TLSV1_2"]
    if settings.max_protocol_version != "TLS_AUTO":
        parameters.tls_maximum_protocol_version = _VERSIONS[settings.max_protocol_version]
    if suites := [s for s in dict.fromkeys(settings.cipher_suites) if s in CIPHERS]:
        parameters.cipher_suites[:] = suites
    if curves := [c for c in dict.fromkeys(settings.ecdh_curves) if c in CURVES]:
        parameters.ecdh_curves[:] = curves
