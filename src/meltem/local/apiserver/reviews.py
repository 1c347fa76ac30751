"""Reviews: questions that are posted and answered at once, and never stored.

TokenReview (is this token good, and whose is it?), SubjectAccessReview and its local and self forms (may they?),
SelfSubjectRulesReview (what may I?), SelfSubjectReview (who am I?).
"""

from __future__ import annotations

from aiohttp import web

from meltem.clock import rfc3339
from meltem.errors import ApiError, BadRequest, Unauthorized
from meltem.local.apiserver.answers import respond_object
from meltem.local.apiserver.authorization import Authorizer, Question, rules_status
from meltem.local.apiserver.core import Call, Core, User
from meltem.local.apiserver.negotiate import parse_body, require_object
from meltem.local.apiserver.schema.fielderrors import FieldError, invalid
from meltem.local.apiserver.status import verb_not_allowed
from meltem.local.apiserver.tokens import TokenAuthority
from meltem.local.apiserver.writes import check_type
from meltem.objects import JsonObject, object_at, str_at, strings_at


class Reviews:
    def __init__(self, tokens: TokenAuthority, authorizer: Authorizer) -> None:
        self._tokens = tokens
        self._authorizer = authorizer

    async def token_review(self, core: Core, call: Call) -> web.StreamResponse:
        review = posted(call)
        audiences = strings_at(review, "spec", "audiences")
        token = str_at(review, "spec", "token")
        status: JsonObject
        if not token:
            raise BadRequest("token is required for TokenReview in authentication")
        try:
            verified = self._tokens.verify(token, audiences)
        except Unauthorized as error:
            status = {"authenticated": False, "user": {}, "error": error.message}
        else:
            user = verified.user
            status = {"authenticated": True, "user": user_object(user), "audiences": [*verified.audiences]}
        return respond_object({**review, "status": status}, status=201)

    async def self_subject_review(self, core: Core, call: Call) -> web.StreamResponse:
        review = posted(call)
        meta = {**object_at(review, "metadata"), "creationTimestamp": rfc3339(core.clock.now())}
        review["metadata"] = meta
        return respond_object({**review, "status": {"userInfo": user_object(call.user)}}, status=201)

    async def subject_access(self, core: Core, call: Call) -> web.StreamResponse:
        return self._access(posted(call), None)

    async def local_subject_access(self, core: Core, call: Call) -> web.StreamResponse:
        review = posted(call)
        namespace = str_at(review, "spec", "resourceAttributes", "namespace")
        if namespace != call.info.namespace:
            raise BadRequest(
                f"spec.resourceAttributes.namespace must match namespace: {namespace!r} is not {call.info.namespace!r}"
            )
        return self._access(review, None)

    async def self_subject_access(self, core: Core, call: Call) -> web.StreamResponse:
        return self._access(posted(call), call.user)

    def _access(self, review: JsonObject, user: User | None) -> web.StreamResponse:
        spec = object_at(review, "spec")
        question = _question(review, spec)
        if user is None:
            user = _subject(review, spec)
        status: JsonObject
        try:
            decision = self._authorizer.decide(user, question)
        except ApiError as error:
            status = {"allowed": False, "evaluationError": error.message}
        else:
            status = {"allowed": decision.allowed}
            if decision.reason:
                status["reason"] = decision.reason
        return respond_object({**review, "status": status}, status=201)

    async def self_subject_rules(self, core: Core, call: Call) -> web.StreamResponse:
        review = posted(call)
        namespace = str_at(review, "spec", "namespace")
        if not namespace:
            raise BadRequest("no namespace on request")
        return respond_object({**review, "status": rules_status(self._authorizer, call.user, namespace)}, status=201)


def posted(call: Call) -> JsonObject:
    """The review in the body; raises MethodNotAllowed for anything but a POST."""
    if call.info.verb != "create" or call.info.name:
        raise verb_not_allowed()
    review = require_object(parse_body(call.body, call.content_type))
    check_type(call, review)
    meta = object_at(review, "metadata")
    review["metadata"] = meta or {"creationTimestamp": None}
    return review


def _invalid(review: JsonObject, path: str, text: str) -> ApiError:
    error = FieldError(path, "FieldValueInvalid", text)
    return invalid("authorization.k8s.io", str_at(review, "kind"), str_at(review, "metadata", "name"), [error])


def _question(review: JsonObject, spec: JsonObject) -> Question:
    resource, path = object_at(spec, "resourceAttributes"), object_at(spec, "nonResourceAttributes")
    if bool(spec.get("resourceAttributes")) == bool(spec.get("nonResourceAttributes")):
        raise _invalid(
            review,
            "spec.resourceAttributes",
            "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )
    if path:
        return Question(verb=str_at(path, "verb"), path=str_at(path, "path"))
    return Question(
        verb=str_at(resource, "verb"),
        group=str_at(resource, "group"),
        version=str_at(resource, "version"),
        resource=str_at(resource, "resource"),
        subresource=str_at(resource, "subresource"),
        namespace=str_at(resource, "namespace"),
        name=str_at(resource, "name"),
    )


def _subject(review: JsonObject, spec: JsonObject) -> User:
    name, groups = str_at(spec, "user"), strings_at(spec, "groups")
    if not name and not groups:
        raise _invalid(review, "spec.user", 'Invalid value: "": at least one of user or group must be specified')
    extra = {k: tuple(strings_at(spec, "extra", k)) for k in object_at(spec, "extra")}
    return User(name, tuple(groups), str_at(spec, "uid"), extra)


def user_object(user: User) -> JsonObject:
    """UserInfo."""
    info: JsonObject = {"username": user.name, "groups": [*user.groups]}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {k: [*v] for k, v in user.extra.items()}
    return info
