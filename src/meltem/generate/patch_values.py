"""A patch's value beside Envoy's messages: what they do not have, and durations as people write them.

In: the value as JSON, a message descriptor. Out: (path, what is wrong, whether the value cannot be used), or the value
with its durations in protobuf's form. A field that is not known may be one of a newer Envoy, and is passed over; a word
that is not known would silently become another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from meltem import envoyapi as api
from meltem.resources.base import Duration

Finding = tuple[str, str, bool]
_DEPTH = 60
_STRICT_DURATION = re.compile(r"-?\d+(?:\.\d{1,9})?s")
_OPAQUE = ("google.protobuf.", "xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")


def unknown_in(value: object, message: api.Descriptor, path: str = "", depth: int = 0) -> Iterator[Finding]:
    if not isinstance(value, dict) or depth > _DEPTH:
        return
    fields = cast("dict[str, object]", value)
    if message.full_name == "google.protobuf.Any":
        packed = api.message_type(str(fields.get("@type", "")))
        if packed is not None:
            rest = {k: v for k, v in fields.items() if k != "@type"}
            yield from unknown_in(rest, packed, path, depth + 1)
        return
    if message.full_name.startswith(_OPAQUE):
        return
    known = _fields(message)
    for name, inner in fields.items():
        where = f"{path}.{name}" if path else name
        field = known.get(name)
        if field is None:
            yield where, f"{message.name} of Envoy has no such field", False
        else:
            yield from _field(inner, field, where, depth)


def _field(value: object, field: api.FieldDescriptor, path: str, depth: int) -> Iterator[Finding]:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        of = inner.fields_by_name["value"]
        for key, one in cast("dict[str, object]", value).items() if isinstance(value, dict) else ():
            yield from _field(one, of, f"{path}[{key}]", depth)
        return
    many = isinstance(value, list)
    for index, one in enumerate(cast("list[object]", value) if many else [value]):
        where = f"{path}[{index}]" if many else path
        if inner is not None:
            yield from unknown_in(one, inner, where, depth + 1)
        elif field.enum_type is not None and isinstance(one, str) and one not in field.enum_type.values_by_name:
            words = [v.name for v in field.enum_type.values]
            shown = ", ".join(words[:8]) + (", …" if len(words) > 8 else "")
            yield where, f"{one!r} is none of {shown}", True


def _fields(message: api.Descriptor) -> dict[str, api.FieldDescriptor]:
    return {**{f.name: f for f in message.fields}, **{f.json_name: f for f in message.fields}}


def with_strict_durations(value: object, message: api.Descriptor, depth: int = 0) -> object:
    """`value` with every duration as protobuf's JSON has it (`500ms` → `0.5s`): Istio takes Go's units as well."""
    if message.full_name == "google.protobuf.Duration":
        return _strict(value)
    if not isinstance(value, dict) or depth > _DEPTH:
        return cast(object, value)
    fields = cast("dict[str, object]", value)
    if message.full_name == "google.protobuf.Any":
        packed = api.message_type(str(fields.get("@type", "")))
        return fields if packed is None else with_strict_durations(fields, packed, depth + 1)
    if message.full_name.startswith(_OPAQUE):
        return fields
    known = _fields(message)
    return {name: _strict_field(inner, known.get(name), depth) for name, inner in fields.items()}


def _strict_field(value: object, field: api.FieldDescriptor | None, depth: int) -> object:
    inner = field.message_type if field is not None else None
    if inner is None:
        return value
    if inner.GetOptions().map_entry:
        of = inner.fields_by_name["value"].message_type
        if of is None or not isinstance(value, dict):
            return value
        return {k: with_strict_durations(v, of, depth + 1) for k, v in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [with_strict_durations(one, inner, depth + 1) for one in cast("list[object]", value)]
    return with_strict_durations(value, inner, depth + 1)


def _strict(value: object) -> object:
    if not isinstance(value, str) or _STRICT_DURATION.fullmatch(value):
        return value
    try:
        return str(Duration.parse(value))
    except ValueError:
        return value
