"""Gateways of other networks that have names instead of addresses: a load balancer's, or one in MeshNetworks.

In: the names (`Mesh.gateway_names`). Out: `inputs.resolved_names`, kept as DNS has it: asked again when a record's time
is over. While DNS has no answer what it said last goes on to hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from dns import asyncresolver, exception, resolver

from meltem.clock import Clock
from meltem.engine import Engine

SHORTEST = 5.0
LONGEST = 300.0
"""Seconds between two questions for a name, whatever its record says."""
Answer = tuple[tuple[str, ...], float]
"""Addresses, sorted, and for how many seconds they hold."""
log = structlog.stdlib.get_logger("networks")


async def ask(name: str) -> Answer:
    """Both families, by the machine's own resolver. Raises LookupError with what DNS says."""
    found: set[str] = set()
    lives: list[float] = []
    said = ""
    for kind in ("A", "AAAA"):
        try:
            answer = await asyncresolver.resolve(name, kind, lifetime=5)
        except (resolver.NoAnswer, resolver.NXDOMAIN) as error:
            said = said or str(error)
            continue
        except (exception.DNSException, OSError) as error:
            raise LookupError(str(error)) from None
        found.update(str(record) for record in answer)
        lives.append(float(answer.rrset.ttl) if answer.rrset is not None else SHORTEST)
    if not found:
        raise LookupError(said or "there is no address of that name")
    return tuple(sorted(found)), min(lives)


class GatewayNames:
    """`ask` as above; tests put their own in its place."""

    def __init__(self, engine: Engine, clock: Clock, ask: Callable[[str], Awaitable[Answer]] = ask) -> None:
        self._engine = engine
        self._clock = clock
        self._ask = ask
        self._next: dict[str, float] = {}  # when a name is to be asked for
        self._complained: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(1.0)

    async def look(self) -> None:
        """Asks for what is new or due, forgets what nobody names any more."""
        names = set(self._engine.mesh.gateway_names)
        known = self._engine.inputs.resolved_names
        with self._engine.graph.transaction():
            for name in [n for n in known if n not in names]:
                known.delete(name)
        self._next = {n: self._next.get(n, 0.0) for n in names}
        due = sorted(n for n, at in self._next.items() if at <= self._clock.monotonic())
        answers = await asyncio.gather(*(self._ask(n) for n in due), return_exceptions=True)
        for name, answer in zip(due, answers, strict=True):
            if isinstance(answer, LookupError):
                self._failed(name, str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                addresses, seconds = answer
                self._complained.discard(name)
                self._next[name] = self._clock.monotonic() + min(max(seconds, SHORTEST), LONGEST)
                with self._engine.graph.transaction():
                    known.set(name, addresses)

    def _failed(self, name: str, why: str) -> None:
        self._next[name] = self._clock.monotonic() + SHORTEST
        if name not in self._complained:
            self._complained.add(name)
            log.warning("the name of a network's gateway has no address", name=name, reason=why)
