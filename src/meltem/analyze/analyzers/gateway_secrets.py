"""IST0101 and IST0161: Secrets that Gateways name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from cryptography import x509

from meltem.analyze.context import Context, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, namespace_of, objects_at, str_at, strings_at

_SCHEMES = ("kubernetes://", "kubernetes-gateway://")


def analyze(context: Context) -> Iterable[Message]:
    for placed in context.own("Gateway"):
        selector = spec_map(placed, "selector")
        pods = context.pods("", selector) if selector else []
        homes = {namespace_of(p) for p in pods} or {namespace_of(placed.obj)}
        if context.partial and not pods:
            homes.add(context.system)  # where the gateways of an installation are, which no file has
        for index, server in enumerate(objects_at(placed.obj, "spec", "servers")):
            names = [
                n for n in (str_at(server, "tls", "credentialName"), *strings_at(server, "tls", "credentialNames")) if n
            ]
            for name in names:
                path = ("spec", "servers", index, "tls", "credentialName")
                if "://" in name and not name.startswith(_SCHEMES):
                    continue
                found = [s for h in homes if (s := context.find("Secret", h, name.rpartition("/")[2])) is not None]
                if not found:
                    where = " or ".join(sorted(homes))
                    yield message(
                        "IST0101", placed, f"Referenced credentialName not found: {name} (looked for in {where})", *path
                    )
                elif wrong := _unusable(found[0], context.clock.now()):
                    yield message("IST0161", placed, f"The credential {name} cannot be used: {wrong}.", *path)


def _unusable(secret: JsonObject, now: float) -> str:
    certificate = str_at(secret, "data", "tls.crt") or str_at(secret, "data", "cert")
    key = str_at(secret, "data", "tls.key") or str_at(secret, "data", "key")
    if not certificate or not key:
        return "it has no tls.crt and tls.key (or cert and key)"
    try:
        found = x509.load_pem_x509_certificates(base64.b64decode(certificate, validate=True))
    except (ValueError, binascii.Error):
        return "its certificate cannot be read"
    if found and found[0].not_valid_after_utc.timestamp() < now:
        return f"its certificate has expired ({found[0].not_valid_after_utc:%Y-%m-%d})"
    return "" if found else "it has no certificate"
