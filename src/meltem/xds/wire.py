"""The wire format of discovery requests, and of the fields that responses are joined from.

In: bytes of clients. Out: `DeltaRequest`, `StateRequest`; `field`. Equal large requests, such as those in which equal
proxies ask for their endpoints, are read once.

Field numbers: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

import msgspec

from meltem.envoyapi import discovery, message
from meltem.errors import UserError

_LARGE = 1 << 12
_REMEMBERED = 4 << 20


class DeltaRequest(msgspec.Struct, frozen=True):
    """A DeltaDiscoveryRequest without its node. `error` is None for an acknowledgement or a plain request."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = {}
    nonce: str = ""
    error: str | None = None

    @property
    def acknowledges(self) -> bool:
        """It says that a response was taken, and nothing else."""
        return bool(self.nonce) and self.error is None and not self.subscribe and not self.unsubscribe


class StateRequest(msgspec.Struct, frozen=True):
    """A DiscoveryRequest (state of the world) without its node."""

    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str | None = None


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field, number below 16."""
    size = len(content)
    if size < 0x80:
        return bytes((number << 3 | 2, size)) + content
    out = bytearray((number << 3 | 2,))
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + content


def parse_delta(data: bytes) -> tuple[DeltaRequest, discovery.DeltaDiscoveryRequest | None]:
    """The request, and the message itself where it carries a node. Raises UserError for what is no such message."""
    parsed = discovery.DeltaDiscoveryRequest()
    try:
        parsed.ParseFromString(data)
    except (message.DecodeError, ValueError):
        raise UserError("the bytes are no DeltaDiscoveryRequest") from None
    request = DeltaRequest(
        parsed.type_url,
        tuple(parsed.resource_names_subscribe),
        tuple(parsed.resource_names_unsubscribe),
        dict(parsed.initial_resource_versions),
        parsed.response_nonce,
        cast(str, parsed.error_detail.message) if parsed.HasField("error_detail") else None,  # pyright: ignore[reportUnknownMemberType]
    )
    return request, parsed if parsed.HasField("node") else None


def parse_state(data: bytes) -> tuple[StateRequest, discovery.DiscoveryRequest | None]:
    """As `parse_delta`, for state of the world."""
    parsed = discovery.DiscoveryRequest()
    try:
        parsed.ParseFromString(data)
    except (message.DecodeError, ValueError):
        raise UserError("the bytes are no DiscoveryRequest") from None
    request = StateRequest(
        parsed.type_url,
        tuple(parsed.resource_names),
        parsed.version_info,
        parsed.response_nonce,
        cast(str, parsed.error_detail.message) if parsed.HasField("error_detail") else None,  # pyright: ignore[reportUnknownMemberType]
    )
    return request, parsed if parsed.HasField("node") else None


class DeltaReader:
    """`parse_delta` for requests without a node, which remembers the large ones of late."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, DeltaRequest] = OrderedDict()
        self._bytes = 0

    def read(self, data: bytes) -> DeltaRequest:
        """Raises UserError for what is no DeltaDiscoveryRequest."""
        if len(data) < _LARGE:
            return parse_delta(data)[0]
        found = self._known.get(data)
        if found is not None:
            self._known.move_to_end(data)
            return found
        made = parse_delta(data)[0]
        if made.subscribe and not made.initial:  # what a client has already comes in an order of its own
            self._known[data] = made
            self._bytes += len(data)
            while self._bytes > _REMEMBERED:
                self._bytes -= len(self._known.popitem(last=False)[0])
        return made
