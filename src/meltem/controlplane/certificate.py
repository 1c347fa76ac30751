"""istiod's own certificate from files (`--tlsCertFile`, `--tlsKeyFile`, `--caCertFile`), read again when they change.

In: paths. Out: `KeyPair`s. What cannot be read later on leaves the former in use, and a log line says why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from cryptography import x509

from meltem.ca.keys import KeyPair
from meltem.clock import Clock
from meltem.errors import UserError
from meltem.graph.credentials import usable

_SECONDS = 10.0
log = structlog.stdlib.get_logger("istiod")


class FileCertificate:
    """As `meltem.ca.serving.ServingCertificate`, for who gives istiod a certificate of their own."""

    def __init__(self, chain: str, key: str, roots: str, clock: Clock) -> None:
        self._paths = (chain, key, roots)
        self._clock = clock
        self._pair: KeyPair | None = None

    def current(self) -> KeyPair:
        """Raises UserError, naming the flag, for files that cannot be used."""
        if self._pair is None:
            self._pair = self.read()
        return self._pair

    def read(self) -> KeyPair:
        chain, key, roots = (
            _read(path, flag)
            for path, flag in zip(self._paths, ("--tlsCertFile", "--tlsKeyFile", "--caCertFile"), strict=True)
        )
        if not usable(chain, key):
            raise UserError(
                f"{self._paths[0]} and {self._paths[1]} are no certificate and its key",
                where="--tlsCertFile",
                remedy="Both must be PEM, and the key must be the certificate's own.",
            )
        leaf = x509.load_pem_x509_certificates(chain)[0]
        before, after = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        return KeyPair(key, chain, roots, before, after)

    async def run(self, renewed: Callable[[KeyPair], None]) -> None:
        """Tells `renewed` of every new pair, for ever."""
        while True:
            await self._clock.sleep(_SECONDS)
            try:
                pair = self.read()
            except UserError as error:
                log.error("istiod keeps its present certificate", reason=str(error).replace("\n", " "))
                await self._clock.sleep(60.0)
                continue
            if pair != self._pair:
                self._pair = pair
                renewed(pair)


def _read(path: str, flag: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", where=flag) from None
