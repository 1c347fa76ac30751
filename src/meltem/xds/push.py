"""All connections of this istiod: proxies come into the engine with their first stream and leave with their last.

In: proxies that connect. Out: `Connections`, which debug endpoints and status writers read, and which asks a proxy to
connect again. What changed reaches the sessions straight from the bundles, inside the commit.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from meltem.clock import Clock
from meltem.generate.bundle import Bundles, Notice
from meltem.view.proxy import Proxy
from meltem.xds.auth import NotYours
from meltem.xds.connection import Connection, ConnectionLimits, SendBudget, Session
from meltem.xds.subscription import Content, Rejection


class Engine(Protocol):
    """What makes configurations (`meltem.engine.Engine`)."""

    @property
    def bundles(self) -> Bundles: ...
    def connect(self, proxy: Proxy) -> None: ...
    def disconnect(self, proxy_id: str) -> None: ...


class Connections:
    """By proxy, oldest first."""

    def __init__(self, engine: Engine, clock: Clock, limits: ConnectionLimits | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._limits = limits or ConnectionLimits()
        self._budget = SendBudget(self._limits.big_bytes)
        self._of_proxy: dict[str, list[Connection]] = {}
        self._count = 0
        self._numbers = itertools.count(1)

    @property
    def full(self) -> bool:
        return self._count >= self._limits.streams

    def open(self, proxy: Proxy, peer: str, make_session: Callable[[Content], Session]) -> Connection:
        """The proxy is known to the engine from now on, and its session is told of changes. Raises NotYours where
        another one of that name is connected, and has proven who it is while this one has not."""
        mine = self._of_proxy.get(proxy.id, [])
        self._part(mine, proxy)
        mine = self._of_proxy.setdefault(proxy.id, mine)
        if not mine or mine[-1].proxy != proxy:
            self._engine.connect(proxy)

        def notify(changed: Notice) -> None:
            connection.notify(changed)

        attachment = self._engine.bundles.attach(proxy.id, notify)
        connection = Connection(
            f"{proxy.id}-{next(self._numbers)}", proxy, peer, make_session(attachment), attachment,
            clock=self._clock, budget=self._budget, limits=self._limits,
        )  # fmt: skip
        mine.append(connection)
        self._count += 1
        if len(mine) > self._limits.streams_of_one_proxy:
            mine[0].close()
        return connection

    def _part(self, others: Iterable[Connection], proxy: Proxy) -> None:
        """Streams of one proxy share what it is given, private keys too, so they must be of one service account: the
        last one that has proven its own counts."""
        strangers = [c for c in others if _identity(c.proxy) != _identity(proxy)]
        if strangers and not proxy.proven:
            raise NotYours(f"{proxy.id} is connected already, with an identity that this stream has not proven")
        for other in strangers:
            other.attachment.close()
            other.close()

    def remove(self, connection: Connection) -> None:
        """The stream has ended."""
        connection.attachment.close()
        mine = self._of_proxy.get(connection.proxy.id, [])
        if connection not in mine:
            return
        was_last = mine[-1] is connection
        mine.remove(connection)
        self._count -= 1
        if not mine:
            del self._of_proxy[connection.proxy.id]
            self._engine.disconnect(connection.proxy.id)
        elif was_last and mine[-1].proxy != connection.proxy:
            self._engine.connect(mine[-1].proxy)

    def __iter__(self) -> Iterator[Connection]:
        return iter([c for mine in self._of_proxy.values() for c in mine])

    def __len__(self) -> int:
        return self._count

    def refusals(self) -> Iterator[tuple[str, str, dict[str, Rejection]]]:
        """(proxy id, type URL, what it refuses of that type by name)"""
        for connection in self.refusing():
            for type_url, some in connection.session.refusals().items():
                yield connection.proxy.id, type_url, some

    def refusing(self) -> list[Connection]:
        """Connections whose client has refused something, now or before: few, and looked for every second."""
        return [c for mine in self._of_proxy.values() for c in mine if c.session.refused]

    def of(self, proxy_id: str) -> Connection | None:
        """The newest connection of a proxy; `proxy_id` is `<name>.<namespace>`, also as `<name>/<namespace>`."""
        mine = self._of_proxy.get(proxy_id) or self._of_proxy.get(proxy_id.replace("/", "."))
        return mine[-1] if mine else None

    def close_all(self) -> None:
        """Ask every client to connect again (elsewhere)."""
        for connection in self:
            connection.close()

    def disconnect(self, proxy_id: str) -> int:
        """End a proxy's streams; how many there were."""
        mine: Iterable[Connection] = list(self._of_proxy.get(proxy_id, ()))
        count = 0
        for connection in mine:
            connection.close()
            count += 1
        return count


def _identity(proxy: Proxy) -> tuple[str, str]:
    return (proxy.namespace, proxy.service_account) if proxy.proven else ("", "")


def settle_memory() -> None:
    """When the model has been built: what lives now lives long, so the garbage collector need not walk it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
