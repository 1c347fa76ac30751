"""`Status` objects: the API server's own words for success and failure.

In: an `ApiError` (or the parts of a success). Out: the JSON object, its HTTP code, and the messages that every
Kubernetes client knows (`pods "a" not found`).
"""

from __future__ import annotations

from typing import cast

from meltem.errors import AlreadyExists, ApiError, BadRequest, Conflict, MethodNotAllowed, NotFound
from meltem.objects import Json, JsonObject


def failure(error: ApiError) -> JsonObject:
    """The Status of an error."""
    status: JsonObject = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.status_reason,
        "code": error.status_code,
    }
    details = {k: v for k, v in error.details.items() if v not in ("", None)}
    if details:
        status["details"] = cast(JsonObject, details)
    return status


def success(name: str = "", group: str = "", kind: str = "", uid: str = "") -> JsonObject:
    """The Status of a deletion that took effect at once; `kind` is the plural, as the API server has it."""
    details: JsonObject = {k: v for k, v in (("name", name), ("group", group), ("kind", kind), ("uid", uid)) if v}
    status: JsonObject = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    return status


def _names(storage: str) -> tuple[str, str]:
    plural, _, group = storage.partition(".")
    return plural, group


def not_found(storage: str, name: str) -> NotFound:
    plural, group = _names(storage)
    return NotFound(f'{storage} "{name}" not found', details={"name": name, "group": group, "kind": plural})


def already_exists(storage: str, name: str) -> AlreadyExists:
    plural, group = _names(storage)
    return AlreadyExists(f'{storage} "{name}" already exists', details={"name": name, "group": group, "kind": plural})


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(storage: str, name: str, why: str = MODIFIED) -> Conflict:
    plural, group = _names(storage)
    return Conflict(
        f'Operation cannot be fulfilled on {storage} "{name}": {why}',
        details={"name": name, "group": group, "kind": plural},
    )


def no_such_path() -> NotFound:
    return NotFound("the server could not find the requested resource")


def verb_not_allowed() -> MethodNotAllowed:
    return MethodNotAllowed("the server does not allow this method on the requested resource")


def bad_query(name: str, value: str, why: str) -> BadRequest:
    return BadRequest(f'the query parameter {name} has the value "{value}": {why}')


def expired_token() -> ApiError:
    """410 for a `continue` token or snapshot that compaction took away."""
    return ApiError(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter.",
        code=410,
        reason="Expired",
    )


def too_large_rv(asked: int, current: int) -> ApiError:
    """504 for a resourceVersion that is still to come; clients try again."""
    causes: list[Json] = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(
        f"Too large resource version: {asked}, current: {current}",
        code=504,
        reason="Timeout",
        details={"causes": causes, "retryAfterSeconds": 1},
    )
