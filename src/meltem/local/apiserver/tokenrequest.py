"""`serviceaccounts/<name>/token`: tokens on request, bound to a pod, secret or node when asked."""

from __future__ import annotations

from aiohttp import web

from meltem.clock import rfc3339
from meltem.errors import BadRequest
from meltem.local.apiserver.answers import respond_object
from meltem.local.apiserver.core import Call, Core
from meltem.local.apiserver.negotiate import parse_body, require_object
from meltem.local.apiserver.schema.fielderrors import FieldError, invalid
from meltem.local.apiserver.status import conflict, not_found, verb_not_allowed
from meltem.local.apiserver.storage import Key
from meltem.local.apiserver.tokens import ISSUER, BoundTo, TokenAuthority
from meltem.objects import JsonObject, int_at, object_at, str_at, strings_at, uid_of

_LEAST, _DEFAULT, _MOST = 600, 3600, 1 << 32
_KINDS = {"Pod": ("pods", True), "Secret": ("secrets", True), "Node": ("nodes", False)}


class TokenRequests:
    def __init__(self, tokens: TokenAuthority) -> None:
        self._tokens = tokens

    async def create(self, core: Core, call: Call) -> web.StreamResponse:
        if call.info.verb != "create":
            raise verb_not_allowed()
        account = core.store.get(call.key)
        if account is None:
            raise not_found("serviceaccounts", call.info.name)
        request = require_object(parse_body(call.body, call.content_type)) if call.body.strip() else {}
        if str_at(request, "kind") not in ("", "TokenRequest"):
            raise BadRequest(f"the body must be a TokenRequest, not {str_at(request, 'kind')}")
        seconds = self._seconds(request)
        audiences = strings_at(request, "spec", "audiences") or [ISSUER]
        bound = self._bound(core, call, object_at(request, "spec", "boundObjectRef"))
        token, expires = self._tokens.sign(account.object, audiences, seconds, bound)
        meta: JsonObject = {
            "name": call.info.name,
            "namespace": call.info.namespace,
            "creationTimestamp": rfc3339(core.clock.now()),
        }
        spec: JsonObject = {
            "audiences": [*audiences],
            "expirationSeconds": seconds,
            "boundObjectRef": object_at(request, "spec", "boundObjectRef") or None,
        }
        return respond_object(
            {
                "kind": "TokenRequest",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": meta,
                "spec": spec,
                "status": {"token": token, "expirationTimestamp": rfc3339(expires)},
            },
            status=201,
        )

    def _seconds(self, request: JsonObject) -> int:
        seconds = int_at(request, "spec", "expirationSeconds", default=_DEFAULT)
        text = ""
        if seconds < _LEAST:
            text = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
        elif seconds > _MOST:
            text = f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
        if text:
            error = FieldError("spec.expirationSeconds", "FieldValueInvalid", text)
            raise invalid("authentication.k8s.io", "TokenRequest", str_at(request, "metadata", "name"), [error])
        return min(seconds, 365 * 86400)

    def _bound(self, core: Core, call: Call, reference: JsonObject) -> list[BoundTo]:
        if not reference:
            return []
        kind, name, uid = str_at(reference, "kind"), str_at(reference, "name"), str_at(reference, "uid")
        if kind not in _KINDS:
            raise BadRequest(f"cannot bind token for serviceaccount to object type {kind}")
        storage, namespaced = _KINDS[kind]
        entry = core.store.get(Key(storage, call.info.namespace if namespaced else "", name))
        if entry is None:
            raise not_found(storage, name)
        found = uid_of(entry.object)
        if uid and uid != found:
            raise conflict(
                storage,
                name,
                f"the UID in the bound object reference ({uid}) does not match the UID in record ({found})",
            )
        bound = [BoundTo(kind, name, found)]
        if kind == "Pod":
            if (str_at(entry.object, "spec", "serviceAccountName") or "default") != call.info.name:
                raise BadRequest(
                    f"cannot bind token for serviceaccount {call.info.name!r} to pod running with different"
                    " serviceaccount name"
                )
            node = str_at(entry.object, "spec", "nodeName")
            if node:
                live = core.store.get(Key("nodes", "", node))
                bound.append(BoundTo("Node", node, uid_of(live.object) if live else ""))
        return bound
