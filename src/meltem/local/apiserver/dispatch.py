"""From an HTTP request to an answer: who asks, what for, may they, and which handler does it.

Every error leaves as a Status; what a client did wrong never becomes a 500, and what went wrong here is logged and told
without its innards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from meltem.errors import ApiError, BadRequest, Forbidden, MeltemError, ServerError
from meltem.local.apiserver import deletes, reads, writes
from meltem.local.apiserver.answers import respond_error
from meltem.local.apiserver.authn import authenticate, impersonated
from meltem.local.apiserver.authorization import Authorizer, Question, forbidden_message, forbidden_prefix
from meltem.local.apiserver.core import Call, Core, User
from meltem.local.apiserver.negotiate import MAX_BODY, too_large
from meltem.local.apiserver.request import RequestInfo, parse
from meltem.local.apiserver.status import no_such_path, verb_not_allowed
from meltem.local.apiserver.tokens import TokenAuthority

Handler = Callable[[Core, Call], Awaitable[web.StreamResponse]]
PlainHandler = Callable[[web.BaseRequest, RequestInfo, User], Awaitable[web.StreamResponse | None]]
Subresources = Callable[[str, str], Handler | None]
"""(storage, subresource) -> its handler for every verb, or None."""

HANDLERS: Mapping[str, Handler] = {
    "get": reads.get,
    "list": reads.list_,
    "watch": reads.watch,
    "create": writes.create,
    "update": writes.update,
    "patch": writes.patch,
    "delete": deletes.delete,
    "deletecollection": deletes.delete_collection,
}
_log = logging.getLogger("meltem.apiserver")


class Dispatcher:
    """Callable for aiohttp's low-level server."""

    def __init__(
        self,
        core: Core,
        tokens: TokenAuthority,
        authorizer: Authorizer,
        plain: PlainHandler,
        subresources: Subresources,
    ) -> None:
        self._core = core
        self._tokens = tokens
        self._authorizer = authorizer
        self._plain = plain
        self._subresources = subresources

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        warnings: list[str] = []
        try:
            return await self._answer(request, warnings)
        except ApiError as error:
            return respond_error(error, warnings)
        except MeltemError as error:
            return respond_error(BadRequest(str(error)), warnings)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # the last line of defence: one broken request must not take others along
            _log.exception("%s %s failed", request.method, request.path)
            return respond_error(
                ServerError("an error on the server has prevented the request from succeeding; see its log")
            )

    async def _answer(self, request: web.BaseRequest, warnings: list[str]) -> web.StreamResponse:
        info = parse(request.method, request.rel_url.raw_path, request.query)
        user = self._user(request)
        self._authorize(user, info)
        if not info.resource_request:
            answer = await self._plain(request, info, user)
            if answer is None:
                raise no_such_path()
            return answer
        resource = self._core.registry.find(info.group, info.version, info.resource)
        if resource is None:
            raise no_such_path()
        if info.namespace and not resource.info.namespaced and info.resource != "namespaces":
            raise no_such_path()
        body = b"" if request.method in ("GET", "HEAD") else await read_body(request)
        call = Call(
            request=request, info=info, resource=resource, user=user, query=request.query, body=body, warnings=warnings
        )
        return await self._handler(call)(self._core, call)

    def _handler(self, call: Call) -> Handler:
        info, resource = call.info, call.resource
        if info.subresource:
            if info.subresource not in resource.info.subresources:
                raise no_such_path()
            special = self._subresources(resource.storage, info.subresource)
            if special is not None:
                return special
            if info.verb not in ("get", "update", "patch"):
                raise verb_not_allowed()
            return HANDLERS[info.verb]
        special = self._subresources(resource.storage, "")
        if special is not None:
            return special
        if info.verb == "create" and info.name:
            raise verb_not_allowed()
        if info.verb in ("update", "patch") and not info.name:
            raise verb_not_allowed()
        handler = HANDLERS.get(info.verb)
        if handler is None or info.verb not in resource.info.verbs:
            raise verb_not_allowed()
        return handler

    def _user(self, request: web.BaseRequest) -> User:
        user = authenticate(request, self._tokens)
        acting, refused = impersonated(user, request.headers, self._may_impersonate)
        if refused is not None:
            group, resource, name = refused
            raise Forbidden(
                f'{resource} "{name}" is forbidden: User "{user.name}" cannot impersonate resource "{resource}" in API'
                f' group "{group}" at the cluster scope',
                details={"name": name, "group": group, "kind": resource},
            )
        return acting

    def _may_impersonate(self, user: User, group: str, resource: str, name: str) -> bool:
        namespace = ""
        if resource == "serviceaccounts":
            namespace, _, name = name.partition("/")
        plural, _, subresource = resource.partition("/")
        question = Question(
            verb="impersonate", group=group, resource=plural, subresource=subresource, namespace=namespace, name=name
        )
        return self._authorizer.decide(user, question).allowed

    def _authorize(self, user: User, info: RequestInfo) -> None:
        question = question_of(info)
        if not self._authorizer.decide(user, question).allowed:
            raise Forbidden(
                forbidden_prefix(question) + forbidden_message(user, question),
                details={"name": info.name, "group": info.group, "kind": info.resource},
            )


def question_of(info: RequestInfo) -> Question:
    if not info.resource_request:
        return Question(verb=info.verb, path=info.path)
    return Question(
        verb=info.verb,
        group=info.group,
        version=info.version,
        resource=info.resource,
        subresource=info.subresource,
        namespace=info.namespace,
        name=info.name,
    )


async def read_body(request: web.BaseRequest) -> bytes:
    """The whole body; raises 413 beyond `MAX_BODY`."""
    if (request.content_length or 0) > MAX_BODY:
        raise too_large()
    parts: list[bytes] = []
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > MAX_BODY:
            raise too_large()
        parts.append(part)
    return b"".join(parts)
