"""What of a patch's value Envoy's messages do not have: unknown fields, and words that an enumeration does not have.

In: the value as JSON, a message descriptor. Out: (path, what is wrong, whether the value cannot be used). A field that
is not known may be one of a newer Envoy, and is passed over; a word that is not known would silently become another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from meltem import envoyapi as api

Finding = tuple[str, str, bool]
_DEPTH = 60


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
    if message.full_name.startswith(("google.protobuf.", "xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")):
        return
    known = {**{f.name: f for f in message.fields}, **{f.json_name: f for f in message.fields}}
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
