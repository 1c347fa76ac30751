"""CEL in admission: match conditions of webhooks and policies."""

from __future__ import annotations

from collections.abc import Sequence

from meltem.errors import UserError
from meltem.local.apiserver.core import Attributes
from meltem.local.apiserver.schema.cel import compile_cel
from meltem.objects import Json, JsonObject, str_at


def variables(attributes: Attributes, user: JsonObject) -> dict[str, Json]:
    """`object`, `oldObject` and `request`, as CEL expressions in admission know them."""
    info = attributes.resource.info
    request: JsonObject = {
        "kind": {"group": info.group, "version": info.version, "kind": info.kind},
        "resource": {"group": info.group, "version": info.version, "resource": info.plural},
        "subResource": attributes.subresource,
        "requestKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "requestResource": {"group": info.group, "version": info.version, "resource": info.plural},
        "requestSubResource": attributes.subresource,
        "name": attributes.name,
        "namespace": attributes.namespace,
        "operation": attributes.operation,
        "userInfo": user,
        "dryRun": attributes.dry_run,
        "options": attributes.options,
    }
    return {"object": attributes.object, "oldObject": attributes.old, "request": request}


def conditions_met(conditions: Sequence[JsonObject], attributes: Attributes, user: JsonObject) -> bool:
    """All of them true? One that is false decides, whatever the others do; else raises UserError for one that fails."""
    names = variables(attributes, user)
    failure: UserError | None = None
    for condition in conditions:
        try:
            result = compile_cel(str_at(condition, "expression")).evaluate(names)
        except UserError as error:
            failure = failure or UserError(f"match condition {str_at(condition, 'name')!r} failed: {error}")
            continue
        if result is False:
            return False
        if result is not True:
            failure = failure or UserError(f"match condition {str_at(condition, 'name')!r} is not a boolean")
    if failure is not None:
        raise failure
    return True
