"""A field that cannot be used, in the API server's words.

`FieldError` carries the path, the reason (a cause's `reason`) and the message (a cause's `message`); the functions
below make the messages in the forms that Kubernetes' `field` package has; `invalid` makes the Status error of
several.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import msgspec

from meltem.errors import Invalid
from meltem.objects import Json


class FieldError(msgspec.Struct, frozen=True):
    """`path`: `spec.ports[0].port`; `reason`: `FieldValueInvalid` and so on; `message`: without the path."""

    path: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def shown(value: Json) -> str:
    """A value as the API server prints it in a message: strings quoted, the rest as JSON, at most 1 KiB."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text if len(text) <= 1024 else f"{text[:1024]}…"


def bad_value(path: str, value: Json, detail: str) -> FieldError:
    return FieldError(path, "FieldValueInvalid", f"Invalid value: {shown(value)}: {detail}")


def bad_type(path: str, value: Json, detail: str) -> FieldError:
    return FieldError(path, "FieldValueTypeInvalid", f"Invalid value: {shown(value)}: {detail}")


def missing(path: str, detail: str = "") -> FieldError:
    return FieldError(path, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def unsupported(path: str, value: Json, supported: Iterable[str]) -> FieldError:
    listed = ", ".join(shown(s) for s in supported)
    return FieldError(path, "FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {listed}")


def forbidden(path: str, detail: str) -> FieldError:
    return FieldError(path, "FieldValueForbidden", f"Forbidden: {detail}")


def duplicate(path: str, value: Json) -> FieldError:
    return FieldError(path, "FieldValueDuplicate", f"Duplicate value: {shown(value)}")


def too_long(path: str, limit: int) -> FieldError:
    return FieldError(path, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(path: str, found: int, limit: int) -> FieldError:
    return FieldError(path, "FieldValueTooMany", f"Too many: {found}: must have at most {limit} items")


def not_found(path: str, value: Json) -> FieldError:
    return FieldError(path, "FieldValueNotFound", f"Not found: {shown(value)}")


def unique(errors: Iterable[FieldError]) -> list[FieldError]:
    """The errors in their order, one for each path and reason: the one that says most."""
    kept: dict[tuple[str, str], FieldError] = {}
    for error in errors:
        known = kept.get((error.path, error.reason))
        if known is None or (error.reason == "FieldValueRequired" and len(error.message) > len(known.message)):
            kept[error.path, error.reason] = error
    return list(kept.values())


def invalid(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> Invalid:
    """The API's 422: `Deployment.apps "web" is invalid: [spec.a: …, spec.b: …]` with the errors as causes."""
    listed = ", ".join(str(e) for e in errors)
    text = listed if len(errors) == 1 else f"[{listed}]"
    return Invalid(
        f'{kind}.{group} "{name}" is invalid: {text}' if group else f'{kind} "{name}" is invalid: {text}',
        details={
            "name": name,
            "group": group,
            "kind": kind,
            "causes": [{"reason": e.reason, "message": e.message, "field": e.path} for e in errors],
        },
    )
