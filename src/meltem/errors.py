"""The error hierarchy: every error that Meltem raises for a person to read.

    MeltemError                 what happened, on which object and field, what to do about it
    ├── UserError               the person typed or wrote something that cannot be used (CLI exit 64/65)
    │   └── InvalidResource     a resource's field has a value that cannot be used
    ├── EnvironmentError_       the machine lacks something (root, a kernel feature, a port, a program)
    ├── Unreachable             an API server cannot be reached, or the connection broke: trying again may help
    └── ApiError                a Kubernetes API server answered with a Status that is not success
        ├── BadRequest 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · Conflict 409 · AlreadyExists 409
        └── Gone 410 (expired resourceVersion) · Invalid 422 · TooManyRequests 429 · ServerError 5xx

A top-level handler prints `str(error)`: one line saying what happened, then, when known, one line with the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class MeltemError(Exception):
    """Base of all. `what`: one sentence; `where`: object and field, e.g. `VirtualService default/a spec.http[0]`."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        first = f"{self.where}: {self.what}" if self.where else self.what
        return f"{first}\n{self.remedy}" if self.remedy else first


class UserError(MeltemError):
    """Something that a person typed or wrote cannot be used."""


class InvalidResource(UserError):
    """One field of a resource cannot be used; `where` is its path (`spec.http[0].route[1].weight`)."""


class EnvironmentError_(MeltemError):
    """The machine lacks something that is needed; the remedy says how to get it."""


class Unreachable(MeltemError):
    """No answer from an API server: refused, timed out, TLS not accepted, or cut off in the middle."""


class ApiError(MeltemError):
    """A Kubernetes `Status` of failure (API conventions, "Response Status Kind")."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = details or {}
        self.status_code = code if code is not None else type(self).code
        self.status_reason = reason if reason is not None else type(self).reason


class BadRequest(ApiError):
    code = 400
    reason = "BadRequest"


class Unauthorized(ApiError):
    code = 401
    reason = "Unauthorized"


class Forbidden(ApiError):
    code = 403
    reason = "Forbidden"


class NotFound(ApiError):
    code = 404
    reason = "NotFound"


class MethodNotAllowed(ApiError):
    code = 405
    reason = "MethodNotAllowed"


class NotAcceptable(ApiError):
    code = 406
    reason = "NotAcceptable"


class Conflict(ApiError):
    code = 409
    reason = "Conflict"


class AlreadyExists(ApiError):
    code = 409
    reason = "AlreadyExists"


class Gone(ApiError):
    """The resourceVersion is too old (`Expired`): list again."""

    code = 410
    reason = "Expired"


class UnsupportedMediaType(ApiError):
    code = 415
    reason = "UnsupportedMediaType"


class Invalid(ApiError):
    code = 422
    reason = "Invalid"


class TooManyRequests(ApiError):
    code = 429
    reason = "TooManyRequests"


class ServerError(ApiError):
    code = 500
    reason = "InternalError"


_BY_REASON: dict[str, type[ApiError]] = {
    c.reason: c
    for c in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        NotAcceptable,
        Conflict,
        AlreadyExists,
        Gone,
        UnsupportedMediaType,
        Invalid,
        TooManyRequests,
        ServerError,
    )
}
_BY_CODE: dict[int, type[ApiError]] = {c.code: c for c in _BY_REASON.values() if c is not AlreadyExists}


def api_error(code: int, reason: str, message: str, details: Mapping[str, object] | None = None) -> ApiError:
    """The `ApiError` subclass for a Status; by reason first, else by HTTP code, else `ApiError` itself."""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ApiError)
    return kind(message, details=details, code=code, reason=reason or None)
