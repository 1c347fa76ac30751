"""The validation webhook (`/validate`, `/validateconfig`), without HTTP: an AdmissionReview in, an AdmissionReview out.

In: the JSON that the API server posts. Out: whether the object may be stored, why not, and warnings. A mistake in the
object is an answer, never an exception; only a body that is no AdmissionReview raises `InvalidResource` (HTTP 400).
"""

from __future__ import annotations

import json
from typing import cast

import msgspec

from meltem.errors import InvalidResource, UserError
from meltem.objects import Json, JsonObject, at, object_at, str_at
from meltem.resources.base import Resource
from meltem.resources.kinds import find_kind
from meltem.resources.lenient import Problem
from meltem.resources.parse import parse, problems_of
from meltem.validate.bounds import check_bounds
from meltem.validate.findings import Finding, Report, Result
from meltem.validate.rules import validate

ALWAYS_REJECT = "internal.istio.io/webhook-always-reject"
MAX_WARNING = 256
MAX_MESSAGE = 4096
_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")


def answer(body: bytes) -> tuple[int, bytes]:
    """HTTP status and body for a posted body: 200 with a review, or 400 with a line of text."""
    try:
        return 200, json.dumps(review(body), separators=(",", ":")).encode()
    except UserError as error:
        return 400, str(error).encode()


def review(body: bytes | Json) -> JsonObject:
    """The AdmissionReview that answers one. Raises InvalidResource when `body` is no AdmissionReview."""
    value = _decode(body) if isinstance(body, bytes) else body
    if not isinstance(value, dict) or str_at(value, "kind") != "AdmissionReview":
        raise InvalidResource("the body is no AdmissionReview", where="validation webhook")
    version = str_at(value, "apiVersion", default=_VERSIONS[0])
    if version not in _VERSIONS:
        raise InvalidResource(
            f"AdmissionReview of version {version[:64]!r} is not supported",
            where="validation webhook",
            remedy=f"Set admissionReviewVersions to {', '.join(v.partition('/')[2] for v in _VERSIONS)}.",
        )
    request = object_at(value, "request")
    if not request:
        raise InvalidResource("the AdmissionReview has no request", where="validation webhook")
    return {
        "apiVersion": version,
        "kind": "AdmissionReview",
        "response": {"uid": str_at(request, "uid"), **_response(request)},
    }


def check_object(obj: Json) -> Result:
    """Shape and rules of one object, as admission sees it: unknown fields and wrong types are errors."""
    try:
        problems = problems_of(obj)
    except InvalidResource as error:
        return Result((Finding(error.where, error.what, error.remedy),))
    if problems:
        return Result(tuple(_finding(p) for p in problems))
    return _rules(obj)


def _rules(obj: Json) -> Result:
    try:
        resource: Resource = parse(obj)
    except InvalidResource as error:
        return Result((Finding(error.where, error.what, error.remedy),))
    result = validate(resource)
    info = find_kind(str_at(obj, "apiVersion"), str_at(obj, "kind"))
    if info is None or not isinstance(obj, dict):
        return result
    limits = Report("spec")
    check_bounds(limits, info, obj.get("spec"))
    said = {f.path for f in result.errors}  # the rules say more of the same
    return result + Result(tuple(f for f in limits.result().errors if f.path not in said))


def _finding(problem: Problem) -> Finding:
    return Finding(problem.path, problem.what, problem.remedy)


def _response(request: JsonObject) -> JsonObject:
    if str_at(request, "operation") not in ("CREATE", "UPDATE"):
        return {"allowed": True}
    obj = at(request, "object")
    if not isinstance(obj, dict):
        return _denied([Finding("object", "is missing")], ())
    if ALWAYS_REJECT in object_at(obj, "metadata", "annotations"):
        return _denied([Finding("", f"the annotation {ALWAYS_REJECT} asks for this answer")], ())
    info = find_kind(str_at(obj, "apiVersion"), str_at(obj, "kind"))
    if info is None or not info.ours:
        what = f"unrecognized type {str_at(obj, 'apiVersion')[:80]} {str_at(obj, 'kind')[:80]}"
        return _denied([Finding("kind", what)], ())
    result = check_object(_placed(obj, str_at(request, "namespace")))
    if not result.ok:
        return _denied(result.errors, result.warnings)
    allowed: JsonObject = {"allowed": True}
    return _with_warnings(allowed, result.warnings)


def _placed(obj: JsonObject, namespace: str) -> JsonObject:
    """The object with the namespace that the request puts it in."""
    metadata = object_at(obj, "metadata")
    if metadata.get("namespace") or not namespace:
        return obj
    return {**obj, "metadata": {**metadata, "namespace": namespace}}


def _denied(errors: list[Finding] | tuple[Finding, ...], warnings: tuple[Finding, ...]) -> JsonObject:
    if len(errors) == 1:
        text = f"configuration is invalid: {errors[0]}"
    else:
        text = f"configuration is invalid: {len(errors)} errors:" + "".join(f"\n  * {e}" for e in errors)
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 3] + "..."
    status: JsonObject = {"status": "Failure", "message": text, "reason": "Invalid", "code": 422}
    return _with_warnings({"allowed": False, "status": status}, warnings)


def _with_warnings(response: JsonObject, warnings: tuple[Finding, ...]) -> JsonObject:
    if warnings:
        texts = [str(w) for w in warnings]
        response["warnings"] = [t if len(t) <= MAX_WARNING else t[: MAX_WARNING - 3] + "..." for t in texts]
    return response


def _decode(body: bytes) -> Json:
    try:
        return cast(Json, msgspec.json.decode(body))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidResource(f"the body is no JSON: {error}", where="validation webhook") from None
