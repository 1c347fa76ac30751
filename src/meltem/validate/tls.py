"""TLS settings of servers and clients: which certificates a mode needs and which it must not have.

In: `ServerTLS`, `ClientTLS`. Out: findings.
"""

from __future__ import annotations

from meltem.resources.networking import ClientTLS, ServerTLS, TLSCertificate
from meltem.resources.tls_names import CIPHERS, CURVES
from meltem.validate.findings import Report


def check_server_tls(r: Report, tls: ServerTLS | None) -> None:
    if tls is None:
        return
    check_ciphers(r, tls.cipher_suites)
    check_curves(r, tls.ecdh_curves)
    if tls.min_protocol_version in ("TLSV1_0", "TLSV1_1") and not tls.cipher_suites:
        r.at("minProtocolVersion").warn(
            "TLS below 1.2 has no common cipher suite by default", "Name compatible cipherSuites."
        )
    match tls.mode:
        case "ISTIO_MUTUAL":
            _mesh_certificates(r, tls)
        case "PASSTHROUGH" | "AUTO_PASSTHROUGH":
            if _given(tls):
                r.warn(f"mode {tls.mode} does not use certificates: they are ignored")
            _sources(r, tls)
        case _:
            _terminating(r, tls)


def check_ciphers(r: Report, suites: tuple[str, ...]) -> None:
    """Unknown and repeated suites are ignored, with a warning."""
    seen: set[str] = set()
    for i, suite in enumerate(suites):
        if suite in seen:
            r.at("cipherSuites", i).warn(f"{suite[:64]!r} is there twice")
        elif suite not in CIPHERS and suite != "ALL" and suite[:1].isalnum():  # else: a word of OpenSSL's language
            r.at("cipherSuites", i).warn(f"{suite[:64]!r} is no known cipher suite: it is ignored")
        seen.add(suite)


def check_curves(r: Report, curves: tuple[str, ...]) -> None:
    """Unknown curves are ignored, with a warning."""
    for i, curve in enumerate(curves):
        if curve not in CURVES:
            r.at("ecdhCurves", i).warn(f"{curve[:32]!r} is no known curve: it is ignored")


def _given(tls: ServerTLS) -> list[str]:
    fields = {
        "serverCertificate": tls.server_certificate,
        "privateKey": tls.private_key,
        "caCertificates": tls.ca_certificates,
        "tlsCertificates": tls.tls_certificates,
        "credentialName": tls.credential_name,
        "credentialNames": tls.credential_names,
        "caCrl": tls.ca_crl,
    }
    return [name for name, value in fields.items() if value]


def _mesh_certificates(r: Report, tls: ServerTLS) -> None:
    for name in _given(tls):
        if name != "caCrl":
            r.at(name).error("mode ISTIO_MUTUAL uses the mesh's own certificates", f"Remove {name}.")


def _sources(r: Report, tls: ServerTLS) -> None:
    sources = {
        "serverCertificate and privateKey": bool(tls.server_certificate and tls.private_key),
        "credentialName": bool(tls.credential_name),
        "credentialNames": bool(tls.credential_names),
        "tlsCertificates": bool(tls.tls_certificates),
    }
    given = [name for name, there in sources.items() if there]
    if len(given) > 1:
        r.error(f"only one of {', '.join(sources)} can be set; found {', '.join(given)}")


def _terminating(r: Report, tls: ServerTLS) -> None:
    _sources(r, tls)
    if tls.credential_name or tls.credential_names:
        if tls.ca_crl and tls.credential_name:
            r.at("caCrl").warn(
                "has no effect beside credentialName: certificates are not looked up in it",
                "Put the list into the secret, as key ca.crl.",
            )
        return
    if tls.mode != "SIMPLE" and not tls.ca_certificates:
        r.at("caCertificates").error(
            f"mode {tls.mode} needs certificates that verify clients", "Set caCertificates, or credentialName."
        )
    if len(tls.tls_certificates) > 2:
        r.at("tlsCertificates").warn("at most 2 certificates are used")
    if tls.tls_certificates:
        for i, certificate in enumerate(tls.tls_certificates):
            _pair(r.at("tlsCertificates", i), tls.mode, certificate)
    else:
        files = TLSCertificate(server_certificate=tls.server_certificate, private_key=tls.private_key)
        _pair(r, tls.mode, files)
    if tls.ca_crl and tls.mode == "SIMPLE":
        r.at("caCrl").error("mode SIMPLE does not verify clients, so there is nothing to revoke")


def _pair(r: Report, mode: str, certificate: TLSCertificate) -> None:
    if not certificate.server_certificate:
        r.at("serverCertificate").error(f"mode {mode} needs a server certificate", "Set it, or credentialName.")
    if not certificate.private_key:
        r.at("privateKey").error(f"mode {mode} needs a private key", "Set it, or credentialName.")


def check_client_tls(r: Report, namespace: str, tls: ClientTLS | None) -> None:
    """`namespace` is that of the resource: a `configmap://` credential must be there."""
    if tls is None:
        return
    _config_map(r.at("credentialName"), namespace, tls.credential_name)
    if tls.insecure_skip_verify:
        verifying = {"caCertificates": tls.ca_certificates, "subjectAltNames": tls.subject_alt_names}
        if tls.mode == "SIMPLE":
            verifying["credentialName"] = tls.credential_name
        if tls.mode in ("SIMPLE", "MUTUAL"):
            for name, value in verifying.items():
                if value:
                    r.at(name).error("has no effect with insecureSkipVerify", f"Remove {name} or insecureSkipVerify.")
    if tls.mode not in ("SIMPLE", "MUTUAL"):
        return
    if tls.credential_name:
        files = {
            "clientCertificate": tls.client_certificate,
            "privateKey": tls.private_key,
            "caCertificates": tls.ca_certificates,
            "caCrl": tls.ca_crl,
        }
        for name, value in files.items():
            if value:
                r.at(name).error("cannot stand beside credentialName", "Keep one of them.")
    elif tls.mode == "MUTUAL":
        if not tls.client_certificate:
            r.at("clientCertificate").error("mode MUTUAL needs a client certificate", "Set it, or credentialName.")
        if not tls.private_key:
            r.at("privateKey").error("mode MUTUAL needs a private key", "Set it, or credentialName.")


def _config_map(r: Report, namespace: str, name: str) -> None:
    if not name.startswith("configmap://"):
        return
    where = name.removeprefix("configmap://").split("/")
    if len(where) != 2 or not all(where):
        r.error(f"{name[:80]!r} is no ConfigMap", "Write configmap://namespace/name.")
    elif where[0] != namespace:
        r.error("the ConfigMap must be in the namespace of the resource", f"Write configmap://{namespace}/{where[1]}.")
