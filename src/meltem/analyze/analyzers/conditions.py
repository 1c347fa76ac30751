"""IST0171: resources whose status says that something is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import objects_at, str_at
from meltem.resources.kinds import ISTIO_KINDS

_GOOD = frozenset(("Accepted", "Programmed", "ResolvedRefs", "Reconciled", "PassedValidation"))


def analyze(context: Context) -> Iterable[Message]:
    for kind in sorted({k.kind for k in ISTIO_KINDS}):
        for placed in context.own(kind):
            for one in objects_at(placed.obj, "status", "conditions"):
                if str_at(one, "type") in _GOOD and str_at(one, "status") == "False":
                    why = str_at(one, "message") or str_at(one, "reason")
                    yield message("IST0171", placed, f"Condition {str_at(one, 'type')} is False: {why}", "status")
