"""istiod's own certificate: for the gRPC port 15012 and for the webhooks.

In: the authority, the names under which istiod is reached. Out: `KeyPair`s, a new one well before the last expires.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from meltem.ca.authority import Authority
from meltem.ca.keys import KeyPair, spiffe_id
from meltem.clock import Clock
from meltem.errors import MeltemError

_LOOK_SECONDS = 1.0
"""A look costs a comparison; the roots may change at any time."""


def serving_names(namespace: str = "istio-system", revision: str = "", custom_host: str = "") -> tuple[str, ...]:
    """The DNS names of istiod: its own Service, the revisioned one, the older and the remote names, the user's host."""
    services = ["istiod", "istiod-remote", "istio-pilot"]
    if revision and revision != "default":
        services.insert(0, f"istiod-{revision}")
    names = [f"{service}.{namespace}.svc" for service in services]
    names += [h.strip() for h in custom_host.split(",") if h.strip()]
    return tuple(dict.fromkeys(names))


class ServingCertificate:
    """The pair in use. `current()` renews it when it is due, so a server that asks for each handshake needs no task."""

    def __init__(
        self,
        authority: Authority,
        clock: Clock,
        dns_names: tuple[str, ...],
        *,
        trust_domain: str = "cluster.local",
        namespace: str = "istio-system",
        service_account: str = "istiod",
        renew_at: float = 0.5,
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._names = dns_names
        self._identity = spiffe_id(trust_domain, namespace, service_account)
        self._renew_at = renew_at
        self._pair: KeyPair | None = None
        self._log = structlog.get_logger("ca")

    def current(self) -> KeyPair:
        """A pair that is valid, signed under the roots in force. Raises MeltemError where there is none at all."""
        pair = self._pair
        if pair is not None and not self._due(pair):
            return pair
        try:
            self._pair = self._authority.serving_pair(self._names, identity=self._identity)
        except MeltemError as error:
            if pair is None or pair.not_after <= self._clock.now():
                raise
            self._log.error("istiod keeps its present certificate", reason=str(error))
            return pair
        return self._pair

    async def run(self, renewed: Callable[[KeyPair], None]) -> None:
        """Tells `renewed` of every new pair, for ever."""
        last: KeyPair | None = None
        while True:
            pair = self.current()
            if pair is not last:
                renewed(pair)
                last = pair
            await self._clock.sleep(_LOOK_SECONDS)

    def _due(self, pair: KeyPair) -> bool:
        life = pair.not_after - pair.not_before
        if self._clock.now() >= pair.not_before + life * self._renew_at:
            return True
        return pair.root_pem != self._authority.roots_pem
