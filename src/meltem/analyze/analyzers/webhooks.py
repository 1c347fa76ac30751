"""IST0139: webhooks that lead to an istiod that is not there, or that compete."""

from __future__ import annotations

from collections.abc import Iterable

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import labels_of, objects_at, str_at


def analyze(context: Context) -> Iterable[Message]:
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for placed in context.own(kind):
            labels = labels_of(placed.obj)
            if "istio.io/rev" not in labels and not labels.get("app", "").startswith(("sidecar-injector", "istiod")):
                continue
            if labels.get("istio.io/deactivated"):
                continue
            for index, hook in enumerate(objects_at(placed.obj, "webhooks")):
                name = str_at(hook, "clientConfig", "service", "name")
                space = str_at(hook, "clientConfig", "service", "namespace")
                if name and context.find("Service", space, name) is None:
                    text = f"Webhook {str_at(hook, 'name')} leads to service {space}/{name}, which does not exist."
                    yield message("IST0139", placed, text, "webhooks", index)
