"""What the API server does with an object that somebody wrote: prune, default, validate.

Built-in kinds and custom resources go through the same three functions; the schema says which rules apply.
"""

from __future__ import annotations

from meltem.local.apiserver.schema.defaulting import default
from meltem.local.apiserver.schema.fielderrors import FieldError, bad_value, invalid, unique
from meltem.local.apiserver.schema.pruning import decode_problem, prune
from meltem.local.apiserver.schema.rules import kind_rules
from meltem.local.apiserver.schema.rules_cel import has_rules, validations
from meltem.local.apiserver.schema.types import Schema
from meltem.local.apiserver.schema.values import check
from meltem.objects import JsonObject

__all__ = ["FieldError", "decode_problem", "default", "invalid", "prune", "validate"]

# Errors that leave an object in a shape that CEL rules were not written for; they are not run then.
_BLOCKING = ("FieldValueRequired", "FieldValueTypeInvalid", "FieldValueTooLong", "FieldValueTooMany")
_SKIPPED = bad_value(
    "<nil>",
    None,
    "some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation",
)


def validate(schema: Schema, obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """Every rule of the kind that the object breaks, in the order of its fields.

    `old` is the object before an update, None for a create. The object must have gone through `prune` and `default`.
    """
    errors = list(check(schema, obj, ""))
    if schema.builtin:
        if any(e.reason == "FieldValueTypeInvalid" for e in errors):
            return unique(errors)
        return unique([*kind_rules(schema, obj, old), *errors])
    if not any(e.reason in _BLOCKING for e in errors):
        return unique([*errors, *kind_rules(schema, obj, old), *validations(schema, obj, old)])
    skipped = [_SKIPPED] if has_rules(schema) else []
    return unique([*errors, *kind_rules(schema, obj, old), *skipped])
