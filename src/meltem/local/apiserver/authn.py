"""Who asks: a client certificate, a bearer token, or nobody; and on whose behalf (impersonation).

In: the request and its connection. Out: a `User`. Raises Unauthorized for credentials that are presented and wrong.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDictProxy

from meltem.errors import BadRequest, Unauthorized
from meltem.local.apiserver.core import User
from meltem.local.apiserver.tokens import TokenAuthority

ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
AUTHENTICATED = "system:authenticated"

Permit = Callable[[User, str, str, str], bool]
"""(user, api group, resource, name) -> may the user impersonate it?"""


def authenticate(request: web.BaseRequest, tokens: TokenAuthority) -> User:
    """The user of the connection's certificate, else of the bearer token, else anonymous."""
    certificate = _certificate_user(request)
    if certificate is not None:
        return certificate
    header = request.headers.get("Authorization", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() == "bearer":
        return tokens.verify(token.strip(), ()).user
    if header:
        raise Unauthorized("Unauthorized")
    return ANONYMOUS


def _certificate_user(request: web.BaseRequest) -> User | None:
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport else None
    if not isinstance(tls, ssl.SSLObject | ssl.SSLSocket):
        return None
    peer = tls.getpeercert()
    if not peer:
        return None
    return user_of_subject(cast("tuple[tuple[tuple[str, str], ...], ...]", peer.get("subject", ())))


def user_of_subject(subject: tuple[tuple[tuple[str, str], ...], ...]) -> User | None:
    """commonName is the user, organizationName the groups."""
    pairs = [pair for part in subject for pair in part]
    names = [value for name, value in pairs if name == "commonName"]
    groups = tuple(value for name, value in pairs if name == "organizationName")
    if not names or not names[0]:
        return None
    return User(names[0], (*groups, AUTHENTICATED))


def impersonated(
    user: User, headers: CIMultiDictProxy[str], permitted: Permit
) -> tuple[User, tuple[str, str, str] | None]:
    """The user to act as; and what was refused (group, resource, name), if anything was. Raises BadRequest."""
    name = headers.get("Impersonate-User", "")
    groups = tuple(headers.getall("Impersonate-Group", []))
    uid = headers.get("Impersonate-Uid", "")
    extra = _extra(headers)
    if not name:
        if groups or uid or extra:
            raise BadRequest("requested impersonation without impersonating a user")
        return user, None
    wanted: list[tuple[str, str, str]] = [_subject(name)]
    wanted.extend(("", "groups", g) for g in groups)
    if uid:
        wanted.append(("authentication.k8s.io", "uids", uid))
    wanted.extend(("authentication.k8s.io", f"userextras/{k}", v) for k, values in extra.items() for v in values)
    for item in wanted:
        if not permitted(user, *item):
            return user, item
    if name.startswith("system:serviceaccount:") and not groups:
        namespace = name.split(":")[2]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    if name != ANONYMOUS.name and AUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(name, groups, uid, extra), None


def _subject(name: str) -> tuple[str, str, str]:
    parts = name.split(":")
    if name.startswith("system:serviceaccount:") and len(parts) == 4:
        return ("", "serviceaccounts", f"{parts[2]}/{parts[3]}")
    return ("", "users", name)


def _extra(headers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    prefix = "impersonate-extra-"
    found: dict[str, tuple[str, ...]] = {}
    for name, value in headers.items():
        if name.lower().startswith(prefix):
            key = unquote(name[len(prefix) :].lower())
            found[key] = (*found.get(key, ()), value)
    return found
