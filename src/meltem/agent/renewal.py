"""Keeps the workload certificate fresh: asks in time, tries again with patience, never takes away what still works.

In: `AgentSettings`. Out: files in the proxy's directory (written by the short-lived helper `meltem.agent.certificate`)
and the moment at which the present certificate expires.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from meltem.agent import helper
from meltem.agent.environment import PLAINTEXT_DISCOVERY_PORT, AgentSettings
from meltem.agent.log import Log
from meltem.agent.metrics import AgentMetrics
from meltem.clock import Clock
from meltem.errors import EnvironmentError_
from meltem.objects import Json, JsonObject, at

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
POLL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Life:
    """When a certificate began and ends, seconds since the epoch."""

    not_before: float
    not_after: float


def order(settings: AgentSettings) -> JsonObject:
    """What the helper is told (`meltem.agent.certificate.Order`)."""
    provisioned = settings.below(settings.provisioned_certs) if settings.provisioned_certs else None
    use_client = provisioned is not None and (provisioned / "key.pem").is_file()
    account = f"ns/{settings.pod_namespace}/sa/{settings.service_account}"
    return {
        "directory": str(settings.config_path),
        "ca_address": settings.ca_address,
        "ca_root": "" if settings.ca_root == "SYSTEM" else str(settings.ca_root_path),
        "token_path": str(settings.token_path),
        "client_directory": str(provisioned) if use_client else "",
        "identity": f"spiffe://{settings.trust_domain}/{account}",
        "ttl": settings.secret_ttl,
        "key_algorithm": settings.key_algorithm,
        "rsa_bits": settings.rsa_bits,
        "pkcs8": settings.pkcs8,
        "target_name": settings.istiod_san,
        "cert_signer": settings.cert_signer,
        "own_token_path": str(settings.identity_token_path) if settings.signs_tokens else "",
        "output_directory": str(settings.below(settings.output_certs)) if settings.output_certs else "",
        "source_directory": str(settings.below("etc/certs")) if settings.file_mounted_certs else "",
        "plaintext": settings.ca_address.endswith(f":{PLAINTEXT_DISCOVERY_PORT}"),
    }


async def run_helper(wanted: JsonObject) -> Life:
    """Runs the helper once. Raises EnvironmentError_ with its reason."""
    out = await helper.run("meltem.agent.certificate", wanted, where="certificate helper")
    answer = cast(Json, json.loads(out))
    moments = [at(answer, name) for name in ("not_before", "not_after")]
    return Life(*(float(m) if isinstance(m, int | float) else 0.0 for m in moments))


class CertificateKeeper:
    """`first()` waits until there is a certificate, `keep()` renews it for ever."""

    def __init__(
        self,
        settings: AgentSettings,
        metrics: AgentMetrics,
        clock: Clock,
        log: Log,
        *,
        obtain: Callable[[JsonObject], Awaitable[Life]] = run_helper,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._obtain = obtain
        self._jitter = jitter
        self._life: Life | None = None
        self._came = 0.0

    async def first(self) -> None:
        pause = FIRST_PAUSE
        while not await self._try():
            await self._clock.sleep(pause * (0.75 + self._jitter() / 2))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def keep(self) -> None:
        """Runs for ever. A failure leaves the present certificate in place and is tried again soon."""
        if self._settings.file_mounted_certs:
            await self._follow_files()
        while True:
            await self._clock.sleep(self.seconds_until_renewal())
            await self.first()

    def seconds_until_renewal(self) -> float:
        """From now until SECRET_GRACE_PERIOD_RATIO of the life is left, staggered by the jitter. The life counts from
        the moment it came: authorities date certificates back, which of a short life is the greater part."""
        if self._life is None:
            return 0.0
        settings = self._settings
        spread = (self._jitter() * 2 - 1) * settings.renew_jitter
        ratio = min(max(settings.renew_ratio + spread, 0.0), 1.0)
        life = self._life.not_after - max(self._life.not_before, self._came)
        return max(self._life.not_after - life * ratio - self._clock.now(), 1.0)

    async def _try(self) -> bool:
        self._metrics.certificate_requests += 1
        try:
            self._life = await self._obtain(order(self._settings))
        except EnvironmentError_ as error:
            self._metrics.certificate_failures += 1
            kept = "; the present certificate stays in use" if self._life else ""
            self._log.warn(f"failed to get a certificate: {error}{kept}")
            return False
        self._came = self._clock.now()
        self._metrics.certificate_not_after = self._life.not_after
        hours = (self._life.not_after - self._clock.now()) / 3600
        self._log.info(f"workload certificate from {self._settings.ca_address}, valid for {hours:.1f} h")
        return True

    async def _follow_files(self) -> None:
        """Mounted certificates: whoever mounts them renews them; look whether they changed."""
        directory = self._settings.below("etc/certs")
        seen = _stamp(directory)
        while True:
            await self._clock.sleep(POLL_SECONDS)
            now = _stamp(directory)
            if now != seen and await self._try():
                seen = now


def _stamp(directory: Path) -> tuple[tuple[str, int, int], ...]:
    found: list[tuple[str, int, int]] = []
    for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
        try:
            status = (directory / name).stat()
        except OSError:
            continue
        found.append((name, status.st_mtime_ns, status.st_size))
    return tuple(found)
