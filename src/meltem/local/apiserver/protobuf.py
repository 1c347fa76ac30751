"""Kubernetes' protobuf bodies as JSON: kubectl 1.32+ and programs that use client-go's typed clients send them.

In: a body that begins with the four magic bytes `k8s\\0`, then an `Unknown` envelope (type, raw message). Out: the
object as JSON would have it. Answers are always JSON, which those clients accept as well. `protobuf_fields.txt` has a
line for each message: its Go name (`apps/v1.DeploymentSpec`), then `number:json name:type:flags` for each field,
where types are scalars, other messages, `[]T`, `{}T` (a map from strings), `=T` (a message that wraps T in field 1),
or `@name` for those with a JSON form of their own; an empty JSON name means that the message's fields stand in its
parent; flag `p` says that zero is a value of its own (a pointer in Go), `o` that a zero is left out.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import TypeAlias

import msgspec

from meltem.clock import rfc3339
from meltem.errors import BadRequest
from meltem.objects import Json, JsonObject

MAGIC = b"k8s\x00"
MEDIA = "application/vnd.kubernetes.protobuf"
_MAX_DEPTH = 60
_INTEGERS = ("int32", "int64", "uint32", "int")

Wire: TypeAlias = "int | bytes"


class Field(msgspec.Struct, frozen=True):
    name: str
    type: str
    pointer: bool
    omit_zero: bool


@cache
def messages() -> Mapping[str, Mapping[int, Field]]:
    """Message name -> field number -> field."""
    text = resources.files(__package__ or "meltem.local.apiserver").joinpath("protobuf_fields.txt").read_text("utf-8")
    found: dict[str, dict[int, Field]] = {}
    for line in text.splitlines():
        name, *fields = line.split(" ")
        found[name] = {}
        for field in fields:
            number, json_name, kind, flags = field.split(":")
            found[name][int(number)] = Field(json_name, kind, "p" in flags, "o" in flags)
    return found


def decode(body: bytes) -> JsonObject:
    """The object of a protobuf body; raises BadRequest."""
    if not body.startswith(MAGIC):
        raise BadRequest("the body of the request does not begin as Kubernetes protobuf does")
    try:
        return _envelope(body[len(MAGIC) :])
    except (IndexError, struct.error, UnicodeDecodeError, OverflowError, ValueError, TypeError) as error:
        raise BadRequest(f"the body of the request is not valid protobuf: {error}") from None


def _envelope(data: bytes) -> JsonObject:
    parts = dict(_wire(data))
    type_meta = {number: _text(value) for number, value in _wire(_bytes(parts.get(1, b"")))}
    api_version, kind = type_meta.get(1, ""), type_meta.get(2, "")
    name = _message_name(api_version, kind)
    obj: JsonObject = {"kind": kind, "apiVersion": api_version}
    obj.update(_message(name, _bytes(parts.get(2, b"")), 0))
    return obj


def _message_name(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    package = group.split(".")[0] or "core"
    for name in (f"{package}/{version}.{kind}", f"meta/v1.{kind}", f"meta/v1.{kind.removesuffix('Options')}Options"):
        if name in messages():
            return name
    raise BadRequest(f"{kind} of {api_version} is not served as protobuf: send it as JSON")


def _wire(data: bytes) -> Iterator[tuple[int, Wire]]:
    """(field number, value) of every field: varints and fixed numbers as integers, the rest as bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        value: Wire
        match kind:
            case 0:
                value, place = _varint(data, place)
            case 1:
                (value,), place = struct.unpack_from("<Q", data, place), place + 8
            case 5:
                (value,), place = struct.unpack_from("<I", data, place), place + 4
            case 2:
                length, place = _varint(data, place)
                if place + length > len(data):
                    raise ValueError("a field is longer than the message")
                value, place = data[place : place + length], place + length
            case _:
                raise ValueError(f"wire type {kind}")
        yield number, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _bytes(value: Wire) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are expected")
    return value


def _number(value: Wire) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number is expected")
    return value


def _text(value: Wire) -> str:
    return _bytes(value).decode("utf-8")


def _message(name: str, data: bytes, depth: int) -> JsonObject:
    if depth > _MAX_DEPTH:
        raise BadRequest(f"the body of the request is nested deeper than {_MAX_DEPTH} levels")
    fields = messages().get(name)
    if fields is None:
        raise BadRequest(f"{name} is not served as protobuf: send it as JSON")
    obj: JsonObject = {}
    for number, value in _wire(data):
        field = fields.get(number)
        if field is not None:
            _add(obj, field, value, depth)
    return obj


def _add(obj: JsonObject, field: Field, value: Wire, depth: int) -> None:
    kind = field.type
    if not field.name:
        obj.update(_message(kind, _bytes(value), depth + 1))
    elif kind.startswith("[]"):
        found = obj.setdefault(field.name, [])
        if isinstance(found, list):
            found.extend(_items(kind[2:], value, depth))
    elif kind.startswith("{}"):
        found = obj.setdefault(field.name, {})
        if isinstance(found, dict):
            key, item = _pair(kind[2:], _bytes(value), depth)
            found[key] = item
    else:
        item = _value(kind, value, depth)
        if item is None or (not field.pointer and field.omit_zero and item in ("", 0, False, {})):
            return
        obj[field.name] = item


def _items(kind: str, value: Wire, depth: int) -> list[Json]:
    if kind in _INTEGERS and isinstance(value, bytes):  # packed
        items: list[Json] = []
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            items.append(_signed(number))
        return items
    return [_value(kind, value, depth)]


def _pair(kind: str, data: bytes, depth: int) -> tuple[str, Json]:
    parts = dict(_wire(data))
    empty: Wire = 0 if kind in (*_INTEGERS, "bool") else b""
    return _text(parts.get(1, b"")), _value(kind, parts.get(2, empty), depth)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _value(kind: str, value: Wire, depth: int) -> Json:
    if kind == "string":
        return _text(value)
    if kind == "bool":
        return _number(value) != 0
    if kind in _INTEGERS:
        return _signed(_number(value))
    if kind == "float64":
        return struct.unpack("<d", struct.pack("<Q", _number(value)))[0]
    if kind == "bytes":
        return base64.b64encode(_bytes(value)).decode()
    if kind.startswith("@"):
        return _special(kind, _bytes(value))
    if kind.startswith("="):
        return _wrapped(kind[1:], _bytes(value), depth)
    return _message(kind, _bytes(value), depth + 1)


def _wrapped(kind: str, data: bytes, depth: int) -> Json:
    """A message that stands for a list."""
    inner: list[Json] = []
    for number, value in _wire(data):
        if number == 1:
            inner.extend(_items(kind.removeprefix("[]"), value, depth))
    return inner


def _special(kind: str, data: bytes) -> Json:
    parts = dict(_wire(data))
    match kind:
        case "@time" | "@microtime":
            if not data:
                return None
            seconds = _signed(_number(parts.get(1, 0)))
            if seconds <= -62135596800:
                return None
            nanos = _number(parts.get(2, 0))
            return rfc3339(seconds + nanos / 1e9, micros=True) if kind == "@microtime" else rfc3339(seconds)
        case "@quantity":
            return _text(parts.get(1, b""))
        case "@intorstring":
            if _number(parts.get(1, 0)) == 1:
                return _text(parts.get(3, b""))
            return _signed(_number(parts.get(2, 0)))
        case "@duration":
            return f"{_signed(_number(parts.get(1, 0))) / 1e9:g}s"
        case _:
            raw = _bytes(parts.get(1, b""))
            if not raw:
                return None
            try:
                value: Json = msgspec.json.decode(raw)
            except (msgspec.DecodeError, RecursionError) as error:
                raise BadRequest(f"the body of the request holds text that is not valid JSON: {error}") from None
            return value
