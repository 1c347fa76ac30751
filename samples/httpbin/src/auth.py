"""httpbin's endpoints about credentials: basic, hidden basic, bearer."""

from __future__ import annotations

import base64
import binascii

from shapes import Shape, failure
from tinyhttp import Request, Response


def credentials(request: Request) -> tuple[str, str] | None:
    """User and password of a basic Authorization header; None where there is none."""
    scheme, _, text = request.header("authorization").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None


def basic(shape: Shape, request: Request, user: str, password: str) -> Response:
    """200 with the right user and password, else 401 with a challenge."""
    given = credentials(request)
    right = given == (user, password)
    fields: dict[str, object] = {"authenticated": right, "user": given[0] if given else ""}
    if not shape.python:
        fields["authorized"] = right
    if right:
        return shape.answer(fields)
    return shape.answer(fields, 401, [("WWW-Authenticate", 'Basic realm="Fake Realm"')])


def hidden_basic(shape: Shape, request: Request, user: str, password: str) -> Response:
    """As basic, but 404 in place of the challenge."""
    response = basic(shape, request, user, password)
    return response if response.status == 200 else failure(404)


def bearer(shape: Shape, request: Request) -> Response:
    """200 with any bearer token, else 401."""
    scheme, _, token = request.header("authorization").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return Response(401, b"", [("WWW-Authenticate", "Bearer")])
    return shape.answer({"authenticated": True, "token": token.strip()})
