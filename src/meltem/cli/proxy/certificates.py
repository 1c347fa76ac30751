"""Certificates in a proxy: the table of `istioctl proxy-config secret`.

In: entries of Envoy's secrets dump. Out: rows; one for each certificate or trust bundle.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509

from meltem.objects import JsonObject, object_at, str_at

HEAD = ("RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE", "TRUST DOMAIN")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def secret_rows(found: Iterable[tuple[str, JsonObject]], now: datetime) -> list[tuple[str, ...]]:
    rows = [row for state, entry in found for row in _rows(state, entry, now)]
    return [HEAD, *sorted(rows, key=lambda r: (r[1] != "Cert Chain", r[0], r[4]))]


def _rows(state: str, entry: JsonObject, now: datetime) -> Iterable[tuple[str, ...]]:
    secret = object_at(entry, "secret")
    name = str_at(entry, "name") or str_at(secret, "name")
    for kind, source, first_only in (
        ("Cert Chain", object_at(secret, "tls_certificate", "certificate_chain"), True),
        ("CA", object_at(secret, "validation_context", "trusted_ca"), False),
    ):
        if not source:
            continue
        found = certificates(source)
        if not found:
            yield (name, kind, state, "false", "", "", "", "")
        for one in found[:1] if first_only else found:
            valid = one.not_valid_before_utc <= now <= one.not_valid_after_utc
            yield (
                name,
                kind,
                state,
                "true" if valid else "false",
                f"{one.serial_number:x}",
                one.not_valid_after_utc.strftime(_TIME),
                one.not_valid_before_utc.strftime(_TIME),
                trust_domain(one),
            )
    if not object_at(secret, "tls_certificate") and not object_at(secret, "validation_context"):
        yield (name, "", "WARMING" if state == "WARMING" else state, "false", "", "", "", "")


def certificates(source: JsonObject) -> list[x509.Certificate]:
    """The certificates of a data source; none where it has none that can be read."""
    text = str_at(source, "inline_string").encode()
    if not text:
        try:
            text = base64.b64decode(str_at(source, "inline_bytes"), validate=True)
        except binascii.Error:
            return []
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        return []


def trust_domain(certificate: x509.Certificate) -> str:
    """Of the SPIFFE id in the certificate, if it has one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return next((u.removeprefix("spiffe://").partition("/")[0] for u in uris if u.startswith("spiffe://")), "")


def utc_now() -> datetime:
    return datetime.now(UTC)
