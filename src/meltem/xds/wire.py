"""The wire format of discovery requests and responses, without the cost of building messages.

In: serialized resources. Out: serialized responses, joined from them. Proxies that need the same resources share the
joined bytes (`Batches`), and even the whole message where their nonces agree, as they do after the same history.

Field numbers: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import cast

import msgspec

from meltem.envoyapi import Resource, discovery, message
from meltem.errors import UserError

CHUNK = 1 << 20
"""Bytes of one response where a type may be sent in several."""
_CACHED_BYTES = 96 << 20
_CACHED_BATCHES = 2048


class DeltaRequest(msgspec.Struct, frozen=True):
    """A DeltaDiscoveryRequest without its node. `error` is None for an acknowledgement or a plain request."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = {}
    nonce: str = ""
    error: str | None = None


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


class Batch:
    """Some resources of one type, joined once for all who need exactly these."""

    __slots__ = ("_delta", "_last", "_state", "_version", "_versions", "resources", "size")

    def __init__(self, resources: tuple[Resource, ...]) -> None:
        self.resources = resources
        self.size = sum(len(r.entry) for r in resources)
        self._delta = b""
        self._state = b""
        self._version = ""
        self._versions: Mapping[str, str] | None = None
        self._last: tuple[str, tuple[str, ...], bytes] | None = None

    @property
    def version(self) -> str:
        """A hash of the content, equal in every process."""
        if not self._version:
            digest = blake2b(digest_size=8)
            for text in sorted(f"{r.name}\0{r.version}" for r in self.resources):
                digest.update(text.encode())
            self._version = digest.hexdigest()
        return self._version

    @property
    def versions(self) -> Mapping[str, str]:
        """Name → version; shared: never written to."""
        if self._versions is None:
            self._versions = {r.name: r.version for r in self.resources}
        return self._versions

    def delta(self, type_url: str, nonce: str, removed: Sequence[str]) -> bytes:
        """A DeltaDiscoveryResponse."""
        gone = tuple(removed)
        if self._last is not None and self._last[0] == nonce and self._last[1] == gone:
            return self._last[2]
        if not self._delta and self.resources:
            self._delta = b"".join([r.entry for r in self.resources])
        head = field(1, self.version.encode()) + field(4, type_url.encode()) + field(5, nonce.encode())
        made = b"".join((head, self._delta, *(field(6, name.encode()) for name in gone)))
        self._last = (nonce, gone, made)
        return made

    def state(self, type_url: str, nonce: str, version: str) -> bytes:
        """A DiscoveryResponse (state of the world)."""
        if not self._state and self.resources:
            self._state = b"".join([field(2, field(1, r.type_url.encode()) + field(2, r.body)) for r in self.resources])
        head = field(1, version.encode()) + field(4, type_url.encode()) + field(5, nonce.encode())
        return head + self._state


class Batches:
    """The batches in use of late, by the identity of their resources (which a batch keeps alive)."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], Batch] = OrderedDict()
        self._sizes: dict[tuple[int, ...], int] = {}
        self._bytes = 0

    def of(self, resources: Iterable[Resource]) -> Batch:
        some = tuple(resources)
        key = tuple(map(id, some))
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        made = Batch(some)
        self._known[key] = made
        self._sizes[key] = made.size
        self._bytes += self._sizes[key]
        while len(self._known) > 1 and (self._bytes > _CACHED_BYTES or len(self._known) > _CACHED_BATCHES):
            old, _ = self._known.popitem(last=False)
            self._bytes -= self._sizes.pop(old)
        return made

    def first_chunk(self, batch: Batch, limit: int) -> Batch:
        """As many of its resources as fit into `limit` bytes, at least one."""
        if batch.size <= limit or len(batch.resources) < 2:
            return batch
        size = 0
        for count, resource in enumerate(batch.resources):
            size += len(resource.entry)
            if count and size > limit:
                return self.of(batch.resources[:count])
        return batch

    @property
    def bytes(self) -> int:
        """Serialized bytes of the resources in the batches that are kept."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._known)
