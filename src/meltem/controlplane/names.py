"""Gateways of other networks that have names instead of addresses: a load balancer's, or one in MeshNetworks.

In: the names (`Mesh.gateway_names`). Out: `inputs.resolved_names`, kept as the machine's resolver has it: asked again
every half minute. While there is no answer what it said last goes on to hold.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import structlog

from meltem.clock import Clock
from meltem.engine import Engine

SECONDS = 30.0
"""Between two questions for a name; the resolver tells no record's time to live."""
AFTER_FAILURE = 5.0
PATIENCE = 10.0
Answer = tuple[str, ...]
"""Addresses, sorted."""
log = structlog.stdlib.get_logger("networks")


async def ask(name: str) -> Answer:
    """Both families, by the machine's own resolver. Raises LookupError with what it says."""
    try:
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:  # also a time-out
        raise LookupError(str(error) or "no answer") from None
    except UnicodeError:
        raise LookupError("is no name") from None
    return tuple(sorted({str(where[0]) for *_, where in found}))


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
                self._complained.discard(name)
                self._next[name] = self._clock.monotonic() + SECONDS
                with self._engine.graph.transaction():
                    known.set(name, answer)

    def _failed(self, name: str, why: str) -> None:
        self._next[name] = self._clock.monotonic() + AFTER_FAILURE
        if name not in self._complained:
            self._complained.add(name)
            log.warning("the name of a network's gateway has no address", name=name, reason=why)
