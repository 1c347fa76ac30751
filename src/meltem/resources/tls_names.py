"""Names of cipher suites and curves that Envoy (BoringSSL) knows: it refuses a whole listener that names another."""

from __future__ import annotations

CIPHERS = frozenset(
    {
        f"ECDHE-{key}-{rest}"
        for key in ("ECDSA", "RSA")
        for rest in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
    }
    | {"AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "DES-CBC3-SHA"}
)
CURVES = frozenset({"P-256", "P-384", "P-521", "X25519", "X25519MLKEM768"})
