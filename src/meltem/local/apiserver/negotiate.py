"""Content negotiation: the Accept header in, the form of the answer out; a body and its type in, an object out.

Forms: the object itself, a Table (what `kubectl get` prints), PartialObjectMetadata (what metadata informers read),
each as JSON or YAML. Bodies are JSON or YAML, at most `MAX_BODY` bytes and `MAX_DEPTH` levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from meltem import yamlio
from meltem.errors import ApiError, BadRequest, NotAcceptable, UnsupportedMediaType, UserError
from meltem.local.apiserver import protobuf
from meltem.objects import Json, JsonObject

MAX_BODY = 3 * 1024 * 1024
MAX_DEPTH = 150

JSON = "application/json"
YAML = "application/yaml"
PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


class Form(msgspec.Struct, frozen=True):
    """`kind`: empty, Table or PartialObjectMetadata; `media`: application/json or application/yaml."""

    kind: str = ""
    media: str = JSON


class MediaRange(msgspec.Struct, frozen=True):
    media: str
    parameters: dict[str, str]
    quality: float


def media_ranges(accept: str) -> list[MediaRange]:
    """The ranges of an Accept header, best first; those that cannot be read are left out."""
    ranges: list[MediaRange] = []
    for part in accept.split(","):
        media, *rest = (p.strip() for p in part.split(";"))
        if not media:
            continue
        parameters = {k.strip().lower(): v.strip() for k, _, v in (p.partition("=") for p in rest)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        ranges.append(MediaRange(media.lower(), parameters, quality))
    return sorted(ranges, key=lambda r: -r.quality)


def form_of(accept: str) -> Form:
    """The first form in the Accept header that is served; raises NotAcceptable."""
    ranges = media_ranges(accept)
    if not ranges:
        return Form()
    for item in ranges:
        media = JSON if item.media in ("*/*", "application/*") else item.media
        if media not in (JSON, YAML):
            continue
        wanted = item.parameters.get("as", "")
        if not wanted:
            return Form("", media)
        if item.parameters.get("g") != "meta.k8s.io" or item.parameters.get("v") != "v1":
            continue
        if wanted in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
            return Form(wanted.removesuffix("List"), media)
    raise not_acceptable((JSON, YAML))


def not_acceptable(served: Sequence[str]) -> NotAcceptable:
    return NotAcceptable(f"only the following media types are accepted: {', '.join(served)}")


def too_large() -> ApiError:
    return ApiError(f"limit is {MAX_BODY}", code=413, reason="RequestEntityTooLarge")


def media_type(content_type: str) -> str:
    return content_type.split(";")[0].strip().lower()


def parse_body(body: bytes, content_type: str) -> Json:
    """A JSON or YAML body; raises BadRequest, UnsupportedMediaType."""
    media = media_type(content_type) or JSON
    if media == protobuf.MEDIA or body.startswith(protobuf.MAGIC):
        return protobuf.decode(body)
    if media == YAML or media == "application/apply-patch+yaml":
        return parse_yaml(body)
    if media not in (JSON, "*/*", *PATCH_TYPES):
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include:"
            f" {JSON}, {YAML}, {protobuf.MEDIA}"
        )
    return parse_json(body)


def parse_json(body: bytes) -> Json:
    """JSON with bounded depth; raises BadRequest."""
    try:
        value = cast(Json, msgspec.json.decode(body))
    except RecursionError:
        raise _nested() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body of the request is not valid JSON: {error}") from None
    if too_deep(value):
        raise _nested()
    return value


def _nested() -> BadRequest:
    return BadRequest(f"the body of the request is nested deeper than {MAX_DEPTH} levels")


def parse_yaml(body: bytes) -> Json:
    """YAML (JSON included); raises BadRequest."""
    if body.lstrip()[:1] == b"{":
        try:
            return parse_json(body)
        except BadRequest:
            pass
    try:
        return yamlio.load(body, source="the body of the request")
    except UserError as error:
        raise BadRequest(str(error)) from None


def too_deep(value: Json) -> bool:
    """Is the value nested deeper than `MAX_DEPTH`? Level by level, so that no recursion can run out."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def require_object(value: Json) -> JsonObject:
    """The body as an object; raises BadRequest."""
    if not isinstance(value, dict):
        raise BadRequest("the body of the request must be one object")
    return value
