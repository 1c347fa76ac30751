"""What a CRD's schema limits: numbers, lengths, patterns. The API server refuses what is outside; files are told here.

In: an object and its kind. Out: findings at the fields. Types, names and exclusive fields are looked at before
(`meltem.resources.lenient`), CEL rules have their equals among the rules of each kind.
"""

from __future__ import annotations

import re
from functools import cache

from meltem.objects import Json, JsonObject, object_at
from meltem.resources.crds import kind_schema
from meltem.resources.kinds import KindInfo
from meltem.validate.findings import Report

MAX_TEXT = 64


def check_bounds(r: Report, info: KindInfo, spec: Json) -> None:
    """`r` is the report of the spec; `spec` may be of any shape."""
    _check(r, _spec_schema(info), spec)


@cache
def _spec_schema(info: KindInfo) -> JsonObject:
    return object_at(kind_schema(info), "properties", "spec")


def _check(r: Report, schema: JsonObject, value: Json) -> None:
    match value:
        case bool() | None:
            pass
        case int() | float():
            _number(r, schema, value)
        case str():
            _text(r, schema, value)
        case list():
            _count(r, len(value), schema, "minItems", "maxItems", "entries")
            items = schema.get("items")
            for i, one in enumerate(value if isinstance(items, dict) else ()):
                if isinstance(items, dict):
                    _check(_below(r, f"[{i}]"), items, one)
        case dict():
            _count(r, len(value), schema, "minProperties", "maxProperties", "entries")
            fields, others = object_at(schema, "properties"), schema.get("additionalProperties")
            for name, one in value.items():
                field = fields.get(name)
                if isinstance(field, dict):
                    _check(r.at(name), field, one)
                elif isinstance(others, dict):
                    _check(_below(r, f"[{name!r}]"), others, one)


def _below(r: Report, step: str) -> Report:
    return r.beside(r.path + step)


def _number(r: Report, schema: JsonObject, value: float) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if (isinstance(low, int | float) and value < low) or (isinstance(high, int | float) and value > high):
        limits = f"from {low} to {high}" if low is not None and high is not None else (
            f"of at least {low}" if low is not None else f"of at most {high}"
        )  # fmt: skip
        r.error(f"{value} is out of range", f"Write a number {limits}.")


def _text(r: Report, schema: JsonObject, value: str) -> None:
    if schema.get("minLength") and not value:
        r.error("is empty", "Write a value, or leave the field out.")
    longest = schema.get("maxLength")
    if isinstance(longest, int) and len(value) > longest:
        r.error(f"is longer than {longest} characters")
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and len(value) < 4096 and re.search(pattern, value) is None:
        r.error(f"{value[:MAX_TEXT]!r} does not have the form {pattern}")


def _count(r: Report, count: int, schema: JsonObject, least: str, most: str, what: str) -> None:
    low, high = schema.get(least), schema.get(most)
    if isinstance(low, int) and count < low:
        r.error("is empty" if low == 1 else f"has fewer than {low} {what}", "Add one, or leave the field out.")
    if isinstance(high, int) and count > high:
        r.error(f"has more than {high} {what}")
