"""IST0101, IST0157, IST0159, IST0160: Telemetry resources that are for nobody, compete, or name no provider."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.analyzers.sidecar_selectors import competing
from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import bool_at, list_at, namespace_of, objects_at


def analyze(context: Context) -> Iterable[Message]:
    yield from competing(context, "Telemetry", ("selector", "matchLabels"), "IST0159", "IST0160")
    config = context.world.engine.inputs.mesh_config.get("")
    defaults = config.default_providers if config is not None else None
    for placed in context.own("Telemetry"):
        labels = spec_map(placed, "selector", "matchLabels")
        space = "" if namespace_of(placed.obj) == context.root_namespace else namespace_of(placed.obj)
        if labels and not context.pods(space, labels):
            shown = listed(f"{k}={v}" for k, v in labels.items())
            yield message("IST0101", placed, f"Referenced selector not found: {shown}", "spec", "selector")
        for field in ("accessLogging", "tracing", "metrics"):
            known = (
                getattr(defaults, {"accessLogging": "access_logging"}.get(field, field), ())
                if defaults is not None
                else ()
            )
            for index, entry in enumerate(objects_at(placed.obj, "spec", field)):
                if bool_at(entry, "disabled") or list_at(entry, "providers") or known or field == "metrics":
                    continue
                text = f"{field} names no providers, and the mesh has no default for it: it is ignored."
                yield message("IST0157", placed, text, "spec", field, index)
