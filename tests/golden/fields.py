"""Which golden case shows which field? A field is shown where taking it away changes what a proxy is sent.

    python tests/golden/fields.py            # fields that no case shows
    python tests/golden/fields.py Gateway    # of one kind, with the cases that set each field

In: the typed models (`meltem.resources`) and the cases' `in.yaml`. Out: names of the form `Kind.Struct.field`, the
field as it stands in YAML. A field of a struct that several kinds share counts for every kind by itself.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Union, cast, get_args, get_origin, get_type_hints

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent))
import golden
from meltem.objects import Json, JsonObject, str_at
from meltem.resources.base import Message
from meltem.resources.kinds import ISTIO_KINDS

Path_ = tuple[str | int, ...]
MAX_TRIES = 40
"""Places of a field that are tried before it counts as not shown."""


class Place(msgspec.Struct, frozen=True):
    """Where a case sets a field: the document's number, and the steps to the field in it."""

    case: str
    document: int
    path: Path_


def known() -> list[str]:
    """Every field that the models know, in order."""
    found: dict[str, None] = {}
    for info in ISTIO_KINDS:
        _fields(info.kind, get_type_hints(info.struct)["spec"], found, set())
    return list(found)


def _fields(kind: str, struct: type[Message], found: dict[str, None], seen: set[type[Message]]) -> None:
    if struct in seen:
        return
    seen.add(struct)
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        found[f"{kind}.{struct.__name__}.{field.encode_name}"] = None
        below = _innermost(hints[field.name])
        if below is not None:
            _fields(kind, below, found, seen)


def shape_of(annotation: object) -> tuple[str, object]:
    """`struct`, `list`, `map` or `value`, and the struct or the type of the elements or of the value."""
    origin, arguments = get_origin(annotation), cast("tuple[object, ...]", get_args(annotation))
    if origin is Annotated:
        return shape_of(arguments[0])
    if origin in (types.UnionType, Union):
        rest = [a for a in arguments if a is not type(None)]
        return shape_of(rest[0]) if len(rest) == 1 else ("value", None)
    if origin is tuple:
        return "list", arguments[0]
    if origin is dict:
        return "map", arguments[1]
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return "struct", annotation
    return "value", annotation


def _innermost(annotation: object) -> type[Message] | None:
    shape, below = shape_of(annotation)
    while shape in ("list", "map"):
        shape, below = shape_of(below)
    return cast("type[Message]", below) if shape == "struct" else None


class Cases:
    """All cases, read and generated once; `places` of every field that they set."""

    def __init__(self) -> None:
        kinds = {info.kind: info for info in ISTIO_KINDS}
        self.places: dict[str, list[Place]] = {}
        self._documents: dict[str, list[Json]] = {}
        self._outputs: dict[str, golden.Output] = {}
        self._shown: dict[str, bool] = {}
        for case in golden.cases():
            documents = golden.documents(case)
            self._documents[case.name] = documents
            self._outputs[case.name] = golden.generate(documents)
            for i, document in enumerate(documents):
                info = kinds.get(str_at(document, "kind"))
                if info is not None and "istio.io" in str_at(document, "apiVersion"):
                    spec = cast(JsonObject, document).get("spec", {})
                    for name, path in _set_fields(info.kind, get_type_hints(info.struct)["spec"], spec, ("spec",)):
                        self.places.setdefault(name, []).append(Place(case.name, i, path))

    def shows(self, name: str) -> bool:
        """Whether taking the field away changes what some proxy is sent, in one of the places that set it."""
        if name not in self._shown:
            self._shown[name] = any(self._matters(place) for place in self.places.get(name, ())[:MAX_TRIES])
        return self._shown[name]

    def _matters(self, place: Place) -> bool:
        documents = list(self._documents[place.case])
        documents[place.document] = _without(documents[place.document], place.path)
        try:
            return golden.generate(documents) != self._outputs[place.case]
        except Exception:  # a field that cannot be left out: the resource is not read at all
            return True


def _set_fields(kind: str, struct: type[Message], value: Json, path: Path_) -> Iterator[tuple[str, Path_]]:
    if not isinstance(value, dict):
        return
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        if name in value:
            yield f"{kind}.{struct.__name__}.{name}", (*path, name)
            yield from _below(kind, hints[field.name], value[name], (*path, name))


def _below(kind: str, annotation: object, value: Json, path: Path_) -> Iterator[tuple[str, Path_]]:
    shape, below = shape_of(annotation)
    if shape == "struct":
        yield from _set_fields(kind, cast("type[Message]", below), value, path)
    elif shape == "list" and isinstance(value, list):
        for i, one in enumerate(value):
            yield from _below(kind, below, one, (*path, i))
    elif shape == "map" and isinstance(value, dict):
        for key, one in value.items():
            yield from _below(kind, below, one, (*path, key))


def _without(value: Json, path: Path_) -> Json:
    """The document without the field; what is not on the way to it is shared."""
    step, rest = path[0], path[1:]
    if isinstance(value, list) and isinstance(step, int):
        return [_without(v, rest) if i == step else v for i, v in enumerate(value)]
    assert isinstance(value, dict)
    if not rest:
        return {k: v for k, v in value.items() if k != step}
    return {k: _without(v, rest) if k == step else v for k, v in value.items()}


def main(arguments: list[str]) -> None:
    cases = Cases()
    wanted: Callable[[str], bool] = lambda name: not arguments or name.partition(".")[0] in arguments  # noqa: E731
    for name in filter(wanted, known()):
        if arguments or not cases.shows(name):
            where = sorted({p.case for p in cases.places.get(name, ())})
            print(f"{'' if cases.shows(name) else 'NOT SHOWN '}{name}: {', '.join(where) or 'set by no case'}")


if __name__ == "__main__":
    main(sys.argv[1:])
