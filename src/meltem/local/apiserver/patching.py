"""PATCH bodies: JSON patch, merge patch, strategic merge patch and server-side apply, as makers of the wanted object.

In: the request's body and type. Out: a `PatchMaker` whose `make` turns the live object into the wanted one; it may be
called again when a write was overtaken. Raises UnsupportedMediaType, BadRequest, Invalid, Conflict.
"""

from __future__ import annotations

from typing import Protocol

from meltem.clock import rfc3339
from meltem.errors import BadRequest, UnsupportedMediaType
from meltem.local.apiserver.core import Call, Core
from meltem.local.apiserver.negotiate import PATCH_TYPES, media_type, parse_json, parse_yaml, require_object
from meltem.local.apiserver.request import flag
from meltem.local.apiserver.schema.apply import apply
from meltem.local.apiserver.schema.merge import json_patch, merged_object
from meltem.local.apiserver.schema.process import prune
from meltem.local.apiserver.schema.strategic import strategic_merge
from meltem.objects import Json, JsonObject, at, ensure_object, name_of, str_at


class PatchMaker(Protocol):
    @property
    def fixed_version(self) -> bool: ...
    @property
    def applies(self) -> bool: ...
    async def make(self, live: JsonObject | None) -> JsonObject: ...


def patch_maker(core: Core, call: Call, manager: str, validation: str) -> PatchMaker:
    media = media_type(call.content_type)
    if media not in PATCH_TYPES or (media == PATCH_TYPES[2] and call.resource.crd is not None):
        served = [t for t in PATCH_TYPES if t != PATCH_TYPES[2] or call.resource.crd is None]
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: " + ", ".join(served)
        )
    if media == PATCH_TYPES[3]:
        return _Apply(core, call, manager, validation)
    if call.query.get("force"):
        raise BadRequest("PatchOptions.force: Forbidden: may not be specified for non-apply patch")
    return _Patch(call, media, parse_json(call.body), validation)


class _Patch:
    applies = False

    def __init__(self, call: Call, media: str, patch: Json, validation: str) -> None:
        self._call = call
        self._media = media
        self._patch = patch
        self._validation = validation
        self.fixed_version = bool(at(patch, "metadata", "resourceVersion"))

    async def make(self, live: JsonObject | None) -> JsonObject:
        assert live is not None
        wanted = require_object(self._patched(live))
        info = self._call.resource.info
        if (str_at(wanted, "apiVersion"), str_at(wanted, "kind")) != (info.api_version, info.kind):
            raise BadRequest("a patch cannot change apiVersion or kind")
        if name_of(wanted) != name_of(live):
            raise BadRequest(
                f"the name of the object ({name_of(wanted)}) does not match the name on the URL ({name_of(live)})"
            )
        return strict_prune(self._call, wanted, self._validation)

    def _patched(self, live: JsonObject) -> Json:
        match self._media:
            case "application/json-patch+json":
                return json_patch(live, self._patch)
            case "application/merge-patch+json":
                return merged_object(live, self._patch)
            case _:
                return strategic_merge(self._call.resource.schema, live, require_object(self._patch))


def strict_prune(call: Call, wanted: JsonObject, validation: str) -> JsonObject:
    """Drops unknown fields that a patch brought; Strict refuses them, Warn warns."""
    known, unknown = prune(call.resource.schema, wanted)
    if unknown and validation == "Strict":
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise BadRequest(f"strict decoding error: {listed}")
    if unknown and validation == "Warn":
        call.warnings.extend(f'unknown field "{path}"' for path in unknown)
    return known


class _Apply:
    applies = True

    def __init__(self, core: Core, call: Call, manager: str, validation: str) -> None:
        if not manager:
            raise BadRequest(
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
            )
        self._core = core
        self._call = call
        self._manager = manager
        self._force = flag(call.query, "force")
        applied = require_object(parse_yaml(call.body))
        self._check(applied)
        self._applied = strict_prune(call, applied, validation)
        self.fixed_version = bool(at(applied, "metadata", "resourceVersion"))

    def _check(self, applied: JsonObject) -> None:
        info = self._call.resource.info
        found = (str_at(applied, "apiVersion"), str_at(applied, "kind"))
        if found != (info.api_version, info.kind):
            raise BadRequest(
                f"the apply configuration is a {found[1] or 'nothing'} of {found[0] or 'no version'}, the path is of a"
                f" {info.kind} of {info.api_version}"
            )
        if at(applied, "metadata", "managedFields"):
            raise BadRequest("metadata.managedFields must be nil")
        meta = ensure_object(applied, "metadata")
        name = str_at(meta, "name")
        if name and name != self._call.info.name:
            raise BadRequest(
                f"the name of the object ({name}) does not match the name on the URL ({self._call.info.name})"
            )
        meta["name"] = self._call.info.name
        if info.namespaced:
            namespace = str_at(meta, "namespace")
            if namespace and namespace != self._call.info.namespace:
                raise BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            meta["namespace"] = self._call.info.namespace

    async def make(self, live: JsonObject | None) -> JsonObject:
        return apply(
            self._call.resource.schema,
            live,
            self._applied,
            manager=self._manager,
            api_version=self._call.resource.api_version,
            force=self._force,
            now=rfc3339(self._core.clock.now()),
            subresource=self._call.info.subresource,
        )
