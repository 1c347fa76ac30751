"""Admission webhooks: which ones a write concerns, asking them, and doing what they say.

In: a write's `Attributes`, and the webhook configurations in the store. Out: the object with the patches of the
mutating webhooks, in order of configuration name; or a refusal by a validating one. A webhook that fails refuses the
write, unless its failurePolicy is Ignore.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid

import msgspec

from meltem.errors import ApiError, BadRequest, Forbidden, MeltemError, ServerError, api_error
from meltem.local.apiserver.admission.builtin import with_object
from meltem.local.apiserver.admission.conditions import conditions_met
from meltem.local.apiserver.admission.matching import Target, matching_resource, selected
from meltem.local.apiserver.conversion import WebhookConverter, convert
from meltem.local.apiserver.core import Attributes, User
from meltem.local.apiserver.registry import Registry, Resource
from meltem.local.apiserver.schema.merge import json_patch
from meltem.local.apiserver.storage import Store
from meltem.local.apiserver.upstream import CallFailed, Upstream
from meltem.objects import Json, JsonObject, int_at, object_at, objects_at, str_at, strings_at

_GROUP = "admissionregistration.k8s.io"
MUTATING = f"mutatingwebhookconfigurations.{_GROUP}"
VALIDATING = f"validatingwebhookconfigurations.{_GROUP}"
_EXEMPT = frozenset(
    {
        MUTATING,
        VALIDATING,
        f"validatingadmissionpolicies.{_GROUP}",
        f"validatingadmissionpolicybindings.{_GROUP}",
    }
)
_REVIEW = "admission.k8s.io/v1"


class _Bound(msgspec.Struct, frozen=True):
    """One webhook that a write concerns, and the version of the resource in which it is asked."""

    webhook: JsonObject
    resource: Resource

    @property
    def name(self) -> str:
        return str_at(self.webhook, "name")

    @property
    def ignores_failure(self) -> bool:
        return str_at(self.webhook, "failurePolicy") == "Ignore"


class WebhookRunner:
    def __init__(self, store: Store, registry: Registry, upstream: Upstream, converter: WebhookConverter) -> None:
        self._store = store
        self._registry = registry
        self._upstream = upstream
        self._converter = converter

    async def mutate(self, attributes: Attributes, warnings: list[str]) -> JsonObject | None:
        """The object after every mutating webhook; raises ApiError to refuse."""
        if attributes.resource.storage in _EXEMPT:
            return attributes.object
        hooks = self._webhooks(MUTATING)
        again: list[JsonObject] = []
        obj = attributes.object
        for webhook in hooks:
            current = with_object(attributes, obj)
            changed = await self._mutate_one(webhook, current, warnings)
            if changed is not None and changed != obj:
                obj = changed
                again = [w for w in hooks[: hooks.index(webhook)] if str_at(w, "reinvocationPolicy") == "IfNeeded"]
        for webhook in again:
            changed = await self._mutate_one(webhook, with_object(attributes, obj), warnings)
            obj = changed if changed is not None else obj
        return obj

    async def _mutate_one(self, webhook: JsonObject, attributes: Attributes, warnings: list[str]) -> JsonObject | None:
        """The object as this webhook wants it; None when it has nothing to say."""
        bound = self._bind(webhook, attributes)
        if bound is None:
            return None
        sent = await self._in_version(attributes, bound.resource)
        response = await self._ask(bound, sent, attributes, warnings)
        if response is None or sent.object is None or not response.get("patch"):
            return None
        try:
            if str_at(response, "patchType") != "JSONPatch":
                raise CallFailed("the answer has a patch whose patchType is not JSONPatch")
            patched = _patched(sent.object, str_at(response, "patch"))
        except CallFailed as error:
            if bound.ignores_failure:
                return None
            raise _internal(bound.name, error) from None
        return await convert(attributes.resource, patched, str_at(attributes.object, "apiVersion"), self._converter)

    async def validate(self, attributes: Attributes, warnings: list[str]) -> None:
        """Asks every validating webhook at once; raises the first refusal."""
        if attributes.resource.storage in _EXEMPT:
            return
        bound = [b for w in self._webhooks(VALIDATING) if (b := self._bind(w, attributes)) is not None]
        if not bound:
            return
        answers = await asyncio.gather(*(self._validate_one(b, attributes, warnings) for b in bound))
        for refusal in answers:
            if refusal is not None:
                raise refusal

    async def _validate_one(self, bound: _Bound, attributes: Attributes, warnings: list[str]) -> ApiError | None:
        try:
            await self._ask(bound, await self._in_version(attributes, bound.resource), attributes, warnings)
        except ApiError as error:
            return error
        return None

    def _webhooks(self, storage: str) -> list[JsonObject]:
        return [w for entry in self._store.entries(storage) for w in objects_at(entry.object, "webhooks")]

    def _bind(self, webhook: JsonObject, attributes: Attributes) -> _Bound | None:
        """The webhook, if the write concerns it; raises Forbidden when a match condition fails to say."""
        target = Target.of(attributes)
        resource = matching_resource(webhook, target, self._registry)
        if resource is None or not selected(webhook, attributes, self._store):
            return None
        conditions = objects_at(webhook, "matchConditions")
        if conditions:
            try:
                if not conditions_met(conditions, attributes, user_info(attributes.user)):
                    return None
            except MeltemError as error:
                if str_at(webhook, "failurePolicy") == "Ignore":
                    return None
                raise Forbidden(f'admission webhook "{str_at(webhook, "name")}": {error}') from None
        return _Bound(webhook, resource)

    async def _in_version(self, attributes: Attributes, resource: Resource) -> Attributes:
        """The write as the version that the webhook's rules name has it."""
        if resource.api_version == attributes.resource.api_version or attributes.kind[2]:
            return attributes
        obj, old = attributes.object, attributes.old
        version = resource.api_version
        if obj is not None:
            obj = await convert(attributes.resource, obj, version, self._converter)
        if old is not None:
            old = await convert(attributes.resource, old, version, self._converter)
        return msgspec.structs.replace(attributes, resource=resource, object=obj, old=old)

    async def _ask(
        self, bound: _Bound, sent: Attributes, original: Attributes, warnings: list[str]
    ) -> JsonObject | None:
        """The webhook's response when it allows; None when its failure is ignored. Raises ApiError."""
        webhook = bound.webhook
        if original.dry_run and str_at(webhook, "sideEffects") not in ("None", "NoneOnDryRun"):
            raise BadRequest(f"admission webhook {bound.name!r} does not support dry run")
        uid = str(uuid.uuid4())
        request = admission_request(uid, sent, original)
        seconds = float(min(max(int_at(webhook, "timeoutSeconds", default=10), 1), 30))
        review: JsonObject = {"kind": "AdmissionReview", "apiVersion": _REVIEW, "request": request}
        try:
            answer = await self._upstream.post(object_at(webhook, "clientConfig"), review, seconds)
            response = _response(answer, uid)
        except CallFailed as error:
            if bound.ignores_failure:
                return None
            raise _internal(bound.name, error) from None
        for text in strings_at(response, "warnings")[:50]:
            warnings.append(text[:1024])
        if response.get("allowed") is True:
            return response
        raise denied(bound.name, object_at(response, "status"))


def _internal(name: str, error: CallFailed) -> ServerError:
    what = f'failed calling webhook "{name}": failed to call webhook: {error}'
    causes: list[Json] = [{"message": what}]
    return ServerError(f"Internal error occurred: {what}", details={"causes": causes})


def _response(answer: JsonObject, uid: str) -> JsonObject:
    if str_at(answer, "kind") != "AdmissionReview" or str_at(answer, "apiVersion") != _REVIEW:
        raise CallFailed(
            f"expected an AdmissionReview of {_REVIEW}, got {answer.get('kind')} of {answer.get('apiVersion')}"
        )
    response = object_at(answer, "response")
    if not response:
        raise CallFailed("the answer has no response")
    if str_at(response, "uid") != uid:
        raise CallFailed(f"expected response.uid={uid!r}, got {str_at(response, 'uid')!r}")
    if not isinstance(response.get("allowed"), bool):
        raise CallFailed("the answer does not say whether it allows")
    return response


def _patched(obj: JsonObject, patch: str) -> JsonObject:
    try:
        operations: Json = msgspec.json.decode(base64.b64decode(patch, validate=True))
        patched = json_patch(obj, operations)
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError, ApiError) as error:
        raise CallFailed(f"the answer's patch cannot be used: {error}") from None
    if not isinstance(patched, dict):
        raise CallFailed("the answer's patch leaves no object")
    return patched


def denied(name: str, status: JsonObject) -> ApiError:
    """The refusal as clients see it."""
    said = f'admission webhook "{name}" denied the request'
    message, reason = str_at(status, "message"), str_at(status, "reason")
    text = f"{said}: {message or reason}" if message or reason else f"{said} without explanation"
    code = int_at(status, "code")
    details: dict[str, object] = dict(object_at(status, "details"))
    return api_error(code if 400 <= code < 600 else 400, reason, text, details)


def user_info(user: User) -> JsonObject:
    info: JsonObject = {"username": user.name, "groups": [*user.groups]}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {k: [*v] for k, v in user.extra.items()}
    return info


def admission_request(uid: str, sent: Attributes, original: Attributes) -> JsonObject:
    """`AdmissionReview.request`."""
    info, asked = sent.resource.info, original.resource.info
    kind = sent.kind if sent.kind[2] else (info.group, info.version, info.kind)
    asked_kind = original.kind if original.kind[2] else (asked.group, asked.version, asked.kind)
    request: JsonObject = {
        "uid": uid,
        "kind": _gvk(kind),
        "resource": {"group": info.group, "version": info.version, "resource": info.plural},
        "requestKind": _gvk(asked_kind),
        "requestResource": {"group": asked.group, "version": asked.version, "resource": asked.plural},
        "name": sent.name,
        "operation": sent.operation,
        "userInfo": user_info(sent.user),
        "object": sent.object,
        "oldObject": sent.old,
        "dryRun": sent.dry_run,
        "options": sent.options or None,
    }
    if sent.namespace:
        request["namespace"] = sent.namespace
    if sent.subresource:
        request["subResource"] = sent.subresource
        request["requestSubResource"] = sent.subresource
    return request


def _gvk(kind: tuple[str, str, str]) -> JsonObject:
    return {"group": kind[0], "version": kind[1], "kind": kind[2]}
