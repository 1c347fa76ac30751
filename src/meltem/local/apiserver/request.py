"""What a request asks for: path and query in, `RequestInfo` out, with the verb under which RBAC and admission know it.

Paths: `/api/v1/...` and `/apis/<group>/<version>/...`, then `[namespaces/<ns>/]<resource>[/<name>[/<subresource>
[/<rest>]]]`. Anything else is a non-resource path. Raises BadRequest for a query that cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from meltem.errors import BadRequest
from meltem.local.apiserver.status import bad_query

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
_NAMESPACE_SUBRESOURCES = ("status", "finalize")


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`verb`: get list watch create update patch delete deletecollection (resources), or the method in lower case."""

    resource_request: bool
    verb: str
    path: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    """What follows the subresource: the path of a proxied call, with its leading slash."""


def parse(method: str, raw_path: str, query: Mapping[str, str]) -> RequestInfo:
    """`raw_path` is the path as sent, still percent-encoded."""
    parts = [unquote(p) for p in raw_path.split("/")[1:]]
    plain = RequestInfo(resource_request=False, verb=method.lower(), path=unquote(raw_path))
    if parts and parts[-1] == "" and len(parts) > 1:
        parts = parts[:-1]
    if parts[:2] == ["api", "v1"] and len(parts) > 2:
        group, version, tail = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, tail = parts[1], parts[2], parts[3:]
    else:
        return plain
    return _resource(plain, method, query, group, version, tail, raw_path)


def _resource(
    plain: RequestInfo, method: str, query: Mapping[str, str], group: str, version: str, tail: list[str], raw_path: str
) -> RequestInfo:
    watch_prefix = tail[0] == "watch" and len(tail) > 1
    if watch_prefix:
        tail = tail[1:]
    namespace = ""
    if tail[0] == "namespaces" and len(tail) > 1:
        namespace = tail[1]
        if len(tail) > 2 and tail[2] not in _NAMESPACE_SUBRESOURCES:
            tail = tail[2:]
    name = tail[1] if len(tail) > 1 else ""
    subresource = tail[2] if len(tail) > 2 else ""
    verb = _VERBS.get(method, method.lower())
    if not name:
        verb = {"get": "list", "delete": "deletecollection"}.get(verb, verb)
    if verb in ("get", "list") and (watch_prefix or flag(query, "watch")) and not subresource:
        verb = "watch"
    return RequestInfo(
        resource_request=True,
        verb=verb,
        path=plain.path,
        group=group,
        version=version,
        namespace=namespace,
        resource=tail[0],
        name=name,
        subresource=subresource,
        rest=_rest(raw_path, len(tail)) if len(tail) > 3 or (len(tail) == 3 and raw_path.endswith("/")) else "",
    )


def _rest(raw_path: str, length: int) -> str:
    """The part of the path after the subresource, as sent."""
    parts = raw_path.split("/")
    extra = length - 3 + (1 if raw_path.endswith("/") else 0)
    return "/" + "/".join(parts[len(parts) - extra :]) if extra > 0 else ""


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter; raises BadRequest for what is none."""
    value = query.get(name, "")
    if value in ("", "0", "f", "F", "false", "False", "FALSE"):
        return name in query and value == "" and name == "watch"
    if value in ("1", "t", "T", "true", "True", "TRUE"):
        return True
    raise bad_query(name, value, "it must be true or false")


def number(query: Mapping[str, str], name: str) -> int | None:
    """A whole number, or None when absent or empty; raises BadRequest."""
    value = query.get(name, "")
    if not value:
        return None
    try:
        if len(value) > 19:
            raise ValueError
        return int(value)
    except ValueError:
        raise bad_query(name, value, "it must be a whole number") from None


def resource_version(query: Mapping[str, str]) -> int | None:
    """The `resourceVersion` parameter: None when absent or empty; raises BadRequest."""
    value = query.get("resourceVersion", "")
    if not value:
        return None
    if not value.isdecimal() or len(value) > 19:
        raise BadRequest(f"invalid resource version {value!r}: it must be a number from an earlier answer")
    return int(value)
