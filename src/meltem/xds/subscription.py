"""One type's subscription within a stream: what the client wants, has, was sent, has accepted or refused.

In: what the session tells it. Out: plain state, and `TypeStatus` for people. The rules live in the sessions.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import msgspec

from meltem.envoyapi import Resource
from meltem.generate.bundle import Layer
from meltem.xds.batches import Batch, Pending
from meltem.xds.held import Held, Names


class Content(Protocol):
    """What a proxy should have: the part of `Attachment` that sessions read."""

    def get(self, type_url: str, name: str) -> Resource | None: ...

    def layers(self, type_url: str) -> list[Layer]: ...


class Observer(Protocol):
    """Who is told what happens, for metrics and logs; called from inside the session, must not block."""

    def sent(self, type_url: str, resources: int, size: int) -> None: ...

    def acknowledged(self, type_url: str, seconds: float) -> None:
        """`seconds` since the first change that this acknowledgement completes."""
        ...

    def rejected(self, type_url: str, names: tuple[str, ...], error: str) -> None: ...

    def expired_nonce(self, type_url: str) -> None: ...


class SyncState(enum.Enum):
    """As `istioctl proxy-status` prints it."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NOT_SENT = "NOT SENT"
    ERROR = "ERROR"
    IGNORED = "IGNORED"


class Rejection(msgspec.Struct, frozen=True):
    """A resource that the client refused: which version, and what it said."""

    version: str
    error: str


_DUMP = "goo.gle/debugproto"
_SAID = 600


def in_short(error: str) -> str:
    """Envoy's reason without the copy of the resource that it puts around it."""
    head, dump, rest = error.partition(_DUMP)
    if not dump:
        return error if len(error) <= _SAID else f"{error[:_SAID]}…"
    tail = rest.rpartition("\n")[2].strip(" }:")
    said = " ".join(part for part in (head.strip(" :\n"), tail) if part)
    return (said or rest[-_SAID:].strip())[-_SAID:]


class TypeStatus(msgspec.Struct, frozen=True):
    """Where one type of one client stands. Times are monotonic seconds, 0 for never."""

    type_url: str
    state: SyncState
    sent_nonce: str = ""
    acked_nonce: str = ""
    sent_version: str = ""
    acked_version: str = ""
    sent_at: float = 0.0
    acked_at: float = 0.0
    resources: int = 0
    rejected: Mapping[str, Rejection] = {}


class InFlight(msgspec.Struct, frozen=True):
    """A response that waits for its acknowledgement."""

    nonce: str
    batch: Batch
    removed: tuple[str, ...]
    at: float


class Subscription:
    """State of one type on one stream."""

    __slots__ = (
        "acked_at",
        "acked_nonce",
        "acked_version",
        "asked",
        "batches",
        "brought",
        "dirty",
        "everything",
        "gone",
        "held",
        "inflight",
        "must",
        "names",
        "out",
        "rejected",
        "respond",
        "sent_at",
        "sent_nonce",
        "sent_version",
        "since",
        "type_url",
        "wildcard",
    )

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names = Names()
        """Asked for by name."""
        self.held = Held()
        self.brought = False
        """The client brought along what it has from an earlier stream."""
        self.asked: frozenset[str] | None = None
        """All the names of the first request, where they are many: to be answered, or compared with what the client
        brought along."""
        self.everything = False
        """Compare everything (a wildcard subscription that has just begun)."""
        self.dirty: set[str] = set()
        """To be compared with what the client has."""
        self.must: set[str] = set()
        """To be answered whatever the client has."""
        self.respond = False
        """Answer even with nothing."""
        self.out = Pending()
        """To be sent."""
        self.gone: dict[str, None] = {}
        """To be removed."""
        self.batches: deque[tuple[str, ...]] = deque()
        """Names to be sent apart from each other, to find the one that the client refuses."""
        self.inflight: InFlight | None = None
        self.rejected: dict[str, Rejection] = {}
        self.since: float | None = None
        """When the oldest change that the client has not acknowledged came up."""
        self.sent_nonce = ""
        self.acked_nonce = ""
        self.sent_version = ""
        self.acked_version = ""
        self.sent_at = 0.0
        self.acked_at = 0.0

    @property
    def undecided(self) -> bool:
        """Something has to be compared."""
        return self.everything or bool(self.dirty) or bool(self.must) or self.asked is not None

    @property
    def waiting(self) -> bool:
        """Something is left to be sent."""
        return bool(
            self.dirty or self.must or self.out or self.gone or self.everything or self.respond or self.batches
            or self.asked is not None
        )  # fmt: skip

    @property
    def adding(self) -> bool:
        """Something is on its way to the client that others may build upon."""
        return self.inflight is not None or bool(self.out) or bool(self.batches) or self.undecided

    @property
    def state(self) -> SyncState:
        if self.rejected:
            return SyncState.ERROR
        if not self.sent_nonce:
            return SyncState.SYNCED if self.brought else SyncState.NOT_SENT
        return SyncState.STALE if self.stale else SyncState.SYNCED

    @property
    def stale(self) -> bool:
        """The client has been sent something of this type, and not acknowledged everything that it should have."""
        return bool(self.sent_nonce) and not self.rejected and (self.adding or bool(self.gone))

    def status(self) -> TypeStatus:
        return TypeStatus(
            self.type_url,
            self.state,
            self.sent_nonce,
            self.acked_nonce,
            self.sent_version,
            self.acked_version,
            self.sent_at,
            self.acked_at,
            len(self.held),
            dict(self.rejected),
        )
