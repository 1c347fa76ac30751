"""IST0139, IST0163, IST0164: webhooks that lead to an istiod that is not there, or outside by an address."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from meltem.analyze.context import Context, message
from meltem.analyze.messages import Message
from meltem.objects import labels_of, name_of, object_at, objects_at, str_at
from meltem.validate.checks import is_ip


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


def analyze_external(context: Context) -> Iterable[Message]:
    """Webhooks of an istiod outside the cluster are reached by a URL with a host name."""
    for kind, prefix in (
        ("MutatingWebhookConfiguration", "istio-sidecar-injector"),
        ("ValidatingWebhookConfiguration", "istio"),
    ):
        for placed in context.own(kind):
            if not name_of(placed.obj).startswith(prefix):
                continue
            for index, hook in enumerate(objects_at(placed.obj, "webhooks")):
                url, name = str_at(hook, "clientConfig", "url"), str_at(hook, "name")
                path = ("webhooks", index, "clientConfig")
                if not url and not object_at(hook, "clientConfig", "service"):
                    yield message("IST0163", placed, f"Webhook {name} leads nowhere: it has no URL, no service.", *path)
                elif url and not _host(url):
                    yield message("IST0163", placed, f"Webhook {name} has the URL {url!r}, which names no host.", *path)
                elif url and is_ip(_host(url)):
                    text = f"Webhook {name} reaches the control plane by the address {_host(url)}: a name is better."
                    yield message("IST0164", placed, text, *path, "url")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
