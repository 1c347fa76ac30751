"""Paths and hosts as Envoy's connection manager rewrites them before it routes.

In: a request's path, the manager's options. Out: the path that routes and policies see, or None where Envoy answers
400 itself.
"""

from __future__ import annotations

import re

from meltem import envoyapi as api

_UNRESERVED = re.compile(r"%([0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(r"%2[fF]|%5[cC]")
_HCM = api.hcm.HttpConnectionManager


def normalized(path: str, manager: api.hcm.HttpConnectionManager) -> str | None:
    """`normalize_path`, `merge_slashes` and what is done about escaped slashes, in Envoy's order."""
    bare, mark, rest = _split(path)
    action = manager.path_with_escaped_slashes_action
    if _ESCAPED_SLASH.search(bare):
        if action == _HCM.REJECT_REQUEST:
            return None
        if action in (_HCM.UNESCAPE_AND_REDIRECT, _HCM.UNESCAPE_AND_FORWARD):
            bare = _ESCAPED_SLASH.sub(lambda m: "/" if m.group().lower() == "%2f" else "\\", bare)
    if manager.normalize_path.value:
        cleaned = _rfc3986(bare)
        if cleaned is None:
            return None
        bare = cleaned
    if manager.merge_slashes:
        bare = re.sub(r"/{2,}", "/", bare)
    return f"{bare}{mark}{rest}"


def _split(path: str) -> tuple[str, str, str]:
    found = re.search(r"[?#]", path)
    return (path, "", "") if found is None else (path[: found.start()], found.group(), path[found.end() :])


def _rfc3986(path: str) -> str | None:
    """Unreserved characters decoded, backslashes turned, dot segments removed."""
    path = _UNRESERVED.sub(_decoded, path).replace("\\", "/")
    if not path.startswith("/"):
        return path if path == "*" else None
    out: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == "..":
            if out:
                out.pop()
            if last:
                out.append("")
        elif segment == ".":
            if last:
                out.append("")
        else:
            out.append(segment)
    return "/" + "/".join(out)


def _decoded(found: re.Match[str]) -> str:
    character = chr(int(found.group(1), 16))
    return character if character.isascii() and (character.isalnum() or character in "-._~") else found.group().upper()
