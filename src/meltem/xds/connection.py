"""One stream of a proxy: the session, the tasks that read and write it, and how it ends.

In: an `Rpc` (gRPC's stream, raw bytes), a session. Out: nothing; `run` returns when the stream has ended. Bounded: a
client that does not read is cut off after `send_timeout`, big messages of all streams together take at most the
`SendBudget`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol, cast

import msgspec

from meltem.clock import Clock
from meltem.errors import MeltemError, UserError
from meltem.generate.bundle import Attachment, Notice
from meltem.view.proxy import Proxy
from meltem.xds.batches import Response
from meltem.xds.subscription import Rejection, TypeStatus

_BIG = 64 << 10
_Task = asyncio.Task[None]
_SLOW = 1.0  # a big message that takes longer makes room for others


class Rpc(Protocol):
    """The part of `grpc.aio.ServicerContext` that is used; `read` gives bytes, or gRPC's EOF."""

    async def read(self) -> object: ...
    async def write(self, message: bytes) -> None: ...


class Session(Protocol):
    """A state machine of one stream: `DeltaSession`, `StateSession`."""

    deadline: float | None
    quiet: bool
    refused: bool

    @property
    def current(self) -> bool: ...
    def notice(self, changed: Mapping[str, frozenset[str]], now: float) -> bool: ...
    def next(self, now: float) -> Response | None: ...
    def statuses(self) -> dict[str, TypeStatus]: ...
    def refusals(self) -> dict[str, dict[str, Rejection]]: ...
    def held(self, type_url: str) -> dict[str, str]: ...
    def send_again(self, now: float) -> None: ...


class ConnectionLimits(msgspec.Struct, frozen=True):
    """`send_timeout`: seconds that a client may take to make room for one message."""

    send_timeout: float = 30.0
    first_request: float = 15.0
    big_bytes: int = 24 << 20
    streams_of_one_proxy: int = 8
    streams: int = 20_000
    request_bytes: int = 16 << 20


class TooSlow(UserError):
    """The client does not read what it is sent."""


class ClientGone(MeltemError):
    """The client ended the connection."""


class SendBudget:
    """At most so many bytes of big messages under way at once, over all streams. Those that take long move to a second
    account of twice the size as far as it has room, so that slow clients do not hold up the others, nor take all
    memory."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._free_for_slow = 2 * total
        self._total = total
        self._waiting: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def taking(self, size: int) -> AsyncGenerator[Callable[[], None]]:
        """Waits for room; gives a function that says that it takes long."""
        size = min(size, self._total)
        while self._free < size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._free -= size
        slow = False

        def takes_long() -> None:
            nonlocal slow
            if not slow and self._free_for_slow >= size:
                slow = True
                self._free_for_slow -= size
                self._give_back(size)

        try:
            yield takes_long
        finally:
            if slow:
                self._free_for_slow += size
            else:
                self._give_back(size)

    def _give_back(self, size: int) -> None:
        self._free += size
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)


class Patience:
    """Cancels the task that has been writing one message for longer than `seconds`. One timer for as many messages as
    are written meanwhile: a timer a message cost a change a twentieth of its time."""

    __slots__ = ("_since", "_timer", "lost", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lost = False
        """It has cancelled the task."""
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The task that runs begins to write a message."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, loop, cast(_Task, asyncio.current_task()))

    def done(self) -> None:
        """It has been written."""
        self._since = None

    def close(self) -> None:
        """Nothing will be written any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop, writer: _Task) -> None:
        self._timer = None
        if self._since is None:
            return
        left = self._since + self.seconds - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look, loop, writer)
        else:
            self.lost = True
            writer.cancel()


class Connection:
    """See the module's head."""

    def __init__(
        self,
        connection_id: str,
        proxy: Proxy,
        peer: str,
        session: Session,
        attachment: Attachment,
        *,
        clock: Clock,
        budget: SendBudget,
        limits: ConnectionLimits,
    ) -> None:
        self.id = connection_id
        self.proxy = proxy
        self.peer = peer
        self.session = session
        self.attachment = attachment
        self.connected_at = clock.now()
        self._clock = clock
        self._budget = budget
        self._limits = limits
        self._awake = asyncio.Event()
        self._closing = asyncio.Event()
        self._patience = Patience(limits.send_timeout)

    def notify(self, changed: Notice) -> None:
        """The bundles say what changed; called inside a commit."""
        if self.session.notice(changed, self._clock.monotonic()):
            self._awake.set()

    def send_again(self) -> None:
        """Everything, whatever the client has."""
        self.session.send_again(self._clock.monotonic())
        self._awake.set()

    def close(self) -> None:
        """End the stream; the client will connect again."""
        self._closing.set()

    async def run(self, rpc: Rpc, received: Callable[[bytes], None]) -> None:
        """Reads and writes until the client ends the stream or `close` is called. `received` feeds the session; what it
        raises ends the stream."""
        with contextlib.closing(self._patience):
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(rpc), name=f"xds write {self.id}")
                reader = group.create_task(self._read(rpc, received), name=f"xds read {self.id}")
                closer = group.create_task(self._closing.wait(), name=f"xds close {self.id}")
                self._awake.set()
                await asyncio.wait((writer, reader, closer), return_when=asyncio.FIRST_COMPLETED)
                for task in (writer, reader, closer):
                    task.cancel()

    async def _read(self, rpc: Rpc, received: Callable[[bytes], None]) -> None:
        while True:
            message = await rpc.read()
            if not isinstance(message, bytes):
                return
            received(message)
            del message  # it may be large, and the next one may be long in coming
            if not self.session.quiet:
                self._awake.set()

    async def _write(self, rpc: Rpc) -> None:
        loop = asyncio.get_running_loop()
        session, clock, awake = self.session, self._clock, self._awake
        while True:
            message = session.next(clock.monotonic())
            if message is not None:
                if message.size < _BIG:
                    await self._send(rpc, bytes(message))
                else:
                    await self._write_big(rpc, message)
                continue
            awake.clear()
            if session.deadline is None:
                await awake.wait()
                continue
            timer = loop.call_later(max(session.deadline - clock.monotonic(), 0.001), awake.set)
            try:
                await awake.wait()
            finally:
                timer.cancel()

    async def _write_big(self, rpc: Rpc, message: Response) -> None:
        async with self._budget.taking(message.size) as takes_long:
            timer = asyncio.get_running_loop().call_later(_SLOW, takes_long)
            try:
                await self._send(rpc, bytes(message))
            finally:
                timer.cancel()

    async def _send(self, rpc: Rpc, message: bytes) -> None:
        """Raises TooSlow, ClientGone."""
        patience = self._patience
        patience.begin()
        try:
            await rpc.write(message)
        except asyncio.CancelledError:
            if patience.lost:
                raise TooSlow(f"has not read a message for {patience.seconds:g} s") from None
            raise
        except Exception as error:  # gRPC's own class for it is private
            if type(error).__name__ == "ExecuteBatchError":
                raise ClientGone("has gone in the middle of a message") from None
            raise
        patience.done()
