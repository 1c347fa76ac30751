"""get, list and watch.

In: a `Call`. Out: the answer, or for watches a stream of JSON frames. resourceVersion semantics as in Kubernetes:
absent is "most recent", 0 is "any", a number with resourceVersionMatch NotOlderThan or Exact; `limit`/`continue` page
through one snapshot. Everything is answered from memory, so a stale read cannot happen.
"""

from __future__ import annotations

import base64
import random

import msgspec
from aiohttp import web

from meltem.errors import ApiError, BadRequest, Gone, Invalid
from meltem.local.apiserver.answers import EntryEncoder, encoder_for, respond, respond_entry
from meltem.local.apiserver.core import Call, Core, warning_headers
from meltem.local.apiserver.negotiate import JSON
from meltem.local.apiserver.request import flag, number, resource_version
from meltem.local.apiserver.selectors import Predicate, parse_fields, parse_labels, predicate
from meltem.local.apiserver.status import expired_token, failure, not_found, too_large_rv
from meltem.local.apiserver.storage import Entry, encode
from meltem.local.apiserver.watch import Event, Interest
from meltem.objects import JsonObject, objects_at, str_at

BOOKMARK_SECONDS = 30.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Continue(msgspec.Struct, frozen=True):
    """Where a paged list goes on: the snapshot and the last key that was sent."""

    rv: int
    namespace: str
    name: str


async def get(core: Core, call: Call) -> web.StreamResponse:
    entry = core.store.get(call.key)
    if entry is None:
        raise not_found(call.resource.storage, call.info.name)
    asked = resource_version(call.query)
    if asked is not None and asked > core.store.rv:
        raise too_large_rv(asked, core.store.rv)
    return await respond_entry(core, call, entry)


def selection(call: Call) -> tuple[Predicate | None, str]:
    """The predicate of the query's selectors, and the one name that they (or the path) restrict it to, if any."""
    labels = parse_labels(call.query.get("labelSelector", ""))
    version = call.resource.crd_version
    extra = (
        [str_at(f, "jsonPath").removeprefix(".") for f in objects_at(version, "selectableFields")] if version else []
    )
    fields = parse_fields(call.query.get("fieldSelector", ""), call.resource.storage, extra)
    name = call.info.name
    for term in fields:
        if term.path == "metadata.name" and term.equal:
            name = term.value
    return predicate(labels, fields), name


async def list_(core: Core, call: Call) -> web.StreamResponse:
    matches, name = selection(call)
    encoder = encoder_for(core, call)
    entries, metadata = _page(core, call, matches, name)
    body = encoder.list_of(await encoder.many(entries), metadata)
    return respond(body, media=encoder.form.media, warnings=call.warnings)


def _page(core: Core, call: Call, matches: Predicate | None, name: str) -> tuple[list[Entry], JsonObject]:
    """The entries of one page, and the list's metadata."""
    namespace = call.info.namespace if call.resource.info.namespaced else ""
    limit = number(call.query, "limit") or 0
    token = call.query.get("continue", "")
    if token:
        if resource_version(call.query):
            raise BadRequest("specifying resource version is not allowed when using continue")
        place = _decode_token(token)
        try:
            entries = core.store.entries_at(call.resource.storage, namespace, place.rv)
        except Gone:
            raise expired_token() from None
        rv = place.rv
        entries = [e for e in entries if (e.key.namespace, e.key.name) > (place.namespace, place.name)]
    else:
        entries, rv = _snapshot(core, call, namespace)
    if name:
        entries = [e for e in entries if e.key.name == name]
    if matches is not None:
        entries = [e for e in entries if matches(e.object)]
    metadata: JsonObject = {"resourceVersion": str(rv)}
    if 0 < limit < len(entries):
        last = entries[limit - 1].key
        if matches is None:
            metadata["remainingItemCount"] = len(entries) - limit
        metadata["continue"] = _encode_token(Continue(rv, last.namespace, last.name))
        entries = entries[:limit]
    return entries, metadata


def _snapshot(core: Core, call: Call, namespace: str) -> tuple[list[Entry], int]:
    storage = call.resource.storage
    asked = resource_version(call.query)
    match = call.query.get("resourceVersionMatch", "")
    _check_match(match, asked, call)
    if asked is not None and asked > core.store.rv:
        raise too_large_rv(asked, core.store.rv)
    if match == "Exact" and asked:
        return core.store.entries_at(storage, namespace, asked), asked
    return core.store.entries(storage, namespace), core.store.rv


def _check_match(match: str, asked: int | None, call: Call) -> None:
    if not match:
        return
    if match not in ("Exact", "NotOlderThan"):
        raise _invalid_options(
            f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
        )
    if asked is None and not (call.info.verb == "watch" and flag(call.query, "sendInitialEvents")):
        raise _invalid_options(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
    if match == "Exact" and asked == 0:
        raise _invalid_options(
            'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        )


def _invalid_options(text: str) -> Invalid:
    return Invalid(
        f'ListOptions.meta.k8s.io "" is invalid: {text}', details={"group": "meta.k8s.io", "kind": "ListOptions"}
    )


def _encode_token(place: Continue) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _decode_token(token: str) -> Continue:
    try:
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        return msgspec.json.decode(data, type=Continue)
    except (ValueError, msgspec.MsgspecError):
        raise BadRequest("continue key is not valid: it must come from an earlier list") from None


# Watching


async def watch(core: Core, call: Call) -> web.StreamResponse:
    """Streams events until the client goes, the timeout passes, or the reader is too slow."""
    matches, name = selection(call)
    encoder = encoder_for(core, call)
    if encoder.form.media != JSON:
        raise BadRequest("watches are served as JSON only")
    namespace = call.info.namespace if call.resource.info.namespaced else ""
    interest = Interest(call.resource.storage, namespace, name, matches)
    seconds = number(call.query, "timeoutSeconds") or random.randint(1800, 3600)
    stream = _Stream(core, call, encoder, interest, min(max(seconds, 1), 86400))
    return await stream.run()


class _Stream:
    """One watch over HTTP."""

    def __init__(self, core: Core, call: Call, encoder: EntryEncoder, interest: Interest, seconds: float) -> None:
        self._core = core
        self._call = call
        self._encoder = encoder
        self._interest = interest
        self._deadline = core.clock.monotonic() + seconds
        self._bookmarks = flag(call.query, "allowWatchBookmarks")
        self._initial = _wants_initial(call)

    async def run(self) -> web.StreamResponse:
        core, call = self._core, self._call
        asked = resource_version(call.query)
        if asked is not None and asked > core.store.rv:
            raise too_large_rv(asked, core.store.rv)
        after = asked or 0
        first: list[Entry] = []
        if not after or self._initial:
            after = core.store.rv
            first = self._current()
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        for header, value in warning_headers(call.warnings):
            response.headers.add(header, value)
        transport = call.request.transport
        try:
            watcher = core.hub.subscribe(self._interest, after, transport.abort if transport else lambda: None)
        except Gone as error:
            response.enable_chunked_encoding()
            await response.prepare(call.request)
            await response.write(_frame("ERROR", encode(failure(error))))
            return response
        try:
            response.enable_chunked_encoding()
            await response.prepare(call.request)
            await self._send_initial(response, first, after)
            last = after
            while not watcher.dropped and (left := self._deadline - core.clock.monotonic()) > 0:
                events = await watcher.take(min(left, BOOKMARK_SECONDS))
                if events:
                    last = events[-1].rv
                    await response.write(await self._encode(events))
                elif self._bookmarks and not watcher.dropped:
                    last = max(last, core.store.rv)
                    await response.write(self._bookmark(last))
            return response
        except (ConnectionError, ApiError):
            return response
        finally:
            core.hub.unsubscribe(watcher)

    def _current(self) -> list[Entry]:
        interest = self._interest
        entries = self._core.store.entries(interest.resource, interest.namespace)
        return [
            e
            for e in entries
            if (not interest.name or e.key.name == interest.name)
            and (interest.matches is None or interest.matches(e.object))
        ]

    async def _send_initial(self, response: web.StreamResponse, entries: list[Entry], rv: int) -> None:
        for start in range(0, len(entries), 500):
            some = [Event("ADDED", e, e.rv, None) for e in entries[start : start + 500]]
            await response.write(await self._encode(some))
        if self._initial and self._bookmarks:
            await response.write(self._bookmark(rv, {INITIAL_EVENTS_END: "true"}))

    async def _encode(self, events: list[Event]) -> bytes:
        frames: list[bytes] = []
        for event in events:
            key = (event.kind, *self._encoder.cache_key)
            frame = event.change.encoded.get(key) if event.change else None
            if frame is None:
                frame = _frame(event.kind, await self._encoder.single(event.entry))
                if event.change and self._encoder.form.kind != "Table":  # rows show ages: they are made anew
                    event.change.encoded[key] = frame
            frames.append(frame)
        return b"".join(frames)

    def _bookmark(self, rv: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: JsonObject = {"resourceVersion": str(rv), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = dict(annotations)
        resource = self._call.resource
        match self._encoder.form.kind:
            case "Table":
                obj = self._encoder.table([], {"resourceVersion": str(rv)})
                if annotations:
                    row: JsonObject = {"cells": [], "object": _partial(metadata)}
                    obj = self._encoder.table([encode(row)], {"resourceVersion": str(rv)})
            case "PartialObjectMetadata":
                obj = encode(_partial(metadata))
            case _:
                obj = encode({"kind": resource.info.kind, "apiVersion": resource.api_version, "metadata": metadata})
        return _frame("BOOKMARK", obj)


def _partial(metadata: JsonObject) -> JsonObject:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}


def _wants_initial(call: Call) -> bool:
    if "sendInitialEvents" not in call.query:
        if call.query.get("resourceVersionMatch"):
            raise _invalid_options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless"
                " sendInitialEvents is provided"
            )
        return False
    wanted = flag(call.query, "sendInitialEvents")
    match = call.query.get("resourceVersionMatch", "")
    if match != "NotOlderThan":
        raise _invalid_options(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        )
    return wanted


def _frame(kind: str, obj: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), obj)
