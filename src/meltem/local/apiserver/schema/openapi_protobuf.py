"""The OpenAPI 2 document in protobuf: what kubectl asks for when it checks a `List`, or explains in its old way.

In: the document as JSON (`openapi_v2`). Out: the bytes of the message `openapi.v2.Document` of gnostic
(https://github.com/google/gnostic-models, `OpenAPIv2.proto`), whose field numbers the tables below state. Only what our
documents have is in the tables; a word that is not would be lost in silence, so it raises KeyError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import msgspec

from meltem.objects import Json, JsonObject

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
OLD_MEDIA_TYPE = MEDIA_TYPE.replace("v2.v1.0", "v2@v1.0")
"""What kubectl asks for; it is answered with the other, as no media type may have an `@`."""
Write = Callable[[int, Json], bytes]
"""A field's number and its JSON value in, the encoded field out."""


def encode(document: JsonObject) -> bytes:
    return _message(document, _DOCUMENT)


# The wire format (https://protobuf.dev/programming-guides/encoding)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _block(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _text(field: int, value: Json) -> bytes:
    return _block(field, str(value).encode())


def _flag(field: int, value: Json) -> bytes:
    return _varint(field << 3) + (b"\x01" if value else b"\x00")


def _whole(field: int, value: Json) -> bytes:
    return _varint(field << 3) + _varint(_number(value) & 0xFFFF_FFFF_FFFF_FFFF)


def _number(value: Json) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _real(field: int, value: Json) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", float(value) if isinstance(value, (int, float)) else 0.0)


def _each(write: Write) -> Write:
    return lambda field, value: b"".join(write(field, v) for v in (value if isinstance(value, list) else [value]))


def _any(field: int, value: Json) -> bytes:
    """`Any`: the value as YAML, of which JSON is a part."""
    return _block(field, _block(2, msgspec.json.encode(value)))


def _message(value: Json, table: Mapping[str, tuple[int, Write]], extensions: int = 0) -> bytes:
    """Fields of the table; words that begin with `x-` become `NamedAny`s of the field `extensions`."""
    if not isinstance(value, dict):
        return b""
    out: list[bytes] = []
    for key, content in value.items():
        if key.startswith("x-") and extensions:
            out.append(_block(extensions, _block(1, key.encode()) + _any(2, content)))
        else:
            number, write = table[key]
            out.append(write(number, content))
    return b"".join(out)


def _named(write: Write, entries: int = 1) -> Write:
    """A map as a message whose repeated field `entries` has `name` and `value`."""

    def named(field: int, value: Json) -> bytes:
        pairs = value.items() if isinstance(value, dict) else ()
        return _block(field, b"".join(_block(entries, _block(1, k.encode()) + write(2, v)) for k, v in pairs))

    return named


# The messages


def _schema(field: int, value: Json) -> bytes:
    return _block(field, _message(value, _SCHEMA, 31))


def _additional(field: int, value: Json) -> bytes:
    return _block(field, _flag(2, value) if isinstance(value, bool) else _schema(1, value))


def _type(field: int, value: Json) -> bytes:
    return _block(field, _each(_text)(1, value))


def _items(field: int, value: Json) -> bytes:
    return _block(field, _each(_schema)(1, value))


def _parameter(field: int, value: Json) -> bytes:
    """`ParametersItem` → `Parameter` → `NonBodyParameter` → one in the query or in the path."""
    where = value.get("in") if isinstance(value, dict) else ""
    number, table = (4, _PATH_PARAMETER) if where == "path" else (3, _QUERY_PARAMETER)
    return _block(field, _block(1, _block(2, _block(number, _message(value, table)))))


def _response(field: int, value: Json) -> bytes:
    return _block(field, _block(1, _message(value, _RESPONSE, 5)))


def _operation(field: int, value: Json) -> bytes:
    return _block(field, _message(value, _OPERATION, 13))


def _path_item(field: int, value: Json) -> bytes:
    return _block(field, _message(value, _PATH_ITEM, 10))


def _info(field: int, value: Json) -> bytes:
    return _block(field, _message(value, {"title": (1, _text), "version": (2, _text)}))


_SCHEMA: dict[str, tuple[int, Write]] = {
    "$ref": (1, _text), "format": (2, _text), "title": (3, _text), "description": (4, _text), "default": (5, _any),
    "multipleOf": (6, _real), "maximum": (7, _real), "exclusiveMaximum": (8, _flag), "minimum": (9, _real),
    "exclusiveMinimum": (10, _flag), "maxLength": (11, _whole), "minLength": (12, _whole), "pattern": (13, _text),
    "maxItems": (14, _whole), "minItems": (15, _whole), "uniqueItems": (16, _flag), "maxProperties": (17, _whole),
    "minProperties": (18, _whole), "required": (19, _each(_text)), "enum": (20, _each(_any)),
    "additionalProperties": (21, _additional), "type": (22, _type), "items": (23, _items),
    "allOf": (24, _each(_schema)), "properties": (25, _named(_schema)), "example": (30, _any),
}  # fmt: skip
_QUERY_PARAMETER: dict[str, tuple[int, Write]] = {
    "required": (1, _flag), "in": (2, _text), "description": (3, _text), "name": (4, _text), "type": (6, _text),
    "uniqueItems": (20, _flag),
}  # fmt: skip
_PATH_PARAMETER: dict[str, tuple[int, Write]] = {
    "required": (1, _flag), "in": (2, _text), "description": (3, _text), "name": (4, _text), "type": (5, _text),
    "uniqueItems": (19, _flag),
}  # fmt: skip
_RESPONSE: dict[str, tuple[int, Write]] = {
    "description": (1, _text),
    "schema": (2, lambda field, value: _block(field, _schema(1, value))),
}
_OPERATION: dict[str, tuple[int, Write]] = {
    "description": (3, _text), "operationId": (5, _text), "parameters": (8, _each(_parameter)),
    "responses": (9, _named(_response)),
}  # fmt: skip
_PATH_ITEM: dict[str, tuple[int, Write]] = {
    "get": (2, _operation), "put": (3, _operation), "post": (4, _operation), "delete": (5, _operation),
    "options": (6, _operation), "head": (7, _operation), "patch": (8, _operation),
    "parameters": (9, _each(_parameter)),
}  # fmt: skip
_DOCUMENT: dict[str, tuple[int, Write]] = {
    "swagger": (1, _text), "info": (2, _info), "paths": (8, _named(_path_item, entries=2)),
    "definitions": (9, _named(_schema)),
}  # fmt: skip
