"""Merging one protobuf message into another, as EnvoyFilter's MERGE means it.

In: two messages of one type. Out: the first one changed. Fields that are set replace; messages merge field by field;
lists are appended to (or replaced); maps merge by key; packed messages of one type are opened and merged; durations
and other wrappers of a single value replace whole.
"""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from typing import cast

from google.protobuf.descriptor import FieldDescriptor

from meltem import envoyapi as api

Message = api.message.Message
_WHOLE = frozenset(("google.protobuf.Duration", "google.protobuf.Timestamp", "google.protobuf.Value"))


class Mismatch(Exception):
    """Two packed messages of different types cannot be merged."""


def merge(into: Message, more: Message, *, replace_lists: bool = False) -> None:
    if into.DESCRIPTOR.full_name == "google.protobuf.Any":
        _merge_packed(cast(api.any_pb2.Any, into), cast(api.any_pb2.Any, more), replace_lists)
        return
    name = into.DESCRIPTOR.full_name
    if name in _WHOLE or (name.startswith("google.protobuf.") and name.endswith("Value")):
        into.CopyFrom(more)
        return
    for field, value in more.ListFields():
        _merge_field(into, field, value, replace_lists)


def _merge_field(into: Message, field: FieldDescriptor, value: object, replace_lists: bool) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _merge_map(into, field, cast("MutableMapping[str, object]", value), replace_lists)
    elif field.is_repeated:
        if replace_lists:
            into.ClearField(field.name)
        cast("MutableSequence[object]", getattr(into, field.name)).extend(cast("MutableSequence[object]", value))
    elif field.message_type is not None:
        oneof = field.containing_oneof
        if oneof is not None and into.WhichOneof(oneof.name) not in (None, field.name):
            into.ClearField(oneof.name)
        inner = cast(Message, getattr(into, field.name))
        inner.SetInParent()
        merge(inner, cast(Message, value), replace_lists=replace_lists)
    else:
        setattr(into, field.name, value)


def _merge_map(into: Message, field: FieldDescriptor, value: MutableMapping[str, object], replace_lists: bool) -> None:
    own = cast("MutableMapping[str, object]", getattr(into, field.name))
    entry = field.message_type
    of_messages = entry is not None and entry.fields_by_name["value"].message_type is not None
    for key in value:
        if of_messages:
            merge(cast(Message, own[key]), cast(Message, value[key]), replace_lists=replace_lists)
        else:
            own[key] = value[key]


def _merge_packed(into: api.any_pb2.Any, more: api.any_pb2.Any, replace_lists: bool) -> None:
    if not into.type_url:
        into.CopyFrom(more)
        return
    if into.type_url != more.type_url:
        raise Mismatch(f"{more.type_url.rpartition('/')[2]} cannot be merged into {into.type_url.rpartition('/')[2]}")
    first, second = api.unpack(into), api.unpack(more)
    merge(first, second, replace_lists=replace_lists)
    into.CopyFrom(api.pack(first))
