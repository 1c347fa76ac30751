"""Objects as HTTP answers, in the form that was asked for: plain, Table or PartialObjectMetadata, as JSON or YAML.

`EntryEncoder` turns stored entries into bytes for lists and watches and shares the stored bytes wherever the stored
version is the one asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from meltem import yamlio
from meltem.errors import ApiError
from meltem.local.apiserver.conversion import convert, convert_all, partial_metadata
from meltem.local.apiserver.core import Call, Core, warning_headers
from meltem.local.apiserver.negotiate import JSON, YAML, Form, form_of
from meltem.local.apiserver.registry import Resource
from meltem.local.apiserver.schema.table import table_columns, table_row
from meltem.local.apiserver.status import bad_query, failure
from meltem.local.apiserver.storage import Entry, decode, encode
from meltem.objects import Json, JsonObject

TABLE_VERSION = "meta.k8s.io/v1"


def respond(
    body: bytes,
    *,
    status: int = 200,
    media: str = JSON,
    warnings: list[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """`body` is JSON; turned into YAML where `media` says so."""
    if media == YAML:
        body = yamlio.dump(decode(body)).encode()
    response = web.Response(body=body, status=status, headers=headers)
    response.content_type = media
    for name, value in warning_headers(warnings or []):
        response.headers.add(name, value)
    return response


def respond_object(obj: JsonObject, *, status: int = 200, warnings: list[str] | None = None) -> web.Response:
    return respond(encode(obj), status=status, warnings=warnings)


def respond_error(error: ApiError, warnings: list[str] | None = None) -> web.Response:
    response = respond_object(failure(error), status=error.status_code, warnings=warnings)
    retry = error.details.get("retryAfterSeconds")
    if isinstance(retry, int):
        response.headers["Retry-After"] = str(retry)
    if error.status_code == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="kubernetes"'
    return response


class EntryEncoder:
    """Encodes entries of one resource in one form. `include`: what a table row carries of its object."""

    def __init__(self, core: Core, resource: Resource, form: Form, include: str = "Metadata") -> None:
        self._core = core
        self._resource = resource
        self.form = form
        self._include = include
        self.cache_key = (form.kind, resource.api_version, include)

    async def many(self, entries: Sequence[Entry]) -> list[bytes]:
        """One JSON text for each entry: the object, its partial metadata, or its table row."""
        version = self._resource.api_version
        if not self.form.kind and version == self._resource.storage_version:
            return [e.data for e in entries]
        objects = [e.object for e in entries]
        if self.form.kind != "PartialObjectMetadata":
            objects = await convert_all(self._resource, objects, version, self._core.converter)
        return [self._one(obj) for obj in objects]

    def _one(self, obj: JsonObject) -> bytes:
        match self.form.kind:
            case "Table":
                return encode(self.row(obj))
            case "PartialObjectMetadata":
                return encode(partial_metadata(obj))
            case _:
                return encode(obj)

    def row(self, obj: JsonObject) -> JsonObject:
        columns = self._resource.columns
        cells = table_row(self._resource.info, obj, columns, self._core.clock.now())
        row: JsonObject = {"cells": cells}
        if self._include == "Metadata":
            row["object"] = partial_metadata(obj)
        elif self._include == "Object":
            row["object"] = obj
        return row

    def columns(self) -> list[Json]:
        return [*table_columns(self._resource.info, self._resource.columns)]

    def table(self, rows: Sequence[bytes], metadata: JsonObject) -> bytes:
        """A Table of encoded rows."""
        head = encode(
            {
                "kind": "Table",
                "apiVersion": TABLE_VERSION,
                "metadata": metadata,
                "columnDefinitions": self.columns(),
            }
        )
        return head[:-1] + b',"rows":[' + b",".join(rows) + b"]}"

    async def single(self, entry: Entry) -> bytes:
        """One object as an answer or a watch event shows it: a table of one row when tables are asked for."""
        (body,) = await self.many([entry])
        if self.form.kind == "Table":
            return self.table([body], {"resourceVersion": str(entry.rv)})
        return body

    def list_of(self, items: Sequence[bytes], metadata: JsonObject) -> bytes:
        """A list of encoded items in this form."""
        if self.form.kind == "Table":
            return self.table(items, metadata)
        if self.form.kind:
            kind, api_version = "PartialObjectMetadataList", TABLE_VERSION
        else:
            kind, api_version = self._resource.info.list_kind, self._resource.api_version
        head = encode({"kind": kind, "apiVersion": api_version, "metadata": metadata})
        return head[:-1] + b',"items":[' + b",".join(items) + b"]}"


def encoder_for(core: Core, call: Call) -> EntryEncoder:
    """The encoder for a call's Accept header and `includeObject`; raises NotAcceptable, BadRequest."""
    include = call.query.get("includeObject", "") or "Metadata"
    if include not in ("None", "Metadata", "Object"):
        raise bad_query("includeObject", include, "it must be None, Metadata or Object")
    return EntryEncoder(core, call.resource, form_of(call.accept), include)


async def respond_entry(core: Core, call: Call, entry: Entry, *, status: int = 200) -> web.Response:
    """One stored object, in the version and form of the request."""
    encoder = encoder_for(core, call)
    return respond(await encoder.single(entry), status=status, media=encoder.form.media, warnings=call.warnings)


async def respond_value(core: Core, call: Call, obj: JsonObject, *, status: int = 200) -> web.Response:
    """An object that is not stored (dry run, deletion), in the version and form of the request."""
    converted = await convert(call.resource, obj, call.resource.api_version, core.converter)
    entry = Entry(call.key, 0, encode(converted), converted)
    encoder = EntryEncoder(core, call.resource, form_of(call.accept))
    return respond(await encoder.single(entry), status=status, media=encoder.form.media, warnings=call.warnings)


def respond_struct(value: object) -> web.Response:
    return respond(msgspec.json.encode(value))
