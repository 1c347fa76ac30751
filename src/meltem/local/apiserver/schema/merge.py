"""The three kinds of patch: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7396), and Kubernetes' strategic merge.

In: an object and a patch, both plain JSON. Out: a new object. A patch that does not apply raises `meltem.errors`:
BadRequest for one that is malformed, Invalid for one whose path or `test` does not fit the object, as the API server
answers.
"""

from __future__ import annotations

from meltem.errors import BadRequest, Invalid
from meltem.local.apiserver.schema.strategic import strategic_merge
from meltem.objects import Json, JsonObject, copy_json, copy_object

_MAX_OPERATIONS = 10_000
_COPY_LIMIT = 3 << 20
__all__ = ["json_patch", "merge_patch", "strategic_merge"]


def merge_patch(obj: Json, patch: Json) -> Json:
    """RFC 7396: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy_json(patch)
    merged: JsonObject = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge_patch(merged.get(key), value)
        else:
            merged[key] = copy_json(value)
    return merged


def json_patch(obj: Json, ops: Json) -> Json:
    """RFC 6902, all or nothing."""
    if not isinstance(ops, list):
        raise BadRequest("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(ops) > _MAX_OPERATIONS:
        raise BadRequest(
            f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(ops)}",
            code=413,
            reason="RequestEntityTooLarge",
        )
    document = _Document(copy_json(obj))
    for op in ops:
        if not isinstance(op, dict):
            raise BadRequest("a JSON patch is a list of objects with op and path")
        document.run(op)
    return document.root


def _refuse(text: str) -> Invalid:
    return Invalid(f"the server rejected our request due to an error in our request: {text}")


def _tokens(pointer: Json, keyword: str) -> list[str]:
    if not isinstance(pointer, str):
        raise BadRequest(f'a JSON patch operation lacks "{keyword}"')
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise _refuse(f'"{pointer}" is no JSON pointer: it must start with "/"')
    return [t.replace("~1", "/").replace("~0", "~") for t in pointer[1:].split("/")]


class _Document:
    """A JSON document under a patch; `root` is the current state."""

    def __init__(self, root: Json) -> None:
        self.root = root
        self.copied = 0

    def run(self, op: JsonObject) -> None:
        path = _tokens(op.get("path"), "path")
        match op.get("op"):
            case "add":
                self.add(path, copy_json(self._value(op)))
            case "remove":
                self.remove(path)
            case "replace":
                self.replace(path, copy_json(self._value(op)))
            case "move":
                source = _tokens(op.get("from"), "from")
                if path[: len(source)] == source and len(path) > len(source):
                    raise _refuse("move: a value cannot be moved into itself")
                value = self.get(source)
                self.remove(source)
                self.add(path, value)
            case "copy":
                value = self.get(_tokens(op.get("from"), "from"))
                self.copied += len(repr(value))
                if self.copied > _COPY_LIMIT:
                    raise _refuse("the patch copies more than 3 MiB")
                self.add(path, copy_json(value))
            case "test":
                self.test(path, op)
            case other:
                raise _refuse(f"Unexpected kind: {other if isinstance(other, str) else 'unknown'}")

    @staticmethod
    def _value(op: JsonObject) -> Json:
        if "value" not in op:
            raise BadRequest(f'a JSON patch operation "{op.get("op")}" lacks "value"')
        return op["value"]

    def get(self, path: list[str]) -> Json:
        value = self.root
        for token in path:
            if isinstance(value, dict) and token in value:
                value = value[token]
            elif isinstance(value, list):
                value = value[self._index(token, len(value) - 1, path)]
            else:
                raise self._missing(path)
        return value

    def test(self, path: list[str], op: JsonObject) -> None:
        try:
            found = self.get(path)
        except Invalid:
            if op.get("value") is None:
                return
            raise
        if not same(found, op.get("value")):
            raise _refuse(f"testing value {_shown(path)} failed: test failed")

    def add(self, path: list[str], value: Json) -> None:
        if not path:
            self.root = value
            return
        parent, last = self.get(path[:-1]), path[-1]
        if isinstance(parent, dict):
            parent[last] = value
        elif isinstance(parent, list):
            if last == "-":
                parent.append(value)
            else:
                parent.insert(self._index(last, len(parent), path), value)
        else:
            raise self._missing(path)

    def replace(self, path: list[str], value: Json) -> None:
        if not path:
            self.root = value
            return
        parent, last = self.get(path[:-1]), path[-1]
        if isinstance(parent, dict) and last in parent:
            parent[last] = value
        elif isinstance(parent, list):
            parent[self._index(last, len(parent) - 1, path)] = value
        else:
            raise _refuse(f"replace operation does not apply: doc is missing key: {_shown(path)}: missing value")

    def remove(self, path: list[str]) -> None:
        if not path:
            raise _refuse("the whole document cannot be removed")
        parent, last = self.get(path[:-1]), path[-1]
        if isinstance(parent, dict) and last in parent:
            del parent[last]
        elif isinstance(parent, list):
            del parent[self._index(last, len(parent) - 1, path)]
        else:
            raise _refuse(f"remove operation does not apply: doc is missing path: {_shown(path)}: missing value")

    @staticmethod
    def _index(token: str, highest: int, path: list[str]) -> int:
        if not token.isascii() or not token.isdigit() or len(token) > 9 or (len(token) > 1 and token[0] == "0"):
            raise _refuse(f'{_shown(path)}: "{token}" is no index of a list')
        if int(token) > highest:
            raise _refuse(f"{_shown(path)}: index {token} is out of bounds: invalid index referenced")
        return int(token)

    @staticmethod
    def _missing(path: list[str]) -> Invalid:
        return _refuse(f"doc is missing path: {_shown(path)}: missing value")


def _shown(path: list[str]) -> str:
    return "".join("/" + t.replace("~", "~0").replace("/", "~1") for t in path)


def same(a: Json, b: Json) -> bool:
    """JSON equality: `true` is not 1, 1 is 1.0."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def merged_object(obj: JsonObject, patch: Json) -> JsonObject:
    """`merge_patch` for whole resources: refuses a patch that is no object."""
    if not isinstance(patch, dict):
        raise BadRequest("a merge patch of a resource must be an object")
    merged = merge_patch(obj, patch)
    return merged if isinstance(merged, dict) else copy_object(obj)
