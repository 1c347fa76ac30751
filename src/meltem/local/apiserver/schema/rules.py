"""The rules of kinds, beyond what their schemas say: which module checks which kind.

In: the schema (it knows its kind), the object, the object before the update. Out: `FieldError`s.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.local.apiserver.schema.fielderrors import FieldError
from meltem.local.apiserver.schema.rules_meta import metadata_rules, name_check
from meltem.local.apiserver.schema.types import Schema
from meltem.objects import JsonObject


def kind_rules(schema: Schema, obj: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    """What the kind asks of the object as a whole."""
    group, _, kind = schema.gvk
    if "metadata" in schema.properties:
        yield from metadata_rules(name_check(group, kind, builtin=schema.builtin), obj, old)
