"""From JSON or YAML to typed resources, and back.

In: objects as Kubernetes serves them, or what a person wrote. Out: frozen structs of `meltem.resources`. The only
exception that leaves this module is `InvalidResource` (a `UserError` for what is no YAML at all), with the path of the
field. Reading is fast where the object is in strict form (msgspec) and falls back to protobuf's lenient rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, cast

import msgspec

from meltem import yamlio
from meltem.errors import InvalidResource, MeltemError
from meltem.objects import Json, JsonObject, name_of, namespace_of
from meltem.resources.base import Message, Resource, decode_hook, encode_hook
from meltem.resources.kinds import KindInfo, kind_of
from meltem.resources.lenient import Problem, normalize

M = TypeVar("M", bound=Message)
_DECODE_ERRORS = (msgspec.ValidationError, msgspec.DecodeError, RecursionError, ValueError, TypeError, OverflowError)


def parse(obj: Json | bytes, *, source: str = "") -> Resource:
    """The typed resource of an object (or of its JSON bytes).

    `source` (a file, a cluster) leads the error. Unknown fields are ignored here: `problems_of` reports them. Raises
    InvalidResource with the field's path.
    """
    value = _json(obj, source) if isinstance(obj, bytes) else obj
    info, where = _kind(value, source)
    if info.ours:  # what people write may have snake_case names, which the strict reader would pass over
        return _lenient(value, info.struct, where)
    return read(value, info.struct, where=where)


def read(value: Json, struct: type[M], *, where: str = "") -> M:
    """`value` as a struct: strictly if it can be, else leniently. Raises InvalidResource."""
    try:
        return msgspec.convert(value, struct, dec_hook=decode_hook)
    except _DECODE_ERRORS:
        return _lenient(value, struct, where)


def _lenient(value: Json, struct: type[M], where: str) -> M:
    try:
        normal, problems = normalize(value, struct)
    except RecursionError:
        raise InvalidResource("is nested too deeply", where=where) from None
    wrong = [p for p in problems if not p.unknown]
    if wrong:
        raise _invalid(wrong, where)
    try:
        return msgspec.convert(normal, struct, dec_hook=decode_hook)
    except _DECODE_ERRORS as error:
        raise InvalidResource(f"cannot be read: {error}", where=where) from None


def lenient(value: Json, struct: type[M], *, where: str = "") -> tuple[M, tuple[Problem, ...]]:
    """`value` read with every leniency, and its unknown fields; raises InvalidResource for what is wrong."""
    _, problems = normalize(value, struct)
    return _lenient(value, struct, where), tuple(p for p in problems if p.unknown)


def problems_of(obj: Json) -> tuple[Problem, ...]:
    """All that is wrong with an object's shape: wrong types, missing and (for Istio's kinds) unknown fields.

    Raises InvalidResource when it is no object of a kind that the mesh reads.
    """
    info, _ = _kind(obj, "")
    try:
        _, problems = normalize(cast(JsonObject, obj), info.struct)
    except RecursionError:
        return (Problem("(the whole)", "is nested too deeply"),)
    keep = [p for p in problems if not p.unknown or (info.ours and (p.path.startswith("spec") or "." not in p.path))]
    return tuple(keep)


def parse_all(text: str | bytes, *, source: str = "input") -> tuple[tuple[Resource, ...], tuple[InvalidResource, ...]]:
    """Every resource of a YAML stream (lists opened), and the errors of those that cannot be read.

    Kinds that the mesh does not read are passed over. Raises UserError when the text is no YAML.
    """
    good: list[Resource] = []
    bad: list[InvalidResource] = []
    for document in _documents(yamlio.load_all(text, source=source)):
        try:
            good.append(parse(document, source=source))
        except InvalidResource as error:
            if not error.what.startswith("the mesh reads no kind"):
                bad.append(error)
    return tuple(good), tuple(bad)


def to_object(value: Message) -> JsonObject:
    """The plain JSON object: camelCase, defaults left out."""
    return cast(JsonObject, msgspec.json.decode(to_json(value)))


def to_json(value: Message) -> bytes:
    """JSON text: camelCase, defaults left out."""
    return msgspec.json.encode(value, enc_hook=encode_hook)


class Decoder:
    """Decodes the bytes of objects of one kind straight into its struct; falls back to the lenient reader."""

    def __init__(self, info: KindInfo) -> None:
        self._info = info
        self._one = msgspec.json.Decoder(info.struct, dec_hook=decode_hook)

    def decode(self, data: bytes) -> Resource:
        """Raises InvalidResource."""
        try:
            return self._one.decode(data)
        except _DECODE_ERRORS:
            return parse(data)


def read_each(
    objects: Iterable[JsonObject], info: KindInfo
) -> tuple[list[Resource], list[tuple[JsonObject, InvalidResource]]]:
    """What a list or a watch delivered: the good ones, and the bad ones with their errors; one never costs another.

    Items of a list carry no apiVersion and kind of their own: the struct gets those of `info`.
    """
    good: list[Resource] = []
    bad: list[tuple[JsonObject, InvalidResource]] = []
    for obj in objects:
        try:
            good.append(read_as(obj, info))
        except InvalidResource as error:
            bad.append((obj, error))
    return good, bad


def read_as(obj: JsonObject, info: KindInfo) -> Resource:
    """One object of a known kind, as an API server delivers it (unknown names pruned). Raises InvalidResource."""
    where = f"{info.kind} {namespace_of(obj)}/{name_of(obj)}" if namespace_of(obj) else f"{info.kind} {name_of(obj)}"
    found = read(obj, info.struct, where=where)
    if found.kind and found.api_version:
        return found
    return msgspec.structs.replace(found, api_version=info.api_version, kind=info.kind)


def _documents(documents: Iterable[Json]) -> Iterable[Json]:
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
            yield from cast("list[Json]", document["items"])
        else:
            yield document


def _json(data: bytes, source: str) -> Json:
    try:
        return cast(Json, msgspec.json.decode(data))
    except _DECODE_ERRORS as error:
        raise InvalidResource(f"is not valid JSON: {error}", where=source) from None


def _kind(value: Json, source: str) -> tuple[KindInfo, str]:
    if not isinstance(value, dict):
        raise InvalidResource("is no Kubernetes object", where=source, remedy="Write apiVersion, kind and metadata.")
    api_version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str) or not api_version or not kind:
        missing = "kind" if isinstance(api_version, str) and api_version else "apiVersion"
        raise InvalidResource(f"{missing} is missing or no string", where=source, remedy="Write apiVersion and kind.")
    name = f"{namespace_of(value)}/{name_of(value)}" if namespace_of(value) else name_of(value)
    where = f"{source}: {kind} {name}" if source else f"{kind} {name}"
    return kind_of(api_version, kind, where=where), where


def _invalid(problems: list[Problem], where: str) -> InvalidResource:
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place = f"{where} {first.path}".strip()
    return InvalidResource(f"{first.what}{more}", where=place, remedy=first.remedy)


def first_line(error: MeltemError) -> str:
    """The error without its remedy: for status conditions and log lines."""
    return str(error).split("\n", 1)[0]
